"""Blobs that go to other agents: from the cache, from one in flight, from the engine.

Whole blobs and ranges of whole pieces alike; how many go at once the swarm core decides, so that
few are quick instead of many slow (who is told BUSY asks somebody else).
"""

import os
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final

import trio
from msgspec import Struct
from msgspec.structs import replace

from beiran.cache.blob_cache import BlobCache, BlobFile
from beiran.cache.errors import BlobMissing
from beiran.cache.partial_blob import PartialBlob
from beiran.clock import now_text
from beiran.engine.interface import BlobReader, Engine
from beiran.errors import ApiError, DataError, EngineUnavailable, NotFound
from beiran.http.blob_response import (
    ACTIVE_HEADER,
    BLOB_MEDIA_TYPE,
    NODE_HEADER,
    answer_blob,
    limited,
)
from beiran.http.messages import FileSlice, HttpError, Request, Response, content_range, parse_range
from beiran.http.token_bucket import TokenBucket
from beiran.ids import Digest, NodeId, digest_text
from beiran.transfer.swarm_driver import SwarmDriver, UploadPermit

RETRY_AFTER_S: Final = 1
SERVED_KEPT_S: Final = 5.0
"""A peer asks for piece after piece: between two it counts as still being served."""


class Served(Struct):
    """What one node was given of one blob, in however many requests that followed each other."""

    digest: Digest
    node: NodeId
    started_at: str
    bytes_sent: int = 0
    going: int = 0
    last_at: float = 0.0


class _Upload(Struct):
    """One request that is being answered."""

    served: Served | None
    bytes_sent: int = 0


class Uploads:
    """Gives blobs to peers.

    Args:
      node_at: which member asks, by its IP address and what it says of itself; None for somebody
        else (this host's programs).
      at_once_max: set by the operator; None leaves it to the core.
    """

    def __init__(
        self,
        cache: BlobCache,
        engine: Engine,
        driver: SwarmDriver,
        *,
        node_at: Callable[[str, str | None], NodeId | None],
        limiter: TokenBucket,
        at_once_max: int | None,
    ) -> None:
        self._cache: Final = cache
        self._engine: Final = engine
        self._driver: Final = driver
        self._node_at: Final = node_at
        self._limiter: Final = limiter
        self._at_once_max: Final = at_once_max
        self._served: dict[tuple[Digest, NodeId], Served] = {}
        self._going = 0
        self.bytes_served = 0

    def served(self) -> list[Served]:
        """What goes out now, or went a moment ago."""
        now = trio.current_time()
        for key, served in list(self._served.items()):
            if not served.going and now - served.last_at > SERVED_KEPT_S:
                del self._served[key]
        return list(self._served.values())

    async def having(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        """Which of these can be given whole, and their sizes. They are provided from now on."""
        found = {d: size for d in digests if (size := self._cache.size(d)) is not None}
        rest = [digest for digest in digests if digest not in found]
        found |= await self._engine.find_blobs(rest) if rest else {}
        for digest, size in found.items():
            self._driver.provide(digest, size)
        return found

    async def answer(self, request: Request, digest: Digest) -> Response:
        """GET or HEAD of a blob, with or without Range.

        Raises: NotFound; HttpError (416); ApiError 503 when too much is asked for at once.
        """
        blob = self._in_cache(digest)
        if blob is not None:
            response = answer_blob(request, blob, limiter=self._limiter)
            return await self._counted(request, digest, response)
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
            response = self._from_engine(request, digest, reader)
            response.close = stack.pop_all().aclose
            return await self._counted(request, digest, response)
        raise AssertionError("an open blob does not swallow errors")

    def _in_cache(self, digest: Digest) -> BlobFile | PartialBlob | None:
        try:
            return self._cache.open_file(digest)
        except BlobMissing:
            return self._cache.in_flight(digest)

    def _from_engine(self, request: Request, digest: Digest, reader: BlobReader) -> Response:
        start, end, status = 0, reader.size_bytes, 200
        headers = [
            ("Content-Type", BLOB_MEDIA_TYPE),
            ("Docker-Content-Digest", digest_text(digest)),
            ("ETag", f'"{digest_text(digest)}"'),
            ("Accept-Ranges", "bytes"),
        ]
        wanted = parse_range(request.header("range"), end) if request.method == "GET" else None
        if wanted is not None:
            status, (start, end) = 206, wanted
            headers.append(content_range(start, end, reader.size_bytes))
        body: FileSlice | AsyncIterator[bytes]
        at = reader.file
        if at is not None:
            body = FileSlice(
                descriptor=os.dup(at.descriptor),
                start=at.start + start,
                length=end - start,
                gate=limited(self._limiter),
            )
        else:
            body = reader.chunks(start, end)
        return Response(status=status, headers=headers, body=body, length=end - start)

    async def _counted(self, request: Request, digest: Digest, response: Response) -> Response:
        """Count an upload from now until its answer is sent.

        Raises: HttpError (BUSY), and then what the answer holds is freed.
        """
        body = response.body
        if request.method != "GET" or isinstance(body, bytes):
            return response
        # None: a program of this host
        node = self._node_at(request.peer, request.header(NODE_HEADER.lower()))
        permit = None if node is None else self._permit(request, digest, response, node)
        if node is not None and permit is None:
            await _free(response)
            raise HttpError(
                503, "BUSY", "this node gives to others now", [("Retry-After", str(RETRY_AFTER_S))]
            )
        upload = _Upload(None if node is None else self._open(digest, node))
        self._going += 1
        response.body = self._counting(body, upload, permit)
        close_before = response.close

        async def close() -> None:
            self._going -= 1
            if upload.served is not None:
                upload.served.going -= 1
                upload.served.last_at = trio.current_time()
            if permit is not None:
                self._driver.end_upload(permit, upload.bytes_sent)
            if close_before is not None:
                await close_before()

        response.close = close
        return response

    def _permit(
        self, request: Request, digest: Digest, response: Response, node: NodeId
    ) -> UploadPermit | None:
        if self._at_once_max is not None and self._going >= self._at_once_max:
            return None
        said = request.header(ACTIVE_HEADER.lower()) or ""
        active = int(said) if said.isdecimal() and len(said) < 4 else 0
        return self._driver.begin_upload(digest, _first_byte(response), node, active=active)

    def _counting(
        self,
        body: FileSlice | AsyncIterable[bytes],
        upload: _Upload,
        permit: UploadPermit | None,
    ) -> FileSlice | AsyncIterable[bytes]:
        if not isinstance(body, FileSlice):
            return self._count_chunks(body, upload, permit)
        held_back = body.gate

        async def gate(start: int, end: int) -> int:
            if permit is not None:
                await permit.admitted.wait()
            if held_back is not None:
                end = await held_back(start, end)
            self._count(upload, end - start)
            return end

        return replace(body, gate=gate)

    async def _count_chunks(
        self, chunks: AsyncIterable[bytes], upload: _Upload, permit: UploadPermit | None
    ) -> AsyncIterator[bytes]:
        if permit is not None:
            await permit.admitted.wait()
        async for chunk in chunks:
            await self._limiter.take(len(chunk))
            self._count(upload, len(chunk))
            yield chunk

    def _open(self, digest: Digest, node: NodeId) -> Served:
        served = self._served.get((digest, node))
        if served is None:
            self.served()  # forgets the old ones
            served = self._served[(digest, node)] = Served(digest, node, now_text())
        served.going += 1
        return served

    def _count(self, upload: _Upload, count: int) -> None:
        upload.bytes_sent += count
        self.bytes_served += count
        if upload.served is not None:
            upload.served.bytes_sent += count


def _first_byte(response: Response) -> int:
    """Which byte of the blob an answer begins with."""
    for name, value in response.headers:
        if name == "Content-Range":
            return int(value.removeprefix("bytes ").partition("-")[0])
    return 0


async def _free(response: Response) -> None:
    """Free what an answer holds that is not sent."""
    if isinstance(response.body, FileSlice):
        os.close(response.body.descriptor)
    if response.close is not None:
        with trio.CancelScope(shield=True):
            await response.close()
