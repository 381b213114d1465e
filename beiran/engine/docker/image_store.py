"""What Docker's two image stores have in common: ``graph_store`` and ``containerd_store``."""

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
"""An image that is described, or will be when its layers are measured."""


@dataclass(frozen=True, slots=True)
class Place:
    """An image, and the engine's own ID of what it is found behind."""

    image_id: str
    image: StoredImage


@dataclass(slots=True)
class ImageIndex:
    """What an engine lists, by digests. Not changed once it is made, so that threads may ask it."""

    by_config: dict[Digest, Place] = field(default_factory=dict)
    by_layer: dict[Digest, Place] = field(default_factory=dict)
    """By diff ID."""
    by_blob: dict[Digest, tuple[Place, LayerBlob]] = field(default_factory=dict)
    """By the digest of a layer's blob; empty for a graph driver."""

    def add(self, place: Place) -> None:
        """Note an image."""
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
        """The blob that the layer with this diff ID lies in."""
        place = self.by_layer.get(diff_id)
        if place is None or isinstance(place.image, ImageDescription):
            return None
        return next(layer for layer in place.image.layers if layer.diff_id == diff_id)


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
    def keeps_compressed_blobs(self) -> bool:
        """As ``contract.Engine`` says."""
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

    async def provenance(self, digests: Sequence[RepoDigest]) -> tuple[RepoDigest, ...]:
        """Those of an image's repository digests that say where it came from or went to."""
        ...

    def describe(self, image: StoredImage) -> ImageDescription | None:
        """Its description; None as long as it is not known."""
        ...

    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        """The layers of ``images`` that must be read to be described."""
        ...

    async def open_tar(self, place: Place, digest: Digest) -> TarSource:
        """The tar of a layer that an image has, from wherever it can be read.

        Raises: NotFound; EngineUnavailable; DataError.
        """
        ...

    def find_blobs(self, digests: Sequence[Digest], index: ImageIndex) -> dict[Digest, int]:
        """As ``contract.Engine`` says. Blocks."""
        ...

    async def open_source(self, digest: Digest, index: ImageIndex) -> TarSource:
        """Open a blob. Raises: NotFound; EngineUnavailable; DataError."""
        ...

    def manifest(self, digest: Digest) -> Manifest | None:
        """As ``contract.Engine`` says. Blocks."""
        ...

    async def image_manifest(self, place: Place) -> Manifest:
        """As ``contract.Engine`` says, of an image that is there.

        Raises: NotFound; EngineUnavailable; DataError.
        """
        ...

    def missing_layers(self, diff_ids: Sequence[Digest], index: ImageIndex) -> list[Digest]:
        """As ``contract.Engine`` says. Blocks."""
        ...

    def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """As ``contract.Engine`` says. Blocks."""
        ...

    def files_to_load(self, image: ImageToLoad, index: ImageIndex) -> list[Entry]:
        """What the engine must be given. Blocks.

        Raises: EngineRefused when a layer is neither there nor given.
        """
        ...
