"""Engines to test, and a listener to their news."""

import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import pytest
import trio

from beiran.engine.docker.docker_engine import DockerEngine
from beiran.engine.interface import (
    Engine,
    EngineDown,
    EngineImage,
    EngineNews,
    EngineUp,
    ImageChanged,
    ImageGone,
    ImagesListed,
)
from beiran.engine.oci_layout.layout_engine import OciLayoutEngine
from beiran.ids import Digest, digest_text, parse_digest
from tests.lab.engines import RunningEngine, Store, missing_for_engines, start_dockerd
from tests.lab.images import (
    MadeImage,
    docker,
    load_image,
    named,
    remove_everything,
    write_layout,
)
from tests.requirements import missing

NEWS_TIMEOUT_S = 20.0


class Listener:
    """Receives an engine's news, and so knows the images that it holds."""

    def __init__(self, channel: trio.MemoryReceiveChannel[EngineNews]) -> None:
        self._channel = channel
        self.heard: list[EngineNews] = []
        self.images: dict[str, EngineImage] = {}
        self.up = False

    async def next(self) -> EngineNews:
        with trio.fail_after(NEWS_TIMEOUT_S):
            news = await self._channel.receive()
        self.heard.append(news)
        if isinstance(news, EngineUp):
            self.up = True
        elif isinstance(news, EngineDown):
            self.up = False
        elif isinstance(news, ImagesListed):
            self.images = {_id(image): image for image in news.images}
        elif isinstance(news, ImageChanged):
            self.images[_id(news.image)] = news.image
        elif isinstance(news, ImageGone):
            del self.images[digest_text(Digest(news.image))]
        return news

    async def until(self, condition: Callable[[], object]) -> None:
        """Hear news until ``condition`` holds."""
        while not condition():
            await self.next()

    async def until_listed(self) -> None:
        """Hear news until the next list is there."""
        while not isinstance(await self.next(), ImagesListed):
            pass

    async def until_tags(self, image: str, *tags: str) -> EngineImage:
        """Hear news until ``image`` is there with these tags and no others."""
        await self.until(lambda: image in self.images and self.tags(image) == tags)
        return self.images[image]

    async def until_new(self, before: set[str]) -> str:
        """Hear news until there is an image that was not there ``before``."""
        await self.until(lambda: set(self.images) - before)
        (new,) = set(self.images) - before
        return new

    async def until_gone(self, image: str) -> None:
        await self.until(lambda: image not in self.images)

    def tags(self, image: str) -> tuple[str, ...]:
        return self.images[image].holding.tags

    def sizes(self, image: str) -> list[int]:
        return [layer.size_bytes for layer in self.images[image].description.layers]


def _id(image: EngineImage) -> str:
    return digest_text(Digest(image.description.image))


@asynccontextmanager
async def listening(engine: Engine) -> AsyncIterator[Listener]:
    """Serve an engine, and yield a listener to its news."""
    send, receive = trio.open_memory_channel[EngineNews](100)
    async with trio.open_nursery() as nursery, receive:
        nursery.start_soon(engine.serve, send)
        yield Listener(receive)
        nursery.cancel_scope.cancel()


class Place(Protocol):
    """Where an engine's images live, and what its owner can do there."""

    kind: str

    def engine(self) -> Engine:
        """A new engine for this place."""
        ...

    def load(self, image: MadeImage, *tags: str) -> None: ...

    def tag(self, image: MadeImage, tag: str) -> None: ...

    def untag(self, tag: str) -> None: ...

    def remove(self, image: MadeImage) -> None: ...

    def stop(self) -> None: ...

    def start(self) -> None: ...


class DockerPlace:
    """A Docker Engine."""

    kind: str

    def __init__(self, running: RunningEngine) -> None:
        self.running = running
        self.kind = running.store
        self._ids: dict[str, str] = {}

    def engine(self) -> Engine:
        return DockerEngine(self.running.socket_path)

    def load(self, image: MadeImage, *tags: str) -> None:
        load_image(self.running.socket_path, image, *tags)

    def tag(self, image: MadeImage, tag: str) -> None:
        docker(self.running.socket_path, "tag", self._engine_id(image), tag)

    def untag(self, tag: str) -> None:
        docker(self.running.socket_path, "rmi", "--no-prune", tag)

    def remove(self, image: MadeImage) -> None:
        docker(self.running.socket_path, "rmi", "-f", self._engine_id(image))

    def stop(self) -> None:
        self.running.stop()

    def start(self) -> None:
        self.running.start()

    def _engine_id(self, image: MadeImage) -> str:
        """The engine's ID of an image: in containerd's store, the digest of its manifest."""
        layers = " ".join(image.diff_ids)
        for engine_id in docker(self.running.socket_path, "images", "-q", "--no-trunc").split():
            form = "{{range $i, $l := .RootFS.Layers}}{{if $i}} {{end}}{{$l}}{{end}}"
            found = docker(self.running.socket_path, "inspect", "-f", form, engine_id)
            if found == layers:
                return engine_id
        raise AssertionError(f"no image with the layers {layers}")


class LayoutPlace:
    """An OCI layout folder."""

    kind = "oci"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._names: dict[str, tuple[dict[str, Any], list[str]]] = {}
        self._write()

    def engine(self) -> Engine:
        return OciLayoutEngine(self.folder)

    def load(self, image: MadeImage, *tags: str) -> None:
        self._names[image.id] = (image.write_blobs(self.folder), list(tags))
        self._write()

    def tag(self, image: MadeImage, tag: str) -> None:
        self._names[image.id][1].append(tag)
        self._write()

    def untag(self, tag: str) -> None:
        for _, tags in self._names.values():
            if tag in tags:
                tags.remove(tag)
        self._write()

    def remove(self, image: MadeImage) -> None:
        del self._names[image.id]
        self._write()

    def stop(self) -> None:
        self.folder.rename(self.folder.with_suffix(".away"))

    def start(self) -> None:
        self.folder.with_suffix(".away").rename(self.folder)

    def _write(self) -> None:
        manifests = []
        for descriptor, tags in self._names.values():
            manifests += [named(descriptor, tag) for tag in tags] or [descriptor]
        write_layout(self.folder, *manifests)


def _running(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    if missing := missing_for_engines(store):
        pytest.skip(missing)
    folder = tmp_path_factory.mktemp(store)
    with start_dockerd(folder, store=store) as running:
        yield running
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def overlay2_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    yield from _running("overlay2", tmp_path_factory)


@pytest.fixture(scope="session")
def containerd_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    yield from _running("containerd", tmp_path_factory)


def _emptied(running: RunningEngine) -> Iterator[DockerPlace]:
    yield DockerPlace(running)
    if not running.is_running:
        running.start()
    remove_everything(running.socket_path)


@pytest.fixture
def overlay2(overlay2_session: RunningEngine) -> Iterator[DockerPlace]:
    """A Docker Engine with a graph driver, empty."""
    yield from _emptied(overlay2_session)


@pytest.fixture
def containerd(containerd_session: RunningEngine) -> Iterator[DockerPlace]:
    """A Docker Engine with containerd's store, empty."""
    yield from _emptied(containerd_session)


@pytest.fixture(
    params=[
        pytest.param("overlay2", marks=pytest.mark.lab),
        pytest.param("containerd", marks=pytest.mark.lab),
    ]
)
def docker_place(request: pytest.FixtureRequest) -> DockerPlace:
    """Each of the two stores of Docker."""
    place = request.getfixturevalue(request.param)
    assert isinstance(place, DockerPlace)
    return place


@pytest.fixture
def layout(tmp_path: Path) -> LayoutPlace:
    """An OCI layout folder, empty."""
    return LayoutPlace(tmp_path / "layout")


@pytest.fixture(
    params=[
        pytest.param("overlay2", marks=pytest.mark.lab),
        pytest.param("containerd", marks=pytest.mark.lab),
        "layout",
    ]
)
def place(request: pytest.FixtureRequest) -> Place:
    """Each kind of engine."""
    found: Place = request.getfixturevalue(request.param)
    return found


async def in_thread(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """Do something slow while the engine is heard."""
    return await trio.to_thread.run_sync(partial(function, *arguments, **options))


async def read_layer(engine: Engine, digest: str, start: int = 0, end: int | None = None) -> bytes:
    """A layer's tar, or some of it."""
    async with engine.open_layer(parse_digest(digest)) as layer:
        stop = layer.size_bytes if end is None else end
        return b"".join([chunk async for chunk in layer.chunks(start, stop)])


def skopeo(*arguments: str) -> None:
    """Run skopeo, or skip the test where there is none."""
    if reason := missing("skopeo"):
        pytest.skip(reason)
    subprocess.run(
        ["skopeo", "--insecure-policy", *arguments], check=True, capture_output=True, timeout=60
    )
