"""Contract of all engines: lists, changes, layers."""

import hashlib
import os

import pytest
import trio

from beiran.engine.interface import EngineDown, EngineUp, ImagesListed
from beiran.errors import DataError, NotFound
from beiran.ids import Digest, digest_text, parse_digest
from tests.engine.conftest import DockerPlace, LayoutPlace, Place, in_thread, listening, read_layer
from tests.lab.images import MadeImage, made_image, odd_image

ONE = made_image({"a": b"a" * 5000}, {"b": b"b" * 300}, labels={"number": "one"})
TWO = made_image({"a": b"a" * 5000}, {"c": b"c" * 17}, labels={"number": "two"})


async def test_engine_is_up_before_its_images_are_listed(place: Place) -> None:
    place.load(ONE, "one:1")
    async with listening(place.engine()) as listener:
        assert isinstance(await listener.next(), EngineUp)
        assert isinstance(await listener.next(), ImagesListed)
        assert listener.tags(ONE.id) == ("one:1",)


async def test_info_has_kind_store_and_whether_it_is_up(place: Place) -> None:
    engine = place.engine()
    assert not engine.info.up
    async with listening(engine) as listener:
        await listener.until_listed()
        assert engine.info.up
        assert engine.info.kind == ("oci" if isinstance(place, LayoutPlace) else "docker")
        assert engine.info.version
        expected = str(place.folder) if isinstance(place, LayoutPlace) else place.kind
        assert engine.info.store == expected


async def test_image_is_described_as_its_config_has_it(place: Place) -> None:
    place.load(ONE, "one:1")
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        description = listener.images[ONE.id].description
        assert digest_text(Digest(description.image)) == ONE.id
        assert (description.os, description.architecture) == ("linux", "amd64")
        assert description.created_at == ONE.created
        found = [digest_text(Digest(layer.digest)) for layer in description.layers]
        assert found == ONE.diff_ids
        assert listener.sizes(ONE.id) == list(ONE.sizes)
        assert description.size_bytes == 5300


async def test_image_that_is_loaded_appears_by_itself(place: Place) -> None:
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        await in_thread(place.load, ONE, "one:1")
        await listener.until_tags(ONE.id, "one:1")


async def test_image_that_is_removed_vanishes_by_itself(place: Place) -> None:
    place.load(ONE, "one:1")
    place.load(TWO, "two:2")
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        await in_thread(place.remove, ONE)
        await listener.until_gone(ONE.id)
        assert list(listener.images) == [TWO.id]


async def test_image_has_all_its_tags_sorted(place: Place) -> None:
    place.load(ONE, "one:1")
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        await in_thread(place.tag, ONE, "an:other")
        await listener.until_tags(ONE.id, "an:other", "one:1")
        await in_thread(place.tag, ONE, "registry.example:5000/a/b:c")
        await listener.until_tags(ONE.id, "an:other", "one:1", "registry.example:5000/a/b:c")
        await in_thread(place.untag, "one:1")
        await listener.until_tags(ONE.id, "an:other", "registry.example:5000/a/b:c")


async def test_image_without_a_tag_is_listed(place: Place) -> None:
    place.load(ONE)
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        assert listener.tags(ONE.id) == ()
        await in_thread(place.tag, ONE, "named:now")
        await listener.until_tags(ONE.id, "named:now")


async def test_tag_that_moves_leaves_the_image_it_was_on(place: Place) -> None:
    place.load(ONE, "one:1", "app:latest")
    place.load(TWO, "two:2")
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        if isinstance(place, LayoutPlace):
            await in_thread(place.untag, "app:latest")
        await in_thread(place.tag, TWO, "app:latest")
        await listener.until_tags(TWO.id, "app:latest", "two:2")
        await listener.until_tags(ONE.id, "one:1")


async def test_images_share_layers(place: Place) -> None:
    place.load(ONE, "one:1")
    place.load(TWO, "two:2")
    async with listening(place.engine()) as listener:
        await listener.until_listed()
        first = [listener.images[made.id].description.layers[0] for made in (ONE, TWO)]
        assert first[0] == first[1]


async def test_engine_that_stops_is_reported_once_and_listed_when_it_is_back(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await in_thread(place.stop)
        await listener.until(lambda: not listener.up)
        assert not engine.info.up
        await trio.sleep(1.0)  # it must say nothing in the meantime
        await in_thread(place.start)
        await listener.until_listed()
        downs = [news for news in listener.heard if isinstance(news, EngineDown)]
        assert len(downs) == 1
        assert downs[0].reason
        assert listener.up
        assert listener.tags(ONE.id) == ("one:1",)
        assert engine.info.up


async def test_layer_is_the_tar_its_diff_id_says(place: Place) -> None:
    image = odd_image()
    place.load(image, "odd:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        assert listener.sizes(image.id) == list(image.sizes)
        for layer in image.layers:
            assert await read_layer(engine, _digest_of(layer)) == layer


async def test_any_range_of_a_layer_can_be_read(place: Place) -> None:
    image = odd_image()
    place.load(image, "odd:1")
    engine = place.engine()
    tar, digest = image.layers[0], image.diff_ids[0]
    size = len(tar)
    async with listening(engine) as listener:
        await listener.until_listed()
        for start, end in [(0, 1), (511, 513), (1000, 1000), (40_000, 90_000), (size - 1, size)]:
            assert await read_layer(engine, digest, start, end) == tar[start:end]
        async with engine.open_layer(parse_digest(digest)) as layer:
            assert layer.size_bytes == size
            for bad in [(-1, 5), (5, 4), (0, size + 1)]:
                with pytest.raises(ValueError, match="no range"):
                    layer.chunks(*bad)


async def test_large_and_sparse_files_are_read_in_chunks(place: Place) -> None:
    holes = bytearray(100 * 2**20)
    holes[50 * 2**20 : 50 * 2**20 + 4096] = os.urandom(4096)
    image = made_image({"large": bytes(holes)})
    place.load(image, "large:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await listener.until_tags(image.id, "large:1")
        sha256 = hashlib.sha256()
        async with engine.open_layer(parse_digest(image.diff_ids[0])) as layer:
            async for chunk in layer.chunks(0, layer.size_bytes):
                assert len(chunk) <= 4 * 2**20
                sha256.update(chunk)
        assert "sha256:" + sha256.hexdigest() == image.diff_ids[0]
        middle = 50 * 2**20
        found = await read_layer(engine, image.diff_ids[0], middle, middle + 9000)
        assert found == image.layers[0][middle : middle + 9000]


async def test_reader_can_be_left_in_the_middle(place: Place) -> None:
    image = made_image({"large": os.urandom(5 * 2**20)})
    place.load(image, "large:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        async with engine.open_layer(parse_digest(image.diff_ids[0])) as layer:
            async for _ in layer.chunks(0, layer.size_bytes):
                break
        assert await read_layer(engine, image.diff_ids[0]) == image.layers[0]


async def test_missing_layer_is_not_found(place: Place) -> None:
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        with pytest.raises(NotFound):
            await read_layer(engine, "sha256:" + 64 * "0")


@pytest.mark.lab
async def test_image_is_the_same_on_every_engine(
    overlay2: DockerPlace, containerd: DockerPlace, layout: LayoutPlace
) -> None:
    image: MadeImage = odd_image()
    descriptions = []
    for each in (overlay2, containerd, layout):
        each.load(image, "odd:1")
        async with listening(each.engine()) as listener:
            await listener.until_listed()
            descriptions.append(listener.images[image.id].description)
    assert descriptions[0] == descriptions[1] == descriptions[2]


async def test_damaged_layer_is_an_error_before_its_last_chunk(place: Place) -> None:
    noise = os.urandom(2**20)
    image = made_image({"file": noise})
    place.load(image, "one:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        damage(place, noise)
        async with engine.open_layer(parse_digest(image.diff_ids[0])) as layer:
            chunks = aiter(layer.chunks(0, layer.size_bytes))
            got_bytes = 0
            with pytest.raises(DataError):  # noqa: PT012
                while True:
                    got_bytes += len(await anext(chunks))
        assert got_bytes < len(image.layers[0])
        with pytest.raises(DataError):
            await read_layer(engine, image.diff_ids[0], 5, 10)


def damage(place: Place, noise: bytes) -> None:
    """Change bytes of the one large file that an engine keeps somewhere, in place."""
    root = place.folder if isinstance(place, LayoutPlace) else None
    if isinstance(place, DockerPlace):
        root = place.running.data_root
    assert root is not None
    damaged = 0
    for path in root.rglob("*"):
        if path.is_file() and not path.is_symlink() and path.stat().st_size >= len(noise):
            with path.open("r+b") as file:
                if path.suffix == ".db":
                    continue
                file.seek(500_000)
                file.write(b"damaged")
                damaged += 1
    assert damaged


def _digest_of(layer: bytes) -> str:
    return "sha256:" + hashlib.sha256(layer).hexdigest()
