"""Get manifests, indexes and configs by digest: the small blobs that say what an image is made of.

Each comes from the nearest that has it: the cache, the engine, a peer, and then, through the swarm,
the origin. All are checked against their digest and kept in the cache.
"""

import logging
from collections.abc import Sequence
from typing import Final

from beiran.cache.blob_cache import BlobCache
from beiran.cache.errors import BlobMissing, CacheFull
from beiran.engine.interface import Engine
from beiran.errors import DataError, EngineUnavailable, NotFound
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import RepositoryName
from beiran.mirror.errors import ManifestUnknown, OriginBroken, mirror_error
from beiran.oci.manifests import (
    CONFIG_BYTES_MAX,
    MANIFEST_BYTES_MAX,
    MANIFEST_TYPES,
    BadManifest,
    ImageConfig,
    ImageManifest,
    Index,
    digest_of,
    read_config,
    read_manifest,
)
from beiran.pull.peer_lookup import PeerLookup
from beiran.registry.errors import OriginError
from beiran.registry.registry_client import OriginClient
from beiran.transfer.blob_download import BlobRequest
from beiran.transfer.downloads import Downloads

_log: Final = logging.getLogger(__name__)


class ManifestStore:
    """Gets manifests, indexes and configs."""

    def __init__(
        self,
        cache: BlobCache,
        engine: Engine,
        lookup: PeerLookup,
        downloads: Downloads,
        origins: OriginClient,
    ) -> None:
        self._cache: Final = cache
        self._engine: Final = engine
        self._lookup: Final = lookup
        self._downloads: Final = downloads
        self._origins: Final = origins

    async def manifest_here(self, digest: Digest) -> bytes | None:
        """A manifest or index that this node has."""
        data = await self._cached(digest, MANIFEST_BYTES_MAX)
        if data is not None:
            return data
        try:
            kept = await self._engine.manifest(digest)
        except (EngineUnavailable, DataError) as error:
            _log.warning("the engine cannot give manifest %s: %s", digest_text(digest), error)
            return None
        return None if kept is None else kept.data

    async def keep(self, digest: Digest, data: bytes) -> bool:
        """Put a manifest into the cache. Returns: False when there is no room for it."""
        try:
            await self._cache.put(digest, data)
        except (CacheFull, OSError) as error:
            _log.warning("manifest %s is not cached: %s", digest_text(digest), error)
        return self._cache.size(digest) is not None

    async def manifest(
        self,
        name: RepositoryName,
        digest: Digest,
        size_bytes: int | None,
        near: Sequence[NodeId],
        *,
        from_origin: bool,
    ) -> bytes:
        """A manifest or index.

        Args:
          size_bytes: as an index or a HEAD says; None if neither was read.
          near: nodes that may have it.
          from_origin: whether the origin of ``name`` has it.

        Raises: MirrorError.
        """
        data = await self.manifest_here(digest)
        if data is None and near:
            data = await self._lookup.manifest(digest, near)
            if data is not None:
                await self.keep(digest, data)
        if data is None and from_origin:
            data = await self._from_origin(name, digest, size_bytes)
        if data is None:
            raise ManifestUnknown(
                f"manifest {digest_text(digest)} of {name} not found: neither this node nor "
                "another has it"
            )
        return data

    async def image_manifest(self, image: Digest, nodes: Sequence[NodeId]) -> bytes | None:
        """A manifest for the image with this config, from the engine or from one of ``nodes``."""
        try:
            kept = await self._engine.image_manifest(image)
        except (EngineUnavailable, DataError) as error:
            _log.info("the engine has no manifest of image %s: %s", digest_text(image), error)
            kept = None
        if kept is not None:
            return kept.data
        data = await self._lookup.image_manifest(image, nodes)
        if data is not None:
            await self.keep(digest_of(data), data)
        return data

    async def config(
        self,
        name: RepositoryName,
        image: ImageManifest,
        near: Sequence[NodeId],
        *,
        from_origin: bool,
    ) -> ImageConfig | None:
        """An image's config; None where the manifest names something else as its config.

        Charts and signatures do. Raises: MirrorError.
        """
        try:
            data = await self.config_data(name, image, near, from_origin=from_origin)
            return read_config(data)
        except (OriginBroken, BadManifest) as error:
            _log.debug("%s: the config cannot be read, so no layer changes form: %s", name, error)
            return None

    async def config_data(
        self,
        name: RepositoryName,
        image: ImageManifest,
        near: Sequence[NodeId] = (),
        *,
        from_origin: bool = True,
    ) -> bytes:
        """The bytes of an image's config. Raises: MirrorError."""
        digest, size_bytes = image.config.raw, image.config.size
        if size_bytes > CONFIG_BYTES_MAX:
            raise OriginBroken(f"{name}: a config of {size_bytes} bytes")
        data = await self._cached(digest, CONFIG_BYTES_MAX)
        if data is not None:
            return data
        data = await self._from_engine(digest)
        if data is not None:
            return data
        having = await self._lookup.having([digest], near)
        request = BlobRequest(
            digest=digest,
            size_bytes=size_bytes,
            name=name,
            from_origin=from_origin,
            sources=having[digest].nodes if digest in having else (),
        )
        return await self._downloads.read(request)

    async def _from_origin(
        self, name: RepositoryName, digest: Digest, size_bytes: int | None
    ) -> bytes:
        """A manifest or index, through the swarm where its size is known. Raises: MirrorError."""
        if size_bytes is not None and size_bytes <= MANIFEST_BYTES_MAX:
            request = BlobRequest(
                digest=digest, size_bytes=size_bytes, name=name, from_origin=True, is_manifest=True
            )
            data = await self._downloads.read(request)
            try:
                parsed_manifest(name, data)
            except OriginBroken:
                await self._cache.remove(digest)  # useless to everyone, so not worth its room
                raise
            return data
        try:
            found = await self._origins.manifest(
                name.registry, name.repository, digest_text(digest), accept=MANIFEST_TYPES
            )
        except OriginError as error:
            raise mirror_error(error, ManifestUnknown) from error
        parsed_manifest(name, found.data)
        await self.keep(digest, found.data)
        return found.data

    async def _cached(self, digest: Digest, bytes_max: int) -> bytes | None:
        size = self._cache.size(digest)
        if size is None or size > bytes_max:
            return None
        try:
            return await self._cache.read(digest)
        except BlobMissing as error:
            _log.warning("the cache cannot give a document: %s", error)
            return None

    async def _from_engine(self, digest: Digest) -> bytes | None:
        """A config that the engine has; None where it cannot give it, or gives other bytes."""
        size = (await self._engine.find_blobs([digest])).get(digest)
        if size is None or size > CONFIG_BYTES_MAX:
            return None
        try:
            async with self._engine.open_blob(digest) as reader:
                data = b"".join([chunk async for chunk in reader.chunks(0, reader.size_bytes)])
        except (NotFound, EngineUnavailable, DataError) as error:
            _log.info("the engine cannot give config %s: %s", digest_text(digest), error)
            return None
        return data if digest_of(data) == digest else None


def parsed_manifest(name: RepositoryName, data: bytes) -> ImageManifest | Index:
    """Read a manifest of the repository ``name``. Raises: OriginBroken when it cannot be read."""
    try:
        return read_manifest(data)
    except BadManifest as error:
        raise OriginBroken(f"{name}: {error}") from None
