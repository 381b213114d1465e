"""The interface of Docker's two image stores: ``graph_driver_store`` and ``containerd_store``."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from beiran.engine.content_store import LayerBlob, PlatformImage
from beiran.engine.docker.load import Entry
from beiran.engine.interface import ImageToLoad, Manifest
from beiran.engine.layers.verified_reader import TarSource
from beiran.ids import Digest
from beiran.oci.images import ImageDescription, RepoDigest

StoredImage = ImageDescription | PlatformImage
"""An image with its description, or one whose layers must be measured first."""


@dataclass(frozen=True, slots=True)
class Place:
    """An image, and the engine's own ID of the manifest, index or config that leads to it."""

    image_id: str
    image: StoredImage


@dataclass(slots=True)
class ImageIndex:
    """The listed images by digests. It does not change once it is made: threads read it."""

    by_config: dict[Digest, Place] = field(default_factory=dict)
    by_layer: dict[Digest, Place] = field(default_factory=dict)
    """By diff ID."""
    by_blob: dict[Digest, tuple[Place, LayerBlob]] = field(default_factory=dict)
    """By the digest of a layer's blob; empty for a graph driver."""

    def add(self, place: Place) -> None:
        """Add an image."""
        image = place.image
        if isinstance(image, ImageDescription):
            self.by_config.setdefault(Digest(image.image), place)
            for layer in image.layers:
                self.by_layer.setdefault(Digest(layer.digest), place)
            return
        self.by_config.setdefault(image.config, place)
        for blob in image.layers:
            self.by_layer.setdefault(blob.diff_id, place)
            self.by_blob.setdefault(blob.digest, (place, blob))

    def layer_blob(self, diff_id: Digest) -> LayerBlob | None:
        """The blob that contains the layer with this diff ID."""
        place = self.by_layer.get(diff_id)
        if place is None or isinstance(place.image, ImageDescription):
            return None
        return next(layer for layer in place.image.layers if layer.diff_id == diff_id)


class ImageStore(Protocol):
    """An image store of Docker, as ``DockerEngine`` and its session use it."""

    @property
    def name(self) -> str:
        """The value of ``EngineInfo.store``."""
        ...

    @property
    def immutable(self) -> bool:
        """Whether an image ID always leads to the same image. An index may gain platforms."""
        ...

    @property
    def keeps_compressed_blobs(self) -> bool:
        """Implements ``Engine.keeps_compressed_blobs``."""
        ...

    @property
    def hides_steps(self) -> bool:
        """Whether lists hide images that events name: the steps of a build."""
        ...

    @property
    def folders(self) -> Sequence[Path]:
        """The folders that change with new images; none where they cannot be read."""
        ...

    async def read(self, image_id: str) -> tuple[StoredImage, ...]:
        """The images behind an ID of the engine. Raises: NotFound; EngineUnavailable."""
        ...

    async def provenance(self, digests: Sequence[RepoDigest]) -> tuple[RepoDigest, ...]:
        """The repository digests that come from a pull or a push of the image."""
        ...

    def describe(self, image: StoredImage) -> ImageDescription | None:
        """Its description; None until its layers are measured."""
        ...

    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        """The layers of ``images`` that must be read to be described."""
        ...

    async def open_tar(self, place: Place, digest: Digest) -> TarSource:
        """Open the tar of a layer of an image.

        Raises: NotFound; EngineUnavailable; DataError.
        """
        ...

    def find_blobs(self, digests: Sequence[Digest], index: ImageIndex) -> dict[Digest, int]:
        """Implements ``Engine.find_blobs``. Blocks."""
        ...

    async def open_source(self, digest: Digest, index: ImageIndex) -> TarSource:
        """Open a blob. Raises: NotFound; EngineUnavailable; DataError."""
        ...

    def manifest(self, digest: Digest) -> Manifest | None:
        """Implements ``Engine.manifest``. Blocks."""
        ...

    async def image_manifest(self, place: Place) -> Manifest:
        """The manifest of an image that is there, as ``Engine`` has it.

        Raises: NotFound; EngineUnavailable; DataError.
        """
        ...

    def missing_layers(self, diff_ids: Sequence[Digest], index: ImageIndex) -> list[Digest]:
        """Implements ``Engine.missing_layers``. Blocks."""
        ...

    def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """Implements ``Engine.knows_compressed``. Blocks."""
        ...

    def files_to_load(self, image: ImageToLoad, index: ImageIndex) -> list[Entry]:
        """The files that ``docker load`` needs. Blocks.

        Raises: EngineRefused when a layer is neither there nor given.
        """
        ...
