"""The client against a real registry, Debian's docker-registry: open, with passwords, with TLS."""

import base64
import hashlib
import http.client
import json
import ssl
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from beiran.ids import Digest, parse_digest
from beiran.oci.manifests import OCI_MANIFEST
from beiran.registry.registry_client import (
    OriginBroken,
    OriginClient,
    OriginDenied,
    OriginMissing,
    OriginUnavailable,
    open_origin_client,
)
from beiran.settings.settings import OriginSettings
from tests.lab.registry import start_registry
from tests.registry.origin_server import Reply, open_origin_server

pytestmark = pytest.mark.needs("docker-registry", "openssl")

USER: Final = "user"
PASSWORD: Final = "secret"
HTPASSWD: Final = "user:$2b$04$SHu4UWyJcnnHv12zr7o4POP3Pysrxep6zdJV51BAuMnhxvGrIb8fm"
BASIC: Final = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
LAYER: Final = b"layer " * 100_000
CONFIG: Final = b"{}"
ACCEPT: Final = (OCI_MANIFEST,)


def sha256(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


MANIFEST: Final = json.dumps(
    {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": sha256(CONFIG),
            "size": len(CONFIG),
        },
        "layers": [
            {
                "mediaType": "application/vnd.oci.image.layer.v1.tar",
                "digest": sha256(LAYER),
                "size": len(LAYER),
            }
        ],
    }
).encode()
LAYER_DIGEST: Final = parse_digest(sha256(LAYER))


def push(address: str, *, context: ssl.SSLContext | None = None) -> None:
    """Put the image there as ``a/b:1``."""
    headers = {"Authorization": BASIC}
    for blob in (CONFIG, LAYER):
        connection = connect(address, context)
        connection.request("POST", "/v2/a/b/blobs/uploads/", headers=headers)
        answer = connection.getresponse()
        assert answer.status == 202
        place = answer.headers["Location"].partition(address)[2]
        connection.close()
        connection = connect(address, context)
        path = f"{place}&digest={sha256(blob)}"
        connection.request("PUT", path, body=blob, headers=headers)
        assert connection.getresponse().status == 201
        connection.close()
    connection = connect(address, context)
    headers["Content-Type"] = OCI_MANIFEST
    connection.request("PUT", "/v2/a/b/manifests/1", body=MANIFEST, headers=headers)
    assert connection.getresponse().status == 201
    connection.close()


def connect(address: str, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    if context is None:
        return http.client.HTTPConnection(address, timeout=20)
    return http.client.HTTPSConnection(address, timeout=20, context=context)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start_registry(tmp_path_factory.mktemp("registry")) as running:
        push(running.address)
        yield running.address


@pytest.fixture(scope="module")
def private_registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start_registry(tmp_path_factory.mktemp("private"), htpasswd=HTPASSWD) as running:
        push(running.address)
        yield running.address


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate of its own authority for 127.0.0.1, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 "
        "-subj /CN=registry -addext subjectAltName=IP:127.0.0.1 -keyout key.pem -out cert.pem"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def tls_registry(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]
) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("tls-registry")
    with start_registry(folder, htpasswd=HTPASSWD, certificate=certificate) as running:
        push(running.address, context=ssl.create_default_context(cafile=certificate[0]))
        yield running.address


@asynccontextmanager
async def open_client(
    origins: dict[str, OriginSettings] | None = None, **given: Any
) -> AsyncIterator[OriginClient]:
    given = {"docker_config": None, "certs_dir": None, **given}
    async with open_origin_client(origins or {}, **given) as client:
        yield client


async def check_all(client: OriginClient, registry: str) -> None:
    """Everything that can be had of the image."""
    head = await client.head_manifest(registry, "a/b", "1", accept=ACCEPT)
    assert tuple(head) == (parse_digest(sha256(MANIFEST)), OCI_MANIFEST, len(MANIFEST))
    manifest = await client.manifest(registry, "a/b", sha256(MANIFEST), accept=ACCEPT)
    assert manifest.data == MANIFEST
    assert await client.blob_size(registry, "a/b", LAYER_DIGEST) == len(LAYER)
    parts = []
    for start in range(0, len(LAYER), 250_000):
        end = start + 250_000 if start + 250_000 < len(LAYER) else None
        async with client.open_blob(registry, "a/b", LAYER_DIGEST, start=start, end=end) as blob:
            assert blob.size_bytes == len(LAYER)
            parts += [chunk async for chunk in blob.chunks]
    assert b"".join(parts) == LAYER
    assert await client.tags(registry, "a/b") == (["1"], False)


async def test_an_image_of_an_open_registry(registry: str) -> None:
    async with open_client() as client:
        await check_all(client, registry)


async def test_content_that_the_registry_lacks_is_missing(registry: str) -> None:
    async with open_client() as client:
        with pytest.raises(OriginMissing, match="manifest unknown"):
            await client.manifest(registry, "a/b", "2", accept=ACCEPT)
        with pytest.raises(OriginMissing):
            await client.tags(registry, "no/such")
        with pytest.raises(OriginMissing):
            async with client.open_blob(registry, "a/b", Digest(bytes(32))):
                pass
        with pytest.raises(OriginBroken, match="fewer bytes"):
            async with client.open_blob(registry, "a/b", LAYER_DIGEST, start=len(LAYER)):
                pass


async def test_passwords_from_the_settings(private_registry: str) -> None:
    own = OriginSettings(username=USER, password=PASSWORD)
    async with open_client({private_registry: own}) as client:
        await check_all(client, private_registry)


async def test_passwords_from_dockers_file(private_registry: str, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"auths": {private_registry: {"auth": BASIC[6:]}}}))
    async with open_client(docker_config=config) as client:
        await check_all(client, private_registry)


async def test_without_credentials_nothing_is_granted(
    private_registry: str, tmp_path: Path
) -> None:
    async with open_client(docker_config=tmp_path / "none.json") as client:
        with pytest.raises(OriginDenied, match="docker login"):
            await client.head_manifest(private_registry, "a/b", "1", accept=ACCEPT)


async def test_a_wrong_password_is_denied(private_registry: str) -> None:
    own = OriginSettings(username=USER, password="wrong")
    async with open_client({private_registry: own}) as client:
        with pytest.raises(OriginDenied, match="refuses the credentials of 'user'"):
            await client.head_manifest(private_registry, "a/b", "1", accept=ACCEPT)


async def test_tls_with_an_authority_of_its_own(
    tls_registry: str, certificate: tuple[Path, Path]
) -> None:
    own = OriginSettings(
        url=f"https://{tls_registry}", username=USER, password=PASSWORD, ca=certificate[0]
    )
    async with open_client({"r.example": own}) as client:
        await check_all(client, "r.example")


async def test_dockers_folder_of_certificates_counts_too(
    tls_registry: str, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    folder = tmp_path / tls_registry
    folder.mkdir()
    (folder / "ca.crt").write_bytes(certificate[0].read_bytes())
    own = OriginSettings(url=f"https://{tls_registry}", username=USER, password=PASSWORD)
    async with open_client({"r.example": own}, certs_dir=tmp_path) as client:
        await check_all(client, "r.example")


async def test_an_untrusted_certificate_is_an_error_with_advice(
    tls_registry: str, tmp_path: Path
) -> None:
    origins = {"r.example": OriginSettings(url=f"https://{tls_registry}")}
    async with open_client(origins) as client:
        with pytest.raises(OriginUnavailable, match=r"not trusted .*: ca in \[origins"):
            await client.manifest("r.example", "a/b", "1", accept=ACCEPT)
    bad = tmp_path / "ca.pem"
    for text, said in ((None, "cannot be read"), ("no certificate", "not a certificate")):
        if text is not None:
            bad.write_text(text)
        own = OriginSettings(url=f"https://{tls_registry}", ca=bad)
        async with open_client({"r.example": own}) as client:
            with pytest.raises(OriginUnavailable, match=said):
                await client.manifest("r.example", "a/b", "1", accept=ACCEPT)


async def test_manifests_are_not_taken_from_where_tls_redirects_to_none_and_blobs_are(
    certificate: tuple[Path, Path], registry: str
) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    async with open_origin_server(tls=context) as server:
        server.answer = lambda asked: Reply(307, {"Location": f"http://{registry}{asked.target}"})
        own = OriginSettings(url=f"https://{server.name}", ca=certificate[0])
        async with open_client({"r.example": own}) as client:
            with pytest.raises(OriginBroken, match="from HTTPS to plain HTTP"):
                await client.manifest("r.example", "a/b", "1", accept=ACCEPT)
            async with client.open_blob("r.example", "a/b", LAYER_DIGEST, end=5) as blob:
                assert [chunk async for chunk in blob.chunks] == [LAYER[:5]]


async def test_tls_where_there_is_none_and_none_where_there_is(
    registry: str, tls_registry: str
) -> None:
    async with open_client({registry: OriginSettings(url=f"https://{registry}")}) as client:
        with pytest.raises(OriginUnavailable, match="plain_http"):
            await client.manifest(registry, "a/b", "1", accept=ACCEPT)
        with pytest.raises(OriginBroken, match="answers 400"):
            await client.manifest(tls_registry, "a/b", "1", accept=ACCEPT)
