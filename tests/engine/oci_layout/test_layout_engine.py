"""Behaviour of layout folders only: other tools write them, and they may contain anything."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.engine import folder_watch as inotify
from beiran.engine.content_store import BlobFolder, Descriptor, utc_time
from beiran.engine.interface import EngineDown
from beiran.engine.layers.sizes import LayerSizes
from beiran.engine.oci_layout.layout_engine import OciLayoutEngine
from tests.engine.conftest import Listener, in_thread, listening, read_layer, skopeo
from tests.lab.images import (
    INDEX,
    LAYER,
    MANIFEST,
    compress,
    made_image,
    named,
    odd_image,
    sha256_text,
    write_blob,
    write_layout,
)
from tests.lab.registry import missing_for_registry, start_registry

ONE = made_image({"a": b"a" * 5000}, {"b": b"b" * 300})
TWO = made_image({"c": b"c" * 17}, architecture="arm64")


async def hear_first_list(folder: Path) -> Listener:
    """The first list of an engine."""
    async with listening(OciLayoutEngine(folder)) as listener:
        await listener.until_listed()
        return listener


async def test_copies_made_by_skopeo_appear(tmp_path: Path) -> None:
    folder, source = tmp_path / "layout", tmp_path / "source"
    async with listening(OciLayoutEngine(folder)) as listener:
        assert isinstance(await listener.next(), EngineDown)
        for image, tag in [(ONE, "team/one:1"), (odd_image(), "latest")]:
            write_layout(source, named(image.write_blobs(source), "any"))
            await in_thread(skopeo, "copy", f"oci:{source}:any", f"oci:{folder}:{tag}")
            await listener.until_tags(image.id, tag)
            assert listener.sizes(image.id) == list(image.sizes)


async def test_archive_of_docker_copied_by_skopeo_appears(tmp_path: Path) -> None:
    folder, archive = tmp_path / "layout", tmp_path / "archive.tar"
    archive.write_bytes(ONE.archive("any:1"))
    async with listening(OciLayoutEngine(folder)) as listener:
        await in_thread(skopeo, "copy", f"docker-archive:{archive}", f"oci:{folder}:one:1")
        await listener.until(lambda: listener.images)
        # skopeo writes Docker's config anew for OCI: another config, and so another image.
        (image,) = listener.images
        await listener.until_tags(image, "one:1")
        assert listener.sizes(image) == list(ONE.sizes)


async def test_all_platforms_copied_by_skopeo_are_images(tmp_path: Path) -> None:
    if missing := missing_for_registry():
        pytest.skip(missing)
    source, folder = tmp_path / "source", tmp_path / "layout"
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [image.write_blobs(source) for image in (ONE, TWO)],
    }
    write_layout(source, named(_blob(source, index, INDEX), "multi"))
    with start_registry(tmp_path) as registry:
        origin = f"docker://{registry.address}/team/multi:1"
        options = ["--all", "--dest-tls-verify=false", "--src-tls-verify=false"]
        await in_thread(skopeo, "copy", *options, f"oci:{source}:multi", origin)
        await in_thread(skopeo, "copy", *options, origin, f"oci:{folder}:multi:1")
    listener = await hear_first_list(folder)
    assert listener.tags(ONE.id) == listener.tags(TWO.id) == ("multi:1",)
    assert listener.images[TWO.id].description.architecture == "arm64"


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
async def test_layers_may_be_compressed_in_every_way(tmp_path: Path, compression: Any) -> None:
    image = odd_image()
    write_layout(tmp_path, named(image.write_blobs(tmp_path, compression), "odd:1"))
    engine = OciLayoutEngine(tmp_path)
    async with listening(engine) as listener:
        await listener.until_listed()
        for digest, tar in zip(image.diff_ids, image.layers, strict=True):
            assert await read_layer(engine, digest) == tar
            assert await read_layer(engine, digest, 600, 9000) == tar[600:9000]


async def test_docker_media_types_are_known(tmp_path: Path) -> None:
    config = write_blob(tmp_path, ONE.config)
    layers = [write_blob(tmp_path, compress(layer, "gzip")) for layer in ONE.layers]
    docker = "application/vnd.docker."
    manifest = {
        "schemaVersion": 2,
        "mediaType": docker + "distribution.manifest.v2+json",
        "config": {"mediaType": docker + "container.image.v1+json", **config},
        "layers": [
            {"mediaType": docker + "image.rootfs.diff.tar.gzip", **layer} for layer in layers
        ],
    }
    write_layout(tmp_path, named(_blob(tmp_path, manifest, manifest["mediaType"]), "one:1"))
    listener = await hear_first_list(tmp_path)
    assert listener.tags(ONE.id) == ("one:1",)


@pytest.mark.parametrize(
    ("annotations", "tags", "digest_of"),
    [
        ({"org.opencontainers.image.ref.name": "latest"}, ("latest",), ""),
        ({"org.opencontainers.image.ref.name": "busybox:1"}, ("busybox:1",), "busybox"),
        (
            {
                "org.opencontainers.image.ref.name": "1",
                "io.containerd.image.name": "docker.io/library/busybox:1",
            },
            ("busybox:1",),
            "busybox",
        ),
        (
            {"org.opencontainers.image.ref.name": "registry.example:5000/a/b:c"},
            ("registry.example:5000/a/b:c",),
            "registry.example:5000/a/b",
        ),
        ({"org.opencontainers.image.ref.name": "line\nbreak:1"}, (), ""),
        ({}, (), ""),
    ],
)
async def test_tags_come_from_annotations(
    tmp_path: Path, annotations: dict[str, str], tags: tuple[str, ...], digest_of: str
) -> None:
    manifest = ONE.write_blobs(tmp_path)
    write_layout(tmp_path, {**manifest, "annotations": annotations})
    listener = await hear_first_list(tmp_path)
    assert listener.tags(ONE.id) == tags
    found = [str(each) for each in listener.images[ONE.id].holding.digests]
    assert found == ([f"{digest_of}@{manifest['digest']}"] if digest_of else [])


async def test_indexes_in_indexes_are_followed_and_attestations_left_out(tmp_path: Path) -> None:
    attestation = {
        **TWO.write_blobs(tmp_path),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    inner = _index(tmp_path, ONE.write_blobs(tmp_path), attestation)
    write_layout(tmp_path, named(_index(tmp_path, inner), "one:1"))
    listener = await hear_first_list(tmp_path)
    assert list(listener.images) == [ONE.id]
    assert listener.tags(ONE.id) == ("one:1",)


async def test_platforms_that_were_not_copied_are_left_out(tmp_path: Path) -> None:
    elsewhere = TWO.write_blobs(tmp_path / "elsewhere")
    write_layout(tmp_path, named(_index(tmp_path, ONE.write_blobs(tmp_path), elsewhere), "one:1"))
    listener = await hear_first_list(tmp_path)
    assert list(listener.images) == [ONE.id]


async def test_image_appears_when_its_last_blob_arrives(tmp_path: Path) -> None:
    manifest = ONE.write_blobs(tmp_path)
    blob = tmp_path / "blobs" / "sha256" / sha256_text(compress(ONE.layers[0], "gzip"))[7:]
    blob.rename(tmp_path / "late")
    write_layout(tmp_path, named(manifest, "one:1"))
    async with listening(OciLayoutEngine(tmp_path)) as listener:
        await listener.until_listed()
        assert listener.images == {}
        (tmp_path / "late").rename(blob)
        await listener.until_tags(ONE.id, "one:1")
        blob.unlink()
        await listener.until_gone(ONE.id)


async def test_folder_that_is_no_layout_is_down_for_a_clear_reason(tmp_path: Path) -> None:
    folder = tmp_path / "layout"
    async with listening(OciLayoutEngine(folder)) as listener:
        assert await listener.next() == EngineDown(f"{folder}: no such folder")
        write_layout(folder, named(ONE.write_blobs(folder), "one:1"))
        await listener.until_listed()
        (folder / "index.json").write_text("{")
        await listener.until(lambda: not listener.up)
        down = listener.heard[-1]
        assert isinstance(down, EngineDown)
        assert "no OCI image layout" in down.reason
        write_layout(folder, named(ONE.write_blobs(folder), "one:2"))
        await listener.until_listed()
        assert listener.tags(ONE.id) == ("one:2",)


async def test_index_written_in_place_is_never_down(tmp_path: Path) -> None:
    write_layout(tmp_path, named(ONE.write_blobs(tmp_path), "one:1"))
    written = (tmp_path / "index.json").read_text()
    async with listening(OciLayoutEngine(tmp_path)) as listener:
        await listener.until_listed()
        (tmp_path / "index.json").write_text("")
        await trio.sleep(0.05)  # the engine may see the empty file
        (tmp_path / "index.json").write_text(written.replace("one:1", "one:2"))
        await listener.until_tags(ONE.id, "one:2")
        assert not [news for news in listener.heard if isinstance(news, EngineDown)]


async def test_unknown_layout_version_is_down(tmp_path: Path) -> None:
    write_layout(tmp_path)
    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    async with listening(OciLayoutEngine(tmp_path)) as listener:
        assert isinstance(await listener.next(), EngineDown)


async def test_folder_is_looked_at_again_and_again_where_the_kernel_cannot_watch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inotify, "_WATCHED", 0)  # the kernel refuses to watch for nothing
    monkeypatch.setattr(inotify, "_ONLY_FOLDERS", 0)
    write_layout(tmp_path)
    async with listening(OciLayoutEngine(tmp_path)) as listener:
        await listener.until_listed()
        write_layout(tmp_path, named(ONE.write_blobs(tmp_path), "one:1"))
        await listener.until_tags(ONE.id, "one:1")


async def test_sizes_are_kept_over_a_restart(tmp_path: Path) -> None:
    folder, cache = tmp_path / "layout", tmp_path / "sizes"
    write_layout(folder, named(ONE.write_blobs(folder), "one:1"))
    cache.write_bytes(b"not a line of ours\n[1,2]\n")
    async with listening(OciLayoutEngine(folder, sizes_file=cache)) as listener:
        await listener.until_listed()
    sizes = LayerSizes(cache)
    await sizes.load()
    assert len(cache.read_bytes().splitlines()) == 2 + len(ONE.layers)
    async with listening(OciLayoutEngine(folder, sizes_file=cache)) as listener:
        await listener.until_listed()
        assert listener.sizes(ONE.id) == list(ONE.sizes)
    assert len(cache.read_bytes().splitlines()) == 2 + len(ONE.layers)


def _blob(folder: Path, document: Any, media_type: Any) -> dict[str, Any]:
    return {"mediaType": media_type, **write_blob(folder, json.dumps(document).encode())}


def _index(folder: Path, *manifests: Any) -> dict[str, Any]:
    return _blob(folder, {"schemaVersion": 2, "manifests": manifests}, INDEX)


def _with_damaged_layer(folder: Path) -> dict[str, Any]:
    manifest = TWO.write_blobs(folder)
    (folder / "blobs" / "sha256" / sha256_text(compress(TWO.layers[0], "gzip"))[7:]).write_bytes(
        b"something else"
    )
    return manifest


def _with_wrong_layer(folder: Path) -> dict[str, Any]:
    """A config whose diff IDs are not those of the layers."""
    other = made_image({"c": b"another"})
    config = write_blob(folder, TWO.config)
    layer = write_blob(folder, compress(other.layers[0], "gzip"))
    return _manifest(folder, config, [layer])


def _manifest(folder: Path, config: Any, layers: list[Any]) -> dict[str, Any]:
    document = {
        "schemaVersion": 2,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
        "layers": [{"mediaType": LAYER + "+gzip", **layer} for layer in layers],
    }
    return _blob(folder, document, MANIFEST)


def _truncated(folder: Path) -> dict[str, Any]:
    manifest = TWO.write_blobs(folder)
    path = folder / "blobs" / "sha256" / sha256_text(compress(TWO.layers[0], "gzip"))[7:]
    path.write_bytes(path.read_bytes()[:-20])
    return manifest


def _self_referencing(folder: Path) -> dict[str, Any]:
    """An index in an index in an index …, as deep as a layout can be made."""
    descriptor = TWO.write_blobs(folder)
    for _ in range(30):
        descriptor = _index(folder, descriptor)
    return descriptor


def _fifo(folder: Path) -> dict[str, Any]:
    digest = "sha256:" + 64 * "a"
    os.mkfifo(folder / "blobs" / "sha256" / digest[7:])
    return {"mediaType": MANIFEST, "digest": digest, "size": 5}


def _large(folder: Path) -> dict[str, Any]:
    digest = "sha256:" + 64 * "b"
    with (folder / "blobs" / "sha256" / digest[7:]).open("wb") as file:
        file.truncate(100 * 2**20)
    return {"mediaType": MANIFEST, "digest": digest, "size": 100 * 2**20}


def _many_layers(folder: Path) -> dict[str, Any]:
    layer = write_blob(folder, compress(TWO.layers[0], "gzip"))
    return _manifest(folder, write_blob(folder, TWO.config), [layer] * 1000)


BAD: dict[str, Callable[[Path], dict[str, Any]]] = {
    "damaged layer": _with_damaged_layer,
    "wrong layer": _with_wrong_layer,
    "truncated layer": _truncated,
    "too many indexes in one another": _self_referencing,
    "fifo": _fifo,
    "100 MB manifest": _large,
    "1000 layers": _many_layers,
    "wrong digest": lambda _: {"mediaType": MANIFEST, "digest": "sha256:" + 64 * "0", "size": 3},
    "path as digest": lambda _: {"mediaType": MANIFEST, "digest": "sha256:../../index.json"},
    "other algorithm": lambda _: {"mediaType": MANIFEST, "digest": "sha512:" + 128 * "0"},
    "wrong size": lambda folder: {**TWO.write_blobs(folder), "size": 5},
    "no JSON": lambda folder: {"mediaType": MANIFEST, **write_blob(folder, b"{")},
    "no manifest": lambda folder: _blob(folder, {"config": 5}, MANIFEST),
    "artifact": lambda folder: _blob(
        folder,
        {"config": {"mediaType": "application/x", **write_blob(folder, b"{}")}, "layers": []},
        MANIFEST,
    ),
    "config without layers": lambda folder: _manifest(folder, write_blob(folder, b"{}"), []),
}


@pytest.mark.parametrize("kind", list(BAD))
async def test_bad_image_is_left_out_and_the_others_stay(kind: str, tmp_path: Path) -> None:
    good = named(ONE.write_blobs(tmp_path), "one:1")
    write_layout(tmp_path, BAD[kind](tmp_path), good)
    listener = await hear_first_list(tmp_path)
    assert list(listener.images) == [ONE.id]


async def test_bad_image_is_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    good = named(ONE.write_blobs(tmp_path), "one:1")
    bad = [BAD["wrong size"](tmp_path), BAD["damaged layer"](tmp_path)]
    write_layout(tmp_path, *bad, good)
    async with listening(OciLayoutEngine(tmp_path)) as listener:
        await listener.until_listed()
        write_layout(tmp_path, *bad, named(good, "one:2"))
        await listener.until_tags(ONE.id, "one:2")
    assert len(caplog.records) == 2


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_descriptors = st.fixed_dictionaries(
    {},
    optional={
        "digest": st.sampled_from(["sha256:" + 64 * "0", "sha256:..", "", ONE.id]) | _json,
        "mediaType": st.sampled_from([INDEX, MANIFEST]) | _json,
        "size": st.integers() | _json,
        "annotations": st.dictionaries(st.text(max_size=5), _json) | _json,
        "platform": _json,
    },
)


_indexes = st.binary(max_size=200) | st.fixed_dictionaries(
    {"manifests": st.lists(_descriptors | _json, max_size=4)}
).map(lambda document: json.dumps(document).encode())


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(index=_indexes)
def test_any_index_is_read_or_is_no_layout(index: bytes, tmp_path: Path) -> None:
    async def hear() -> None:
        async with listening(OciLayoutEngine(tmp_path)) as listener:
            await listener.until(lambda: listener.heard)

    (tmp_path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    write_blob(tmp_path, ONE.config)
    (tmp_path / "index.json").write_bytes(index)
    trio.run(hear)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(document=_indexes | _json.map(lambda found: json.dumps(found).encode()))
def test_any_blob_is_an_image_or_a_problem(document: bytes, tmp_path: Path) -> None:
    blob = write_blob(tmp_path, document)
    contents = BlobFolder(tmp_path).find_images(Descriptor(digest=blob["digest"]))
    assert contents.images == []


@settings(max_examples=300)
@given(text=st.text(max_size=40) | st.datetimes().map(lambda moment: moment.isoformat() + "Z"))
def test_any_time_is_in_utc_or_none(text: str) -> None:
    assert re.fullmatch(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d*[1-9])?Z)?", utc_time(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-05-06T07:08:09Z", "2024-05-06T07:08:09Z"),
        ("2024-05-06T07:08:09.120000000Z", "2024-05-06T07:08:09.12Z"),
        ("2024-05-06T07:08:09.123456789+02:00", "2024-05-06T05:08:09.123456789Z"),
        ("0001-01-01T00:00:00Z", ""),
        ("yesterday", ""),
        (None, ""),
    ],
)
def test_times_of_an_image_are_the_same_however_written(text: str | None, expected: str) -> None:
    assert utc_time(text) == expected
