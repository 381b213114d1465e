"""The pull category of the distribution specification's conformance suite, in words of ours.

What that suite pushes is put into the library here; what it then reads is read the same way. A test
names the part of the suite that it stands for.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import Struct

from beiran.ids import Digest, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.oci.manifests import OCI_INDEX, OCI_MANIFEST, Platform
from tests.http.serving import blob
from tests.mirror.mirror_server import Mirror, Reply, descriptor, open_mirror, sha256

PATH = "/v2/conformance/repo"
NAME = RepositoryName("docker.io", "conformance/repo")
ACCEPT = (("Accept", OCI_INDEX), ("Accept", OCI_MANIFEST))
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"
BLOB = blob(2048)


class Case(Struct):
    """One kind of content of the conformance suite: its manifests, and its media type."""

    digests: list[Digest]
    media_type: str


def config_and_layers(mirror: Mirror, *layers: bytes) -> dict[str, Any]:
    mirror.backend.add_blob(NAME, EMPTY)
    for layer in layers:
        mirror.backend.add_blob(NAME, layer)
    layer_type = "application/vnd.oci.image.layer.v1.tar+gzip"
    return {
        "config": descriptor("application/vnd.oci.image.config.v1+json", EMPTY),
        "layers": [descriptor(layer_type, layer) for layer in layers],
    }


def image(mirror: Mirror) -> Case:
    document = config_and_layers(mirror, BLOB, blob(77))
    return Case([mirror.backend.add_manifest(NAME, OCI_MANIFEST, document, "it")], OCI_MANIFEST)


def image_without_layers(mirror: Mirror) -> Case:
    document = config_and_layers(mirror)
    return Case([mirror.backend.add_manifest(NAME, OCI_MANIFEST, document, "it")], OCI_MANIFEST)


def image_with_a_foreign_layer(mirror: Mirror) -> Case:
    document = config_and_layers(mirror, BLOB)
    document["layers"].append(
        descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar", b"elsewhere")
        | {"urls": ["https://elsewhere.example/layer"]}
    )
    return Case([mirror.backend.add_manifest(NAME, OCI_MANIFEST, document, "it")], OCI_MANIFEST)


def artifact(mirror: Mirror) -> Case:
    mirror.backend.add_blob(NAME, EMPTY)
    document = {
        "artifactType": "application/vnd.example.thing",
        "config": descriptor(EMPTY_TYPE, EMPTY),
        "layers": [descriptor(EMPTY_TYPE, EMPTY)],
        "subject": descriptor(OCI_MANIFEST, b"something that is not there"),
        "annotations": {"org.example.key": "value"},
    }
    return Case([mirror.backend.add_manifest(NAME, OCI_MANIFEST, document, "it")], OCI_MANIFEST)


def unknown_fields(mirror: Mirror) -> Case:
    document = config_and_layers(mirror, BLOB) | {"org.example": {"unknown": [1, None, "ü"]}}
    return Case([mirror.backend.add_manifest(NAME, OCI_MANIFEST, document, "it")], OCI_MANIFEST)


def index(mirror: Mirror) -> Case:
    platforms = [Platform(os="linux", architecture=name) for name in ("amd64", "arm64")]
    mirror.backend.add_index(NAME, "it", *platforms)
    return Case([*mirror.backend.repository(NAME).manifests], OCI_INDEX)


def index_in_an_index(mirror: Mirror) -> Case:
    inner = index(mirror).digests[-1]
    entry = descriptor(OCI_INDEX, mirror.backend.data(NAME, inner))
    digest = mirror.backend.add_manifest(NAME, OCI_INDEX, {"manifests": [entry]}, "it")
    return Case([inner, digest], OCI_INDEX)


def empty_index(mirror: Mirror) -> Case:
    return Case([mirror.backend.add_manifest(NAME, OCI_INDEX, {"manifests": []}, "it")], OCI_INDEX)


def index_of_what_is_not_there(mirror: Mirror) -> Case:
    entry = descriptor(OCI_MANIFEST, b"not there") | {"platform": {"os": "linux"}}
    digest = mirror.backend.add_manifest(NAME, OCI_INDEX, {"manifests": [entry]}, "it")
    return Case([digest], OCI_INDEX)


CASES = (
    image,
    image_without_layers,
    image_with_a_foreign_layer,
    artifact,
    unknown_fields,
    index,
    index_in_an_index,
    empty_index,
    index_of_what_is_not_there,
)


@pytest.fixture
async def mirror() -> AsyncIterator[Mirror]:
    async with open_mirror() as mirror:
        yield mirror


def is_whole(reply: Reply, data: bytes, digest: Digest, *, head: bool) -> bool:
    return (
        reply.status == 200
        and reply.body == (b"" if head else data)
        and reply.headers["content-length"] == str(len(data))
        and reply.headers["docker-content-digest"] == digest_text(digest)
    )


async def test_ping(mirror: Mirror) -> None:
    assert (await mirror.ask("/v2/")).status == 200


async def test_an_empty_repository_has_no_tags_or_is_not_found(mirror: Mirror) -> None:
    assert (await mirror.ask(f"{PATH}/tags/list")).status == 404
    mirror.backend.repository(NAME)
    assert (await mirror.ask(f"{PATH}/tags/list")).json == {"name": "conformance/repo", "tags": []}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_head_and_pull_by_tag_and_by_digest(mirror: Mirror, case: Any) -> None:
    found: Case = case(mirror)
    repository = mirror.backend.repository(NAME)
    tagged = repository.tags["it"]
    for head in (True, False):
        ask = mirror.head if head else mirror.ask
        reply = await ask(f"{PATH}/manifests/it", *ACCEPT)
        assert is_whole(reply, mirror.backend.data(NAME, tagged), tagged, head=head)
        assert reply.headers["content-type"] == found.media_type
        for digest in found.digests:
            reply = await ask(f"{PATH}/manifests/{digest_text(digest)}", *ACCEPT)
            assert is_whole(reply, mirror.backend.data(NAME, digest), digest, head=head)
            assert reply.headers["content-type"] == repository.manifests[digest][0]
        for digest, data in repository.blobs.items():
            reply = await ask(f"{PATH}/blobs/{digest_text(digest)}")
            assert is_whole(reply, data, digest, head=head)


async def test_missing_content_is_404(mirror: Mirror) -> None:
    image(mirror)
    missing = digest_text(sha256(b"missing"))
    for path in (f"manifests/{missing}", "manifests/missing", f"blobs/{missing}"):
        assert (await mirror.ask(f"{PATH}/{path}", *ACCEPT)).status == 404
        assert (await mirror.head(f"{PATH}/{path}", *ACCEPT)).status == 404


async def test_an_empty_blob(mirror: Mirror) -> None:
    digest = mirror.backend.add_blob(NAME, b"")
    for head in (True, False):
        ask = mirror.head if head else mirror.ask
        assert is_whole(await ask(f"{PATH}/blobs/{digest_text(digest)}"), b"", digest, head=head)


@pytest.mark.parametrize(
    ("asked", "status", "start", "end"),
    [
        ("bytes=500-1499", 206, 500, 1500),
        ("bytes=500-", 206, 500, 2048),
        ("bytes=-500", 206, 1548, 2048),
        ("bytes=2000-5000", 206, 2000, 2048),
        ("bytes=5000-6000", 416, 0, 0),
    ],
)
async def test_range_requests(
    mirror: Mirror, asked: str, status: int, start: int, end: int
) -> None:
    digest = mirror.backend.add_blob(NAME, BLOB)
    reply = await mirror.ask(f"{PATH}/blobs/{digest_text(digest)}", ("Range", asked))
    assert reply.status == status
    if status == 206:
        assert reply.body == BLOB[start:end]
        assert reply.headers["content-range"] == f"bytes {start}-{end - 1}/2048"
        assert reply.headers["content-length"] == str(end - start)


async def test_tag_list_with_last_and_n(mirror: Mirror) -> None:
    for number in range(6):
        mirror.backend.add_image(NAME, f"tag{number}")
    whole = (await mirror.ask(f"{PATH}/tags/list")).json["tags"]
    assert whole == sorted(whole)
    after = (await mirror.ask(f"{PATH}/tags/list?last={whole[2]}")).json["tags"]
    assert after == whole[3:]
    for n in range(8):
        page = await mirror.ask(f"{PATH}/tags/list?n={n}")
        assert page.json["tags"] == whole[:n]
        assert ("link" in page.headers) == (0 < n < len(whole))
