"""Facts about Docker on which the delivery of images depends: its pulls, requests and refusals."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from beiran.engine.diff_id_manifest import diff_id_manifest
from beiran.engine.docker.docker_client import split_reference
from beiran.engine.interface import ImageToLoad, LayerToLoad, PullProgress
from beiran.errors import EngineRefused
from beiran.ids import Digest, parse_digest
from beiran.oci.manifests import Descriptor, digest_of, schema_2_manifest, unpacked_layer
from tests.engine.conftest import DockerPlace, in_thread, listening
from tests.engine.test_loading import blob, diff_ids, to_load
from tests.lab.images import MadeImage, compress, docker, made_image, sha256_text
from tests.lab.tiny_registry import TinyRegistry, start_tiny_registry

pytestmark = pytest.mark.lab

GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"


@pytest.fixture
def registry() -> Iterator[TinyRegistry]:
    with start_tiny_registry() as running:
        yield running


def an_image(name: str, *layers: str) -> MadeImage:
    """An image of new layers: Docker never forgets the layers that it has seen."""
    return made_image(
        *({f"{layer}-file": layer.encode() * 999} for layer in layers), labels={"n": name}
    )


@pytest.fixture
def fresh(request: pytest.FixtureRequest) -> Any:
    """Images that no other test has, named so that they share layers by name."""
    test = str(request.node.name)
    return lambda name, *layers: an_image(name, *(f"{test}-{layer}" for layer in layers))


def blobs_of(image: MadeImage) -> list[str]:
    return [sha256_text(compress(layer, "gzip")) for layer in image.layers]


def publish(registry: TinyRegistry, image: MadeImage, tag: str, tmp_path: Path) -> str:
    """As an origin has it. Returns: the manifest's digest."""
    folder = tmp_path / tag
    return registry.publish_folder(tag, folder, image.write_blobs(folder))


def publish_by_diff_ids(registry: TinyRegistry, image: MadeImage, tag: str) -> str:
    registry.blobs[image.id] = image.config
    for layer in image.layers:
        registry.blobs[sha256_text(layer)] = layer
    layers = [(digest_of(layer), len(layer)) for layer in image.layers]
    made = diff_id_manifest(parse_digest(image.id), len(image.config), layers)
    return registry.publish(tag, made.media_type, made.data)


def pairs(image: MadeImage) -> dict[Digest, Digest]:
    return dict(zip(map(parse_digest, blobs_of(image)), diff_ids(image), strict=True))


def recognised(image: MadeImage, *numbers: int) -> set[Digest]:
    return {parse_digest(blobs_of(image)[number]) for number in numbers}


async def test_image_is_pulled_with_progress(
    docker_place: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    image = fresh("A", "x", "y")
    digest = await in_thread(publish, registry, image, "A", tmp_path)
    engine = docker_place.engine()
    heard: list[PullProgress] = []
    async with listening(engine) as listener:
        await listener.until_listed()
        assert engine.can_pull
        name = f"{registry.address}/team/x:A"
        await engine.pull(name, progress=heard.append)
        held = (await listener.until_tags(image.id, name)).holding
        assert [str(each) for each in held.digests] == [f"{registry.address}/team/x@{digest}"]
    done = {each.layer for each in heard if each.status in ("Pull complete", "Download complete")}
    assert done == {text[7:19] for text in blobs_of(image)}
    assert {each.layer for each in heard} - done == {""}


async def test_image_is_pulled_by_its_digest(
    docker_place: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    image = fresh("A", "x")
    digest = await in_thread(publish, registry, image, "A", tmp_path)
    engine = docker_place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        name = f"{registry.address}/team/x@{digest}"
        await engine.pull(name, platform="linux/amd64")
        await listener.until_tags(image.id)


async def test_pull_that_fails_says_why_in_one_line(
    docker_place: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    engine = docker_place.engine()
    image = fresh("A", "x", "y")
    await in_thread(publish, registry, image, "A", tmp_path)
    del registry.blobs[blobs_of(image)[1]]
    async with listening(engine) as listener:
        await listener.until_listed()
        for reference in ("x:none", "x@sha256:" + 64 * "0", "x:A", "x"):
            with pytest.raises(EngineRefused) as refused:
                await engine.pull(f"{registry.address}/{reference}")
            assert "\n" not in str(refused.value)
            assert len(str(refused.value)) > 10


async def test_pull_that_is_cancelled_is_over(
    docker_place: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    image = fresh("A", "x")
    await in_thread(publish, registry, image, "A", tmp_path)
    engine = docker_place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        with trio.CancelScope() as scope:
            await engine.pull(f"{registry.address}/x:A", progress=lambda _: scope.cancel())
        assert scope.cancelled_caught
        await engine.pull(f"{registry.address}/x:A")


async def test_image_that_is_loaded_is_not_asked_for_by_the_pull_that_follows(
    overlay2: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    base, image = fresh("A", "x", "y"), fresh("B", "x", "y", "z")
    digest = await in_thread(publish, registry, image, "B", tmp_path)
    overlay2.load(base, "base:1")
    engine = overlay2.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.load(to_load(image, [2]))
        name = f"{registry.address}/x:B"
        await engine.pull(name)
        assert registry.asked_blobs == []
        assert registry.asked == ["HEAD manifests/B", f"GET manifests/{digest}"]
        held = (await listener.until_tags(image.id, name)).holding
        assert [str(each) for each in held.digests] == [f"{registry.address}/x@{digest}"]


async def test_built_image_is_pulled_by_diff_ids(
    docker_place: DockerPlace, registry: TinyRegistry, fresh: Any
) -> None:
    base, image = fresh("A", "x"), fresh("B", "x", "y")
    publish_by_diff_ids(registry, image, "B")
    docker_place.load(base, "base:1")
    engine = docker_place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.pull(f"{registry.address}/x:B")
        await listener.until_tags(image.id, f"{registry.address}/x:B")
    # On a graph driver the base was loaded, so Docker knows it by no digest: asked for again.
    tars = image.diff_ids if docker_place.kind == "overlay2" else image.diff_ids[1:]
    assert sorted(registry.asked_blobs) == sorted([image.id, *tars])


async def test_graph_driver_asks_for_what_it_does_not_know_by_digest(
    overlay2: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    pulled, above = fresh("A", "x", "y"), fresh("B", "x", "y", "z")
    loaded, over = fresh("C", "v"), fresh("D", "v", "w")
    for tag, image in (("A", pulled), ("B", above), ("D", over)):
        await in_thread(publish, registry, image, tag, tmp_path)
    engine = overlay2.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        assert await engine.knows_compressed(pairs(above)) == set()
        await engine.pull(f"{registry.address}/x:A")
        await in_thread(overlay2.load, loaded, "loaded:1")
        for tag, image, known in (("B", above, (0, 1)), ("D", over, ())):
            expected = recognised(image, *known)
            assert await engine.knows_compressed(pairs(image)) == expected
            registry.asked.clear()
            await engine.pull(f"{registry.address}/x:{tag}")
            asked = {parse_digest(text) for text in registry.asked_blobs}
            assert asked == {*pairs(image), parse_digest(image.id)} - expected


async def test_graph_driver_remembers_digests_of_layers_that_were_removed(
    overlay2: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    image, above = fresh("A", "x", "y"), fresh("B", "x", "y", "z")
    for tag, each in (("A", image), ("B", above)):
        await in_thread(publish, registry, each, tag, tmp_path)
    engine = overlay2.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.pull(f"{registry.address}/x:A")
        await engine.untag(f"{registry.address}/x:A")
        assert await engine.knows_compressed(pairs(above)) == set()
        assert await engine.missing_layers(diff_ids(above)) == diff_ids(above)
        await in_thread(overlay2.load, image, "again:1")
        assert await engine.knows_compressed(pairs(above)) == recognised(above, 0, 1)
        registry.asked.clear()
        await engine.pull(f"{registry.address}/x:B")
        assert set(registry.asked_blobs) == {above.id, blobs_of(above)[2]}


async def test_layers_come_in_either_form_in_one_manifest(
    docker_place: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    base, image = fresh("A", "x"), fresh("B", "x", "y")
    await in_thread(publish, registry, base, "A", tmp_path)
    compressed = compress(base.layers[0], "gzip")
    layers = [
        Descriptor(media_type=GZIP, digest=sha256_text(compressed), size=len(compressed)),
        unpacked_layer(diff_ids(image)[1], len(image.layers[1])),
    ]
    config = Descriptor(digest=image.id, size=len(image.config))
    registry.blobs |= {image.id: image.config, image.diff_ids[1]: image.layers[1]}
    manifest = schema_2_manifest(config, layers)
    registry.publish("B", "application/vnd.docker.distribution.manifest.v2+json", manifest)
    engine = docker_place.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.pull(f"{registry.address}/x:A")
        registry.asked.clear()
        await engine.pull(f"{registry.address}/x:B")
        await listener.until_tags(image.id, f"{registry.address}/x:B")
    assert set(registry.asked_blobs) == {image.id, image.diff_ids[1]}


async def test_containerd_hides_what_it_unpacked_by_another_manifest_until_that_is_loaded(
    containerd: DockerPlace, registry: TinyRegistry, tmp_path: Path, fresh: Any
) -> None:
    image = fresh("A", "x", "y")
    await in_thread(publish, registry, image, "A", tmp_path)
    publish_by_diff_ids(registry, image, "tars")
    engine = containerd.engine()
    async with listening(engine) as listener:
        await listener.until_listed()
        await engine.pull(f"{registry.address}/x:tars")
        registry.asked.clear()
        await engine.pull(f"{registry.address}/x:A")
        # The layers are unpacked under their chain IDs already, and are not fetched.
        assert registry.asked_blobs == []
        listed = await in_thread(_listed, containerd)
        assert listed == [f"{registry.address}/x:tars"]
        # Nor does Docker give what it does not have.
        assert await engine.knows_compressed(pairs(image)) == set()
        assert await engine.find_blobs(list(pairs(image))) == {}
        published = await engine.manifest(parse_digest(_digest(registry, "A")))
        await engine.load(
            ImageToLoad(
                image.config,
                _compressed_layers(image),
                (f"{registry.address}/x:A",),
                published,
            )
        )
        assert await engine.knows_compressed(pairs(image)) == recognised(image, 0, 1)
        listed = await in_thread(_listed, containerd)
        assert listed == [f"{registry.address}/x:{tag}" for tag in ("A", "tars")]
        tags = tuple(f"{registry.address}/x:{tag}" for tag in ("A", "tars"))
        await listener.until_tags(image.id, *tags)
        await in_thread(docker, containerd.running.socket_path, "rmi", *tags)


def _compressed_layers(image: MadeImage) -> tuple[LayerToLoad, ...]:
    return tuple(
        LayerToLoad(digest_of(tar), blob(data), digest_of(data), GZIP)
        for tar in image.layers
        for data in [compress(tar, "gzip")]
    )


def _digest(registry: TinyRegistry, tag: str) -> str:
    return sha256_text(registry.manifests[tag][1])


def _listed(place: DockerPlace) -> Sequence[str]:
    form = "{{.Repository}}:{{.Tag}}"
    return sorted(docker(place.running.socket_path, "images", "--format", form).split())


@pytest.mark.parametrize("reference", ["a", "host:5000/a", "host:5000/a:", ":1", ""])
def test_name_without_a_tag_is_not_pulled(reference: str) -> None:
    with pytest.raises(EngineRefused):
        split_reference(reference)


def test_name_is_split_from_its_tag_or_digest() -> None:
    assert split_reference("host:5000/a/b:1") == ("host:5000/a/b", "1")
    assert split_reference("a@sha256:00") == ("a", "sha256:00")
