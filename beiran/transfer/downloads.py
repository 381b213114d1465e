"""Blobs on their way here, and blobs that are here: whoever needs one asks this.

One blob is fetched once, however many want it: the first who asks begins it, the last who leaves
ends it a little later (engines come back with a Range, and what has come is kept on disk). Which
bytes come from where the swarm decides (``swarm_driver``); they are written into a partial blob of
the cache, verified as a whole, and stay in the cache.
"""

import logging
import os
from collections import deque
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio
from msgspec import Struct

from beiran.cache.blob_cache import BlobCache, BlobFile
from beiran.cache.errors import BlobMissing, BlobRefused, CacheFull
from beiran.cache.partial_blob import PartialBlob
from beiran.clock import now_text
from beiran.engine import interface as contract
from beiran.errors import BeiranError, DataError, EngineUnavailable, NotFound
from beiran.http.messages import FileSlice
from beiran.ids import Digest, NodeId, digest_text
from beiran.mirror.backend import (
    BlobReader,
    BlobUnknown,
    LibraryError,
    RepositoryName,
    Unavailable,
)
from beiran.swarm.download import Progress
from beiran.swarm.effects import BlobStuck
from beiran.swarm.pieces import cut
from beiran.transfer.swarm_driver import SwarmDriver

LINGER_S: Final = 10.0
"""A blob that nobody waits for any more is fetched on for so long; then what came is kept."""
EXPECT_S: Final = 30.0
"""The same for the layers of an image of which the engine has asked for one."""
EVIDENCE_S: Final = 2.0
"""So long the head of an answer waits for the first bytes, or for the news that there are none."""
READ_BYTES: Final = 1024 * 1024
RATE_S: Final = 2.0
"""Rates are told of so long a time."""

_log: Final = logging.getLogger(__name__)


class Wanted(Struct, frozen=True, kw_only=True):
    """A blob to be had.

    Attributes:
      name: the repository in which an origin has it, if ``from_origin``.
      sources: peers that are known to have it.
      rank: which is wanted first of several, the lowest.
      manifest: it is asked of the origin as a manifest, not as a blob.
    """

    digest: Digest
    size_bytes: int
    name: RepositoryName
    from_origin: bool = False
    sources: tuple[NodeId, ...] = ()
    rank: int = 0
    manifest: bool = False


class Transfer:
    """One blob on its way.

    Attributes:
      partial: what has come of it; None when it was here already.
      evidence: set when the first bytes are here, or when it is known that none will be.
    """

    def __init__(self, wanted: Wanted, partial: PartialBlob | None) -> None:
        self.wanted: Final = wanted
        self.partial: Final = partial
        self.users = 0
        self.evidence: Final = trio.Event()
        self._ended: Final = trio.Event()
        self._failure: LibraryError | None = None
        self.started_at: Final = now_text()
        held = partial.held_bytes if partial is not None else 0
        self._seen = deque([(trio.current_time(), held)])
        if partial is None or partial.verified:
            self.finish()

    @property
    def ended(self) -> bool:
        """Whether it is whole and verified, or given up."""
        return self._ended.is_set()

    async def whole(self) -> None:
        """Wait until it is whole and verified. Raises: LibraryError when it will not be."""
        await self._ended.wait()
        self.check()

    def rate(self, held_bytes: int, now: float) -> float:
        """Bytes per second since about ``RATE_S`` ago."""
        while len(self._seen) > 1 and now - self._seen[1][0] >= RATE_S:
            self._seen.popleft()
        if now - self._seen[-1][0] >= RATE_S / 10:
            self._seen.append((now, held_bytes))
        at, bytes_then = self._seen[0]
        return (held_bytes - bytes_then) / (now - at) if now > at else 0.0

    def check(self) -> None:
        """Raises: LibraryError when it was given up."""
        if self._failure is not None:
            raise self._failure

    def finish(self, failure: LibraryError | None = None) -> None:
        """It is whole and verified, or given up for this reason."""
        if not self.ended:
            self._failure = failure
            self.evidence.set()
            self._ended.set()


class Transfers:
    """Fetches blobs, each once, and opens them."""

    def __init__(self, cache: BlobCache, engine: contract.Engine, driver: SwarmDriver) -> None:
        self._cache: Final = cache
        self._engine: Final = engine
        self._driver: Final = driver
        self._going: dict[Digest, Transfer] = {}
        self._beginning: dict[Digest, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None
        self.bytes_from_cache = 0
        cache.on_gone = driver.withdraw
        driver.on_accepted = self._accepted
        driver.on_complete = self._complete
        driver.on_stuck = self._stuck

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Fetch until cancelled; what came is kept then."""
        for digest in self._cache.digests:
            size = self._cache.size(digest)
            if size is not None:
                self._driver.provide(digest, size)
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                task_status.started()
                await trio.sleep_forever()
        finally:
            self._nursery = None
            for transfer in list(self._going.values()):
                if transfer.partial is not None:
                    transfer.partial.close()
                transfer.finish(Unavailable("the agent is stopping"))

    @property
    def going(self) -> list[Transfer]:
        """Those that are under way."""
        return list(self._going.values())

    def is_under_way(self, digest: Digest) -> bool:
        """Whether a blob is being fetched now."""
        return digest in self._going

    def is_cached(self, digest: Digest) -> bool:
        """Whether a blob is in the cache."""
        return self._cache.size(digest) is not None

    @property
    def bytes_received(self) -> int:
        """Bytes of blobs that came from peers and origins since the start."""
        counters = self._driver.counters
        return counters.peer_bytes_received + counters.origin_bytes_received

    def progress(self, digest: Digest) -> Progress | None:
        """How far a blob is that is fetched, or was a moment ago."""
        return self._driver.node.progress(digest)

    def rate(self, digest: Digest) -> float:
        """Bytes per second that came of a blob on its way, lately."""
        transfer = self._going.get(digest)
        progress = self.progress(digest)
        if transfer is None or progress is None:
            return 0.0
        return transfer.rate(progress.held_bytes, trio.current_time())

    async def size_here(self, digest: Digest) -> int | None:
        """The size of a blob that is here: in the cache or in the engine."""
        size = self._cache.size(digest)
        if size is None:
            size = (await self._engine.find_blobs([digest])).get(digest)
        return size

    def expect(self, upcoming: Iterable[Wanted]) -> None:
        """Begin these, for they will be asked for very soon."""
        for wanted in upcoming:
            if (
                self._nursery is not None
                and wanted.digest not in self._going
                and self._cache.size(wanted.digest) is None
                and self._cache.has_room(wanted.size_bytes)
            ):
                self._nursery.start_soon(self._expect, wanted)

    async def _expect(self, wanted: Wanted) -> None:
        try:
            if await self.size_here(wanted.digest) is None:
                async with self.fetching(wanted):
                    await trio.sleep(EXPECT_S)
        except BeiranError as error:
            _log.debug("%s: %s", digest_text(wanted.digest), error)

    @asynccontextmanager
    async def fetching(self, wanted: Wanted) -> AsyncIterator[Transfer]:
        """Have a blob fetched; of one that is here already the transfer has ended.

        Raises: LibraryError when there is no room for it.
        """
        transfer = await self._begin(wanted)
        transfer.users += 1
        try:
            with self._cache.pin([wanted.digest]):
                yield transfer
        finally:
            transfer.users -= 1
            if not transfer.users and not transfer.ended and self._nursery is not None:
                self._nursery.start_soon(self._linger, transfer)

    async def read(self, wanted: Wanted) -> bytes:
        """A small blob, whole. Raises: LibraryError."""
        async with self.open(wanted) as reader:
            parts = [chunk async for chunk in reader.chunks(0, reader.size_bytes)]
        return b"".join(parts)

    @asynccontextmanager
    async def open(self, wanted: Wanted) -> AsyncIterator[BlobReader]:
        """Open a blob, here or on its way. As ``Library.blob``.

        Raises: LibraryError.
        """
        if await self.size_here(wanted.digest) is not None:
            async with AsyncExitStack() as stack:
                try:
                    here = await stack.enter_async_context(self.open_here(wanted.digest))
                except BlobUnknown:
                    pass  # gone just now: fetch it
                else:
                    yield _Here(here)
                    return
        async with self.fetching(wanted) as transfer:
            with trio.move_on_after(EVIDENCE_S):
                await transfer.evidence.wait()
            transfer.check()
            if transfer.ended:
                async with self.open_here(wanted.digest) as here:
                    yield _Here(here)
            else:
                assert transfer.partial is not None
                yield _Coming(self, transfer, transfer.partial)

    @asynccontextmanager
    async def open_here(self, digest: Digest) -> AsyncIterator[contract.BlobReader]:
        """Open a blob that is in the cache or in the engine.

        Raises: BlobUnknown when it is in neither; LibraryError.
        """
        try:
            file = self._cache.open_file(digest)
        except BlobMissing:
            pass
        else:
            self.bytes_from_cache += file.size_bytes
            with file:
                yield _Cached(file)
            return
        async with AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(self._engine.open_blob(digest))
            except NotFound:
                raise BlobUnknown(f"{digest_text(digest)} is not here") from None
            except (EngineUnavailable, DataError) as error:
                raise Unavailable(f"{digest_text(digest)}: {error}") from error
            yield reader

    # --- the life of a transfer -------------------------------------------------------------

    async def _begin(self, wanted: Wanted) -> Transfer:
        lock = self._beginning.setdefault(wanted.digest, trio.Lock())
        try:
            async with lock:
                going = self._going.get(wanted.digest)
                if going is None:
                    return await self._begin_new(wanted)
        finally:
            if not lock.locked():
                self._beginning.pop(wanted.digest, None)
        if going.wanted.size_bytes != wanted.size_bytes:
            raise Unavailable(f"{digest_text(wanted.digest)} is coming with another size just now")
        if going.partial is not None and not going.ended:
            self._want(wanted, going.partial, {})
        return going

    async def _begin_new(self, wanted: Wanted) -> Transfer:
        if await self.size_here(wanted.digest) is not None:
            return Transfer(wanted, None)
        try:
            partial = await self._cache.partial(wanted.digest, wanted.size_bytes)
        except BlobRefused as error:
            if self._cache.size(wanted.digest) is None:
                raise Unavailable(str(error)) from error
            return Transfer(wanted, None)
        except (CacheFull, OSError) as error:
            raise Unavailable(f"no room for {digest_text(wanted.digest)}: {error}") from error
        transfer = Transfer(wanted, partial)
        if transfer.ended:
            return transfer
        try:
            held = await _held(partial)
        except BaseException as error:
            partial.close()
            if isinstance(error, BlobMissing | OSError):
                raise Unavailable(f"{digest_text(wanted.digest)}: {error}") from error
            raise
        self._going[wanted.digest] = transfer
        self._driver.withdraw(wanted.digest)  # what was here a moment ago may be evicted
        self._want(wanted, partial, held)
        return transfer

    def _want(self, wanted: Wanted, partial: PartialBlob, held: Mapping[int, bytes]) -> None:
        self._driver.want(
            wanted.digest,
            wanted.size_bytes,
            partial,
            name=wanted.name,
            from_origin=wanted.from_origin,
            sources=wanted.sources,
            rank=wanted.rank,
            manifest=wanted.manifest,
            held=held,
        )

    async def _linger(self, transfer: Transfer) -> None:
        await trio.sleep(LINGER_S)
        if not transfer.users and not transfer.ended:
            self._give_up(transfer, Unavailable("nobody waited for it any more"))

    def _give_up(self, transfer: Transfer, failure: LibraryError) -> None:
        if self._going.get(transfer.wanted.digest) is not transfer:
            return  # that was done already, and somebody may have begun anew
        del self._going[transfer.wanted.digest]
        self._driver.drop(transfer.wanted.digest)
        if transfer.partial is not None:
            transfer.partial.close()
        transfer.finish(failure)

    def _accepted(self, digest: Digest) -> None:
        transfer = self._going.get(digest)
        if transfer is not None:
            transfer.evidence.set()

    def _complete(self, digest: Digest) -> None:
        transfer = self._going.get(digest)
        if transfer is not None and self._nursery is not None:
            self._nursery.start_soon(self._verify, transfer)

    async def _verify(self, transfer: Transfer) -> None:
        digest = transfer.wanted.digest
        assert transfer.partial is not None
        try:
            right = await transfer.partial.verify()
        except OSError as error:
            self._give_up(transfer, Unavailable(f"{digest_text(digest)}: {error}"))
            return
        if self._going.get(digest) is not transfer:
            return
        if right:
            del self._going[digest]
            self._driver.verified(digest)
            transfer.finish()
        else:
            _log.warning("%s is damaged: looking for the piece that is wrong", digest_text(digest))
            self._driver.damaged(digest)

    def _stuck(self, stuck: BlobStuck) -> None:
        transfer = self._going.get(stuck.digest)
        if transfer is not None:
            self._give_up(transfer, self._driver.why_stuck(stuck))


async def _held(partial: PartialBlob) -> dict[int, bytes]:
    """The BLAKE3 of each piece that is there from before. Raises: BlobMissing; OSError."""
    pieces = cut(partial.size_bytes)
    held = {}
    for piece in range(pieces.count):
        start, end = pieces.start(piece), pieces.end(piece)
        if partial.held.covers(start, end):
            held[piece] = await partial.blake3(start, end)
    return held


class _Cached:
    """A blob of the cache, as ``contract.BlobReader``."""

    def __init__(self, file: BlobFile) -> None:
        self._file = file
        self.size_bytes = file.size_bytes
        self.file: contract.FileRange | None = contract.FileRange(file.descriptor, 0, checked=True)

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        while start < end:
            data = await trio.to_thread.run_sync(
                os.pread, self._file.descriptor, min(READ_BYTES, end - start), start
            )
            if not data:
                raise DataError(f"{digest_text(self._file.digest)} ends at byte {start}")
            yield data
            start += len(data)


class _Here:
    """A blob that is here, as ``library.BlobReader``."""

    def __init__(self, reader: contract.BlobReader) -> None:
        self._reader = reader

    @property
    def size_bytes(self) -> int:
        return self._reader.size_bytes

    def file(self, start: int, end: int) -> FileSlice | None:
        at = self._reader.file
        if at is None:
            return None
        return FileSlice(
            descriptor=os.dup(at.descriptor), start=at.start + start, length=end - start
        )

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        return self._reader.chunks(start, end)


class _Coming:
    """A blob on its way, as ``library.BlobReader``: sent as far as it may be handed on."""

    def __init__(self, transfers: Transfers, transfer: Transfer, partial: PartialBlob) -> None:
        self._transfers = transfers
        self._transfer = transfer
        self._partial = partial

    @property
    def size_bytes(self) -> int:
        return self._transfer.wanted.size_bytes

    def file(self, start: int, end: int) -> FileSlice | None:
        partial = self._partial
        if partial.ended.is_set():
            return None

        async def gate(position: int, until: int) -> int:
            return min(until, await partial.wait_for_prefix(position + 1))

        return FileSlice(
            descriptor=os.dup(partial.descriptor), start=start, length=end - start, gate=gate
        )

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        await self._transfer.whole()
        async with self._transfers.open_here(self._transfer.wanted.digest) as here:
            async for chunk in here.chunks(start, end):
                yield chunk
