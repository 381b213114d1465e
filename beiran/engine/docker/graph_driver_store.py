"""Docker's image store on a graph driver: configs, unpacked layers, and the notes of tar-split.

A graph driver keeps neither manifests nor compressed blobs. It has a layer only together with all
layers below it, and names it by its chain ID. For each compressed blob that it has pulled or pushed
it keeps the diff ID, also after the layer is removed. ``DockerSession`` chooses this store.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Final

import trio
from typing_extensions import override

from beiran.engine.content_store import BadContent, LayerBlob, MissingContent, utc_time
from beiran.engine.diff_id_manifest import diff_id_manifest
from beiran.engine.docker.docker_client import (
    BadAnswer,
    DockerClient,
    HistoryEntry,
)
from beiran.engine.docker.image_store import ImageIndex, ImageStore, Place, StoredImage
from beiran.engine.docker.layerdb import LayerDb
from beiran.engine.docker.load import Entry, docker_format
from beiran.engine.docker.save import SavedLayers, saved_image
from beiran.engine.interface import ImageToLoad, Manifest
from beiran.engine.layers.blob_reader import BytesSource, FileSource
from beiran.engine.layers.layer_blob import Measured
from beiran.engine.layers.sizes import LayerSizes
from beiran.engine.layers.verified_reader import TarSource
from beiran.engine.small_blobs import SmallBlobs
from beiran.errors import DataError, NotFound
from beiran.ids import Digest, digest_text, parse_digest
from beiran.oci.images import ImageDescription, LayerDescription, RepoDigest, chain_ids

_NO_LAYER: Final = re.compile(
    r"(/bin/sh -c #\(nop\) +)?"
    r"(ARG|CMD|ENTRYPOINT|ENV|EXPOSE|HEALTHCHECK|LABEL|MAINTAINER|ONBUILD|SHELL|STOPSIGNAL|USER"
    r"|VOLUME) "
)
"""Steps of a Dockerfile that never make a layer."""


class GraphDriverStore(ImageStore):
    """Images of a graph driver: their ID is the digest of their config."""

    immutable = True
    keeps_compressed_blobs = False
    hides_steps = True

    def __init__(
        self,
        client: DockerClient,
        data_root: Path | None,
        driver: str,
        sizes: LayerSizes,
        saved: SavedLayers,
    ) -> None:
        self._client = client
        self._sizes = sizes
        self._saved = saved
        self._configs = SmallBlobs()
        self._driver = driver
        db = None if data_root is None else LayerDb(data_root, driver)
        self.layer_db = db if db is not None and db.is_readable() else None

    @property
    @override
    def name(self) -> str:
        return self._driver

    @property
    @override
    def folders(self) -> Sequence[Path]:
        return [] if self.layer_db is None else [self.layer_db.images]

    @override
    async def read(self, image_id: str) -> tuple[StoredImage, ...]:
        inspect = await self._client.inspect_image(image_id)
        try:
            image = parse_digest(inspect.id)
            diff_ids = [parse_digest(text) for text in inspect.root_fs.layers or []]
        except ValueError as error:
            raise BadAnswer(f"Docker's image {image_id}: {error}") from None
        sizes = await self._layer_sizes(inspect.id, diff_ids)
        layers = tuple(map(LayerDescription, diff_ids, sizes))
        created_at = utc_time(inspect.created)
        return (ImageDescription(image, inspect.os, inspect.architecture, created_at, layers),)

    @override
    async def provenance(self, digests: Sequence[RepoDigest]) -> tuple[RepoDigest, ...]:
        """All of them: a graph driver records a repository digest only at a pull or a push."""
        return tuple(digests)

    async def _layer_sizes(self, image_id: str, diff_ids: list[Digest]) -> list[int]:
        if self.layer_db is not None:
            sizes = await trio.to_thread.run_sync(self.layer_db.sizes, diff_ids)
            if sizes is not None:
                return sizes
        history = await self._client.history(image_id)
        sizes = sizes_from_history(history, len(diff_ids))
        if sizes is not None:
            return sizes
        await self._learn_by_saving(image_id, diff_ids)
        measured = [self._sizes.get(_tar_blob(diff_id)) for diff_id in diff_ids]
        return [0 if size is None else size.files_bytes for size in measured]

    async def _learn_by_saving(self, image_id: str, diff_ids: Sequence[Digest]) -> None:
        """Read an image's config and the sizes of its layers from ``docker save``, the slow way."""
        async with saved_image(self._client, image_id) as blobs:
            await self._sizes.measure_now(
                (_tar_blob(diff_id), blobs.path(diff_id)) for diff_id in diff_ids
            )
            try:
                config = parse_digest(image_id)
                self._configs.put(config, blobs.read_bytes(config))
            except (ValueError, MissingContent, BadContent) as error:
                raise BadAnswer(f"docker save gives no config of {image_id}: {error}") from None

    @override
    def describe(self, image: StoredImage) -> ImageDescription | None:
        """The description that ``read`` made: it needs no measurement."""
        assert isinstance(image, ImageDescription)
        return image

    @override
    def unmeasured(self, images: Iterable[StoredImage]) -> Iterator[tuple[LayerBlob, Path]]:
        """No layers: the engine knows their sizes."""
        return iter(())

    @override
    async def open_tar(self, place: Place, digest: Digest) -> TarSource:
        assert isinstance(place.image, ImageDescription)
        if self.layer_db is not None:
            diff_ids = [Digest(layer.digest) for layer in place.image.layers]
            chain_id = chain_ids(diff_ids)[diff_ids.index(digest)]
            tar = await trio.to_thread.run_sync(self.layer_db.open_tar, chain_id)
            if tar is not None:
                return tar
        return await self._saved.open(place.image_id, digest, FileSource)

    @override
    def find_blobs(self, digests: Sequence[Digest], index: ImageIndex) -> dict[Digest, int]:
        """Find configs by their digest, and tars of layers by their diff ID."""
        found = {}
        for digest in digests:
            size = None
            if (place := index.by_layer.get(digest)) is not None:
                size = self._tar_bytes(place, digest)
            elif digest in index.by_config:
                config = self._config(digest)
                size = None if config is None else len(config)
            if size is not None:
                found[digest] = size
        return found

    def _tar_bytes(self, place: Place, diff_id: Digest) -> int | None:
        """Length of a layer's tar: measured before, or read from the notes of tar-split."""
        known = self._sizes.get(_tar_blob(diff_id))
        if known is not None:
            return known.tar_bytes
        if self.layer_db is None:
            return None
        assert isinstance(place.image, ImageDescription)
        diff_ids = [Digest(layer.digest) for layer in place.image.layers]
        at = diff_ids.index(diff_id)
        size = self.layer_db.tar_bytes(chain_ids(diff_ids)[at])
        if size is not None:
            measured = Measured(place.image.layers[at].size_bytes, size)
            self._sizes.note(_tar_blob(diff_id), measured)
        return size

    def _config(self, image: Digest) -> bytes | None:
        """The bytes of an image's config."""
        config = self._configs.get(image)
        if config is None and self.layer_db is not None:
            config = self.layer_db.config(image)
            if config is not None:
                self._configs.put(image, config)
        return config

    @override
    async def open_source(self, digest: Digest, index: ImageIndex) -> TarSource:
        place = index.by_layer.get(digest)
        if place is not None:
            return await self.open_tar(place, digest)
        if digest in index.by_config:
            config = await trio.to_thread.run_sync(self._config, digest)
            if config is not None:
                return BytesSource(config)
        raise NotFound("BLOB_UNKNOWN", f"this engine has no blob {digest_text(digest)}")

    @override
    def manifest(self, digest: Digest) -> Manifest | None:
        """None: a graph driver keeps no manifests."""
        return None

    @override
    async def image_manifest(self, place: Place) -> Manifest:
        """Make the manifest by diff IDs (``diff_id_manifest``)."""
        assert isinstance(place.image, ImageDescription)
        image = Digest(place.image.image)
        diff_ids = [Digest(layer.digest) for layer in place.image.layers]
        wanted = [image, *dict.fromkeys(diff_ids)]
        index = ImageIndex()
        index.add(place)
        sizes = await trio.to_thread.run_sync(self.find_blobs, wanted, index)
        if len(sizes) < len(wanted):
            await self._learn_by_saving(place.image_id, diff_ids)
            sizes = await trio.to_thread.run_sync(self.find_blobs, wanted, index)
        if len(sizes) < len(wanted):
            raise DataError(f"not all layers of {place.image_id} can be read")
        layers = ((diff_id, sizes[diff_id]) for diff_id in diff_ids)
        return diff_id_manifest(image, sizes[image], layers)

    @override
    def missing_layers(self, diff_ids: Sequence[Digest], index: ImageIndex) -> list[Digest]:
        """The first layer whose chain ID the graph driver lacks, and all layers above it.

        Where the data root cannot be read, the layers of the listed images count as present.
        """
        if self.layer_db is None:
            return list(diff_ids[_shared_base(diff_ids, index) :])
        for number, chain_id in enumerate(chain_ids(diff_ids)):
            if not self.layer_db.has(chain_id):
                return list(diff_ids[number:])
        return []

    @override
    def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """The blobs up to the first one whose diff ID or layer the graph driver lacks."""
        known: set[Digest] = set()
        if self.layer_db is None:
            return known
        for (blob, diff_id), chain_id in zip(
            layers.items(), chain_ids(list(layers.values())), strict=True
        ):
            if self.layer_db.diff_id_of(blob) != digest_text(diff_id):
                break
            if not self.layer_db.has(chain_id):
                break
            known.add(blob)
        return known

    @override
    def files_to_load(self, image: ImageToLoad, index: ImageIndex) -> list[Entry]:
        missing = self.missing_layers([layer.diff_id for layer in image.layers], index)
        return docker_format(image, missing)


def _tar_blob(diff_id: Digest) -> LayerBlob:
    """A layer that is its tar."""
    return LayerBlob(diff_id, diff_id, "")


def _shared_base(diff_ids: Sequence[Digest], index: ImageIndex) -> int:
    """How many of these layers, from the base up, are those of an image that is listed."""
    longest = 0
    for place in index.by_config.values():
        assert isinstance(place.image, ImageDescription)
        has = [Digest(layer.digest) for layer in place.image.layers]
        same = takewhile(lambda pair: pair[0] == pair[1], zip(has, diff_ids, strict=False))
        longest = max(longest, sum(1 for _ in same))
    return longest


def sizes_from_history(newest_first: Sequence[HistoryEntry], layers: int) -> list[int] | None:
    """Bytes of the files in each layer, the base first.

    The API does not say which steps of the build made no layer. A step with files made one. Of the
    empty steps, the instructions that never make a layer (``ENV``, ``CMD``) are left out first.

    Returns: None where the history does not fit the layers (it can be changed at will).
    """
    steps = list(reversed(newest_first))
    surplus = len(steps) - layers
    for never in (True, False):
        for index in reversed(range(len(steps))):
            empty = steps[index].size == 0
            if (
                surplus > 0
                and empty
                and (bool(_NO_LAYER.match(steps[index].created_by)) or not never)
            ):
                del steps[index]
                surplus -= 1
    sizes = [step.size for step in steps]
    return sizes if len(sizes) == layers else None
