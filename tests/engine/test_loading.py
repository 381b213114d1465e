"""Contract of all engines: loading images of which only some layers are given, and naming."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from beiran.engine.docker import load as load_archive
from beiran.engine.interface import BlobReader, Engine, ImageToLoad, LayerToLoad, Manifest
from beiran.engine.layers.blob_reader import BytesSource, SourceReader
from beiran.engine.layers.verified_reader import LayerReaders
from beiran.engine.no_engine import NoEngine
from beiran.errors import EngineRefused, EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.manifests import (
    DOCKER_CONFIG,
    OCI_MANIFEST,
    Descriptor,
    digest_of,
    schema_2_manifest,
)
from tests.engine.conftest import DockerPlace, LayoutPlace, Place, in_thread, listening
from tests.lab.images import Compression, MadeImage, compress, docker, made_image, odd_image

BASE = {"a": b"a" * 5000}
ONE = made_image(BASE, {"b": b"b" * 300}, labels={"number": "one"})
TWO = made_image(BASE, {"c": b"c" * 17}, {"d": b"d" * 70_000}, labels={"number": "two"})
LAYER: str = "application/vnd.oci.image.layer.v1.tar"


def blob(data: bytes) -> BlobReader:
    return SourceReader(LayerReaders(), digest_of(data), BytesSource(data))


def to_load(
    image: MadeImage, given: Sequence[int], *tags: str, compression: Compression = "none"
) -> ImageToLoad:
    """``image`` with the layers of these numbers."""
    layers = []
    for number, tar in enumerate(image.layers):
        diff_id = digest_of(tar)
        if number not in given:
            layers.append(LayerToLoad(diff_id))
        elif compression == "none":
            layers.append(LayerToLoad(diff_id, blob(tar)))
        else:
            data = compress(tar, compression)
            media_type = f"{LAYER}+{compression}"
            layers.append(LayerToLoad(diff_id, blob(data), digest_of(data), media_type))
    return ImageToLoad(image.config, tuple(layers), tags)


def diff_ids(image: MadeImage) -> list[Digest]:
    return [parse_digest(text) for text in image.diff_ids]


@asynccontextmanager
async def running(place: Place) -> AsyncIterator[Engine]:
    """An engine that has said what it holds, and goes on saying so."""
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        yield engine


async def test_image_is_loaded_with_the_layers_that_are_missing(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        missing = await engine.missing_layers(diff_ids(TWO))
        assert missing == diff_ids(TWO)[1:]
        await engine.load(to_load(TWO, [1, 2], "docker.io/library/two:2"))
        image = await listener.until_tags(TWO.id, "two:2")
        assert [digest_text(Digest(layer.digest)) for layer in image.description.layers] == (
            TWO.diff_ids
        )
        assert await engine.missing_layers(diff_ids(TWO)) == []


@pytest.mark.parametrize("compression", ["gzip", "zstd"])
async def test_layers_may_be_given_compressed(place: Place, compression: Compression) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    image = to_load(TWO, [1, 2], "docker.io/team/two:2", compression=compression)
    async with listening(engine) as listener:
        await listener.until_listed()
        if place.kind == "overlay2" and compression == "zstd":
            with pytest.raises(EngineRefused):  # Docker 20.10 does not know it
                await engine.load(image)
            return
        await engine.load(image)
        await listener.until_tags(TWO.id, "team/two:2")
        assert listener.sizes(TWO.id) == list(TWO.sizes)


async def test_image_is_loaded_without_a_name_and_with_several(place: Place) -> None:
    engine = place.engine()
    image = odd_image()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.load(to_load(image, [0, 1]))
        await listener.until_tags(image.id)
        await engine.load(
            to_load(ONE, [0, 1], "registry.example:5000/a/b:c", "docker.io/library/one:1")
        )
        await listener.until_tags(ONE.id, "one:1", "registry.example:5000/a/b:c")


async def test_loading_what_is_there_changes_only_its_names(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.load(to_load(ONE, [], "docker.io/library/other:1"))
        await listener.until_tags(ONE.id, "one:1", "other:1")


async def test_tag_that_is_loaded_moves(place: Place) -> None:
    place.load(ONE, "one:1", "app:latest")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.load(to_load(TWO, [1, 2], "docker.io/library/app:latest"))
        await listener.until_tags(TWO.id, "app:latest")
        await listener.until_tags(ONE.id, "one:1")


def never_seen() -> MadeImage:
    """An image no layer of which an engine can have left from a test before.

    A containerd store frees what nothing names only when it gets to it, and a layer that is still
    there is neither missing nor read again.
    """
    return made_image({"a": os.urandom(500)}, {"b": os.urandom(70_000)})


async def test_layer_that_is_neither_there_nor_given_is_refused(place: Place) -> None:
    image = never_seen()
    async with running(place) as engine:
        with pytest.raises(EngineRefused, match="neither"):
            await engine.load(to_load(image, [0], "docker.io/library/new:2"))


async def test_layer_with_a_wrong_digest_is_refused(place: Place) -> None:
    image = never_seen()
    right = to_load(image, [0])
    tar = TWO.layers[2]
    lying = LayerToLoad(diff_ids(image)[1], SourceReader(LayerReaders(), digest_of(tar), _All(tar)))
    async with running(place) as engine:
        with pytest.raises(EngineRefused):
            await engine.load(ImageToLoad(image.config, (right.layers[0], lying)))
        assert await engine.missing_layers(diff_ids(image))


class _All(BytesSource):
    """Bytes that are taken for something else."""


@pytest.mark.lab
async def test_published_manifest_is_kept_where_all_its_blobs_are(containerd: DockerPlace) -> None:
    await published_manifest_is_kept(containerd)


async def test_published_manifest_is_kept_in_a_layout(layout: LayoutPlace) -> None:
    await published_manifest_is_kept(layout)


async def published_manifest_is_kept(place: Place) -> None:
    image = to_load(ONE, [0, 1], "docker.io/library/one:1", compression="gzip")
    rows = [
        Descriptor(
            media_type=layer.media_type,
            digest=digest_text(layer.digest or layer.diff_id),
            size=0 if layer.blob is None else layer.blob.size_bytes,
        )
        for layer in image.layers
    ]
    config = Descriptor(digest=ONE.id, size=len(ONE.config), media_type=DOCKER_CONFIG)
    published = Manifest(OCI_MANIFEST, schema_2_manifest(config, rows).replace(b":2,", b": 2,"))
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.load(ImageToLoad(image.config, image.layers, image.tags, published))
        await listener.until_tags(ONE.id, "one:1")
        kept = await engine.image_manifest(parse_digest(ONE.id))
        assert kept is not None
        assert kept.data == published.data
        # As tars they are not what that manifest names.
        await engine.load(
            ImageToLoad(
                TWO.config, to_load(TWO, [1, 2]).layers, ("docker.io/library/two:1",), published
            )
        )
        await listener.until_tags(TWO.id, "two:1")


async def test_images_get_and_lose_names(place: Place) -> None:
    place.load(ONE, "one:1")
    place.load(TWO, "two:2")
    engine = place.engine()
    one = parse_digest(ONE.id)
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.tag(one, "docker.io/library/other:1")
        await listener.until_tags(ONE.id, "one:1", "other:1")
        await engine.tag("docker.io/library/one:1", "registry.example:5000/a:1")
        await listener.until_tags(ONE.id, "one:1", "other:1", "registry.example:5000/a:1")
        await engine.untag("docker.io/library/other:1")
        await engine.untag("docker.io/library/other:1")
        await listener.until_tags(ONE.id, "one:1", "registry.example:5000/a:1")
        await engine.tag(one, "docker.io/library/two:2")
        await listener.until_tags(ONE.id, "one:1", "registry.example:5000/a:1", "two:2")
        for missing in (parse_digest("sha256:" + 64 * "0"), "docker.io/library/nothing:1"):
            with pytest.raises(NotFound):
                await engine.tag(missing, "docker.io/library/x:1")


async def test_engine_that_is_away_takes_nothing(place: Place) -> None:
    async with running(place) as engine:
        await in_thread(place.stop)
        while engine.info.up:
            await engine.find_blobs(diff_ids(ONE))
        try:
            with pytest.raises((EngineUnavailable, EngineRefused)):
                await engine.load(to_load(ONE, [0], "docker.io/library/one:1"))
            with pytest.raises((EngineUnavailable, EngineRefused)):
                await engine.tag("docker.io/library/one:1", "docker.io/library/one:2")
        finally:
            await in_thread(place.start)


async def test_no_engine_takes_nothing() -> None:
    engine: Engine = NoEngine()
    for attempt in (
        engine.load(to_load(ONE, [0, 1])),
        engine.pull("127.0.0.1:1/a:1"),
        engine.tag("a:1", "a:2"),
    ):
        with pytest.raises(EngineRefused, match="no engine"):
            await attempt
    await engine.untag("a:1")


@pytest.mark.lab
async def test_image_of_which_only_the_config_is_new_is_small_to_load(
    docker_place: DockerPlace, tmp_path: Path
) -> None:
    big = made_image({"a": b"x" * 20 * 2**20})
    renamed = MadeImage(big.layers, big.sizes, labels={"number": "another"})
    docker_place.load(big, "big:1")
    engine = docker_place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        image = to_load(renamed, [], "docker.io/library/renamed:1")
        await engine.load(image)
        await listener.until_tags(renamed.id, "renamed:1")
    files = load_archive.docker_format(image, [])
    assert sum(entry.size_bytes for entry in files) < 10_000
    socket = docker_place.running.socket_path
    await in_thread(docker, socket, "create", "--name", "made", "renamed:1", "/x")
    # What is loaded of blobs that came with another image stays whole without that.
    await in_thread(docker, socket, "rmi", "big:1")
    saved = tmp_path / "saved"
    await in_thread(docker, socket, "save", "-o", str(saved), "renamed:1")
    assert (await trio.Path(saved).stat()).st_size > 20 * 2**20
