"""Contract of all engines: blobs by digest, manifests, and the layers that the engine has."""

import json
import os
from pathlib import Path

import pytest

from beiran.engine.diff_id_manifest import diff_id_manifest, is_by_diff_ids
from beiran.engine.docker.docker_engine import DockerEngine
from beiran.engine.interface import Engine, Manifest
from beiran.engine.layers import blob_reader as blob_readers
from beiran.engine.layers.tar_split import TarSplit, tar_bytes
from beiran.engine.no_engine import NoEngine
from beiran.errors import DataError, EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.manifests import ImageManifest, read_manifest
from tests.engine.conftest import DockerPlace, LayoutPlace, Place, listening
from tests.engine.test_interface import damage
from tests.lab.images import MadeImage, compress, made_image, odd_image, sha256_text

ONE = made_image({"a": b"a" * 5000}, {"b": b"b" * 300}, labels={"number": "one"})
TWO = made_image({"a": b"a" * 5000}, {"c": b"c" * 17}, labels={"number": "two"})
UNKNOWN = parse_digest("sha256:" + 64 * "0")


def digests(image: MadeImage) -> list[Digest]:
    return [parse_digest(text) for text in image.diff_ids]


async def read_blob(
    engine: Engine, digest: Digest, start: int = 0, end: int | None = None
) -> bytes:
    """A blob, by ``chunks``; where it is a file, that must hold the same."""
    async with engine.open_blob(digest) as blob:
        stop = blob.size_bytes if end is None else end
        data = b"".join([chunk async for chunk in blob.chunks(start, stop)])
        if blob.file is not None:
            assert os.pread(blob.file.descriptor, stop - start, blob.file.start + start) == data
        return data


async def test_config_and_tars_are_found_with_their_sizes(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    config = parse_digest(ONE.id)
    async with listening(engine) as listener:
        await listener.until_listed()
        found = await engine.find_blobs([config, UNKNOWN, *digests(ONE), *digests(TWO)])
        expected = {config: len(ONE.config)}
        for layer in ONE.layers:
            expected[parse_digest(sha256_text(layer))] = len(layer)
        assert found == expected
        assert await engine.find_blobs([]) == {}


async def test_blobs_are_given_bit_for_bit_whole_and_in_part(place: Place) -> None:
    image = odd_image()
    place.load(image, "odd:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        assert await read_blob(engine, parse_digest(image.id)) == image.config
        assert await read_blob(engine, parse_digest(image.id), 3, 10) == image.config[3:10]
        for layer in image.layers:
            digest = parse_digest(sha256_text(layer))
            assert await read_blob(engine, digest, 511, 1025) == layer[511:1025]
            assert await read_blob(engine, digest) == layer
        async with engine.open_blob(digest) as blob:
            for bad in [(-1, 5), (5, 4), (0, blob.size_bytes + 1)]:
                with pytest.raises(ValueError, match="no range"):
                    blob.chunks(*bad)


async def test_missing_blob_is_not_found(place: Place) -> None:
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        with pytest.raises(NotFound):
            await read_blob(engine, UNKNOWN)
        assert await engine.manifest(UNKNOWN) is None
        assert await engine.image_manifest(UNKNOWN) is None


async def test_nothing_is_found_while_the_engine_is_away(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    assert await engine.find_blobs(digests(ONE)) == {}
    assert await engine.missing_layers(digests(ONE)) == digests(ONE)
    with pytest.raises(EngineUnavailable):
        await read_blob(engine, digests(ONE)[0])


async def test_manifest_names_only_what_the_engine_can_give(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        manifest = await engine.image_manifest(parse_digest(ONE.id))
        assert manifest is not None
        document = read_manifest(manifest.data)
        assert isinstance(document, ImageManifest)
        named = [document.config, *document.layers]
        found = await engine.find_blobs([each.raw for each in named])
        assert found == {each.raw: each.size for each in named}
        for each in named:
            assert sha256_text(await read_blob(engine, each.raw)) == each.digest


async def test_manifest_of_a_layout_is_the_one_that_lies_there(layout: LayoutPlace) -> None:
    layout.load(ONE, "one:1")
    engine = layout.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        (row,) = json.loads((layout.folder / "index.json").read_text())["manifests"]
        manifest = await engine.image_manifest(parse_digest(ONE.id))
        assert manifest is not None
        assert digest_text(manifest.digest) == row["digest"]
        assert manifest.media_type == row["mediaType"]
        assert await engine.manifest(manifest.digest) == manifest
        assert not is_by_diff_ids(manifest)
        assert await engine.manifest(parse_digest(ONE.id)) is None


@pytest.mark.lab
async def test_manifest_by_diff_ids_is_the_same_on_both_stores_of_docker(
    docker_place: DockerPlace,
) -> None:
    docker_place.load(ONE, "one:1")
    engine = docker_place.engine()
    tars = [(parse_digest(sha256_text(layer)), len(layer)) for layer in ONE.layers]
    async with listening(engine) as listener:
        await listener.until_listed()
        made = diff_id_manifest(parse_digest(ONE.id), len(ONE.config), tars)
        assert await engine.image_manifest(parse_digest(ONE.id)) == made
        assert is_by_diff_ids(made)


async def test_compressed_blobs_of_a_layout_are_known(layout: LayoutPlace) -> None:
    layout.load(ONE, "one:1")
    engine = layout.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        blobs = [parse_digest(sha256_text(compress(layer, "gzip"))) for layer in ONE.layers]
        sizes = [len(compress(layer, "gzip")) for layer in ONE.layers]
        named = dict(zip([*blobs, UNKNOWN], [*digests(ONE), UNKNOWN], strict=True))
        assert await engine.knows_compressed(named) == set(blobs)
        assert await engine.find_blobs([*blobs, UNKNOWN]) == dict(zip(blobs, sizes, strict=True))
        async with engine.open_blob(blobs[0]) as blob:
            assert blob.file is not None


def test_manifest_by_diff_ids_has_these_bytes_for_ever() -> None:
    made = diff_id_manifest(Digest(bytes(32)), 7, [(Digest(bytes([1] * 32)), 1536)])
    assert made.data == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        b'"config":{"mediaType":"application/vnd.docker.container.image.v1+json",'
        b'"digest":"sha256:' + b"00" * 32 + b'","size":7},"layers":['
        b'{"mediaType":"application/vnd.docker.image.rootfs.diff.tar",'
        b'"digest":"sha256:' + b"01" * 32 + b'","size":1536}]}'
    )


def test_manifest_that_is_none_is_not_by_diff_ids() -> None:
    assert not is_by_diff_ids(Manifest("application/json", b"{}"))
    assert not is_by_diff_ids(Manifest("application/json", b"\xff"))


async def test_layers_that_are_there_are_not_missing(place: Place) -> None:
    place.load(ONE, "one:1")
    engine = place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        base, own = digests(TWO)
        assert await engine.missing_layers(digests(ONE)) == []
        assert await engine.missing_layers([base, own]) == [own]
        assert await engine.missing_layers([]) == []
        graph_driver = place.kind == "overlay2"
        # A graph driver has a layer only on what it lies on.
        assert await engine.missing_layers([own, base]) == ([own, base] if graph_driver else [own])


async def test_damaged_layer_is_no_longer_found_once_it_was_checked(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blob_readers, "CHECK_PAUSE_S", 0.0)
    noise = os.urandom(2**20)
    image = made_image({"file": noise})
    place.load(image, "one:1")
    engine = place.engine()
    digest = digests(image)[0]
    async with listening(engine) as listener:
        await listener.until_listed()
        damage(place, noise)
        await read_blob_quietly(engine, digest)
        while digest in await engine.find_blobs([digest]):
            await read_blob_quietly(engine, digest)
        with pytest.raises(DataError):
            await read_blob(engine, digest, 5, 10)


async def read_blob_quietly(engine: Engine, digest: Digest) -> None:
    """Ask for some of a blob, which may be too damaged for that."""
    try:
        await read_blob(engine, digest, 5, 10)
    except DataError:
        return


async def test_no_engine_has_nothing() -> None:
    engine: Engine = NoEngine()
    assert await engine.find_blobs(digests(ONE)) == {}
    assert await engine.missing_layers(digests(ONE)) == digests(ONE)
    assert await engine.knows_compressed({digests(ONE)[0]: digests(ONE)[0]}) == set()
    assert await engine.manifest(UNKNOWN) is None
    assert await engine.image_manifest(UNKNOWN) is None
    with pytest.raises(NotFound):
        await read_blob(engine, UNKNOWN)


@pytest.mark.lab
async def test_docker_save_gives_all_blobs_where_the_data_root_cannot_be_read(
    docker_place: DockerPlace,
) -> None:
    docker_place.load(ONE, "one:1")
    engine = DockerEngine(docker_place.running.socket_path, read_data_root=False)
    async with listening(engine) as listener:
        await listener.until_listed()
        manifest = await engine.image_manifest(parse_digest(ONE.id))
        assert manifest is not None
        assert is_by_diff_ids(manifest)
        document = read_manifest(manifest.data)
        assert isinstance(document, ImageManifest)
        named = {each.raw: each.size for each in [document.config, *document.layers]}
        assert await engine.find_blobs(list(named)) == named
        for digest in named:
            assert sha256_text(await read_blob(engine, digest)) == digest_text(digest)
            assert len(await read_blob(engine, digest, 10, 20)) == 10
        base, own = digests(TWO)
        assert await engine.missing_layers([base, own]) == [own]
        assert await engine.knows_compressed({base: base}) == set()


@pytest.mark.lab
def test_notes_of_a_tar_tell_how_long_it_is(overlay2: DockerPlace) -> None:
    image = odd_image()
    overlay2.load(image, "odd:1")
    found = sorted(
        (tar_bytes(path), TarSplit(path).size_bytes)
        for path in Path(overlay2.running.data_root).rglob("tar-split.json.gz")
    )
    expected = sorted(map(len, image.layers))
    assert found == [(size, size) for size in expected]


def test_notes_that_cannot_be_read_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes").write_bytes(b"no gzip")
    with pytest.raises(DataError):
        tar_bytes(tmp_path / "notes")
