"""The SHA-256 of a blob that is still being written, computed behind its contiguous prefix.

A thread follows the prefix, so that little is left to hash when the last byte arrives. Where bytes
turn out wrong the hash goes back to a mark, a copy of its state at an earlier position, and
continues from there.
"""

import hashlib
import os
from collections.abc import Callable
from typing import Final

import outcome
import trio

from beiran.cache.background_job import BackgroundJob

READ_BYTES: Final = 512 * 1024
"""Read and hashed at once: half of a second-level cache of 1 MiB, from which it is hashed."""

BATCH_BYTES: Final = 4 * 2**20
"""A thread starts for this many new bytes, not for each piece. Chosen."""

JOB_BYTES_MAX: Final = 64 * 2**20
"""After this many bytes a job returns, and the loop knows the position and may rewind. Chosen."""

MARK_BYTES: Final = 32 * 2**20
"""Distance of the marks. A mark takes some 200 bytes; going back hashes this many bytes again at
most, beyond those that were wrong. Chosen."""


class PrefixHash:
    """The hash of the first ``position`` bytes of an open file.

    Args:
      idle: called whenever a thread has left the file.
    """

    def __init__(self, descriptor: int, size_bytes: int, idle: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._idle = idle
        self._size = size_bytes
        self._sha256 = hashlib.sha256()
        self._marks = [(0, hashlib.sha256())]
        self._limit = 0
        self._wanted = BATCH_BYTES
        self._rewound = 0  # a job that began before the last rewind is void
        self._failure: OSError | None = None
        self._job: BackgroundJob[int] = BackgroundJob()
        self._moved = trio.Event()
        self.position = 0

    @property
    def busy(self) -> bool:
        """Whether a thread is reading the file."""
        return self._job.busy

    def extend(self, limit: int) -> None:
        """The bytes before ``limit`` are held now."""
        self._limit = max(self._limit, limit)
        self._go_on()

    def rewind(self, start: int) -> None:
        """The bytes from ``start`` on are wrong."""
        self._limit = min(self._limit, start)
        self._failure = None
        while self._marks[-1][0] > start:
            self._marks.pop()
        if start < self.position or self._job.busy:
            position, sha256 = self._marks[-1]
            self.position, self._sha256 = position, sha256.copy()
            self._rewound += 1
            self._announce()

    async def digest(self) -> bytes | None:
        """The digest of the whole file; None when some of it is missing.

        Raises: OSError when it cannot be read.
        """
        self._wanted = 1
        self._go_on()
        while self._limit == self._size and (self.position < self._size or self._job.busy):
            if self._failure is not None:
                raise self._failure
            await self._moved.wait()
        await trio.lowlevel.checkpoint()
        return self._sha256.digest() if self.position == self._size else None

    def stop(self) -> None:
        """End the hashing. A thread may read the file a little longer: see ``busy``."""
        self._limit = 0
        self._rewound += 1
        self._announce()

    def _go_on(self) -> None:
        pending = self._limit - self.position
        if self._job.busy or self._failure is not None or pending <= 0:
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
                    raise OSError(f"the file ends at byte {position}")
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

        self._job.start(job, done)

    def _announce(self) -> None:
        self._moved.set()
        self._moved = trio.Event()
