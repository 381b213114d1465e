"""Where a Docker Engine is: TCP with TLS, and contexts, with the real programs at both ends."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from beiran.engine.docker import address
from beiran.engine.docker.address import Endpoint, find_endpoint
from beiran.engine.docker.docker_engine import DockerEngine
from beiran.engine.interface import EngineDown
from beiran.errors import EngineUnavailable
from tests.engine.conftest import listening
from tests.lab.engines import missing_for_engines, start_dockerd
from tests.lab.images import load_image, made_image
from tests.requirements import missing

ONE = made_image({"a": b"a" * 5000}, labels={"number": "one"})


def run(*command: str, env: dict[str, str] | None = None) -> None:
    subprocess.run(
        command, check=True, capture_output=True, timeout=60, env={**os.environ, **(env or {})}
    )


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        assert isinstance(port, int)
        return port


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A folder of ``ca.pem``, ``cert.pem`` and ``key.pem``, good for both ends on loopback."""
    if reason := missing("openssl"):
        pytest.skip(reason)
    folder = tmp_path / "certificates"
    folder.mkdir()
    (folder / "names").write_text(
        "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth,clientAuth\n"
    )
    new_key = ("openssl", "req", "-newkey", "rsa:2048", "-nodes")
    ca, ca_key, request = (str(folder / name) for name in ("ca.pem", "ca-key.pem", "request"))
    cert, key = str(folder / "cert.pem"), str(folder / "key.pem")
    run(*new_key, "-x509", "-days", "2", "-subj", "/CN=ca", "-keyout", ca_key, "-out", ca)
    run(*new_key, "-subj", "/CN=beiran", "-keyout", key, "-out", request)
    sign = ("openssl", "x509", "-req", "-days", "2", "-CA", ca, "-CAkey", ca_key)
    names = ("-CAcreateserial", "-extfile", str(folder / "names"))
    run(*sign, *names, "-in", request, "-out", cert)
    return folder


@contextmanager
def tls_engine(folder: Path, certificates: Path) -> Iterator[tuple[str, str]]:
    """A Docker Engine with TLS on loopback that holds one image: its address, and its socket."""
    if reason := missing_for_engines():
        pytest.skip(reason)
    port = free_port()
    arguments = ["-H", f"tcp://127.0.0.1:{port}", "--tlsverify"]
    for name, file in (("cacert", "ca"), ("cert", "cert"), ("key", "key")):
        arguments.append(f"--tls{name}={certificates / file}.pem")
    (folder / "engine").mkdir()
    with start_dockerd(folder / "engine", extra_args=arguments) as it:
        load_image(it.socket_path, ONE, "one:1")
        yield f"tcp://127.0.0.1:{port}", it.socket_path


@pytest.mark.lab
async def test_engine_is_followed_over_tcp_with_tls(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_engine(tmp_path, certificates) as (url, _):
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        monkeypatch.setenv("DOCKER_CERT_PATH", str(certificates))
        async with listening(DockerEngine(url)) as listener:
            await listener.until_listed()
            assert listener.tags(ONE.id) == ("one:1",)
            # Sizes come from its API: at this address is not surely an engine of this host.
            assert listener.sizes(ONE.id) == list(ONE.sizes)
        monkeypatch.delenv("DOCKER_TLS_VERIFY")
        monkeypatch.delenv("DOCKER_CERT_PATH")
        async with listening(DockerEngine(url)) as listener:
            assert isinstance(await listener.next(), EngineDown)


@pytest.mark.lab
async def test_context_of_dockers_own_tool_is_followed(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.mkdir()
    monkeypatch.setenv("DOCKER_CONFIG", str(config))
    with tls_engine(tmp_path, certificates) as (url, socket_path):
        keys = f"ca={certificates}/ca.pem,cert={certificates}/cert.pem,key={certificates}/key.pem"
        for name, endpoint in (
            ("far", f"host={url},{keys}"),
            ("near", f"host=unix://{socket_path}"),
        ):
            run("docker", "context", "create", name, "--docker", endpoint)
            async with listening(DockerEngine(f"context:{name}")) as listener:
                await listener.until_listed()
                assert listener.tags(ONE.id) == ("one:1",)


def test_contexts_of_a_docker_without_config_json_are_found(
    tmp_path: Path, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := missing("docker"):
        pytest.skip(reason)
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    url = "tcp://192.0.2.1:2376"
    ca = f"ca={certificates}/ca.pem"
    for name, keys in (("plain", ""), ("ca", f",{ca}"), ("lax", f",{ca},skip-tls-verify=true")):
        run("docker", "context", "create", name, "--docker", f"host={url}{keys}")
    assert not (tmp_path / "config.json").exists()
    assert find_endpoint("context:plain") == Endpoint(url)
    trusted, lax = find_endpoint("context:ca").tls, find_endpoint("context:lax").tls
    assert trusted is not None
    assert trusted.verify
    assert trusted.ca_cert
    assert lax is not None
    assert not lax.verify
    for file in tmp_path.glob("contexts/meta/*/meta.json"):
        file.write_text("garbage")
    with pytest.raises(EngineUnavailable, match=r"context:plain: .*meta\.json: "):
        find_endpoint("context:plain")


def test_missing_context_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(EngineUnavailable, match=r"context:gone: .*docker context ls"):
        find_endpoint("context:gone")
    monkeypatch.setenv("DOCKER_CERT_PATH", str(tmp_path))
    with pytest.raises(EngineUnavailable, match=r"127\.0\.0\.1:2376"):
        find_endpoint("tcp://127.0.0.1:2376")


def test_only_an_engine_at_a_unix_socket_is_surely_on_this_host() -> None:
    assert find_endpoint("/run/docker.sock").is_on_this_host
    for remote in ("tcp://127.0.0.1:2375", "ssh://127.0.0.1"):
        assert not find_endpoint(remote).is_on_this_host


async def test_ssh_without_paramiko_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(address, "HAS_SSH", False)
    async with listening(DockerEngine("ssh://127.0.0.1")) as listener:
        news = await listener.next()
        assert isinstance(news, EngineDown)
        assert "pip install 'beiran[ssh]'" in news.reason
