"""Behaviour of the Docker Engine that other engines lack."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import docker as docker_sdk
import pytest

from beiran.engine.docker.docker_engine import DockerEngine
from beiran.engine.interface import EngineDown, ImageChanged, ImagesListed
from beiran.engine.oci_layout.layout_engine import OciLayoutEngine
from beiran.errors import EngineUnavailable, NotFound
from tests.engine.conftest import DockerPlace, in_thread, listening, read_layer, skopeo
from tests.lab.engines import missing_for_engines, start_dockerd
from tests.lab.images import (
    INDEX,
    build_image,
    docker,
    docker_archive,
    files_tar,
    load_image,
    made_image,
    named,
    odd_image,
    write_blob,
    write_layout,
)
from tests.lab.registry import Registry, missing_for_registry, start_registry

pytestmark = pytest.mark.lab

NOBODY_UID = 65534
ONE = made_image({"a": b"a" * 5000}, {"b": b"b" * 300}, labels={"number": "one"})


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """A registry on loopback."""
    if missing := missing_for_registry():
        pytest.skip(missing)
    with start_registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


async def test_image_that_is_built_appears_and_the_steps_of_its_build_do_not(
    docker_place: DockerPlace,
) -> None:
    socket = docker_place.running.socket_path
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        await in_thread(build_image, socket, "built:1", {"a": b"12345"}, {"b": b"123"})
        # Where a step takes longer than SOON_S, a list may show it until the next one.
        await listener.until(
            lambda: [image.holding.tags for image in listener.images.values()] == [("built:1",)]
        )
        (built,) = listener.images
        assert listener.sizes(built) == [5, 3]


async def test_image_that_is_built_without_a_tag_appears(docker_place: DockerPlace) -> None:
    socket = docker_place.running.socket_path
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        await in_thread(build_image, socket, None, {"a": b"untagged"})
        await listener.until(lambda: len(listener.images) == 1)
        assert [image.holding.tags for image in listener.images.values()] == [()]


async def test_image_that_is_imported_or_committed_appears(docker_place: DockerPlace) -> None:
    socket = docker_place.running.socket_path
    tar = files_tar({"file": b"imported"})
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        for tags in (["imported:1"], []):
            before = set(listener.images)
            await in_thread(docker, socket, "import", "-", *tags, stdin=tar)
            new = await listener.until_new(before)
            await listener.until_tags(new, *tags)
        await in_thread(docker, socket, "create", "--name", "made", "imported:1", "/x")
        for tags in (["committed:1"], []):
            before = set(listener.images)
            await in_thread(docker, socket, "commit", "made", *tags)
            new = await listener.until_new(before)
            await listener.until_tags(new, *tags)


async def test_image_that_is_pulled_has_its_repo_digest(
    docker_place: DockerPlace, registry: Registry
) -> None:
    socket = docker_place.running.socket_path
    name = f"{registry.address}/team/{docker_place.kind}"
    load_image(socket, ONE, f"{name}:1")
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        pushed = await in_thread(docker, socket, "push", f"{name}:1")
        digest = next(word for word in pushed.split() if word.startswith("sha256:"))
        await listener.until(
            lambda: (
                [str(each) for each in listener.images[ONE.id].holding.digests]
                == [f"{name}@{digest}"]
            )
        )
        await in_thread(docker, socket, "rmi", f"{name}:1")
        await listener.until_gone(ONE.id)
        await in_thread(docker, socket, "pull", f"{name}:1")
        held = (await listener.until_tags(ONE.id, f"{name}:1")).holding
        assert [str(each) for each in held.digests] == [f"{name}@{digest}"]
        await in_thread(docker, socket, "rmi", f"{name}:1")
        await listener.until_gone(ONE.id)
        await in_thread(docker, socket, "pull", f"{name}@{digest}")
        held = (await listener.until_tags(ONE.id)).holding
        assert [str(each) for each in held.digests] == [f"{name}@{digest}"]


async def test_image_of_a_registry_is_the_same_wherever_it_is_pulled(
    overlay2: DockerPlace, containerd: DockerPlace, registry: Registry, tmp_path: Path
) -> None:
    name = f"{registry.address}/team/same:1"
    source, layout = tmp_path / "source", tmp_path / "layout"
    write_layout(source, named(odd_image().write_blobs(source), "odd"))
    origin, plain = f"docker://{name}", "tls-verify=false"
    await in_thread(skopeo, "copy", f"--dest-{plain}", f"oci:{source}:odd", origin)
    await in_thread(skopeo, "copy", f"--src-{plain}", origin, f"oci:{layout}:{name}")
    docker(overlay2.running.socket_path, "pull", name)
    docker(containerd.running.socket_path, "pull", name)
    listed = []
    for engine in (overlay2.engine(), containerd.engine(), OciLayoutEngine(layout)):
        async with listening(engine) as listener:
            await listener.until_listed()
            listed.append(listener.images)
    assert list(listed[0]) == [odd_image().id]
    assert listed[0] == listed[1] == listed[2]


async def test_pruned_images_vanish(docker_place: DockerPlace) -> None:
    socket = docker_place.running.socket_path
    load_image(socket, ONE)
    load_image(socket, odd_image(), "odd:1")
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        assert len(listener.images) == 2
        await in_thread(docker, socket, "image", "prune", "-f")
        await listener.until_gone(ONE.id)
        assert list(listener.images) == [odd_image().id]


async def test_saving_an_image_changes_nothing(docker_place: DockerPlace, tmp_path: Path) -> None:
    socket = docker_place.running.socket_path
    load_image(socket, ONE, "one:1")
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        news_before = len(listener.heard)
        await in_thread(docker, socket, "save", "-o", str(tmp_path / "saved"), "one:1")
        await in_thread(docker, socket, "tag", "one:1", "one:2")
        await listener.until_tags(ONE.id, "one:1", "one:2")
        assert len(listener.heard) == news_before + 1


async def test_many_images_at_once_are_all_reported(docker_place: DockerPlace) -> None:
    socket = docker_place.running.socket_path
    images = {f"many:{number}": made_image({"n": b"%d" % number}) for number in range(40)}
    archive = docker_archive(*[(image, [tag]) for tag, image in images.items()])
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        await in_thread(docker, socket, "load", stdin=archive)
        await listener.until(lambda: len(listener.images) == len(images))
        for tag, image in images.items():
            await listener.until_tags(image.id, tag)
        await in_thread(docker, socket, "rmi", "-f", *images)
        await listener.until(lambda: not listener.images)


async def test_sizes_of_layers_are_those_of_docker_history(overlay2: DockerPlace) -> None:
    socket = overlay2.running.socket_path
    load_image(socket, odd_image(), "odd:1")
    build_image(socket, "built:1", {"a": b"12345", "b/c": b"1"}, {"empty": b""}, {"d": b"123"})
    async with listening(overlay2.engine()) as listener:
        await listener.until_listed()
        for image, held in listener.images.items():
            history = docker(
                socket, "history", "-H=false", "--format", "{{.Size}} {{.CreatedBy}}", image
            )
            steps = [line.split(" ", 1) for line in reversed(history.splitlines())]
            made_layer = [int(size) for size, step in steps if "COPY" in step]
            assert listener.sizes(image) == made_layer
            assert held.description.size_bytes == sum(made_layer)


async def test_listing_is_what_the_docker_sdk_lists(docker_place: DockerPlace) -> None:
    socket = docker_place.running.socket_path
    load_image(socket, ONE, "one:1", "uno:1")
    load_image(socket, odd_image())
    build_image(socket, "built:1", {"a": b"12345"}, {"b": b"123"})
    client = docker_sdk.DockerClient(base_url=f"unix://{socket}")
    try:
        expected = {
            (tuple(sorted(image.tags)), tuple(image.attrs["RootFS"]["Layers"]))
            for image in client.images.list()
        }
    finally:
        client.close()
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        found = {
            (
                held.holding.tags,
                tuple("sha256:" + layer.digest.hex() for layer in held.description.layers),
            )
            for held in listener.images.values()
        }
        assert found == expected


async def test_images_are_the_same_where_the_data_root_cannot_be_read(
    docker_place: DockerPlace,
) -> None:
    socket = docker_place.running.socket_path
    load_image(socket, ONE, "one:1")
    load_image(socket, odd_image(), "odd:1")
    build_image(socket, "built:1", {"a": b"12345"}, {"b": b"123"})
    listed = []
    for reads in (True, False):
        async with listening(DockerEngine(socket, read_data_root=reads)) as listener:
            await listener.until_listed()
            # Whether an image of containerd's store was pulled is in files; without them what
            # Docker makes up for every name is believed.
            listed.append(
                {id: (i.description, i.holding.tags) for id, i in listener.images.items()}
            )
    assert listed[0] == listed[1]


async def test_image_that_was_only_built_or_loaded_has_no_repo_digest(
    docker_place: DockerPlace,
) -> None:
    socket = docker_place.running.socket_path
    build_image(socket, "built:1", {"a": b"12345"})
    load_image(socket, ONE, "one:1")
    async with listening(docker_place.engine()) as listener:
        await listener.until_listed()
        assert [image.holding.digests for image in listener.images.values()] == [(), ()]


async def test_layers_come_from_docker_save_where_the_data_root_cannot_be_read(
    docker_place: DockerPlace,
) -> None:
    socket = docker_place.running.socket_path
    image = odd_image()
    load_image(socket, image, "odd:1")
    engine = DockerEngine(socket, read_data_root=False)
    async with listening(engine) as listener:
        await listener.until_listed()
        for digest, tar in zip(image.diff_ids, image.layers, strict=True):
            assert await read_layer(engine, digest) == tar
            assert await read_layer(engine, digest, 700, 9000) == tar[700:9000]
        with pytest.raises(NotFound):
            await read_layer(engine, ONE.diff_ids[0])


async def test_agent_that_is_not_root_lists_and_reads_the_same(docker_place: DockerPlace) -> None:
    socket = docker_place.running.socket_path
    image = odd_image()
    load_image(socket, image, "odd:1")
    os.chmod(socket, 0o666)
    os.chmod(os.path.dirname(socket), 0o755)
    os.seteuid(NOBODY_UID)
    try:
        engine = DockerEngine(socket)
        async with listening(engine) as listener:
            await listener.until_listed()
            assert listener.sizes(image.id) == list(image.sizes)
            assert await read_layer(engine, image.diff_ids[0]) == image.layers[0]
    finally:
        os.seteuid(0)


async def test_changes_are_reported_where_the_data_root_cannot_be_read(
    docker_place: DockerPlace,
) -> None:
    socket = docker_place.running.socket_path
    async with listening(DockerEngine(socket, read_data_root=False, relist_s=1.0)) as listener:
        await listener.until_listed()
        await in_thread(load_image, socket, ONE, "one:1")
        await listener.until_tags(ONE.id, "one:1")
        await in_thread(build_image, socket, None, {"a": b"found by the next list"})
        await listener.until(lambda: len(listener.images) == 2)
        assert isinstance(listener.heard[-1], ImagesListed | ImageChanged)


async def test_every_platform_that_is_there_is_an_image(
    containerd: DockerPlace, tmp_path: Path
) -> None:
    socket = containerd.running.socket_path
    images = [
        made_image({"binary": name.encode()}, architecture=name) for name in ("amd64", "arm64")
    ]
    folder = tmp_path / "layout"
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": [image.write_blobs(folder) for image in images],
    }
    blob = {"mediaType": INDEX, **write_blob(folder, json.dumps(index).encode())}
    write_layout(folder, named(blob, "docker.io/library/multi:1"))
    names = [path for path in folder.rglob("*") if path.is_file()]
    archive = files_tar({str(path.relative_to(folder)): path.read_bytes() for path in names})
    async with listening(containerd.engine()) as listener:
        await listener.until_listed()
        await in_thread(docker, socket, "load", stdin=archive)
        for image in images:
            await listener.until_tags(image.id, "multi:1")
            found = listener.images[image.id].description
            assert found.architecture == image.architecture


async def test_engine_that_starts_after_the_agent_is_found(tmp_path: Path) -> None:
    if missing := missing_for_engines():
        pytest.skip(missing)
    engine = DockerEngine(str(tmp_path / "docker.sock"))
    async with listening(engine) as listener:
        news = await listener.next()
        assert isinstance(news, EngineDown)
        assert "no such socket" in news.reason
        with pytest.raises(EngineUnavailable):
            await read_layer(engine, "sha256:" + 64 * "0")
        with start_dockerd(tmp_path) as running:
            (tmp_path / "docker.sock").symlink_to(running.socket_path)
            await listener.until_listed()
            assert engine.info.up


async def test_engine_that_is_killed_is_down_and_comes_back(overlay2: DockerPlace) -> None:
    load_image(overlay2.running.socket_path, ONE, "one:1")
    async with listening(overlay2.engine()) as listener:
        await listener.until_listed()
        await in_thread(overlay2.running.stop, signal.SIGKILL)
        await listener.until(lambda: not listener.up)
        await in_thread(overlay2.start)
        await listener.until_listed()
        assert listener.tags(ONE.id) == ("one:1",)
