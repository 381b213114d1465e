"""Docker's image store on containerd: blobs as they came from registries, and unpacked snapshots.

An image's ID is the digest of a manifest or an index. The blobs are files that can be sent as they
are; which snapshots there are is in a database that only containerd reads.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import trio
from typing_extensions import override

from beiran.engine.content_store import (
    BadContent,
    BlobFolder,
    Descriptor,
    LayerBlob,
    MissingContent,
    PlatformImage,
    as_manifest,
    read_small_file,
)
from beiran.engine.docker.distribution_sources import PulledNames
from beiran.engine.docker.docker_client import BadAnswer, DockerClient
from beiran.engine.docker.image_store import ImageIndex, ImageStore, Place, StoredImage
from beiran.engine.docker.load import Entry, choose_manifest, layout_format
from beiran.engine.docker.save import SavedLayers, saved_image
from beiran.engine.interface import ImageToLoad, Manifest
from beiran.engine.layers.blob_reader import BytesSource, FileSource
from beiran.engine.layers.layer_blob import BlobTar
from beiran.engine.layers.sizes import LayerSizes
from beiran.engine.layers.verified_reader import TarSource
from beiran.engine.small_blobs import SmallBlobs
from beiran.errors import DataError, NotFound
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.images import ImageDescription, RepoDigest
from beiran.oci.manifests import MANIFEST_BYTES_MAX, unpacked_layer
from beiran.oci.manifests import Descriptor as ManifestDescriptor
from beiran.oci.references import full_repository

CONTENT_STORE: Final = "io.containerd.content.v1.content"
CONTAINERD_ROOT: Final = Path("/var/lib/containerd")


class ContainerdStore(ImageStore):
    """Images of containerd's store: their ID is the digest of a manifest or an index."""

    name = "containerd"
    immutable = False
    keeps_compressed_blobs = True
    hides_steps = False

    def __init__(
        self, client: DockerClient, data_root: Path | None, sizes: LayerSizes, saved: SavedLayers
    ) -> None:
        self._client = client
        self._sizes = sizes
        self._saved = saved
        self._documents = SmallBlobs()
        roots: list[Path] = []
        if data_root is not None:
            # Docker's own containerd, or the one of the system. Their folders come with first use.
            roots = [data_root / "containerd" / "daemon", CONTAINERD_ROOT]
        self._pulled = PulledNames(roots)
        self.contents = [BlobFolder(root / CONTENT_STORE) for root in roots]
        self._folders = [
            folder
            for content in self.contents
            for folder in (
                content.folder.parent,
                content.folder,
                content.blobs.parent,
                content.blobs,
            )
        ]

    @property
    @override
    def folders(self) -> Sequence[Path]:
        return self._folders

    @override
    async def provenance(self, digests: Sequence[RepoDigest]) -> tuple[RepoDigest, ...]:
        """The digests of repositories that containerd pulled from or pushed to.

        On this store Docker shows a repository digest for every name of an image.
        """

        def came_from(digest: RepoDigest) -> bool:
            try:
                repository = full_repository(digest.name)
            except ValueError:
                return True
            return self._pulled.came_from(repository)

        if not digests:
            return ()
        return await trio.to_thread.run_sync(lambda: tuple(filter(came_from, digests)))

    @override
    async def read(self, image_id: str) -> tuple[StoredImage, ...]:
        descriptor = Descriptor(digest=image_id)
        for folder in self.contents:
            contents = await trio.to_thread.run_sync(folder.find_images, descriptor)
            if contents.images:
                return tuple(contents.images)
        if self._is_there(image_id):
            return ()  # but nothing in it that runs anywhere, or not all of it
        async with saved_image(self._client, image_id) as blobs:
            contents = await trio.to_thread.run_sync(blobs.find_images, descriptor)
            await trio.to_thread.run_sync(self._keep_documents, blobs, contents.images)
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

    @override
    def describe(self, image: StoredImage) -> ImageDescription | None:
        assert isinstance(image, PlatformImage)
        return self._sizes.describe(image)

    @override
    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        for image in images:
            assert isinstance(image, PlatformImage)
            for layer in image.layers:
                if self._sizes.get(layer) is None and (path := self.blob_path(layer.digest)):
                    yield layer, path

    @override
    async def open_tar(self, place: Place, digest: Digest) -> TarSource:
        assert isinstance(place.image, PlatformImage)
        layer = next(layer for layer in place.image.layers if layer.diff_id == digest)
        size = self._sizes.get(layer)
        if size is None:
            raise NotFound("LAYER_UNKNOWN", f"layer {digest_text(digest)} is not measured yet")
        path = self.blob_path(layer.digest)
        if path is not None:
            return await trio.to_thread.run_sync(BlobTar, path, size.tar_bytes)
        return await self._saved.open(
            place.image_id, layer.digest, lambda path: BlobTar(path, size.tar_bytes)
        )

    def _keep_documents(self, blobs: BlobFolder, images: Iterable[PlatformImage]) -> None:
        """Keep the manifests and configs of a saved image."""
        for image in images:
            for digest in (image.manifest, image.config):
                self._documents.put(digest, blobs.read_bytes(digest))

    @override
    def find_blobs(self, digests: Sequence[Digest], index: ImageIndex) -> dict[Digest, int]:
        """All that is in the content store, and tars of measured layers."""
        found = {}
        for digest in digests:
            size = self._blob_bytes(digest, index)
            if size is None and (layer := index.layer_blob(digest)) is not None:
                measured = self._sizes.get(layer)
                size = None if measured is None else measured.tar_bytes
            if size is not None:
                found[digest] = size
        return found

    def _blob_bytes(self, digest: Digest, index: ImageIndex) -> int | None:
        for folder in self.contents:
            if (size := folder.size_bytes(digest)) is not None:
                return size
        if (document := self._documents.get(digest)) is not None:
            return len(document)
        if digest in index.by_blob and (size := index.by_blob[digest][1].size_bytes) >= 0:
            return size
        return None

    @override
    async def open_source(self, digest: Digest, index: ImageIndex) -> TarSource:
        path = self.blob_path(digest)
        if path is not None:
            return await trio.to_thread.run_sync(FileSource, path)
        if (document := self._documents.get(digest)) is not None:
            return BytesSource(document)
        if digest in index.by_blob:
            return await self._saved.open(index.by_blob[digest][0].image_id, digest, FileSource)
        if digest in index.by_layer:
            return await self.open_tar(index.by_layer[digest], digest)
        raise NotFound("BLOB_UNKNOWN", f"this engine has no blob {digest_text(digest)}")

    @override
    def manifest(self, digest: Digest) -> Manifest | None:
        data = self._documents.get(digest)
        if data is None and (path := self.blob_path(digest)) is not None:
            try:
                if path.stat().st_size > MANIFEST_BYTES_MAX:
                    return None
                data = read_small_file(path)
            except (OSError, MissingContent, BadContent):
                return None
        return None if data is None else as_manifest(data, digest)

    @override
    async def image_manifest(self, place: Place) -> Manifest:
        """The manifest that the store has of the image."""
        assert isinstance(place.image, PlatformImage)
        digest = place.image.manifest
        manifest = await trio.to_thread.run_sync(self.manifest, digest)
        if manifest is None:
            await self.read(place.image_id)  # it may have been saved long ago
            manifest = await trio.to_thread.run_sync(self.manifest, digest)
        if manifest is None:
            raise DataError(f"the manifest {digest_text(digest)} cannot be read")
        return manifest

    @override
    def missing_layers(self, diff_ids: Sequence[Digest], index: ImageIndex) -> list[Digest]:
        """The layers that the store has in no form: it can have a layer without those below it."""
        return [diff_id for diff_id in diff_ids if self._layer_form(diff_id, index) is None]

    def _layer_form(self, diff_id: Digest, index: ImageIndex) -> ManifestDescriptor | None:
        """In which form the store has a layer."""
        layer = index.layer_blob(diff_id)
        if layer is not None and (size := self._blob_bytes(layer.digest, index)) is not None:
            text = digest_text(layer.digest)
            return ManifestDescriptor(media_type=layer.media_type, digest=text, size=size)
        size = self._blob_bytes(diff_id, index)
        return None if size is None else unpacked_layer(diff_id, size)

    @override
    def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """The blobs whose bytes are in the content store.

        Docker also skips blobs of layers that it unpacked by another manifest. It then no longer
        lists the image, since the blobs of its own manifest are missing. So these do not count.
        """
        return {blob for blob in layers if self.blob_path(blob) is not None}

    @override
    def files_to_load(self, image: ImageToLoad, index: ImageIndex) -> list[Entry]:
        manifest = choose_manifest(
            image,
            lambda digest: self._blob_bytes(digest, index) is not None,
            lambda diff_id: self._layer_form(diff_id, index),
        )
        return layout_format(image, manifest)
