"""Read a layer's tar in threads, and hand out no byte of a tar that does not match its diff ID."""

import hashlib
from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Final, Protocol

import trio
from cachetools import FIFOCache

from beiran.errors import DataError
from beiran.ids import Digest, digest_text

READS_AT_ONCE: Final = 8
"""Threads that read layers. More would only compete for one disk. Chosen."""
_VERIFIED_MAX: Final = 4096


class TarSource(Protocol):
    """A layer's tar as it can be read from disk, by blocking calls."""

    @property
    def size_bytes(self) -> int:
        """Length of the tar."""
        ...

    @property
    def identity(self) -> Hashable:
        """Changes when the files do that it is read from."""
        ...

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from ``start`` to ``end``, in chunks of at most a few MiB.

        Raises: DataError when they cannot be read.
        """
        ...

    def close(self) -> None:
        """Close its files."""
        ...


class LayerReaders:
    """Opens layers for reading, and remembers the verified ones."""

    def __init__(self) -> None:
        self.limiter = trio.CapacityLimiter(READS_AT_ONCE)
        self._verified: FIFOCache[Digest, Hashable] = FIFOCache(_VERIFIED_MAX)
        self._lock = Lock()  # of ``_verified``, which threads use

    @contextmanager
    def open(self, digest: Digest, source: TarSource) -> Iterator["VerifiedReader"]:
        """A reader of ``source``, which should be the layer ``digest``; closes it afterwards."""
        try:
            yield VerifiedReader(self, digest, source)
        finally:
            source.close()

    def is_verified(self, digest: Digest, source: TarSource) -> bool:
        """Whether all of it was read before, and the digest was right."""
        with self._lock:
            return self._verified.get(digest) == source.identity

    def set_verified(self, digest: Digest, source: TarSource) -> None:
        """Note that all of it was read, and that the digest is right."""
        with self._lock:
            self._verified[digest] = source.identity


class VerifiedReader:
    """An open layer, an ``interface.LayerReader``.

    When all of it is asked for, the last chunk is held back until the SHA-256 is known. A range
    is given only of a layer that was verified as a whole before: where it was not, it is now
    (about a second per GB), and remembered for as long as its files stay as they are.
    """

    def __init__(self, readers: LayerReaders, digest: Digest, source: TarSource) -> None:
        self._readers = readers
        self._digest = digest
        self._source = source
        self.size_bytes = source.size_bytes

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a range. Raises: DataError; ValueError for a bad range."""
        if not 0 <= start <= end <= self.size_bytes:
            raise ValueError(f"no range {start}-{end} in {self.size_bytes} bytes")
        return in_threads(self._produce(start, end), self._readers.limiter)

    def _produce(self, start: int, end: int) -> Iterator[bytes]:
        """The chunks; an empty one where only time passed, so that each step is short."""
        if self._readers.is_verified(self._digest, self._source):
            yield from self._source.read(start, end)
        elif (start, end) == (0, self.size_bytes):
            yield from self._read_all_verified()
        else:
            for _ in self._read_all_verified():
                yield b""
            yield from self._source.read(start, end)

    def _read_all_verified(self) -> Iterator[bytes]:
        sha256 = hashlib.sha256()
        held = b""
        for chunk in self._source.read(0, self.size_bytes):
            sha256.update(chunk)
            yield held
            held = chunk
        if sha256.digest() != self._digest:
            raise DataError(f"the files of layer {digest_text(self._digest)} are damaged")
        self._readers.set_verified(self._digest, self._source)
        yield held


def in_threads(steps: Iterator[bytes], limiter: trio.CapacityLimiter) -> AsyncIterator[bytes]:
    """The bytes that ``steps`` gives, each step in a thread; empty ones are left out."""
    return _InThreads(steps, limiter)


class _InThreads:
    """An iterator of bytes whose every step runs in a thread.

    It is no async generator: a caller that stops in the middle would have to close that.
    """

    def __init__(self, steps: Iterator[bytes], limiter: trio.CapacityLimiter) -> None:
        self._steps = steps
        self._limiter = limiter

    def __aiter__(self) -> "_InThreads":
        return self

    async def __anext__(self) -> bytes:
        while True:
            chunk = await trio.to_thread.run_sync(next, self._steps, None, limiter=self._limiter)
            if chunk is None:
                raise StopAsyncIteration
            if chunk:
                return chunk
