"""A folder in OCI image layout as an engine, watched for what other programs put there.

The tags of its images are in the annotations of ``index.json`` (``index``).
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec
import trio
from typing_extensions import override

from beiran.api.models import EngineInfo
from beiran.engine.content_store import (
    BadContent,
    BlobFolder,
    Descriptor,
    LayerBlob,
    MissingContent,
    PlatformImage,
    as_manifest,
)
from beiran.engine.docker.load import (
    choose_manifest,
    given_blobs,
)
from beiran.engine.folder_watch import FolderWatch, watch_folders
from beiran.engine.image_changes import Images, Row, changes, listed, merge
from beiran.engine.interface import (
    FIND_BLOBS_MAX,
    BlobReader,
    Engine,
    EngineDown,
    EngineNews,
    EngineUp,
    ImageToLoad,
    LayerReader,
    Manifest,
    PullProgress,
)
from beiran.engine.layers.blob_reader import BlobReaders, FileSource, read_all
from beiran.engine.layers.layer_blob import BlobTar
from beiran.engine.layers.sizes import LayerSizes
from beiran.engine.layers.verified_reader import LayerReaders, TarSource
from beiran.engine.oci_layout.index import LAYOUT_VERSION, is_named, names_of, read_index
from beiran.engine.oci_layout.writer import LayoutWriter
from beiran.errors import EngineRefused, EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text
from beiran.oci import manifests
from beiran.oci.images import RepoDigest

SETTLE_S: Final = 0.02
"""From the first change to a scan: a copy writes several files. Chosen."""
LOOK_AGAIN_S: Final = 0.5
"""Between looks at a folder that is missing, or cannot be watched."""
RELIST_S: Final = 300.0
READ_TRIES: Final = 10
READ_AGAIN_S: Final = 0.1
"""Tries at an unreadable index.json, which may be written in place, before the engine is down."""
FIRST_LIST_PATIENCE_S: Final = 2.0
"""The first list waits this long for layers that must be measured, as for Docker."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Found:
    """An image of the folder, under one of its names."""

    image: PlatformImage
    tags: tuple[str, ...]
    digests: tuple[RepoDigest, ...]


class OciLayoutEngine(Engine):
    """The images in ``folder``.

    Layers are compressed there, so each is read once to know its size; ``sizes_file`` keeps that
    over a restart. Images whose layers are not all measured within ``FIRST_LIST_PATIENCE_S`` of
    the first list follow as changes.
    """

    def __init__(self, folder: Path, *, sizes_file: Path | None = None) -> None:
        self._folder = folder.absolute()
        self._blobs = BlobFolder(self._folder)
        self._sizes = LayerSizes(sizes_file)
        self._readers = LayerReaders()
        self._opened = BlobReaders(self._readers, self._open_source)
        self._writer = LayoutWriter(self._folder)
        self._found: list[_Found] = []
        self._layers: dict[Digest, LayerBlob] = {}
        self._problems: set[str] = set()
        self._up = False
        self._wake = trio.Event()
        self._changed = False

    @property
    @override
    def info(self) -> EngineInfo:
        return EngineInfo(kind="oci", version=LAYOUT_VERSION, store=str(self._folder), up=self._up)

    @override
    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        await self._sizes.load()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sizes.serve)
            nursery.start_soon(self._follow_sizes)
            nursery.start_soon(self._opened.serve)
            reported_down = False
            while True:
                problem = await self._follow(news)
                if self._up or not reported_down:
                    self._up, reported_down = False, True
                    await news.send(EngineDown(problem))
                await trio.sleep(LOOK_AGAIN_S)

    async def _follow(self, news: trio.MemorySendChannel[EngineNews]) -> str:
        """Report the folder's images until it is no layout (any more); returns the reason."""
        folders = (self._folder, self._blobs.blobs.parent, self._blobs.blobs)
        with watch_folders(folders, otherwise_s=LOOK_AGAIN_S) as watch:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, watch)
                problem = await self._scan_again_and_again(news)
                nursery.cancel_scope.cancel()
        return problem

    async def _scan_again_and_again(self, news: trio.MemorySendChannel[EngineNews]) -> str:
        """Report what each scan changes, until there is nothing to scan."""
        tries_left = READ_TRIES
        reported: Images = {}
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
            paths = ((each, self._blobs.path(each.digest)) for each in self._layers.values())
            self._sizes.want(paths)
            if self._up:
                reported = await self._report(news, reported)
            else:
                reported = await self._report_first(news)
            reported = await self._wait_and_report_measured(news, reported)

    async def _report_first(self, news: trio.MemorySendChannel[EngineNews]) -> Images:
        self._up = True
        await news.send(EngineUp(self.info))
        with trio.move_on_after(FIRST_LIST_PATIENCE_S):
            await self._sizes.settled.wait()
        images = self._images()
        await news.send(listed(images))
        return images

    async def _report(self, news: trio.MemorySendChannel[EngineNews], reported: Images) -> Images:
        """Report what is not ``reported`` yet; returns what is now."""
        images = self._images()
        for change in changes(reported, images):
            await news.send(change)
        return images

    async def _wait_and_report_measured(
        self, news: trio.MemorySendChannel[EngineNews], reported: Images
    ) -> Images:
        """Until the folder changed, or it is time to look anyway; returns what is reported."""
        with trio.move_on_after(RELIST_S):
            while not self._changed:
                await self._wake.wait()
                self._wake = trio.Event()
                reported = await self._report(news, reported)
            return reported
        images = self._images()
        await news.send(listed(images))
        return images

    async def _follow_sizes(self) -> None:
        """Look again when layers are measured: their images can be described."""
        while True:
            await self._sizes.more_measured()
            self._wake.set()

    async def _watch(self, watch: FolderWatch) -> None:
        """Note when something in the folder changes."""
        while True:
            await watch.changed()
            self._note_change()
            await trio.sleep(SETTLE_S)

    def _note_change(self) -> None:
        self._changed = True
        self._wake.set()

    def _scan(self) -> None:
        """Read what is in the folder. Raises: MissingContent, BadContent when it is no layout."""
        index = read_index(self._folder)
        found: list[_Found] = []
        problems: set[str] = set()
        for descriptor in index.manifests:
            contents = self._blobs.find_images(descriptor)
            tags, digests = names_of(descriptor)
            found += [_Found(image, tags, digests) for image in contents.images]
            problems.update(contents.problems)
        for problem in sorted(problems - self._problems):
            _log.warning("an image of %s is not listed: %s", self._folder, problem)
        self._problems = problems
        self._found = found
        self._layers = {layer.diff_id: layer for each in found for layer in each.image.layers}

    def _images(self) -> Images:
        """What the last scan found and is measured."""
        return merge(self._rows())

    def _rows(self) -> Iterator[Row]:
        for found in self._found:
            description = self._sizes.describe(found.image)
            if description is not None:
                yield description, found.tags, found.digests

    @asynccontextmanager
    @override
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        layer = self._layers.get(digest)
        size = None if layer is None else self._sizes.get(layer)
        if layer is None or size is None:
            raise NotFound("LAYER_UNKNOWN", f"this engine has no layer {digest_text(digest)}")
        path = self._blobs.path(layer.digest)
        tar = await trio.to_thread.run_sync(BlobTar, path, size.tar_bytes)
        with self._readers.open(digest, tar) as reader:
            yield reader

    @override
    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        wanted = [each for each in digests[:FIND_BLOBS_MAX] if not self._opened.is_damaged(each)]
        return await trio.to_thread.run_sync(self._find, wanted)

    def _find(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        found = {}
        for digest in digests if self._up else ():
            size = self._blobs.size_bytes(digest)
            if size is None and (layer := self._layers.get(digest)) is not None:
                measured = self._sizes.get(layer)
                size = None if measured is None else measured.tar_bytes
            if size is not None:
                found[digest] = size
        return found

    @override
    def open_blob(self, digest: Digest) -> AbstractAsyncContextManager[BlobReader]:
        return self._opened.open(digest)

    async def _open_source(self, digest: Digest) -> TarSource:
        if not self._up:
            raise EngineUnavailable(f"{self._folder} is no OCI image layout now")
        if self._blobs.has(digest):
            return await trio.to_thread.run_sync(FileSource, self._blobs.path(digest))
        layer = self._layers.get(digest)
        size = None if layer is None else self._sizes.get(layer)
        if layer is None or size is None:
            raise NotFound("BLOB_UNKNOWN", f"this engine has no blob {digest_text(digest)}")
        path = self._blobs.path(layer.digest)
        return await trio.to_thread.run_sync(BlobTar, path, size.tar_bytes)

    @override
    async def manifest(self, digest: Digest) -> Manifest | None:
        return await trio.to_thread.run_sync(self._manifest, digest)

    def _manifest(self, digest: Digest) -> Manifest | None:
        size = self._blobs.size_bytes(digest)
        if size is None or size > manifests.MANIFEST_BYTES_MAX:
            return None
        try:
            return as_manifest(self._blobs.read_bytes(digest), digest)
        except (MissingContent, BadContent):
            return None

    @override
    async def image_manifest(self, image: Digest) -> Manifest | None:
        for found in self._found:
            if found.image.config == image:
                return await self.manifest(found.image.manifest)
        return None

    @override
    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        """Each by itself."""
        return await trio.to_thread.run_sync(
            lambda: [diff_id for diff_id in diff_ids if self._layer_form(diff_id) is None]
        )

    def _layer_form(self, diff_id: Digest) -> manifests.Descriptor | None:
        """The form in which the folder has a layer."""
        layer = self._layers.get(diff_id)
        if layer is not None and (size := self._blobs.size_bytes(layer.digest)) is not None:
            return manifests.Descriptor(
                media_type=layer.media_type, digest=digest_text(layer.digest), size=size
            )
        size = self._blobs.size_bytes(diff_id)
        return None if size is None else manifests.unpacked_layer(diff_id, size)

    @override
    async def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """The blobs that are there."""
        return await trio.to_thread.run_sync(
            lambda: {blob for blob in layers if self._blobs.has(blob)}
        )

    @override
    async def load(self, image: ImageToLoad) -> None:
        """Nothing is unpacked: the folder gets the blobs as they are,

        linked where they lie checked in a file on the same disk."""
        manifest = await trio.to_thread.run_sync(
            choose_manifest, image, self._blobs.has, self._layer_form
        )
        await trio.to_thread.run_sync(self._writer.prepare)
        for digest, blob in given_blobs(image).items():
            if not self._blobs.has(digest):
                await self._write(digest, blob)
        await self.add_image(
            image.tags, manifest, {manifests.digest_of(image.config): image.config}
        )

    async def _write(self, digest: Digest, blob: BlobReader) -> None:
        at = blob.file
        if at is not None and at.checked:
            await trio.to_thread.run_sync(self._writer.add_blob, digest, at.descriptor)
            return
        part = await trio.to_thread.run_sync(self._writer.begin_blob, digest)
        try:
            async with read_all(blob) as chunks:
                async for chunk in chunks:
                    await trio.to_thread.run_sync(part.write, chunk)
            await trio.to_thread.run_sync(part.finish)
        finally:
            part.close()

    async def add_image(
        self,
        names: Sequence[str],
        manifest: Manifest,
        blobs: Mapping[Digest, Path | bytes],
    ) -> None:
        """Have an image in the folder, by these names: how a pull ends where there is no Docker.

        Files are hard-linked, or copied from another file system; nothing is unpacked. Names move
        from what had them. A folder that is not there, or empty, becomes a layout.

        Args:
          names: whole, with a tag; none leaves it without a name.
          manifest: of the image, or an index.
          blobs: what it names (config, layers, manifests) and the folder may lack, by digest; all
            of it was checked.

        Raises: EngineRefused when it names what is neither there nor given, or the folder cannot
        be written.
        """
        await trio.to_thread.run_sync(self._add_image, names, manifest, blobs)
        self._note_change()

    def _add_image(
        self, names: Sequence[str], manifest: Manifest, blobs: Mapping[Digest, Path | bytes]
    ) -> None:
        self._writer.prepare()
        for digest, blob in blobs.items():
            self._writer.add_blob(digest, blob)
        self._check_complete(manifest)
        self._writer.name_manifest(manifest, names)

    def _check_complete(self, manifest: Manifest) -> None:
        """Raises: EngineRefused when no image of ``manifest`` is there as a whole."""
        self._writer.add_blob(manifest.digest, manifest.data)
        root = Descriptor(digest_text(manifest.digest), manifest.media_type, len(manifest.data))
        contents = self._blobs.find_images(root)
        if not contents.images:
            problem = contents.problems[0] if contents.problems else "some of its blobs are missing"
            raise EngineRefused(f"image {digest_text(manifest.digest)} is not whole: {problem}")

    can_pull = False
    keeps_compressed_blobs = False  # it pulls nothing by itself

    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        """Raises: EngineRefused: a folder pulls nothing; ``add_image`` puts images there."""
        raise EngineRefused(f"{self._folder} is a folder: it cannot pull")

    @override
    async def tag(self, image: Digest | str, name: str) -> None:
        if not await trio.to_thread.run_sync(self._tag, image, name):
            what = image if isinstance(image, str) else digest_text(image)
            raise NotFound("IMAGE_UNKNOWN", f"no such image: {what}")
        self._note_change()

    def _tag(self, image: Digest | str, name: str) -> bool:
        def is_it(row: Mapping[str, Any]) -> bool:
            try:
                descriptor = msgspec.convert(row, Descriptor)
            except msgspec.ValidationError:
                return False
            if isinstance(image, str):
                return is_named(descriptor, image)
            return any(one.config == image for one in self._blobs.find_images(descriptor).images)

        return self._writer.name_entry(is_it, name)

    @override
    async def untag(self, name: str) -> None:
        """An image with no name left is no longer listed."""
        await trio.to_thread.run_sync(self._writer.remove_name, name)
        self._note_change()
