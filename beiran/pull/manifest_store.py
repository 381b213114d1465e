"""Manifests, indexes and configs: small blobs that must be read to know what an image is made of.

Each is taken from the nearest that has it: our cache, our engine, a peer, and only then, through
the swarm, the origin. All are checked against their digest and kept in the cache.
"""

import logging
from collections.abc import Sequence
from typing import Final

from beiran.cache.blob_cache import BlobCache
from beiran.cache.errors import BlobMissing, CacheFull
from beiran.engine.interface import Engine
from beiran.errors import DataError, EngineUnavailable, NotFound
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import (
    ManifestUnknown,
    OriginBroken,
    RepositoryName,
)
from beiran.mirror.errors import as_library_error
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
from beiran.pull.peer_lookup import Nearby
from beiran.registry.errors import OriginError
from beiran.registry.registry_client import OriginClient
from beiran.transfer.downloads import Transfers, Wanted

_log: Final = logging.getLogger(__name__)


class Documents:
    """Gets documents by their digests."""

    def __init__(
        self,
        cache: BlobCache,
        engine: Engine,
        nearby: Nearby,
        transfers: Transfers,
        origins: OriginClient,
    ) -> None:
        self._cache: Final = cache
        self._engine: Final = engine
        self._nearby: Final = nearby
        self._transfers: Final = transfers
        self._origins: Final = origins

    async def manifest_here(self, digest: Digest) -> bytes | None:
        """A manifest or index that this node has."""
        data = await self._cached(digest, MANIFEST_BYTES_MAX)
        if data is not None:
            return data
        try:
            kept = await self._engine.manifest(digest)
        except (EngineUnavailable, DataError) as error:
            _log.warning("%s: %s", digest_text(digest), error)
            return None
        return None if kept is None else kept.data

    async def keep(self, digest: Digest, data: bytes) -> bool:
        """Keep a document in the cache, if there is room; whether it is there now."""
        try:
            await self._cache.put(digest, data)
        except (CacheFull, OSError) as error:
            _log.warning("%s cannot be kept: %s", digest_text(digest), error)
        return self._cache.size(digest) is not None

    async def manifest(
        self,
        name: RepositoryName,
        digest: Digest,
        size_bytes: int | None,
        near: Sequence[NodeId],
        *,
        from_origin: bool = True,
    ) -> bytes:
        """A manifest or index.

        Args:
          size_bytes: as whoever names it says; None where nobody does.
          near: who may have it.
          from_origin: whether ``name`` is a repository that has it.

        Raises: LibraryError.
        """
        data = await self.manifest_here(digest)
        if data is None and near:
            data = await self._nearby.manifest(digest, near)
            if data is not None:
                await self.keep(digest, data)
        if data is None and from_origin:
            data = await self._manifest_from_afar(name, digest, size_bytes)
        if data is None:
            raise ManifestUnknown(f"{name} has no manifest {digest_text(digest)} that is at hand")
        return data

    async def image_manifest(self, image: Digest, nodes: Sequence[NodeId]) -> bytes | None:
        """A manifest by which the image with this config can be had, here or from one of these."""
        try:
            kept = await self._engine.image_manifest(image)
        except (EngineUnavailable, DataError) as error:
            _log.info("%s: %s", digest_text(image), error)
            kept = None
        if kept is not None:
            return kept.data
        found = await self._nearby.image_manifest(image, nodes)
        if found is None:
            return None
        await self.keep(digest_of(found[0]), found[0])
        return found[0]

    async def config(
        self,
        name: RepositoryName,
        digest: Digest,
        size_bytes: int,
        near: Sequence[NodeId],
        *,
        from_origin: bool = True,
    ) -> bytes:
        """An image's config. Raises: LibraryError."""
        if size_bytes > CONFIG_BYTES_MAX:
            raise OriginBroken(f"{name}: a config of {size_bytes} bytes")
        data = await self._cached(digest, CONFIG_BYTES_MAX)
        if data is not None:
            return data
        data = await self._from_engine(digest)
        if data is not None:
            return data
        having = await self._nearby.having([digest], near)
        sources = having[digest].nodes if digest in having else ()
        wanted = Wanted(
            digest=digest,
            size_bytes=size_bytes,
            name=name,
            from_origin=from_origin,
            sources=sources,
        )
        return await self._transfers.read(wanted)

    async def _manifest_from_afar(
        self, name: RepositoryName, digest: Digest, size_bytes: int | None
    ) -> bytes:
        if size_bytes is not None and size_bytes <= MANIFEST_BYTES_MAX:
            wanted = Wanted(
                digest=digest, size_bytes=size_bytes, name=name, from_origin=True, manifest=True
            )
            data = await self._transfers.read(wanted)
            try:
                parsed_manifest(name, data)
            except OriginBroken:
                await self._cache.remove(digest)  # what cannot be read is not worth keeping
                raise
            return data
        try:
            found = await self._origins.manifest(
                name.registry, name.repository, digest_text(digest), accept=MANIFEST_TYPES
            )
        except OriginError as error:
            raise as_library_error(error, ManifestUnknown) from error
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
            _log.warning("%s", error)
            return None

    async def _from_engine(self, digest: Digest) -> bytes | None:
        """A config that our engine has; None where it does not give it, or gives something else."""
        size = (await self._engine.find_blobs([digest])).get(digest)
        if size is None or size > CONFIG_BYTES_MAX:
            return None
        try:
            async with self._engine.open_blob(digest) as reader:
                data = b"".join([chunk async for chunk in reader.chunks(0, reader.size_bytes)])
        except (NotFound, EngineUnavailable, DataError) as error:
            _log.info("%s: %s", digest_text(digest), error)
            return None
        return data if digest_of(data) == digest else None


def parsed_manifest(name: RepositoryName, data: bytes) -> ImageManifest | Index:
    """Raises: OriginBroken when it cannot be used."""
    try:
        return read_manifest(data)
    except BadManifest as error:
        raise OriginBroken(f"{name}: {error}") from None


def parsed_config(name: RepositoryName, data: bytes) -> ImageConfig:
    """Raises: OriginBroken when it cannot be used."""
    try:
        return read_config(data)
    except BadManifest as error:
        raise OriginBroken(f"{name}: {error}") from None
