"""Docker's two image stores: what an image is, by what the engine's files or its API say."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

import trio

from beiran.engine.content import (
    BlobFolder,
    Descriptor,
    LayerBlob,
    PlatformImage,
    utc_time,
)
from beiran.engine.docker_api import BadAnswer, DockerApi, HistoryEntry, ImageInspect, image_path
from beiran.engine.docker_save import SavedLayers, saved_image
from beiran.engine.graph_driver import LayerDb
from beiran.engine.history import sizes_from_history
from beiran.engine.layer_blob import BlobTar
from beiran.engine.layer_reader import TarSource
from beiran.engine.layer_sizes import LayerSizes
from beiran.errors import NotFound
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci import ImageDescription, LayerDescription, chain_ids

StoredImage = ImageDescription | PlatformImage
"""An image that is described, or will be when its layers are measured."""

CONTENT_STORE: Final = "io.containerd.content.v1.content"
CONTAINERD_ROOT: Final = Path("/var/lib/containerd")


def has_layer(image: StoredImage, digest: Digest) -> bool:
    """Whether ``image`` has the layer with this diff ID."""
    if isinstance(image, ImageDescription):
        return any(layer.digest == digest for layer in image.layers)
    return any(layer.diff_id == digest for layer in image.layers)


class ImageStore(Protocol):
    """What ``DockerEngine`` asks of a store."""

    @property
    def name(self) -> str:
        """As ``EngineInfo.store`` has it."""
        ...

    @property
    def immutable(self) -> bool:
        """Whether what is behind an image ID stays the same: platforms may come to an index."""
        ...

    @property
    def hides_steps(self) -> bool:
        """Whether an event may name an image without a name that lists hide."""
        ...

    @property
    def folders(self) -> Sequence[Path]:
        """Where new images show; none where the engine's files cannot be read."""
        ...

    async def read(self, image_id: str) -> tuple[StoredImage, ...]:
        """What the engine's image with this ID is. Raises: NotFound; EngineUnavailable."""
        ...

    def describe(self, image: StoredImage) -> ImageDescription | None:
        """Its description; None as long as it is not known."""
        ...

    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        """The layers of ``images`` that must be read to be described."""
        ...

    async def open_tar(self, image_id: str, image: StoredImage, digest: Digest) -> TarSource:
        """The tar of a layer that ``image`` has, from wherever it can be read.

        Raises: NotFound; EngineUnavailable; DataError.
        """
        ...


class GraphDriverStore:
    """Images of a graph driver: their ID is the digest of their config."""

    immutable = True
    hides_steps = True

    def __init__(
        self,
        api: DockerApi,
        data_root: Path | None,
        driver: str,
        sizes: LayerSizes,
        saved: SavedLayers,
    ) -> None:
        self._api = api
        self._sizes = sizes
        self._saved = saved
        self.name = driver
        db = None if data_root is None else LayerDb(data_root, driver)
        self.layer_db = db if db is not None and db.is_readable() else None
        self.folders = [] if self.layer_db is None else [self.layer_db.images]

    async def read(self, image_id: str) -> tuple[StoredImage, ...]:
        """As ``ImageStore`` says."""
        inspect = await self._api.get(image_path(image_id, "json"), ImageInspect)
        try:
            image = parse_digest(inspect.id)
            diff_ids = [parse_digest(text) for text in inspect.root_fs.layers or []]
        except ValueError as error:
            raise BadAnswer(f"Docker's image {image_id}: {error}") from None
        sizes = await self._layer_sizes(inspect.id, diff_ids)
        layers = tuple(map(LayerDescription, diff_ids, sizes))
        created_at = utc_time(inspect.created)
        return (ImageDescription(image, inspect.os, inspect.architecture, created_at, layers),)

    async def _layer_sizes(self, image_id: str, diff_ids: list[Digest]) -> list[int]:
        if self.layer_db is not None:
            sizes = await trio.to_thread.run_sync(self.layer_db.sizes, diff_ids)
            if sizes is not None:
                return sizes
        history = await self._api.get(image_path(image_id, "history"), list[HistoryEntry])
        sizes = sizes_from_history(history, len(diff_ids))
        if sizes is not None:
            return sizes
        layers = [LayerBlob(diff_id, diff_id, "") for diff_id in diff_ids]
        async with saved_image(self._api, image_id, diff_ids) as blobs:
            await self._sizes.measure_now((layer, blobs.path(layer.digest)) for layer in layers)
        measured = [self._sizes.get(layer) for layer in layers]
        return [0 if size is None else size.files_bytes for size in measured]

    def describe(self, image: StoredImage) -> ImageDescription | None:
        """As ``ImageStore`` says: all are described."""
        assert isinstance(image, ImageDescription)
        return image

    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        """As ``ImageStore`` says: there are none."""
        return iter(())

    async def open_tar(self, image_id: str, image: StoredImage, digest: Digest) -> TarSource:
        """As ``ImageStore`` says."""
        assert isinstance(image, ImageDescription)
        if self.layer_db is not None:
            diff_ids = [Digest(layer.digest) for layer in image.layers]
            chain_id = chain_ids(diff_ids)[diff_ids.index(digest)]
            tar = await trio.to_thread.run_sync(self.layer_db.open_tar, chain_id)
            if tar is not None:
                return tar
        return await self._saved.open(image_id, digest, digest, None)


class ContainerdStore:
    """Images of containerd's store: their ID is the digest of a manifest or an index."""

    name = "containerd"
    immutable = False
    hides_steps = False

    def __init__(
        self, api: DockerApi, data_root: Path | None, sizes: LayerSizes, saved: SavedLayers
    ) -> None:
        self._api = api
        self._sizes = sizes
        self._saved = saved
        roots: list[Path] = []
        if data_root is not None:
            # Docker's own containerd, or the one of the system. Their folders come with first use.
            roots = [data_root / "containerd" / "daemon", CONTAINERD_ROOT]
        self.contents = [BlobFolder(root / CONTENT_STORE) for root in roots]
        self.folders = [
            folder
            for content in self.contents
            for folder in (
                content.folder.parent,
                content.folder,
                content.blobs.parent,
                content.blobs,
            )
        ]

    async def read(self, image_id: str) -> tuple[StoredImage, ...]:
        """As ``ImageStore`` says."""
        descriptor = Descriptor(digest=image_id)
        for folder in self.contents:
            contents = await trio.to_thread.run_sync(folder.find_images, descriptor)
            if contents.images:
                return tuple(contents.images)
        if self._is_there(image_id):
            return ()  # but nothing in it that runs anywhere, or not all of it
        async with saved_image(self._api, image_id) as blobs:
            contents = await trio.to_thread.run_sync(blobs.find_images, descriptor)
            await self._sizes.measure_now(
                (layer, blobs.path(layer.digest))
                for image in contents.images
                for layer in image.layers
            )
        return tuple(contents.images)

    def _is_there(self, image_id: str) -> bool:
        try:
            return self.blob_path(parse_digest(image_id)) is not None
        except ValueError:
            raise BadAnswer(f"Docker has an image with the ID {image_id[:100]!r}") from None

    def blob_path(self, digest: Digest) -> Path | None:
        """Where a blob is."""
        for folder in self.contents:
            if folder.has(digest):
                return folder.path(digest)
        return None

    def describe(self, image: StoredImage) -> ImageDescription | None:
        """As ``ImageStore`` says."""
        assert isinstance(image, PlatformImage)
        return self._sizes.describe(image)

    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        """As ``ImageStore`` says."""
        for image in images:
            assert isinstance(image, PlatformImage)
            for layer in image.layers:
                if self._sizes.get(layer) is None and (path := self.blob_path(layer.digest)):
                    yield layer, path

    async def open_tar(self, image_id: str, image: StoredImage, digest: Digest) -> TarSource:
        """As ``ImageStore`` says."""
        assert isinstance(image, PlatformImage)
        layer = next(layer for layer in image.layers if layer.diff_id == digest)
        size = self._sizes.get(layer)
        if size is None:
            raise NotFound("LAYER_UNKNOWN", f"layer {digest_text(digest)} is not measured yet")
        path = self.blob_path(layer.digest)
        if path is not None:
            return await trio.to_thread.run_sync(BlobTar, path, size.tar_bytes)
        return await self._saved.open(image_id, digest, layer.digest, size.tar_bytes)
