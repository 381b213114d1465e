"""What the mirror of this agent serves: the mirror's ``Backend``.

A request for a manifest goes to ``resolver`` and ``delivery``. A request for a blob goes one way:

    blob -> authorization -> locations -> transfer/downloads -> transfer/swarm_driver -> swarm
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from beiran.ids import Digest
from beiran.mirror.backend import (
    ManifestAnswer,
    OpenBlob,
    Reference,
    RepositoryName,
    TagPage,
)
from beiran.mirror.errors import BlobUnknown, NameUnknown, mirror_error
from beiran.oci.familiar_names import familiar_name
from beiran.oci.manifests import ImageManifest, digest_of, media_type_of
from beiran.oci.media_types import ACCEPTS_ANYTHING, Accept
from beiran.pull.authorization import Authorization, Provenance
from beiran.pull.delivery import Delivery
from beiran.pull.locations import Locator
from beiran.pull.peer_lookup import PeerLookup
from beiran.pull.resolver import Resolver, offline_error
from beiran.registry.errors import OriginError
from beiran.registry.registry_client import OriginClient
from beiran.store.async_reads import Reads
from beiran.transfer.blob_download import BlobRequest
from beiran.transfer.downloads import Downloads
from beiran.transfer.local_blobs import LocalBlobs


class MirrorBackend:
    """Serves every repository of every registry."""

    def __init__(
        self,
        *,
        reads: Reads,
        origins: OriginClient,
        lookup: PeerLookup,
        local: LocalBlobs,
        downloads: Downloads,
        locator: Locator,
        authorization: Authorization,
        resolver: Resolver,
        delivery: Delivery,
    ) -> None:
        self._reads: Final = reads
        self._origins: Final = origins
        self._lookup: Final = lookup
        self._local: Final = local
        self._downloads: Final = downloads
        self._locator: Final = locator
        self._authorization: Final = authorization
        self._resolver: Final = resolver
        self._delivery: Final = delivery

    async def manifest(
        self,
        name: RepositoryName,
        reference: Reference,
        *,
        accept: Accept = ACCEPTS_ANYTHING,
        for_engine: bool = False,
    ) -> ManifestAnswer:
        """Resolve a reference; an engine gets the image in its best form."""
        found = await self._resolver.resolve(name, reference, accept)
        data = found.data
        if for_engine:
            data = await self._delivery.best_form(found)
        elif isinstance(found.document, ImageManifest) and found.provenance.is_in_registry:
            await self._locator.locate_once(name, found.document, found.near, from_origin=True)
        return ManifestAnswer(
            digest=digest_of(data),
            media_type=media_type_of(data),
            data=data,
            source=found.provenance.source,
            warning=found.warning,
        )

    async def blob_size(self, name: RepositoryName, digest: Digest) -> int:
        """The size of a blob: as its manifest says, as it has here, or as the origin says."""
        here = await self._local.sizes([digest])
        return (await self._request(name, digest, here.get(digest))).size_bytes

    @asynccontextmanager
    async def blob(self, name: RepositoryName, digest: Digest) -> AsyncIterator[OpenBlob]:
        """Open a blob, and begin the other layers of its image.

        If it does not come, the peers that said that they have it are suspects.
        """
        here = await self._local.sizes([digest])
        request = await self._request(name, digest, here.get(digest))
        self._downloads.expect(self._locator.blobs.upcoming(name, digest))
        was_arriving = True
        try:
            async with self._downloads.open(request, here=digest in here) as blob:
                was_arriving = self._downloads.is_under_way(digest)
                yield blob
        finally:
            if was_arriving and self._downloads.has_failed(digest, request.size_bytes):
                self._lookup.suspect(digest, request.sources)

    async def _request(
        self, name: RepositoryName, digest: Digest, size_here: int | None
    ) -> BlobRequest:
        """How to get a blob. Raises: MirrorError when this host may not have it, or none has it."""
        located = self._locator.blobs.request(name, digest)
        at_hand = located is not None or size_here is not None
        provenance = await self._authorization.check(name, digest, BlobUnknown, at_hand=at_hand)
        if located is not None:
            return located
        is_granted = provenance is Provenance.REGISTRY
        size = size_here
        if size is None and is_granted:
            try:
                size = await self._origins.blob_size(name.registry, name.repository, digest)
            except OriginError as error:
                raise mirror_error(error, BlobUnknown) from error
        if size is None:
            raise offline_error(name, digest)
        return BlobRequest(digest=digest, size_bytes=size, name=name, from_origin=is_granted)

    async def tags(self, name: RepositoryName, *, n: int, last: str = "") -> TagPage:
        """The origin's tags, or while it does not answer those that nodes hold images under."""
        try:
            page = await self._origins.tags(name.registry, name.repository, n=n, last=last)
            return TagPage(tags=page.tags, more=page.more)
        except OriginError as error:
            prefix = familiar_name(str(name)) + ":"
            known = await self._reads(lambda queries: queries.tags_in(prefix))
            tags = sorted(tag.removeprefix(prefix) for tag in known)
            tags = [tag for tag in tags if tag > last]
            if not tags:
                raise mirror_error(error, NameUnknown) from error
            return TagPage(
                tags=tags[:n],
                more=len(tags) > n,
                source="peers",
                warning=f"{error}; these are the tags that nodes have",
            )
