"""A Docker Engine over SSH, with a real server. Collected where the extra ``ssh`` is installed."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from beiran.engine.docker.docker_engine import DockerEngine
from tests.engine.conftest import DockerPlace, listening
from tests.engine.docker.test_address import ONE, free_port, run


@contextmanager
def sshd(folder: Path, engine_socket: str) -> Iterator[int]:
    """An SSH server for this user on loopback, whose Docker is the one at ``engine_socket``."""
    port = free_port()
    for name in ("host_key", "user_key"):
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    config = folder / "sshd_config"
    config.write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder}/host_key\nPidFile none\n"
        f"AuthorizedKeysFile {folder}/authorized_keys\nStrictModes no\nUsePAM no\n"
        f"PermitRootLogin yes\nSetEnv DOCKER_HOST=unix://{engine_socket}\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        ["/usr/sbin/sshd", "-D", "-e", "-f", str(config)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.mark.needs("sshd", "ssh-keygen", root=True)
@pytest.mark.lab
async def test_engine_is_followed_over_ssh(
    overlay2: DockerPlace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    (home / ".ssh").mkdir(parents=True)
    monkeypatch.setenv("HOME", str(home))
    overlay2.load(ONE, "one:1")
    with sshd(tmp_path, overlay2.running.socket_path) as port:
        host_key = (tmp_path / "host_key.pub").read_text()
        (home / ".ssh" / "known_hosts").write_text(f"[127.0.0.1]:{port} {host_key}")
        (home / ".ssh" / "config").write_text(f"Host *\n IdentityFile {tmp_path}/user_key\n")
        async with listening(DockerEngine(f"ssh://root@127.0.0.1:{port}")) as listener:
            await listener.until_listed()
            assert listener.tags(ONE.id) == ("one:1",)
            overlay2.tag(ONE, "one:2")
            await listener.until_tags(ONE.id, "one:1", "one:2")
