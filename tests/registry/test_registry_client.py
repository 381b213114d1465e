"""The registry client understands an origin's valid answers, and refuses invalid ones."""

import hashlib
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from beiran.ids import Digest, digest_text
from beiran.oci.manifests import MANIFEST_BYTES_MAX, OCI_INDEX, OCI_MANIFEST
from beiran.registry import transport as origin_http
from beiran.registry.registry_client import (
    OriginBroken,
    OriginClient,
    OriginDenied,
    OriginError,
    OriginLimited,
    OriginMissing,
    OriginUnavailable,
    open_origin_client,
)
from beiran.settings.settings import Limit, OriginSettings
from tests.registry.origin_server import Answering, Asked, OriginServer, Reply, open_origin_server

ACCEPT = (OCI_INDEX, OCI_MANIFEST)
MANIFEST = json.dumps({"schemaVersion": 2, "mediaType": OCI_MANIFEST, "layers": []}).encode()
DIGEST = "sha256:" + hashlib.sha256(MANIFEST).hexdigest()
BLOB = bytes(range(256)) * 1024
BLOB_DIGEST = Digest(hashlib.sha256(BLOB).digest())
BLOB_PATH = f"/v2/a/b/blobs/{digest_text(BLOB_DIGEST)}"


@pytest.fixture
async def server() -> AsyncIterator[OriginServer]:
    async with open_origin_server() as server:
        yield server


@asynccontextmanager
async def open_client(**given: Any) -> AsyncIterator[OriginClient]:
    origins = given.pop("origins", {})
    async with open_origin_client(origins, docker_config=None, certs_dir=None, **given) as client:
        yield client


@pytest.fixture
async def client() -> AsyncIterator[OriginClient]:
    async with open_client() as client:
        yield client


def manifest_reply(**headers: str) -> Reply:
    usual = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": DIGEST}
    return Reply(200, {**usual, **headers}, MANIFEST)


def serve_blob(asked: Asked) -> Reply:
    """As registries do, with Range."""
    if "range" not in asked.headers:
        return Reply(200, {"Content-Type": "application/octet-stream"}, BLOB)
    first, _, last = asked.headers["range"].removeprefix("bytes=").partition("-")
    start, end = int(first), min(int(last or len(BLOB)), len(BLOB) - 1) + 1
    if start >= len(BLOB):
        return Reply(416)
    return Reply(206, {"Content-Range": f"bytes {start}-{end - 1}/{len(BLOB)}"}, BLOB[start:end])


async def read_blob(
    client: OriginClient, registry: str, start: int = 0, end: int | None = None
) -> bytes:
    async with client.open_blob(registry, "a/b", BLOB_DIGEST, start=start, end=end) as blob:
        assert blob.start == start
        return b"".join([chunk async for chunk in blob.chunks])


async def test_a_head_has_digest_media_type_and_size(
    server: OriginServer, client: OriginClient
) -> None:
    server.answer = lambda asked: manifest_reply()
    head = await client.head_manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert digest_text(head.digest) == DIGEST
    assert (head.media_type, head.size_bytes) == (OCI_MANIFEST, len(MANIFEST))
    assert server.lines == ["HEAD /v2/a/b/manifests/1"]
    asked = server.asked[0]
    assert asked.headers["accept"] == f"{OCI_INDEX}, {OCI_MANIFEST}"
    assert asked.headers["via"] == "1.1 beiran"
    assert "authorization" not in asked.headers


@pytest.mark.parametrize(
    "head", [Reply(405), Reply(501), Reply(200, {"Content-Type": OCI_MANIFEST, "ETag": "1"})]
)
async def test_an_incomplete_head_is_followed_by_a_get(
    server: OriginServer, client: OriginClient, head: Reply
) -> None:
    server.answer = lambda asked: head if asked.method == "HEAD" else manifest_reply()
    found = await client.head_manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert (digest_text(found.digest), found.size_bytes) == (DIGEST, len(MANIFEST))
    assert [asked.method for asked in server.asked] == ["HEAD", "GET"]


async def test_a_manifest_comes_byte_for_byte(server: OriginServer, client: OriginClient) -> None:
    server.answer = lambda asked: manifest_reply()
    for reference in ("1", DIGEST):
        found = await client.manifest(server.name, "a/b", reference, accept=ACCEPT)
        assert (found.data, found.media_type) == (MANIFEST, OCI_MANIFEST)
        assert digest_text(found.digest) == DIGEST
    assert server.connections == 1


async def test_the_media_type_comes_from_the_manifest_where_the_head_has_none(
    server: OriginServer, client: OriginClient
) -> None:
    server.answer = lambda asked: manifest_reply(**{"Content-Type": "application/json"})
    found = await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert found.media_type == OCI_MANIFEST


OTHER = "sha256:" + "0" * 64
BROKEN_MANIFESTS = [
    ("1", manifest_reply(**{"Docker-Content-Digest": OTHER}), "it sent sha256:"),
    (OTHER, manifest_reply(), "it sent sha256:"),
    ("1", Reply(200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "web page"),
    ("1", Reply(200, {"Content-Type": OCI_MANIFEST}, b"<html>"), "not JSON"),
    ("1", Reply(200, {"Content-Type": "application/json"}, b"{}"), "without a media type"),
    ("1", Reply(200, {"Content-Length": str(100 * 2**20)}), "more than 4194304 bytes"),
    ("1", Reply(418), "answers 418"),
    ("1", Reply(302), "redirects without a Location"),
    ("1", Reply(302, {"Location": "ftp://elsewhere/"}), "not a URL"),
    ("1", Reply(302, {"Location": "http://[::1"}), "not a URL"),
    ("1", Reply(302, {"Location": "/again"}), "redirects more than 5 times"),
    ("1", Reply(401), "without a Basic or Bearer challenge"),
    ("1", Reply(raw=b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "does not speak HTTP"),
]


@pytest.mark.parametrize(("reference", "reply", "said"), BROKEN_MANIFESTS)
async def test_answers_that_are_no_registrys_are_refused(
    server: OriginServer, client: OriginClient, reference: str, reply: Reply, said: str
) -> None:
    server.answer = lambda asked: reply
    with pytest.raises(OriginBroken) as caught:
        await client.manifest(server.name, "a/b", reference, accept=ACCEPT)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_a_manifest_without_end_is_not_read_to_its_end(
    server: OriginServer, client: OriginClient
) -> None:
    chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answer = lambda asked: Reply(raw=head + chunk * (MANIFEST_BYTES_MAX // 2**20 + 8))
    with pytest.raises(OriginBroken, match="more than 4194304 bytes"):
        await client.manifest(server.name, "a/b", "1", accept=ACCEPT)


def test_where_a_redirect_leads() -> None:
    base = origin_http.read_url_untrusted("https://a.example:443/v2/b")
    read = origin_http.read_url_untrusted
    assert str(read("../y?z=1#f", base)) == "https://a.example/y?z=1"
    assert str(read("//b.example/y", base)) == "https://b.example/y"
    assert read("http://a.example/x", base).port == 80
    assert not read("http://a.example/x", base).same_origin(base)
    assert read("https://A.example/x", base).same_origin(base)
    assert str(read("https://[fd00::1]:5000/x")) == "https://[fd00::1]:5000/x"
    for text in (
        "",
        "x",
        "https://",
        "file:///x",
        "https://a/\u00e9",
        "https://a/b c",
        "https://a:b",
    ):
        with pytest.raises(OriginBroken):
            read(text)


@pytest.mark.parametrize(
    ("reply", "error", "said"),
    [
        (Reply(404), OriginMissing, "/a/b:1 not found: manifest unknown"),
        (
            Reply(
                404, {}, b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"no\\nsuch\\u001b"}]}'
            ),
            OriginMissing,
            "(no such)",
        ),
        (Reply(403), OriginDenied, "docker login"),
        (Reply(429, {"Retry-After": "30"}), OriginLimited, "again in 30 s"),
        (Reply(429), OriginLimited, "answers 429"),
        (Reply(503), OriginUnavailable, "answers 503"),
    ],
)
async def test_each_status_has_its_error(
    server: OriginServer,
    client: OriginClient,
    reply: Reply,
    error: type[OriginError],
    said: str,
) -> None:
    server.answer = lambda asked: reply
    with pytest.raises(error) as caught:
        await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert said in str(caught.value)
    assert str(caught.value).isprintable()
    if isinstance(caught.value, OriginLimited):
        assert caught.value.retry_after_s == (30 if "Retry-After" in reply.headers else None)


async def test_a_server_error_is_asked_again_twice_and_a_refusal_never(
    server: OriginServer, client: OriginClient
) -> None:
    replies = iter([Reply(503), Reply(raw=b""), manifest_reply()])
    server.answer = lambda asked: next(replies)
    await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert len(server.asked) == 3
    server.answer = lambda asked: Reply(404)
    with pytest.raises(OriginMissing):
        await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert len(server.asked) == 4


async def test_a_manifest_that_broke_off_is_asked_for_again(
    server: OriginServer, client: OriginClient
) -> None:
    whole = manifest_reply().encoded("GET")
    replies = iter([Reply(raw=whole[:-9]), manifest_reply()])
    server.answer = lambda asked: next(replies)
    found = await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert found.data == MANIFEST


async def test_tags_come_in_pages(server: OriginServer, client: OriginClient) -> None:
    body = json.dumps({"name": "a/b", "tags": ["1", "2"]}).encode()
    link = {"Link": '</v2/a/b/tags/list?n=2&last=2>; rel="next"'}
    server.answer = lambda asked: Reply(200, link, body)
    assert await client.tags(server.name, "a/b", n=2, last="0") == (["1", "2"], True)
    server.answer = lambda asked: Reply(200, {}, b'{"name": "a/b", "tags": null}')
    assert await client.tags(server.name, "a/b") == ([], False)
    assert server.lines == ["GET /v2/a/b/tags/list?n=2&last=0", "GET /v2/a/b/tags/list"]
    for bad in (b'{"tags": [1]}', b'{"tags": [""]}', b"[", b'"\xff"'):
        server.answer = lambda asked, bad=bad: Reply(200, {}, bad)  # type: ignore[misc]
        with pytest.raises(OriginBroken, match="list of tags"):
            await client.tags(server.name, "a/b")


# Blobs.


@pytest.mark.parametrize(("start", "end"), [(0, None), (0, 7), (70_000, None), (70_000, 200_000)])
async def test_a_range_of_a_blob(
    server: OriginServer, client: OriginClient, start: int, end: int | None
) -> None:
    server.answer = serve_blob
    async with client.open_blob(server.name, "a/b", BLOB_DIGEST, start=start, end=end) as blob:
        assert (blob.size_bytes, blob.start, blob.end) == (len(BLOB), start, end or len(BLOB))
        assert blob.has_ranges
        assert b"".join([chunk async for chunk in blob.chunks]) == BLOB[start:end]
    assert server.lines == [f"GET {BLOB_PATH}"]


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize(("start", "end"), [(0, 7), (70_000, None), (70_000, 200_000)])
async def test_a_registry_that_ignores_the_range_is_made_do(
    server: OriginServer, client: OriginClient, start: int, end: int | None, chunked: bool
) -> None:
    plain = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw = plain + f"{len(BLOB):x}\r\n".encode() + BLOB + b"\r\n0\r\n\r\n"
    server.answer = lambda asked: Reply(raw=raw) if chunked else Reply(200, {}, BLOB)
    async with client.open_blob(server.name, "a/b", BLOB_DIGEST, start=start, end=end) as blob:
        assert blob.size_bytes == (None if chunked else len(BLOB))
        assert blob.has_ranges is (start == 0)
        assert b"".join([chunk async for chunk in blob.chunks]) == BLOB[start:end]


def part(value: str, body: bytes = b"x" * 10) -> Reply:
    return Reply(206, {"Content-Range": value}, body)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(206, {}, b"x" * 10), "without a Content-Range"),
        (part("bytes 0-9/100"), "requested bytes 10 to 20"),
        (part("bytes 10-29/100", b"x" * 20), "requested bytes 10 to 20"),
        (part("bytes 10-19/12"), "requested bytes 10 to 20"),
        (part("bytes 10-9/100", b""), "requested bytes 10 to 20"),
        (part("bytes 10-18/100"), "more bytes than its head says"),
        (part("octets 10-19/100"), "without a Content-Range"),
        (Reply(200, {}, b"short"), "has only 5 bytes"),
        (Reply(416), "fewer bytes"),
        (Reply(200, {"Content-Type": "text/html; charset=utf-8"}, BLOB), "web page"),
        (Reply(200, {"Content-Encoding": "gzip"}, BLOB), "Content-Encoding"),
    ],
)
async def test_a_range_that_was_not_asked_for_is_refused(
    server: OriginServer, client: OriginClient, reply: Reply, said: str
) -> None:
    server.answer = lambda asked: reply
    with pytest.raises(OriginBroken, match=said):
        await read_blob(client, server.name, 10, 20)


@pytest.mark.parametrize(
    "raw",
    [
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-19/100\r\n\r\n12345",
        b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10-19/100\r\n"
        b"Content-Length: 10\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789012345",
        b"HTTP/1.1 200 OK\r\n\r\n01",
    ],
)
async def test_a_blob_that_breaks_off_raises_after_its_last_byte(
    server: OriginServer, client: OriginClient, raw: bytes
) -> None:
    server.answer = lambda asked: Reply(raw=raw)
    with pytest.raises(OriginUnavailable, match="broke off"):
        await read_blob(client, server.name, 10, 20)


async def test_the_size_of_a_blob(server: OriginServer, client: OriginClient) -> None:
    server.answer = serve_blob
    assert await client.blob_size(server.name, "a/b", BLOB_DIGEST) == len(BLOB)
    server.answer = lambda asked: Reply(405) if asked.method == "HEAD" else serve_blob(asked)
    assert await client.blob_size(server.name, "a/b", BLOB_DIGEST) == len(BLOB)
    assert [asked.method for asked in server.asked] == ["HEAD", "HEAD", "GET"]


async def test_a_blob_that_is_not_read_to_its_end_leaves_nothing_open(
    server: OriginServer, client: OriginClient
) -> None:
    server.answer = serve_blob
    for _ in range(40):  # more than may be open at once
        async with client.open_blob(server.name, "a/b", BLOB_DIGEST) as blob:
            await anext(blob.chunks)
    assert await read_blob(client, server.name) == BLOB


async def test_no_more_blobs_than_allowed_come_at_once(server: OriginServer) -> None:
    server.answer = serve_blob
    async with (
        open_client(limit=Limit(at_once=1)) as client,
        trio.open_nursery() as nursery,
        client.open_blob(server.name, "a/b", BLOB_DIGEST),
    ):
        nursery.start_soon(read_blob, client, server.name)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert len(server.asked) == 1
    assert len(server.asked) == 2


async def test_waiting_for_a_turn_is_reported_as_our_own_limit(server: OriginServer) -> None:
    server.answer = serve_blob
    signalled = trio.Event()

    async def read(client: OriginClient) -> None:
        opened = client.open_blob(server.name, "a/b", BLOB_DIGEST, held_back=signalled.set)
        async with opened as blob:
            assert b"".join([chunk async for chunk in blob.chunks]) == BLOB

    async with (
        open_client(limit=Limit(at_once=1)) as client,
        trio.open_nursery() as nursery,
        client.open_blob(server.name, "a/b", BLOB_DIGEST),
    ):
        nursery.start_soon(read, client)
        with trio.fail_after(20):
            await signalled.wait()
    assert len(server.asked) == 2


async def test_waiting_for_the_rate_is_reported_as_our_own_limit(
    server: OriginServer,
) -> None:
    server.answer = serve_blob
    signalled: list[None] = []
    async with open_client(limit=Limit(bytes_per_s=len(BLOB) // 2)) as client:
        for _ in range(3):  # the first goes at once, after a rest
            opened = client.open_blob(
                server.name, "a/b", BLOB_DIGEST, held_back=lambda: signalled.append(None)
            )
            async with opened as blob:
                assert b"".join([chunk async for chunk in blob.chunks]) == BLOB
    assert signalled


# Redirects.


@pytest.fixture
async def storage() -> AsyncIterator[OriginServer]:
    async with open_origin_server() as storage:
        storage.answer = serve_blob
        yield storage


def redirect_to(storage: OriginServer) -> Answering:
    return lambda asked: Reply(307, {"Location": f"{storage.url}/signed?s=1"}, b"moved")


async def test_a_redirect_is_followed_without_our_credentials_and_remembered(
    server: OriginServer, storage: OriginServer
) -> None:
    def answer(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(401, {"WWW-Authenticate": 'Basic realm="r"'})
        return Reply(307, {"Location": f"{storage.url}/signed?s=1"}, b"moved")

    server.answer = answer
    origins = {server.name: OriginSettings(username="u", password="p")}
    async with open_client(origins=origins) as client:
        assert await read_blob(client, server.name, 0, 10) == BLOB[:10]
        assert await read_blob(client, server.name, 10, 20) == BLOB[10:20]
    assert len(server.asked) == 2
    assert storage.lines == ["GET /signed?s=1"] * 2
    assert all("authorization" not in asked.headers for asked in storage.asked)
    assert server.connections == 1


async def test_a_redirect_that_ran_out_is_asked_for_again(
    server: OriginServer, storage: OriginServer, client: OriginClient
) -> None:
    server.answer = redirect_to(storage)
    await read_blob(client, server.name, 0, 10)
    replies = iter([Reply(403)])
    storage.answer = lambda asked: next(replies, None) or serve_blob(asked)
    assert await read_blob(client, server.name, 10, 20) == BLOB[10:20]
    assert len(server.asked) == 2


async def test_a_redirect_within_the_registry_keeps_the_credentials(server: OriginServer) -> None:
    def answer(asked: Asked) -> Reply:
        if "authorization" not in asked.headers:
            return Reply(401, {"WWW-Authenticate": "Basic"})
        if asked.target == "/moved":
            return serve_blob(asked)
        return Reply(302, {"Location": "/moved"})

    server.answer = answer
    origins = {server.name: OriginSettings(username="u", password="p")}
    async with open_client(origins=origins) as client:
        assert await read_blob(client, server.name) == BLOB


async def test_a_refusal_by_the_storage_host_names_it(
    server: OriginServer, storage: OriginServer, client: OriginClient
) -> None:
    server.answer = redirect_to(storage)
    storage.answer = lambda asked: Reply(403)
    with pytest.raises(OriginDenied, match=storage.name):
        await read_blob(client, server.name)


# Where a registry is, and when it is not there.


async def test_a_registry_elsewhere_has_the_path_of_its_url_in_front(server: OriginServer) -> None:
    server.answer = lambda asked: manifest_reply()
    origins = {"docker.io": OriginSettings(url=f"{server.url}/hub")}
    async with open_client(origins=origins) as client:
        await client.head_manifest("docker.io", "library/a", "1", accept=ACCEPT)
    assert server.lines == ["HEAD /v2/hub/library/a/manifests/1"]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


async def test_a_registry_through_a_proxy(
    server: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.answer = lambda asked: manifest_reply()
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", "other.example")
    origins = {"r.example:5000": OriginSettings(plain_http=True)}
    async with open_client(origins=origins) as client:
        await client.head_manifest("r.example:5000", "a", "1", accept=ACCEPT)
    assert server.lines == ["HEAD http://r.example:5000/v2/a/manifests/1"]
    assert server.asked[0].headers["host"] == "r.example:5000"


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("http://127.0.0.1:1", "refused"),
        ("127.0.0.1:1", "refused"),
        ("socks5://x:1", "HTTPS_PROXY"),
        ("ftp://x:1", "HTTPS_PROXY"),
    ],
)
async def test_a_proxy_that_cannot_be_used_is_named(
    monkeypatch: pytest.MonkeyPatch, proxy: str, said: str
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", proxy)
    async with open_client() as client:
        with pytest.raises(OriginUnavailable, match=said):
            await client.manifest("r.example", "a", "1", accept=ACCEPT)


@pytest.mark.parametrize(
    ("exceptions", "host"),
    [
        ("", "127.0.0.1"),  # loopback never goes through a proxy, as with dockerd
        ("*", "r.invalid"),
        ("invalid", "r.invalid"),
        (".invalid", "r.invalid"),
        ("a, R.invalid ,b", "r.invalid"),
        ("192.0.2.0/24", "192.0.2.1"),
        ("192.0.2.1:5000", "192.0.2.1"),
    ],
)
async def test_hosts_that_need_no_proxy_are_asked_directly(
    server: OriginServer, monkeypatch: pytest.MonkeyPatch, exceptions: str, host: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", exceptions)
    name = f"{host}:5000"
    async with open_client(
        origins={name: OriginSettings(plain_http=True)}, connect_timeout_s=0.1
    ) as client:
        with pytest.raises(OriginUnavailable):  # no such host, or none that answers
            await client.manifest(name, "a", "1", accept=ACCEPT)
    assert not server.asked


@pytest.mark.parametrize("exceptions", ["", "example.org", "198.51.100.0/24", "192.0.2.1:80"])
async def test_all_other_hosts_are_asked_through_the_proxy(
    server: OriginServer, monkeypatch: pytest.MonkeyPatch, exceptions: str
) -> None:
    server.answer = lambda asked: manifest_reply()
    monkeypatch.setenv("HTTP_PROXY", server.url)
    monkeypatch.setenv("NO_PROXY", exceptions)
    origins = {"192.0.2.1:5000": OriginSettings(plain_http=True)}
    async with open_client(origins=origins) as client:
        await client.manifest("192.0.2.1:5000", "a", "1", accept=ACCEPT)
    assert len(server.asked) == 1


async def test_cookies_are_not_kept(server: OriginServer, client: OriginClient) -> None:
    server.answer = lambda asked: manifest_reply(**{"Set-Cookie": "a=b; Path=/"})
    for _ in range(2):
        await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
    assert all("cookie" not in asked.headers for asked in server.asked)


async def test_a_signed_url_is_asked_for_byte_for_byte(
    server: OriginServer, client: OriginClient
) -> None:
    target = "/store?sig=%2fA%2B+~'(x)*|%5B[]&%zz=1;2"

    def answer(asked: Asked) -> Reply:
        if asked.target == target:
            return Reply(200, {}, BLOB)
        return Reply(307, {"Location": f"http://localhost:{server.port}{target}"})

    server.answer = answer
    assert await read_blob(client, server.name) == BLOB
    assert server.lines[-1] == f"GET {target}"


def counted_connects(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Every attempt to connect from now on."""
    real = trio.open_tcp_stream
    attempts: list[object] = []

    async def open_tcp_stream(host: str, port: int, **given: Any) -> trio.SocketStream:
        attempts.append((host, port))
        return await real(host, port, **given)

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    return attempts


async def test_a_registry_that_is_down_is_not_asked_until_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = counted_connects(monkeypatch)
    async with open_origin_server() as server:
        port = server.port
    async with open_client() as client:
        name = f"127.0.0.1:{port}"
        with pytest.raises(OriginUnavailable, match="Connection refused"):
            await client.manifest(name, "a/b", "1", accept=ACCEPT)
        assert len(attempts) == 1
        for _ in range(5):
            with pytest.raises(OriginUnavailable, match="Connection refused"):
                await client.manifest(name, "a/b", "1", accept=ACCEPT)
        async with open_origin_server(port) as server:
            with trio.fail_after(30):
                while not server.asked:  # the probe
                    await trio.testing.wait_all_tasks_blocked(0.01)
            assert server.lines == ["GET /v2/"]
            server.answer = lambda asked: manifest_reply()
            await trio.testing.wait_all_tasks_blocked(0.05)
            await client.manifest(name, "a/b", "1", accept=ACCEPT)


async def silent(asked: Asked) -> Reply:
    await trio.sleep_forever()
    raise AssertionError


async def test_a_silent_registry_costs_one_timeout(server: OriginServer) -> None:
    server.answer = silent
    async with open_client(answer_timeout_s=0.2) as client:
        with pytest.raises(OriginUnavailable, match=r"no answer within 0\.2 s"):
            await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
        with pytest.raises(OriginUnavailable, match="a moment ago"):
            await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
        assert server.lines in ([], ["GET /v2/a/b/manifests/1"])


async def test_a_registry_that_swallows_packets_costs_one_timeout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attempts = counted_connects(monkeypatch)
    with socket.socket() as full, socket.socket() as first:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        first.connect(full.getsockname())  # never accepted: the next connection waits for ever
        name = f"127.0.0.1:{full.getsockname()[1]}"
        async with open_client(connect_timeout_s=0.2) as client:
            with pytest.raises(OriginUnavailable, match=r"no connection within 0\.2 s"):
                await client.manifest(name, "a/b", "1", accept=ACCEPT)
            assert len(attempts) == 1
            with pytest.raises(OriginUnavailable, match="a moment ago"):
                await client.manifest(name, "a/b", "1", accept=ACCEPT)


async def test_a_cancelled_wait_for_a_registry_marks_it_down(
    server: OriginServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(origin_http, "PATIENCE_S", 0.1)
    server.answer = silent
    async with open_client() as client:
        with trio.move_on_after(0.3) as scope:
            await client.manifest(server.name, "a/b", "1", accept=ACCEPT)
        assert scope.cancelled_caught
        with pytest.raises(OriginUnavailable, match="did not answer in time"):
            await client.manifest(server.name, "a/b", "1", accept=ACCEPT)


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.invalid", "cannot be reached"), ("l" * 64 + ".example", "not the name of a host")],
)
async def test_a_name_that_is_no_host(client: OriginClient, name: str, said: str) -> None:
    with pytest.raises(OriginError, match=said):
        await client.manifest(name, "a", "1", accept=ACCEPT)


async def test_requests_failures_and_bytes_are_counted(
    server: OriginServer, client: OriginClient
) -> None:
    server.answer = serve_blob
    await read_blob(client, server.name, 0, 100)
    server.answer = lambda asked: Reply(404)
    with pytest.raises(OriginMissing):
        await read_blob(client, server.name, 0, 100)
    counters = client.counters[server.name]
    assert (counters.requests, counters.failures, counters.blob_bytes) == (2, 1, 100)


async def test_an_agent_that_never_pulls_does_not_pay_for_it() -> None:
    code = (
        "import sys, trio; from beiran.registry.registry_client import open_origin_client\n"
        "async def main():\n"
        "    async with open_origin_client({}, docker_config=None):\n"
        "        print(*{'httpx2', 'httpcore2'} & set(sys.modules))\n"
        "trio.run(main)"
    )
    finished = await trio.run_process([sys.executable, "-c", code], capture_stdout=True)
    assert finished.stdout == b"\n"
