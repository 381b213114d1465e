"""The mirror over real HTTP: routes, codes, headers, conditions, ranges, time."""

import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from beiran.ids import digest_text
from beiran.mirror import routes as mirror_module
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import (
    BlobUnknown,
    Denied,
    Late,
    MirrorError,
    NameUnknown,
    OriginBroken,
    OriginLimited,
    Unavailable,
)
from beiran.mirror.routes import FIRST_BYTE_S_MAX
from beiran.oci.manifests import (
    DOCKER_INDEX,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Platform,
)
from beiran.registry.transport import VIA
from tests.http.serving import blob, eventually
from tests.mirror.mirror_server import Mirror, open_mirror, sha256

APP = RepositoryName("docker.io", "library/app")
DATA = blob(10_000)
AMD64 = Platform(os="linux", architecture="amd64")
ARM64 = Platform(os="linux", architecture="arm64")
UNKNOWN = "sha256:" + "0" * 64
DOCKERS_ACCEPT = (
    ("Accept", DOCKER_MANIFEST),
    ("Accept", DOCKER_INDEX),
    ("Accept", OCI_INDEX),
    ("Accept", OCI_MANIFEST),
    ("Accept", "application/vnd.docker.distribution.manifest.v1+prettyjws"),
    ("Accept", "application/json"),
)


@pytest.fixture
async def mirror() -> AsyncIterator[Mirror]:
    async with open_mirror() as mirror:
        yield mirror


def blob_path(mirror: Mirror, data: bytes = DATA) -> str:
    return f"/v2/library/app/blobs/{digest_text(mirror.backend.add_blob(APP, data))}"


@pytest.mark.parametrize("path", ["/v2/", "/v2"])
async def test_it_says_that_it_is_a_registry_without_a_login(mirror: Mirror, path: str) -> None:
    for reply in (await mirror.ask(path), await mirror.head(path)):
        assert reply.status == 200
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
        assert "www-authenticate" not in reply.headers
    assert (await mirror.ask(path)).json == {}


async def test_the_mirrors_listener_has_no_other_routes() -> None:
    async with open_mirror() as mirror:
        assert (await mirror.ask("/info")).error == (404, "NOT_FOUND")
        assert (await mirror.ask("/")).error == (404, "NOT_FOUND")


async def test_a_manifest_comes_by_tag_and_by_digest(mirror: Mirror) -> None:
    digest = mirror.backend.add_image(APP, "1")
    text = digest_text(digest)
    for reference in ("1", text):
        path = f"/v2/library/app/manifests/{reference}"
        reply = await mirror.ask(path, *DOCKERS_ACCEPT)
        assert (reply.status, reply.body) == (200, mirror.backend.data(APP, digest))
        assert reply.headers["content-type"] == OCI_MANIFEST
        assert reply.headers["docker-content-digest"] == text
        assert reply.headers["etag"] == f'"{text}"'
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
        head = await mirror.head(path, *DOCKERS_ACCEPT)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(reply.body))
        for name in ("content-type", "docker-content-digest", "etag"):
            assert head.headers[name] == reply.headers[name]


async def test_the_backend_learns_what_is_asked_for_and_what_the_client_takes(
    mirror: Mirror,
) -> None:
    digest = mirror.backend.add_image(APP, "1")
    await mirror.head("/v2/library/app/manifests/1", *DOCKERS_ACCEPT)
    await mirror.ask(f"/v2/library/app/manifests/{digest_text(digest)}")
    first, second = mirror.backend.questions
    assert (first.reference, second.reference) == ("1", digest)
    assert first.accept.names(DOCKER_INDEX)
    assert first.accept.names("application/json")
    assert second.accept.anything


@pytest.mark.parametrize(
    ("client", "is_engine"),
    [("docker/26.1 go/1", True), ("containerd/2.0", True), ("skopeo/1", False), (None, False)],
)
async def test_an_engine_is_recognised_by_its_user_agent(
    mirror: Mirror, client: str | None, is_engine: bool
) -> None:
    mirror.backend.add_image(APP, "1")
    headers = [] if client is None else [("User-Agent", client)]
    await mirror.ask("/v2/library/app/manifests/1", *headers)
    assert [asked.for_engine for asked in mirror.backend.questions] == [is_engine]


async def test_a_manifest_that_is_known_already_is_not_sent_again(mirror: Mirror) -> None:
    text = digest_text(mirror.backend.add_image(APP, "1"))
    for known in (f'"{text}"', text, f'W/"{text}"', f'"other", "{text}"', "*"):
        for method in ("GET", "HEAD"):
            reply = await mirror.ask(
                "/v2/library/app/manifests/1", ("If-None-Match", known), method=method
            )
            assert (reply.status, reply.body) == (304, b"")
            assert reply.headers["docker-content-digest"] == text
    other = await mirror.ask("/v2/library/app/manifests/1", ("If-None-Match", f'"{UNKNOWN}"'))
    assert other.status == 200


@pytest.mark.parametrize("index_type", [OCI_INDEX, DOCKER_INDEX])
async def test_a_client_that_takes_no_index_gets_the_manifest_for_linux_amd64(
    mirror: Mirror, index_type: str
) -> None:
    index = mirror.backend.add_index(APP, "1", ARM64, AMD64, media_type=index_type)
    repository = mirror.backend.repository(APP)
    (wanted,) = (
        digest for digest, (_, data) in repository.manifests.items() if _is_amd64(mirror, data)
    )
    for method in ("GET", "HEAD"):
        reply = await mirror.ask(
            "/v2/library/app/manifests/1", ("Accept", OCI_MANIFEST), method=method
        )
        assert reply.status == 200
        assert reply.headers["content-type"] == OCI_MANIFEST
        assert reply.headers["docker-content-digest"] == digest_text(wanted)
    for accept in ((), (("Accept", "*/*"),), DOCKERS_ACCEPT):
        reply = await mirror.ask("/v2/library/app/manifests/1", *accept)
        assert reply.headers["docker-content-digest"] == digest_text(index)


def _is_amd64(mirror: Mirror, data: bytes) -> bool:
    blobs = mirror.backend.repository(APP).blobs
    return any(
        b'"amd64"' in content and digest_text(digest).encode() in data
        for digest, content in blobs.items()
    )


async def test_the_hosts_own_platform_is_chosen() -> None:
    async with open_mirror([Platform(os="linux", architecture="arm64", variant="v8"), ARM64]) as it:
        it.backend.add_index(APP, "1", AMD64, ARM64)
        reply = await it.ask("/v2/library/app/manifests/1", ("Accept", OCI_MANIFEST))
        assert reply.status == 200
        assert not _is_amd64(it, reply.body)
        it.backend.add_index(APP, "2", AMD64)
        reply = await it.ask("/v2/library/app/manifests/2", ("Accept", OCI_MANIFEST))
        assert reply.error == (404, "MANIFEST_UNKNOWN")
        assert "linux/arm64" in reply.json["errors"][0]["message"]


async def test_an_unaccepted_type_is_unknown_by_tag_and_sent_by_digest(
    mirror: Mirror,
) -> None:
    index = mirror.backend.add_index(APP, "index", AMD64)
    image = mirror.backend.add_image(APP, "image")
    for tag, accept in (
        ("image", DOCKER_MANIFEST),
        ("image", f"{OCI_MANIFEST};q=0, */*;q=0"),
        ("index", DOCKER_MANIFEST),
        ("index", "text/html"),
    ):
        reply = await mirror.ask(f"/v2/library/app/manifests/{tag}", ("Accept", accept))
        assert reply.error == (404, "MANIFEST_UNKNOWN")
        assert "Accept" in reply.json["errors"][0]["message"]
    for digest in (index, image):
        path = f"/v2/library/app/manifests/{digest_text(digest)}"
        assert (await mirror.ask(path, ("Accept", DOCKER_MANIFEST))).status == 200


async def test_a_broken_index_is_unknown_to_a_client_that_takes_none(mirror: Mirror) -> None:
    mirror.backend.add_manifest(APP, OCI_INDEX, {"manifests": 5}, "odd")
    digest = mirror.backend.add_image(APP, "lies")
    mirror.backend.repository(APP).manifests[digest] = (OCI_INDEX, mirror.backend.data(APP, digest))
    for tag in ("odd", "lies"):
        reply = await mirror.ask(f"/v2/library/app/manifests/{tag}", ("Accept", OCI_MANIFEST))
        assert reply.error == (404, "MANIFEST_UNKNOWN")


async def test_a_blob_comes_whole_from_a_file_and_as_it_arrives(mirror: Mirror) -> None:
    path = blob_path(mirror)
    for mirror.backend.in_files in (False, True):
        reply = await mirror.ask(path)
        assert (reply.status, reply.body) == (200, DATA)
        assert reply.headers["docker-content-digest"] == digest_text(sha256(DATA))
        assert reply.headers["content-length"] == str(len(DATA))
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["accept-ranges"] == "bytes"
        head = await mirror.head(path)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(DATA))
        assert head.headers["docker-content-digest"] == digest_text(sha256(DATA))
        await eventually(lambda: not mirror.backend.open_blobs)


async def test_an_empty_blob_is_a_blob(mirror: Mirror) -> None:
    path = blob_path(mirror, b"")
    for mirror.backend.in_files in (False, True):
        reply = await mirror.ask(path)
        assert (reply.status, reply.body, reply.headers["content-length"]) == (200, b"", "0")


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=500-1499", 500, 1500),
        ("bytes=500-", 500, 10_000),
        ("bytes=-500", 9500, 10_000),
        ("bytes=9000-20000", 9000, 10_000),
        ("bytes=0-0", 0, 1),
        ("bytes=-20000", 0, 10_000),
    ],
)
async def test_a_part_of_a_blob(mirror: Mirror, asked: str, start: int, end: int) -> None:
    path = blob_path(mirror)
    for mirror.backend.in_files in (False, True):
        reply = await mirror.ask(path, ("Range", asked))
        assert (reply.status, reply.body) == (206, DATA[start:end])
        assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/10000"
        assert reply.headers["content-length"] == str(end - start)


async def test_ranges_that_lie_outside_and_ranges_that_do_not_count(mirror: Mirror) -> None:
    path = blob_path(mirror)
    for outside in ("bytes=10000-", "bytes=20000-30000"):
        reply = await mirror.ask(path, ("Range", outside))
        assert reply.error == (416, "RANGE_INVALID")
        assert reply.headers["content-range"] == "bytes */10000"
    for whole in ("bytes=1-2,4-5", "lines=1-2", "bytes=5-2", "bytes=x"):
        reply = await mirror.ask(path, ("Range", whole))
        assert (reply.status, reply.body) == (200, DATA)
    await eventually(lambda: not mirror.backend.open_blobs)


async def test_a_part_only_if_the_blob_is_the_one_that_the_client_began(mirror: Mirror) -> None:
    path = blob_path(mirror)
    etag = f'"{digest_text(sha256(DATA))}"'
    reply = await mirror.ask(path, ("Range", "bytes=5-"), ("If-Range", etag))
    assert (reply.status, reply.body) == (206, DATA[5:])
    for other in (f'"{UNKNOWN}"', "Wed, 21 Oct 2015 07:28:00 GMT"):
        reply = await mirror.ask(path, ("Range", "bytes=5-"), ("If-Range", other))
        assert (reply.status, reply.body) == (200, DATA)


async def test_a_blob_that_is_known_already_is_not_sent_again(mirror: Mirror) -> None:
    path = blob_path(mirror)
    known = ("If-None-Match", f'"{digest_text(sha256(DATA))}"')
    for method in ("GET", "HEAD"):
        reply = await mirror.ask(path, known, ("Range", "bytes=0-1"), method=method)
        assert (reply.status, reply.body) == (304, b"")
    unknown = f"/v2/library/app/blobs/{UNKNOWN}"
    assert (await mirror.ask(unknown, ("If-None-Match", "*"))).error == (404, "BLOB_UNKNOWN")


async def test_the_head_of_an_arriving_blob_is_sent_at_once_and_its_bytes_as_they_arrive(
    mirror: Mirror,
) -> None:
    path = blob_path(mirror)
    mirror.backend.trouble_at = 3000
    async with await mirror.served.connect() as raw:
        await raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head = await raw.until(b"\r\n\r\n")
        assert b"content-length: 10000" in head.lower()
        assert await raw.until(DATA[2992:3000]) == DATA[:3000]
        assert mirror.backend.open_blobs == 1
    await eventually(lambda: not mirror.backend.open_blobs)


async def test_a_blob_that_is_slow_to_come_has_its_head_sent_before(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirror_module, "BLOB_HEAD_S_MAX", 0.05)
    path = blob_path(mirror)
    mirror.backend.trouble_at = 0
    async with await mirror.served.connect() as raw:
        await raw.send(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert b"content-length: 10000" in (await raw.until(b"\r\n\r\n")).lower()
        mirror.backend.trouble_at = 2**63
    await eventually(lambda: not mirror.backend.open_blobs)


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("library/app", 404, "BLOB_UNKNOWN"),
        ("app", 404, "BLOB_UNKNOWN"),
        ("library/app?ns=docker.io", 404, "BLOB_UNKNOWN"),
        ("docker.io/app", 503, "UNAVAILABLE"),
        ("quay.io/some/app", 503, "UNAVAILABLE"),
        ("some/app?ns=quay.io", 404, "BLOB_UNKNOWN"),
    ],
)
async def test_an_unavailable_blob_is_unknown_to_a_client_with_other_sources(
    mirror: Mirror, name: str, status: int, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Docker's graph driver asks 75 s for what is anything but 404."""
    for repository in (APP, RepositoryName("quay.io", "some/app")):
        digest = digest_text(mirror.backend.add_blob(repository, DATA))
    name, _, query = name.partition("?")
    path = f"/v2/{name}/blobs/{digest}?{query}"
    mirror.backend.trouble_at = 0
    mirror.backend.trouble_error = Unavailable("every peer and the origin went away")
    assert (await mirror.ask(path)).error == (status, code)
    assert (await mirror.ask(path, ("Range", "bytes=5-"))).error == (status, code)
    mirror.backend.trouble_at = 2**63
    mirror.backend.blob_error = Unavailable("every peer and the origin went away")
    assert (await mirror.ask(path)).error == (status, code)
    assert caplog.text.count("every peer and the origin went away") == 3
    await eventually(lambda: not mirror.backend.open_blobs)


async def test_a_blob_that_fails_half_way_breaks_off(
    mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    path = blob_path(mirror)
    mirror.backend.trouble_at = 3000
    mirror.backend.trouble_error = Unavailable("every peer and the origin went away")
    got = await mirror.served.exchange(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert got.partition(b"\r\n\r\n")[2] == DATA[:3000]
    assert "every peer and the origin went away" in caplog.text
    assert "Traceback" not in caplog.text
    reply = await mirror.ask(path, ("Range", "bytes=2000-2999"))
    assert (reply.status, reply.body) == (206, DATA[2000:3000])
    await eventually(lambda: not mirror.backend.open_blobs)


async def test_a_blob_that_stalls_breaks_off(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(mirror_module, "CHUNK_S_MAX", 0.05)
    path = blob_path(mirror)
    mirror.backend.trouble_at = 3000
    got = await mirror.served.exchange(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert got.partition(b"\r\n\r\n")[2] == DATA[:3000]
    assert "no byte came for 0.05 s" in caplog.text
    await eventually(lambda: not mirror.backend.open_blobs)


@pytest.mark.parametrize(
    "path",
    [
        "/v2/library/app/manifests/1",
        f"/v2/library/app/manifests/{UNKNOWN}",
        f"/v2/quay.io/some/app/blobs/{UNKNOWN}",
        "/v2/library/app/tags/list",
    ],
)
async def test_an_answer_that_is_late_is_an_error(
    mirror: Mirror, path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert FIRST_BYTE_S_MAX < 10
    monkeypatch.setattr(mirror_module, "FIRST_BYTE_S_MAX", 0.05)
    mirror.backend.hanging = True
    reply = await mirror.ask(path)
    assert reply.error == (503, "UNAVAILABLE")
    assert int(reply.headers["retry-after"]) > 0
    assert (await mirror.head(path)).status == 503
    assert len([record for record in caplog.records if path in record.message]) == 2


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (NameUnknown("no such repository"), 404, "NAME_UNKNOWN"),
        (BlobUnknown("no such blob"), 404, "BLOB_UNKNOWN"),
        (Denied("the origin says no"), 403, "DENIED"),
        (OriginLimited("too many pulls", retry_after_s=61.2), 429, "TOOMANYREQUESTS"),
        (OriginBroken("a page of HTML"), 502, "UNAVAILABLE"),
        (Unavailable("no node has it"), 503, "UNAVAILABLE"),
        (Late("too late"), 503, "UNAVAILABLE"),
    ],
    ids=str,
)
async def test_each_error_of_the_backend_has_its_status_and_code(
    mirror: Mirror,
    error: MirrorError,
    status: int,
    code: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)
    mirror.backend.error = error
    for path in (
        "manifests/1",
        f"manifests/{UNKNOWN}",
        f"blobs/{UNKNOWN}",
        "tags/list",
    ):
        reply = await mirror.ask(f"/v2/quay.io/some/app/{path}")
        assert reply.error == (status, code)
        assert reply.json["errors"][0]["message"] == str(error)
        assert reply.headers["docker-distribution-api-version"] == "registry/2.0"
        assert "www-authenticate" not in reply.headers
        assert ("retry-after" in reply.headers) == (status in (429, 503))
        head = await mirror.head(f"/v2/quay.io/some/app/{path}")
        assert (head.status, head.body) == (status, b"")
    if status == 429:
        assert reply.headers["retry-after"] == "61"
    assert len(caplog.records) == (8 if status >= 500 else 0)


async def test_a_bug_is_answered_500_and_ends_nothing(
    mirror: Mirror, caplog: pytest.LogCaptureFixture
) -> None:
    mirror.backend.error = RuntimeError("a bug")
    assert (await mirror.ask("/v2/library/app/manifests/1")).error == (500, "INTERNAL")
    assert "a bug" in caplog.text
    assert (await mirror.ask("/v2/")).status == 200


async def test_an_answer_of_the_peers_says_so(mirror: Mirror) -> None:
    mirror.backend.add_image(APP, "1")
    reply = await mirror.ask("/v2/library/app/manifests/1")
    assert reply.headers["beiran-source"] == "origin"
    assert "warning" not in reply.headers
    mirror.backend.source = "peers"
    mirror.backend.warning = 'docker.io is away; "1" as of 10:00\x07 – or \\ so'
    for reply in (
        await mirror.ask("/v2/library/app/manifests/1"),
        await mirror.head("/v2/library/app/manifests/1"),
    ):
        assert reply.headers["beiran-source"] == "peers"
        assert (
            reply.headers["warning"] == r'299 - "docker.io is away; \"1\" as of 10:00? ? or \\ so"'
        )
    tags = await mirror.ask("/v2/library/app/tags/list")
    assert tags.headers["beiran-source"] == "peers"
    mirror.backend.warning = "x" * 9999
    reply = await mirror.ask("/v2/library/app/manifests/1")
    assert len(reply.headers["warning"]) < 4096


async def test_tags_come_in_pages(mirror: Mirror) -> None:
    for tag in ("b", "a", "c", "d", "A"):
        mirror.backend.add_image(APP, tag)
    listing = "/v2/library/app/tags/list"
    reply = await mirror.ask(listing)
    assert reply.json == {"name": "library/app", "tags": ["A", "a", "b", "c", "d"]}
    assert "link" not in reply.headers
    assert (await mirror.ask(f"{listing}?last=b")).json["tags"] == ["c", "d"]
    first = await mirror.ask(f"{listing}?n=2")
    assert first.json["tags"] == ["A", "a"]
    assert first.headers["link"] == f'<{listing}?last=a&n=2>; rel="next"'
    second = await mirror.ask(f"{listing}?last=a&n=2")
    assert second.headers["link"] == f'<{listing}?last=c&n=2>; rel="next"'
    third = await mirror.ask(f"{listing}?last=c&n=2")
    assert third.json["tags"] == ["d"]
    assert "link" not in third.headers
    assert (await mirror.ask(f"{listing}?n=5")).headers.get("link") is None
    huge = await mirror.ask(f"{listing}?n=999999999999999999999999")
    assert len(huge.json["tags"]) == 5
    none = await mirror.ask(f"{listing}?n=0")
    assert none.json["tags"] == []
    assert "link" not in none.headers
    head = await mirror.head(listing)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(reply.body))


@pytest.mark.parametrize("query", ["n=-1", "n=x", "n=", "n=1.5", "n=1&n=2", "last=a&last=b"])
async def test_an_invalid_page_is_refused(mirror: Mirror, query: str) -> None:
    mirror.backend.add_image(APP, "1")
    reply = await mirror.ask(f"/v2/library/app/tags/list?{query}")
    assert reply.error == (400, "PAGINATION_NUMBER_INVALID")


async def test_tags_of_an_unknown_repository_are_unknown(mirror: Mirror) -> None:
    for query in ("", "?n=0", "?n=5"):
        reply = await mirror.ask(f"/v2/library/other/tags/list{query}")
        assert reply.error == (404, "NAME_UNKNOWN")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v2/library/app/blobs/uploads/"),
        ("POST", f"/v2/library/app/blobs/uploads/?mount={UNKNOWN}&from=other"),
        ("PATCH", "/v2/library/app/blobs/uploads/1"),
        ("PUT", "/v2/library/app/blobs/uploads/1"),
        ("PUT", "/v2/library/app/manifests/1"),
        ("DELETE", "/v2/library/app/manifests/1"),
        ("DELETE", f"/v2/library/app/blobs/{UNKNOWN}"),
    ],
)
async def test_nothing_is_pushed_to_a_mirror(mirror: Mirror, method: str, path: str) -> None:
    reply = await mirror.ask(path, method=method)
    assert reply.error == (405, "UNSUPPORTED")
    assert reply.headers["allow"] == "GET, HEAD, OPTIONS"
    assert reply.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("path", ["/v2/", "/v2/library/app/manifests/1"])
async def test_the_allowed_methods_are_listed(mirror: Mirror, path: str) -> None:
    reply = await mirror.ask(path, method="OPTIONS")
    assert (reply.status, reply.headers["allow"]) == (204, "GET, HEAD, OPTIONS")


@pytest.mark.parametrize(
    "path",
    [
        "/v2/_catalog",
        "/v2/library/app",
        "/v2/library/app/",
        "/v2/library/app/manifests/",
        "/v2/manifests/1",
        "/v2/library/app/blobs/uploads/1",
        f"/v2/library/app/referrers/{UNKNOWN}",
    ],
)
async def test_other_paths_of_a_registry_are_not_found(mirror: Mirror, path: str) -> None:
    assert (await mirror.ask(path)).error == (404, "UNSUPPORTED")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/UPPER/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a//b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/a/../b/manifests/1", 400, "NAME_INVALID"),
        ("/v2/-a/tags/list", 400, "NAME_INVALID"),
        (f"/v2/{'a' * 300}/blobs/{UNKNOWN}", 400, "NAME_INVALID"),
        ("/v2/quay.io/Foo/tags/list", 400, "NAME_INVALID"),
        ("/v2/app/manifests/1?ns=", 400, "NAME_INVALID"),
        ("/v2/app/manifests/1?ns=a/b", 400, "NAME_INVALID"),
        ("/v2/app/manifests/1?ns=host", 400, "NAME_INVALID"),
        ("/v2/app/manifests/1?ns=http:", 400, "NAME_INVALID"),
        ("/v2/app/manifests/1?ns=quay.io&ns=quay.io", 400, "NAME_INVALID"),
        ("/v2/app/manifests/.dot", 404, "MANIFEST_UNKNOWN"),
        (f"/v2/app/manifests/{'a' * 129}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/app/manifests/sha256:12", 400, "DIGEST_INVALID"),
        ("/v2/app/manifests/:", 400, "DIGEST_INVALID"),
        (f"/v2/app/manifests/sha512:{'0' * 128}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/app/blobs/latest", 400, "DIGEST_INVALID"),
        (f"/v2/app/blobs/{UNKNOWN.upper()}", 400, "DIGEST_INVALID"),
        (f"/v2/app/blobs/sha256:{'g' * 64}", 400, "DIGEST_INVALID"),
        (f"/v2/app/blobs/sha512:{'0' * 128}", 404, "BLOB_UNKNOWN"),
    ],
)
async def test_invalid_names_are_refused(mirror: Mirror, path: str, status: int, code: str) -> None:
    assert (await mirror.ask(path)).error == (status, code)


@pytest.mark.parametrize(
    ("path", "registry", "repository"),
    [
        ("library/app", "docker.io", "library/app"),
        ("app", "docker.io", "library/app"),
        ("user/app", "docker.io", "user/app"),
        ("user_name/a-b__c.d", "docker.io", "user_name/a-b__c.d"),
        ("docker.io/app", "docker.io", "library/app"),
        ("quay.io/foo/bar", "quay.io", "foo/bar"),
        ("quay.io/foo", "quay.io", "foo"),
        ("host__5000/foo", "host:5000", "foo"),
        ("127.0.0.1__5000/a/b", "127.0.0.1:5000", "a/b"),
        ("localhost/foo", "localhost", "foo"),
        ("app?ns=docker.io", "docker.io", "library/app"),
        ("library/app?ns=registry-1.docker.io", "docker.io", "library/app"),
        ("docker.io/app?ns=docker.io", "docker.io", "library/app"),
        ("foo/bar?ns=quay.io", "quay.io", "foo/bar"),
        ("foo?ns=host:5000", "host:5000", "foo"),
        ("quay.io/foo?ns=quay.io", "quay.io", "foo"),
        ("host__5000/foo?ns=host:5000", "host:5000", "foo"),
        ("a.b/foo?ns=quay.io", "quay.io", "a.b/foo"),
    ],
)
async def test_repositories_of_any_registry(
    mirror: Mirror, path: str, registry: str, repository: str
) -> None:
    name = RepositoryName(registry, repository)
    assert str(name) == f"{registry}/{repository}"
    digest = mirror.backend.add_image(name, "1")
    mirror.backend.add_image(name, "2")
    path, _, query = path.partition("?")
    reply = await mirror.ask(f"/v2/{path}/manifests/1?{query}")
    assert reply.headers["docker-content-digest"] == digest_text(digest)
    assert reply.headers.get("oci-namespace") == (query.removeprefix("ns=") or None)
    for content in mirror.backend.repository(name).blobs:
        assert (await mirror.ask(f"/v2/{path}/blobs/{digest_text(content)}?{query}")).status == 200
    tags = await mirror.ask(f"/v2/{path}/tags/list?n=1&{query}")
    assert tags.json == {"name": path, "tags": ["1"]}
    following = tags.headers["link"].split(">")[0].removeprefix("<")
    assert (await mirror.ask(following)).json["tags"] == ["2"]


async def test_a_request_of_an_agent_is_denied(mirror: Mirror) -> None:
    mirror.backend.add_image(APP, "1")
    for path in ("manifests/1", f"blobs/{UNKNOWN}", "tags/list"):
        for via in (VIA, f"1.1 proxy, {VIA}"):
            reply = await mirror.ask(f"/v2/library/app/{path}", ("Via", via))
            assert reply.error == (403, "DENIED")
    assert (await mirror.ask("/v2/library/app/manifests/1", ("Via", "1.1 proxy"))).status == 200
    assert len(mirror.backend.questions) == 1


async def test_credentials_of_a_client_change_nothing(mirror: Mirror) -> None:
    mirror.backend.add_image(APP, "1")
    login = ("Authorization", "Basic dXNlcjpwYXNz")
    assert (await mirror.ask("/v2/", login)).status == 200
    assert (await mirror.ask("/v2/library/app/manifests/1", login)).status == 200


@pytest.mark.needs("skopeo")
async def test_skopeo_reads_and_copies_through_it(mirror: Mirror, tmp_path: Path) -> None:
    mirror.backend.add_index(APP, "multi", ARM64, AMD64)
    image = mirror.backend.add_image(RepositoryName("quay.io", "some/app"), "1")
    mirror.backend.add_image(RepositoryName("quay.io", "some/app"), "2", media_type=DOCKER_MANIFEST)

    async def skopeo(*arguments: str) -> str:
        done = await trio.run_process(
            ["skopeo", "--override-os=linux", "--override-arch=amd64", *arguments],
            capture_stdout=True,
            env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "GOMAXPROCS": "1"},
        )
        return done.stdout.decode()

    here = f"docker://127.0.0.1:{mirror.port}"
    plain = "--tls-verify=false"
    listed = await skopeo("list-tags", plain, f"{here}/quay.io/some/app")
    assert '"1"' in listed
    inspected = await skopeo("inspect", plain, f"{here}/quay.io/some/app:1")
    assert digest_text(image) in inspected
    for number, source in enumerate(("library/app:multi", "quay.io/some/app:2")):
        for mirror.backend.in_files in (False, True):
            target = tmp_path / f"{number}{mirror.backend.in_files}"
            await skopeo(
                "copy", "--insecure-policy", "--src-tls-verify=false", f"{here}/{source}",
                f"dir:{target}",
            )  # fmt: skip
            assert (target / sha256(blob(5000)).hex()).read_bytes() == blob(5000)
