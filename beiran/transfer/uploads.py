"""Serve blobs to other agents: from the cache, from a blob in flight, from the engine.

``agent/api/peer_routes.py`` calls ``Uploads.answer``. An answer is a whole blob or a range of whole
pieces. The swarm core (``swarm/upload_slots.py``) decides how many peers this node serves at once:
a few receive at full speed, and the others get BUSY and ask another node.
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import trio
from msgspec import Struct, field
from msgspec.structs import replace

from beiran.cache.blob_cache import BlobCache, BlobFile
from beiran.cache.errors import BlobMissing
from beiran.cache.partial_blob import PartialBlob
from beiran.clock import now_text
from beiran.engine.interface import BlobReader, Engine
from beiran.errors import ApiError, DataError, EngineUnavailable, NotFound
from beiran.http.blob_response import (
    ACTIVE_HEADER,
    NODE_HEADER,
    answer_blob,
    blob_headers,
    limited,
)
from beiran.http.messages import FileSlice, HttpError, Request, Response
from beiran.http.ranges import Ranged, entity_tag, ranged
from beiran.http.token_bucket import TokenBucket
from beiran.ids import Digest, NodeId, digest_text
from beiran.sansio.rate import Rate
from beiran.transfer.local_blobs import LocalBlobs
from beiran.transfer.swarm_driver import SwarmDriver, UploadPermit

RETRY_AFTER_S: Final = 1
"""The least that ``Retry-After`` can say. A peer's core asks another node meanwhile."""

SERVED_KEPT_S: Final = 5.0
"""How long a peer counts as being served after its last request. A peer fetches piece after piece,
each by a request of its own; without this its row of ``/transfers`` would come and go. Chosen."""


class Served(Struct):
    """What one node received of one blob, in requests that followed each other."""

    digest: Digest
    node: NodeId
    started_at: str
    bytes_sent: int = 0
    requests_open: int = 0
    last_at: float = 0.0
    rate: Rate = field(default_factory=Rate)

    def rate_now(self) -> float:
        """Bytes per second that are sent now."""
        return self.rate.at(trio.current_time())


class _Upload(Struct):
    """One request that is being answered. ``served`` is None for a program of this host."""

    served: Served | None
    permit: UploadPermit | None
    bytes_sent: int = 0


class Uploads:
    """Serves blobs to peers.

    Args:
      node_at: the member that asks, by its IP address and its ``Beiran-Node`` header; None for a
        program of this host.
      limiter: the limit on what all peers together are sent.
      at_once_max: the operator's limit on answers at a time; None leaves it to the core.
    """

    def __init__(
        self,
        cache: BlobCache,
        engine: Engine,
        local: LocalBlobs,
        driver: SwarmDriver,
        *,
        node_at: Callable[[str, str | None], NodeId | None],
        limiter: TokenBucket,
        at_once_max: int | None,
    ) -> None:
        self._cache: Final = cache
        self._engine: Final = engine
        self._local: Final = local
        self._driver: Final = driver
        self._node_at: Final = node_at
        self._limiter: Final = limiter
        self._at_once_max: Final = at_once_max
        self._served: dict[tuple[Digest, NodeId], Served] = {}
        self._open_count = 0
        self.bytes_served = 0

    def served(self) -> list[Served]:
        """What is sent now, or was within ``SERVED_KEPT_S``."""
        now = trio.current_time()
        for key, served in list(self._served.items()):
            if not served.requests_open and now - served.last_at > SERVED_KEPT_S:
                del self._served[key]
        return list(self._served.values())

    async def having(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        """Which of these are here whole, with their sizes. From now on the core offers them."""
        found = await self._local.sizes(digests)
        for digest, size in found.items():
            self._driver.provide(digest, size)
        return found

    async def answer(self, request: Request, digest: Digest) -> Response:
        """Answer GET or HEAD of a blob, with or without ``Range``.

        Raises: NotFound; HttpError (416); ApiError 503 when this node serves too many peers.
        """
        blob = self._in_cache(digest)
        if blob is not None:
            response = answer_blob(request, blob, limiter=self._limiter)
            assert isinstance(response.body, FileSlice)
            return await self._counted(request, digest, response, response.body.start)
        async with AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(self._engine.open_blob(digest))
            except NotFound:
                self._driver.withdraw(digest)
                raise NotFound("BLOB_UNKNOWN", f"{digest_text(digest)} is not here") from None
            except EngineUnavailable as error:
                raise ApiError(503, "ENGINE_UNAVAILABLE", str(error)) from error
            except DataError as error:
                raise ApiError(500, "BLOB_DAMAGED", str(error)) from error
            found = ranged(request, reader.size_bytes, entity_tag(digest))
            response = self._from_engine(digest, reader, found)
            response.close = stack.pop_all().aclose
            return await self._counted(request, digest, response, found.start)
        raise AssertionError("an open blob does not swallow errors")

    def _in_cache(self, digest: Digest) -> BlobFile | PartialBlob | None:
        try:
            return self._cache.open_file(digest)
        except BlobMissing:
            return self._cache.in_flight(digest)

    def _from_engine(self, digest: Digest, reader: BlobReader, found: Ranged) -> Response:
        body: FileSlice | AsyncIterator[bytes]
        length = found.end - found.start
        at = reader.file
        if at is not None:
            body = FileSlice(
                descriptor=os.dup(at.descriptor),
                start=at.start + found.start,
                length=length,
                gate=limited(self._limiter),
            )
        else:
            body = reader.chunks(found.start, found.end)
        return Response(
            status=found.status,
            headers=[*blob_headers(digest), *found.headers],
            body=body,
            length=length,
        )

    async def _counted(
        self, request: Request, digest: Digest, response: Response, first_byte: int
    ) -> Response:
        """Count an upload from now until its answer is sent.

        Raises: HttpError (BUSY), after freeing what the answer holds.
        """
        body = response.body
        if request.method != "GET" or isinstance(body, bytes):
            return response
        node = self._node_at(request.peer, request.header(NODE_HEADER.lower()))
        permit = None if node is None else self._permit(request, digest, first_byte, node)
        if node is not None and permit is None:
            await _free(response)
            raise HttpError(
                503,
                "BUSY",
                "this node serves as many peers as it may; ask another",
                [("Retry-After", str(RETRY_AFTER_S))],
            )
        upload = _Upload(None if node is None else self._open(digest, node), permit)
        self._open_count += 1
        response.body = self._counting(body, upload)
        close_before = response.close

        async def close() -> None:
            self._open_count -= 1
            if upload.served is not None:
                upload.served.requests_open -= 1
                upload.served.last_at = trio.current_time()
            if permit is not None:
                self._driver.end_upload(permit, upload.bytes_sent)
            if close_before is not None:
                await close_before()

        response.close = close
        return response

    def _permit(
        self, request: Request, digest: Digest, first_byte: int, node: NodeId
    ) -> UploadPermit | None:
        if self._at_once_max is not None and self._open_count >= self._at_once_max:
            return None
        said = request.header(ACTIVE_HEADER.lower()) or ""
        active = int(said) if said.isdecimal() and len(said) < 4 else 0
        return self._driver.begin_upload(digest, first_byte, node, active=active)

    def _counting(
        self, body: FileSlice | AsyncIterable[bytes], upload: _Upload
    ) -> FileSlice | AsyncIterable[bytes]:
        if not isinstance(body, FileSlice):
            return self._count_chunks(body, upload)
        held_back = body.gate

        async def gate(start: int, end: int) -> int:
            if upload.permit is not None:
                await upload.permit.admitted.wait()
            if held_back is not None:
                end = await held_back(start, end)
            self._count(upload, end - start)
            return end

        return replace(body, gate=gate)

    async def _count_chunks(
        self, chunks: AsyncIterable[bytes], upload: _Upload
    ) -> AsyncIterator[bytes]:
        if upload.permit is not None:
            await upload.permit.admitted.wait()
        async for chunk in chunks:
            await self._limiter.take(len(chunk))
            self._count(upload, len(chunk))
            yield chunk

    def _open(self, digest: Digest, node: NodeId) -> Served:
        served = self._served.get((digest, node))
        if served is None:
            self.served()  # drops those that ended
            served = self._served[(digest, node)] = Served(digest, node, now_text())
        served.requests_open += 1
        return served

    def _count(self, upload: _Upload, count: int) -> None:
        upload.bytes_sent += count
        self.bytes_served += count
        if upload.served is not None:
            upload.served.bytes_sent += count
            upload.served.rate.add(count, trio.current_time())


async def _free(response: Response) -> None:
    """Free what an answer holds that is not sent."""
    if isinstance(response.body, FileSlice):
        os.close(response.body.descriptor)
    if response.close is not None:
        with trio.CancelScope(shield=True):
            await response.close()
