"""A folder in OCI image layout as an engine: watched, so that what others put there is seen.

Its images' tags are what the annotations of ``index.json`` say. A full reference (in
``io.containerd.image.name``, or an ``org.opencontainers.image.ref.name`` with a ``/`` or ``:``)
is shown as ``docker images`` would (``docker.io/library/busybox:1`` is ``busybox:1``). A bare tag,
as ``skopeo copy … oci:DIR:latest`` leaves it, is shown as it is: ``latest``.

Source: OCI image specification, image-layout.md and annotations.md.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec
import trio
from msgspec import Struct

from beiran.engine.content import (
    BadContent,
    BlobFolder,
    Descriptor,
    LayerBlob,
    MissingContent,
    PlatformImage,
    read_small_file,
)
from beiran.engine.contract import EngineNews, LayerReader
from beiran.engine.inotify import FolderWatch, watch_folders
from beiran.engine.layer_blob import BlobTar
from beiran.engine.layer_reader import LayerReaders
from beiran.engine.layer_sizes import LayerSizes
from beiran.engine.references import digests_of, familiar_name, repository_of
from beiran.engine.telling import Images, Row, Telling, merge
from beiran.errors import NotFound
from beiran.ids import Digest, digest_text
from beiran.models import EngineInfo
from beiran.oci import RepoDigest

CONTAINERD_NAME: Final = "io.containerd.image.name"
REF_NAME: Final = "org.opencontainers.image.ref.name"

SETTLE_S: Final = 0.02
"""After a change, how long more is waited for: a copy writes several files."""
LAYOUT_VERSION: Final = "1.0.0"
LOOK_AGAIN_S: Final = 0.5
"""How often a folder is looked at that is not there, or cannot be watched."""
RELIST_S: Final = 300.0
READ_TRIES: Final = 10
READ_AGAIN_S: Final = 0.1
"""An index.json that cannot be read is read again so often before the folder counts as down."""
FIRST_LIST_PATIENCE_S: Final = 2.0
"""How long the first list waits for layers that must be measured."""

_log = logging.getLogger(__name__)


class _Index(Struct):
    manifests: list[Descriptor]


class _LayoutFile(Struct, rename={"version": "imageLayoutVersion"}):
    version: str


@dataclass(frozen=True, slots=True)
class _Found:
    """An image of the folder, under one of its names."""

    image: PlatformImage
    tags: tuple[str, ...]
    digests: tuple[RepoDigest, ...]


class OciLayoutEngine:
    """The images in ``folder``. Keeps ``contract.Engine``.

    Layers are compressed there, so each is read once to know its size; ``sizes_file`` keeps that
    over a restart. Images whose layers are not all measured within ``FIRST_LIST_PATIENCE_S`` of
    the first list follow as changes.
    """

    def __init__(self, folder: Path, *, sizes_file: Path | None = None) -> None:
        self._folder = folder.absolute()
        self._blobs = BlobFolder(self._folder)
        self._sizes = LayerSizes(sizes_file)
        self._readers = LayerReaders()
        self._found: list[_Found] = []
        self._layers: dict[Digest, LayerBlob] = {}
        self._problems: set[str] = set()
        self._up = False
        self._wake = trio.Event()
        self._changed = False

    @property
    def info(self) -> EngineInfo:
        """As ``contract.Engine`` says; the store is the folder."""
        return EngineInfo(kind="oci", version=LAYOUT_VERSION, store=str(self._folder), up=self._up)

    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        """As ``contract.Engine`` says."""
        telling = Telling(news)
        await self._sizes.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sizes.serve, self._rouse)
            while True:
                problem = await self._serve_while_there(telling)
                self._up = False
                await telling.down(problem)
                await trio.sleep(LOOK_AGAIN_S)

    async def _serve_while_there(self, telling: Telling) -> str:
        """Tell what is in the folder until it is no layout (any more); returns the reason."""
        folders = (self._folder, self._blobs.blobs.parent, self._blobs.blobs)
        with watch_folders(folders, otherwise_s=LOOK_AGAIN_S) as watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, watch)
                problem = await self._scan_again_and_again(telling)
                nursery.cancel_scope.cancel()
        return problem

    async def _scan_again_and_again(self, telling: Telling) -> str:
        """Tell what changed since the last scan, until there is nothing to scan."""
        tries_left = READ_TRIES
        while True:
            self._changed = False
            try:
                await trio.to_thread.run_sync(self._scan)
            except (MissingContent, BadContent) as problem:
                # index.json is often written in place: it may be empty for a moment.
                tries_left -= 1
                if not self._up or tries_left == 0:
                    return str(problem)
                await trio.sleep(READ_AGAIN_S)
                continue
            tries_left = READ_TRIES
            await self._tell(telling)
            await self._wait_and_tell_measured(telling)

    async def _tell(self, telling: Telling) -> None:
        """Tell what the last scan found."""
        self._sizes.want((layer, self._blobs.path(layer.digest)) for layer in self._layers.values())
        if self._up:
            await telling.changes(self._images())
            return
        self._up = True
        await telling.up(self.info)
        with trio.move_on_after(FIRST_LIST_PATIENCE_S):
            await self._sizes.settled.wait()
        await telling.everything(self._images())

    async def _wait_and_tell_measured(self, telling: Telling) -> None:
        """Until the folder changed, or it is time to look at it anyway."""
        with trio.move_on_after(RELIST_S):
            while not self._changed:
                await self._wake.wait()
                self._wake = trio.Event()
                await telling.changes(self._images())
            return
        await telling.everything(self._images())

    def _rouse(self) -> None:
        self._wake.set()

    async def _watch(self, watch: FolderWatch) -> None:
        """Note when something in the folder changes."""
        while True:
            await watch.changed()
            self._note_change()
            await trio.sleep(SETTLE_S)

    def _note_change(self) -> None:
        self._changed = True
        self._rouse()

    def _scan(self) -> None:
        """Read what is in the folder. Raises: MissingContent, BadContent when it is no layout."""
        index = self._read_index()
        found: list[_Found] = []
        problems: set[str] = set()
        for descriptor in index.manifests:
            contents = self._blobs.find_images(descriptor)
            tags, digests = _names(descriptor)
            found += [_Found(image, tags, digests) for image in contents.images]
            problems.update(contents.problems)
        for problem in sorted(problems - self._problems):
            _log.warning("Leaving out an image of %s: %s", self._folder, problem)
        self._problems = problems
        self._found = found
        self._layers = {layer.diff_id: layer for each in found for layer in each.image.layers}

    def _read_index(self) -> _Index:
        try:
            if not self._folder.is_dir():
                raise MissingContent(f"{self._folder}: no such folder")
        except OSError as error:
            raise BadContent(f"{self._folder}: {error.strerror}") from None
        try:
            layout = msgspec.json.decode(
                read_small_file(self._folder / "oci-layout"), type=_LayoutFile
            )
            if layout.version != LAYOUT_VERSION:
                raise BadContent(f"{self._folder}: OCI layout {layout.version[:20]!r} is not known")
            return msgspec.json.decode(read_small_file(self._folder / "index.json"), type=_Index)
        except MissingContent as missing:
            raise MissingContent(f"no OCI image layout: there is no {missing}") from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise BadContent(f"no OCI image layout in {self._folder}: {error}") from None

    def _images(self) -> Images:
        """What the last scan found and is measured."""
        return merge(self._rows())

    def _rows(self) -> Iterator[Row]:
        for found in self._found:
            description = self._sizes.describe(found.image)
            if description is not None:
                yield description, found.tags, found.digests

    @asynccontextmanager
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        """As ``contract.Engine`` says."""
        layer = self._layers.get(digest)
        size = None if layer is None else self._sizes.get(layer)
        if layer is None or size is None:
            raise NotFound("LAYER_UNKNOWN", f"this engine has no layer {digest_text(digest)}")
        path = self._blobs.path(layer.digest)
        tar = await trio.to_thread.run_sync(BlobTar, path, size.tar_bytes)
        with self._readers.open(digest, tar) as reader:
            yield reader


def _names(descriptor: Descriptor) -> tuple[tuple[str, ...], tuple[RepoDigest, ...]]:
    """The tags that annotations give, and the digest by which the image goes in its repository."""
    annotations = descriptor.annotations or {}
    ref_name = annotations.get(REF_NAME, "")
    reference = annotations.get(CONTAINERD_NAME, "") or ref_name
    tag = familiar_name(reference)
    if not tag:
        return (), ()
    if "/" not in reference and ":" not in reference:
        return (tag,), ()
    name = repository_of(tag)
    digests = digests_of([f"{name}@{descriptor.digest}"])
    return (() if "@" in tag else (tag,)), digests
