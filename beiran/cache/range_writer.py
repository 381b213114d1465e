"""Write the bytes of a range into a blob in flight as they arrive, piece by piece.

The receiver puts bytes straight into ``space()``. Each ``CHUNK_BYTES`` go to a thread, which feeds
the piece's BLAKE3 and writes. When a piece is complete its hash is judged, and only then is the
piece held. A writer needs one buffer of memory. Where two fetches bring the same piece, the second
has no claim: it keeps the piece in memory until it is judged, and takes the range over if it is
complete first.
"""

from collections.abc import Callable
from types import TracebackType
from typing import Final

import trio
from blake3 import blake3

from beiran.cache.claims import Claim
from beiran.cache.errors import BlobMissing
from beiran.cache.partial_blob import PartialBlob

CHUNK_BYTES: Final = 2**20
"""Bytes for each hop to a thread. Smaller chunks cost more hops, larger ones more memory for each
fetch. docs/explanation/benchmarks.md measures receiving with it."""

BUFFERS_KEPT_MAX: Final = 16
"""As many as fetches run at a time; 16 MiB."""

Judge = Callable[[int, int, bytes], bool]
"""Called with each complete piece: start, end, BLAKE3. Returns: whether to hold it."""


class Buffers:
    """Buffers of ``CHUNK_BYTES`` for reuse: a fresh one costs a page fault for every 4 KiB."""

    def __init__(self) -> None:
        self._free: list[bytearray] = []

    def take(self) -> bytearray:
        """A buffer for the caller alone."""
        return self._free.pop() if self._free else bytearray(CHUNK_BYTES)

    def give_back(self, buffer: bytearray) -> None:
        """The caller no longer uses a buffer."""
        if len(self._free) < BUFFERS_KEPT_MAX:
            self._free.append(buffer)


class RangeWriter:
    """Takes the bytes ``start`` to ``end`` of a blob, in order. Use it in a ``with`` block.

    If ``start`` lies within a piece, that piece is hashed from the file when it is complete. If the
    bytes end within a piece, they stay in the file to the last one, unheld: another fetch continues
    there.

    Attributes:
      position: the next byte to arrive.
      end: the byte after the last.
      written: the bytes from ``start`` up to here are in the file, or were not needed.
    """

    def __init__(
        self,
        partial: PartialBlob,
        start: int,
        end: int,
        *,
        piece_bytes: int,
        judge: Judge,
        buffers: Buffers,
        trusted: bool = False,
    ) -> None:
        if not 0 <= start < end <= partial.size_bytes or piece_bytes < 1:
            raise ValueError(f"no range {start}-{end} in {partial.size_bytes} bytes")
        self._start = start
        self.position = start
        self.end = end
        self.written = start
        self.blob_bytes: Final = partial.size_bytes
        self._partial = partial
        self._piece_bytes = piece_bytes
        self._judge = judge
        self._trusted = trusted
        self._buffers = buffers
        self._buffer = buffers.take()
        self._view = memoryview(self._buffer)
        self._piece = _Piece(partial, start, piece_bytes)

    def __enter__(self) -> "RangeWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.position > self.written:
            rest = self._view[: self.position - self.written]
            if self._piece.keep(self.written, rest):
                self.written = self.position
        self._piece.drop()
        self._view.release()
        self._buffers.give_back(self._buffer)

    @property
    def resume_at(self) -> int:
        """Where another fetch may continue: what is before it is in the file, or was not needed."""
        return self.written if self._piece.in_file else max(self._start, self._piece.start)

    def space(self) -> memoryview:
        """The memory for the next bytes; never empty before the end. Call ``filled`` afterwards."""
        fill = self.position - self.written
        size = min(CHUNK_BYTES, min(self.end, self._piece.end) - self.written)
        return self._view[fill:size]

    async def filled(self, count: int) -> None:
        """``count`` bytes were put into ``space``.

        Raises: CacheFull; BlobMissing when the blob was closed; OSError.
        """
        self.position += count
        due = self.position in (self._piece.end, self.end)
        if due or self.position - self.written == CHUNK_BYTES:
            await self._flush()

    async def write(self, data: bytes | memoryview) -> None:
        """Copy bytes in. Raises: what ``filled`` raises; ValueError for too many."""
        rest = memoryview(data)
        if len(rest) > self.end - self.position:
            raise ValueError(f"{len(rest)} bytes where {self.end - self.position} are due")
        while rest:
            space = self.space()
            count = min(len(space), len(rest))
            space[:count] = rest[:count]
            rest = rest[count:]
            await self.filled(count)

    async def _flush(self) -> None:
        piece = self._piece
        if self._partial.closed:
            raise BlobMissing(f"{self._partial} was closed")
        await piece.add(self.written, self._view[: self.position - self.written])
        if self.position == piece.end:
            await piece.finish(self._judge, self._trusted)
            self._piece = _Piece(self._partial, piece.end, self._piece_bytes)
        self.written = self.position


class _Piece:
    """One piece, or the part of it that this range has.

    Attributes:
      _aside: the piece's bytes, while another fetch has the claim on it.
    """

    def __init__(self, partial: PartialBlob, start: int, piece_bytes: int) -> None:
        self._partial = partial
        self.start = start - start % piece_bytes
        self.end = min(self.start + piece_bytes, partial.size_bytes)
        self._complete = start == self.start
        self._hasher = blake3()
        self._claim: Claim | None = None
        self._aside: list[memoryview | bytes] | None = None
        self._begun = False

    @property
    def in_file(self) -> bool:
        """Whether the bytes that arrived are in the file, and no other fetch's."""
        return self._claim is not None and not self._claim.lost

    async def add(self, start: int, data: memoryview) -> None:
        """Take bytes, in order. ``data`` may be reused when the piece is finished."""
        if not self._begun:
            self._begun = True
            self._claim = self._partial.claim(self.start, self.end)
            if self._claim is None and self._complete and not self._held():
                self._aside = []
        if self._claim is not None:
            hashers = [self._hasher] if self._complete else []
            await self._partial.write(self._claim, start, data, *hashers)
        elif self._aside is not None:
            await trio.to_thread.run_sync(self._hasher.update, data)
            last = start + len(data) == self.end
            self._aside.append(data if last else bytes(data))

    def keep(self, start: int, data: memoryview) -> bool:
        """Write the last bytes of a fetch that ends early. Returns: whether they are written."""
        if not self._begun:
            self._begun = True
            self._claim = self._partial.claim(self.start, self.end)
        if self._claim is None:
            return False
        return self._partial.write_now(self._claim, start, data)

    async def finish(self, judge: Judge, trusted: bool) -> None:
        """The piece is complete: judge it, and hold it."""
        try:
            if self._claim is not None and not self._claim.lost:
                found = self._hasher.digest()
                if not self._complete:
                    found = await self._partial.blake3(self.start, self.end)
                if not self._claim.lost and judge(self.start, self.end, found):
                    self._partial.hold(self.start, self.end, trusted=trusted)
            elif (
                self._aside is not None
                and not self._held()
                and judge(self.start, self.end, self._hasher.digest())
            ):
                await self._partial.put(self.start, self._aside, trusted=trusted)
        finally:
            self.drop()

    def drop(self) -> None:
        """No more bytes of the piece arrive."""
        if self._claim is not None:
            self._partial.unclaim(self._claim)
        self._aside = None

    def _held(self) -> bool:
        return self._partial.held.covers(self.start, self.end)
