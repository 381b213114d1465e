"""The SHA-256 of a blob that is still being written, hashed behind its contiguous beginning.

A thread follows the bytes that are there, so that when the last one comes little is left to do.
Bytes that turn out wrong are taken back: the hash goes on from an earlier mark.
"""

import hashlib
import os
from collections.abc import Callable
from typing import Final

import outcome
import trio

from beiran.cache.background_job import Behind

READ_BYTES: Final = 512 * 1024
"""Read and hashed at once: half of the second-level cache, so that it is hashed from there."""

BATCH_BYTES: Final = 4 * 2**20
"""A thread is woken for this much, not for each piece."""

JOB_BYTES_MAX: Final = 64 * 2**20
"""Then the loop hears how far it is, and may have it start over."""

MARK_BYTES: Final = 32 * 2**20
"""Distance of the marks to which the hash can go back. A mark takes some 200 bytes."""


class PrefixHash:
    """The hash of the first ``position`` bytes of an open file."""

    def __init__(self, descriptor: int, size_bytes: int, idle: Callable[[], None]) -> None:
        """``idle`` is called whenever a thread has left the file."""
        self._descriptor = descriptor
        self._idle = idle
        self._size = size_bytes
        self._sha256 = hashlib.sha256()
        self._marks = [(0, hashlib.sha256())]
        self._limit = 0
        self._wanted = BATCH_BYTES
        self._rewound = 0  # counts, so that a job that was under way is known to be void
        self._failure: OSError | None = None
        self._behind: Behind[int] = Behind()
        self._moved = trio.Event()
        self.position = 0

    @property
    def busy(self) -> bool:
        """Whether a thread reads the file."""
        return self._behind.busy

    def extend(self, limit: int) -> None:
        """The bytes before ``limit`` are there."""
        self._limit = max(self._limit, limit)
        self._go_on()

    def rewind(self, start: int) -> None:
        """The bytes from ``start`` on are not right after all."""
        self._limit = min(self._limit, start)
        self._failure = None
        while self._marks[-1][0] > start:
            self._marks.pop()
        if start < self.position or self._behind.busy:
            position, sha256 = self._marks[-1]
            self.position, self._sha256 = position, sha256.copy()
            self._rewound += 1
            self._announce()

    async def digest(self) -> bytes | None:
        """Of the whole file; None when not all of it is there.

        Raises: OSError when it cannot be read.
        """
        self._wanted = 1
        self._go_on()
        while self._limit == self._size and (self.position < self._size or self._behind.busy):
            if self._failure is not None:
                raise self._failure
            await self._moved.wait()
        await trio.lowlevel.checkpoint()
        return self._sha256.digest() if self.position == self._size else None

    def stop(self) -> None:
        """Hash no more. A thread may still read the file: see ``busy``."""
        self._limit = 0
        self._rewound += 1
        self._announce()

    def _go_on(self) -> None:
        pending = self._limit - self.position
        if self._behind.busy or self._failure is not None or pending <= 0:
            return
        if pending < self._wanted and self._limit < self._size:
            return
        number, sha256 = self._rewound, self._sha256.copy()
        marks = self._marks[:0]
        first, end = self.position, min(self._limit, self.position + JOB_BYTES_MAX)

        def job() -> int:
            buffer = memoryview(bytearray(READ_BYTES))
            position = first
            while position < end and number == self._rewound:
                to_mark = MARK_BYTES - position % MARK_BYTES
                wanted = min(READ_BYTES, end - position, to_mark)
                got = os.preadv(self._descriptor, [buffer[:wanted]], position)
                if not got:
                    raise OSError(f"it ends at byte {position}")
                sha256.update(buffer[:got])
                position += got
                if position % MARK_BYTES == 0:
                    marks.append((position, sha256.copy()))
            return position

        def done(result: outcome.Outcome[int]) -> None:
            if number == self._rewound:
                try:
                    self.position = result.unwrap()
                except OSError as error:
                    self._failure = error
                else:
                    self._sha256 = sha256
                    self._marks += marks
            self._announce()
            self._go_on()
            self._idle()

        self._behind.start(job, done)

    def _announce(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
