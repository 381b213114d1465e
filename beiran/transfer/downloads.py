"""Fetch blobs, each once however many want it, and open them while they arrive.

The first request for a blob begins its ``BlobDownload``; later ones join it. When its last reader
leaves, it goes on for ``LINGER_S``, for engines come back with a ``Range``. ``SwarmDriver`` fetches
the bytes into a partial blob of the cache, verifies them as a whole, and ends the download. Bytes
of a download that is given up stay on disk.
"""

import logging
import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Final

import trio

from beiran.cache.blob_cache import BlobCache
from beiran.cache.errors import BlobMissing, BlobRefused, CacheFull
from beiran.cache.partial_blob import PartialBlob
from beiran.engine.interface import BlobReader
from beiran.errors import BeiranError
from beiran.http.messages import FileSlice
from beiran.ids import Digest, digest_text
from beiran.mirror.backend import OpenBlob
from beiran.mirror.errors import BlobUnknown, Unavailable
from beiran.swarm.download import Progress
from beiran.swarm.pieces import cut
from beiran.transfer.blob_download import BlobDownload, BlobRequest
from beiran.transfer.local_blobs import LocalBlobs
from beiran.transfer.swarm_driver import SwarmDriver

LINGER_S: Final = 10.0
"""How long a download goes on after its last reader has left. Docker asks again for the rest of a
blob that broke off within 5 s (its retries start at that interval). Chosen, not measured."""

EXPECT_S: Final = 30.0
"""The same for the other layers of an image of which the engine has asked for one. Docker fetches 3
layers at a time, so it asks for the next one only when one of these has arrived. Chosen."""

EVIDENCE_S: Final = 2.0
"""How long opening waits for the first bytes, or for the news that no source has any. Until then a
failure can be answered with a status; the mirror's own limit (``BLOB_HEAD_S_MAX``, 5 s) follows."""

_log: Final = logging.getLogger(__name__)


class Downloads:
    """Fetches blobs into the cache and opens them.

    Args:
      nursery: runs what goes on after a reader has left.
    """

    def __init__(
        self, cache: BlobCache, local: LocalBlobs, driver: SwarmDriver, nursery: trio.Nursery
    ) -> None:
        self._cache: Final = cache
        self._local: Final = local
        self._driver: Final = driver
        self._nursery: Final = nursery
        self._beginning: dict[Digest, trio.Lock] = {}

    def is_under_way(self, digest: Digest) -> bool:
        """Whether a blob is being fetched now."""
        return digest in self._driver.downloads

    def is_cached(self, digest: Digest) -> bool:
        """Whether a blob is in the cache."""
        return self._cache.size(digest) is not None

    def has_failed(self, digest: Digest, size_bytes: int) -> bool:
        """Whether a blob that was to come has not, though the cache has room for it."""
        came_or_comes = self.is_cached(digest) or self.is_under_way(digest)
        return not came_or_comes and self._cache.has_room(size_bytes)

    @property
    def bytes_received(self) -> int:
        """Bytes of blobs that came from peers and origins since the start."""
        counters = self._driver.counters
        return counters.peer_bytes_received + counters.origin_bytes_received

    def progress(self, digest: Digest) -> Progress | None:
        """How far the download of a blob is, or was when it ended a moment ago."""
        return self._driver.node.progress(digest)

    def rate(self, digest: Digest) -> float:
        """Bytes per second that arrive of a blob now, from all sources together."""
        download = self._driver.downloads.get(digest)
        if download is None:
            return 0.0
        return sum(download.rate(source) for source in download.rates)

    def expect(self, upcoming: Iterable[BlobRequest]) -> None:
        """Begin those that are not here: the engine is about to ask for them."""
        missing = [
            request
            for request in upcoming
            if not self.is_under_way(request.digest)
            and not self.is_cached(request.digest)
            and self._cache.has_room(request.size_bytes)
        ]
        if missing:
            self._nursery.start_soon(self._expect, missing)

    async def _expect(self, requests: Sequence[BlobRequest]) -> None:
        here = await self._local.sizes(request.digest for request in requests)
        for request in requests:
            if request.digest not in here:
                self._nursery.start_soon(self._fetch_expected, request)

    async def _fetch_expected(self, request: BlobRequest) -> None:
        try:
            async with self.fetching(request):
                await trio.sleep(EXPECT_S)
        except BeiranError as error:
            _log.debug("%s: %s", digest_text(request.digest), error)

    @asynccontextmanager
    async def fetching(self, request: BlobRequest) -> AsyncIterator[BlobDownload | None]:
        """Fetch a blob that is not here; it stays in the cache while the block runs.

        Yields: its download; None when the blob is in the cache by now.
        Raises: MirrorError when there is no room for it.
        """
        with self._cache.pin([request.digest]):
            download = await self._get(request)
            if download is None:
                yield None
                return
            download.readers += 1
            try:
                yield download
            finally:
                download.readers -= 1
                if not download.readers and not download.ended:
                    self._nursery.start_soon(self._linger, download)

    async def read(self, request: BlobRequest) -> bytes:
        """All bytes of a small blob that is not here. Raises: MirrorError."""
        async with self.open(request) as blob:
            return b"".join([chunk async for chunk in blob.chunks(0, blob.size_bytes)])

    @asynccontextmanager
    async def open(self, request: BlobRequest, *, here: bool = False) -> AsyncIterator[OpenBlob]:
        """Open a blob, on this host or on its way.

        Args:
          here: it was on this host a moment ago. If it has gone since, it is fetched.

        Raises: MirrorError.
        """
        async with AsyncExitStack() as stack:
            yield await self._open(stack, request, here=here)

    async def _open(self, stack: AsyncExitStack, request: BlobRequest, *, here: bool) -> OpenBlob:
        if here:
            with suppress(BlobUnknown):
                return LocalBlob(await stack.enter_async_context(self._local.open(request.digest)))
        download = await stack.enter_async_context(self.fetching(request))
        if download is not None:
            with trio.move_on_after(EVIDENCE_S):
                await download.first_bytes.wait()
            download.check()
            if not download.ended:
                return ArrivingBlob(download, self._local)
        return LocalBlob(await stack.enter_async_context(self._local.open(request.digest)))

    # --- the life of a download -------------------------------------------------------------

    async def _get(self, request: BlobRequest) -> BlobDownload | None:
        """Join the download of a blob, or begin it; None when the blob is in the cache."""
        lock = self._beginning.setdefault(request.digest, trio.Lock())
        try:
            async with lock:
                download = self._driver.downloads.get(request.digest)
                if download is None:
                    return await self._begin(request)
        finally:
            if not lock.locked():
                self._beginning.pop(request.digest, None)
        if download.size_bytes != request.size_bytes:
            raise Unavailable(
                f"{digest_text(request.digest)} is being fetched with another size, "
                f"{download.size_bytes} bytes"
            )
        self._driver.want(download, request)
        return download

    async def _begin(self, request: BlobRequest) -> BlobDownload | None:
        digest = request.digest
        try:
            partial = await self._cache.partial(digest, request.size_bytes)
        except BlobRefused as error:
            if self.is_cached(digest):
                return None
            raise Unavailable(str(error)) from error
        except (CacheFull, OSError) as error:
            raise Unavailable(f"no room for {digest_text(digest)}: {error}") from error
        try:
            held = await _held_pieces(partial)
        except BaseException as error:
            partial.close()
            if isinstance(error, BlobMissing | OSError):
                raise Unavailable(f"{digest_text(digest)}: {error}") from error
            raise
        download = BlobDownload(request, partial)
        self._driver.withdraw(digest)  # the core may still offer a copy that was evicted
        self._driver.want(download, request, held=held)
        return download

    async def _linger(self, download: BlobDownload) -> None:
        await trio.sleep(LINGER_S)
        if not download.readers:
            self._driver.give_up(download, Unavailable("the last reader left"))


async def _held_pieces(partial: PartialBlob) -> dict[int, bytes]:
    """The BLAKE3 of each piece that an earlier download left. Raises: BlobMissing; OSError."""
    pieces = cut(partial.size_bytes)
    held = {}
    for piece in range(pieces.count):
        start, end = pieces.start(piece), pieces.end(piece)
        if partial.held.covers(start, end):
            held[piece] = await partial.blake3(start, end)
    return held


class LocalBlob:
    """A blob of this host, as the mirror's ``OpenBlob``."""

    def __init__(self, reader: BlobReader) -> None:
        self._reader = reader

    @property
    def size_bytes(self) -> int:
        """Length of the blob."""
        return self._reader.size_bytes

    def file(self, start: int, end: int) -> FileSlice | None:
        """These bytes of a file; None where the engine puts the blob together."""
        at = self._reader.file
        if at is None:
            return None
        return FileSlice(
            descriptor=os.dup(at.descriptor), start=at.start + start, length=end - start
        )

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """These bytes."""
        return self._reader.chunks(start, end)


class ArrivingBlob:
    """A blob in flight, as the mirror's ``OpenBlob``.

    ``file`` gives bytes as far as the trusted prefix reaches: those that this node has from the
    origin. ``chunks`` gives bytes once the whole is verified.
    """

    def __init__(self, download: BlobDownload, local: LocalBlobs) -> None:
        self._download = download
        self._local = local

    @property
    def size_bytes(self) -> int:
        """Length of the blob."""
        return self._download.size_bytes

    def file(self, start: int, end: int) -> FileSlice | None:
        """These bytes of the partial file, gated; None when its file has been closed."""
        partial = self._download.partial
        if partial.ended.is_set():
            return None

        async def gate(position: int, until: int) -> int:
            return min(until, await partial.wait_for_prefix(position + 1))

        return FileSlice(
            descriptor=os.dup(partial.descriptor), start=start, length=end - start, gate=gate
        )

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """These bytes, once the blob is verified. Raises: MirrorError when it will not be."""
        await self._download.whole()
        async with self._local.open(self._download.digest) as reader:
            async for chunk in reader.chunks(start, end):
                yield chunk
