"""Serve blobs from the disk at once, and verify each in the background.

Many peers ask for pieces of a blob. To verify the whole blob before the first piece would delay it
by a second per GB, and every receiver verifies the blob anyway. So pieces go out unverified, and
``BlobReaders`` reads each blob once, ``CHECK_PAUSE_S`` later. It no longer serves a damaged one.
"""

import hashlib
import logging
import os
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Hashable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from cachetools import FIFOCache

from beiran.engine.interface import BlobReader, FileRange
from beiran.engine.layers.layer_blob import open_blob, read_range
from beiran.engine.layers.verified_reader import LayerReaders, TarSource, VerifiedReader, in_threads
from beiran.errors import BeiranError, DataError
from beiran.ids import Digest, digest_text

CHECK_PAUSE_S: Final = 5.0
"""From the first request for a blob to its check: the download of a layer is over by then."""
CHECKS_WAITING_MAX: Final = 4096
DAMAGED_MAX: Final = 4096
"""Bounds on memory, far above the layers of one host. Chosen."""

_log = logging.getLogger(__name__)


class FileSource:
    """A blob that is a file of its own, a ``verified_reader.TarSource``.

    It stays readable until ``close``, also when the file is removed.
    """

    def __init__(self, path: Path) -> None:
        """Raises: DataError when it cannot be read."""
        self._path = path
        self.descriptor = open_blob(path)
        status = os.fstat(self.descriptor)
        self.size_bytes = status.st_size
        self.identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a range."""
        return read_range(self.descriptor, self._path, start, end)

    def close(self) -> None:
        """Close the file."""
        os.close(self.descriptor)


class BytesSource:
    """A small blob in memory that is verified, a ``verified_reader.TarSource``."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.size_bytes = len(data)
        self.identity = "checked"

    def read(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes of a range."""
        yield self._data[start:end]

    def close(self) -> None:
        """Nothing to close."""


class SourceReader:
    """An open blob, an ``interface.BlobReader``.

    When all of it is asked for at once, its last chunk waits until its digest is known to be right.
    """

    def __init__(self, readers: LayerReaders, digest: Digest, source: TarSource) -> None:
        self._readers = readers
        self._source = source
        self._whole = VerifiedReader(readers, digest, source)
        self.size_bytes = source.size_bytes
        descriptor = source.descriptor if isinstance(source, FileSource) else None
        self.file = None if descriptor is None else FileRange(descriptor, 0)

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes of a range."""
        if (start, end) == (0, self.size_bytes):
            return self._whole.chunks(start, end)
        if not 0 <= start <= end <= self.size_bytes:
            raise ValueError(f"no range {start}-{end} in {self.size_bytes} bytes")
        return in_threads(self._source.read(start, end), self._readers.limiter)


@asynccontextmanager
async def read_all(blob: BlobReader) -> AsyncIterator[AsyncIterator[bytes]]:
    """All chunks of a blob. The iterator of its reader is closed afterwards, if it can be.

    The iterator raises DataError when the blob is shorter or longer than it said.
    """
    chunks = blob.chunks(0, blob.size_bytes)
    try:
        async with aclosing(_exactly(chunks, blob.size_bytes)) as checked:
            yield checked
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()


async def _exactly(chunks: AsyncIterator[bytes], size_bytes: int) -> AsyncGenerator[bytes, None]:
    left = size_bytes
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left != 0:
        raise DataError(f"a blob does not have the {size_bytes} bytes of its descriptor")


OpenSource = Callable[[Digest], Awaitable[TarSource]]


class BlobReaders:
    """Opens an engine's blobs, and checks each once.

    Args:
      open_source: opens a blob. Raises: NotFound; EngineUnavailable; DataError.
    """

    def __init__(self, readers: LayerReaders, open_source: OpenSource) -> None:
        self._readers = readers
        self._open_source = open_source
        self._waiting: dict[Digest, None] = {}
        self._work = trio.Event()
        self._damaged: FIFOCache[Digest, Hashable] = FIFOCache(DAMAGED_MAX)

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[BlobReader]:
        """Open a blob, as ``Engine.open_blob`` has it."""
        source = await self._open_source(digest)
        try:
            if self._damaged.get(digest) == source.identity:
                raise DataError(f"the file of blob {digest_text(digest)} is damaged")
            if not isinstance(source, BytesSource):
                self._want_check(digest, source)
            yield SourceReader(self._readers, digest, source)
        finally:
            source.close()

    def is_damaged(self, digest: Digest) -> bool:
        """Whether its last check found it damaged."""
        return digest in self._damaged

    async def serve(self) -> None:
        """Check what was opened, one blob after the other, for ever."""
        while True:
            await self._work.wait()
            await trio.sleep(CHECK_PAUSE_S)
            while self._waiting:
                digest = next(iter(self._waiting))
                try:
                    await self._check(digest)
                except BeiranError as error:
                    _log.debug("blob %s cannot be checked: %s", digest_text(digest), error)
                self._waiting.pop(digest, None)
            self._work = trio.Event()

    def _want_check(self, digest: Digest, source: TarSource) -> None:
        if not self._readers.is_verified(digest, source):
            if len(self._waiting) < CHECKS_WAITING_MAX:
                self._waiting[digest] = None
            self._work.set()

    async def _check(self, digest: Digest) -> None:
        source = await self._open_source(digest)
        try:
            sha256 = hashlib.sha256()
            problem = ""
            try:
                chunks = in_threads(_hashed(source, sha256.update), self._readers.limiter)
                async for _ in chunks:
                    pass
            except DataError as error:
                problem = str(error)
            if not problem and sha256.digest() == digest:
                self._readers.set_verified(digest, source)
                self._damaged.pop(digest, None)
                return
            problem = problem or "it has another SHA-256"
            _log.warning(
                "blob %s is damaged and no longer served to peers: %s", digest_text(digest), problem
            )
            self._damaged[digest] = source.identity
        finally:
            source.close()


def _hashed(source: TarSource, update: Callable[[bytes], None]) -> Iterator[bytes]:
    """Hash all of ``source``, step by step."""
    for chunk in source.read(0, source.size_bytes):
        update(chunk)
        yield b""
