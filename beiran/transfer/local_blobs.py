"""Blobs that are on this host: in the blob cache, or in the engine.

``Downloads`` looks here before it fetches, ``Uploads`` before it serves, and the pull part before
it asks peers for a manifest, a config or a layer.
"""

import os
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

import trio

from beiran.cache.blob_cache import BlobCache, BlobFile
from beiran.cache.errors import BlobMissing
from beiran.engine.interface import BlobReader, Engine, FileRange
from beiran.errors import DataError, EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text
from beiran.mirror.errors import BlobUnknown, Unavailable

READ_BYTES: Final = 2**20
"""One read of a file: a thread's hop costs little beside reading 1 MiB."""


class LocalBlobs:
    """Finds and opens blobs of this host.

    Attributes:
      bytes_from_cache: bytes of the blobs that were opened in the cache since the start.
    """

    def __init__(self, cache: BlobCache, engine: Engine) -> None:
        self._cache: Final = cache
        self._engine: Final = engine
        self.bytes_from_cache = 0

    async def sizes(self, digests: Iterable[Digest]) -> dict[Digest, int]:
        """The sizes, in bytes, of those that are here. One question to the engine at most."""
        wanted = list(dict.fromkeys(digests))
        found = {d: size for d in wanted if (size := self._cache.size(d)) is not None}
        rest = [digest for digest in wanted if digest not in found]
        return found | (await self._engine.find_blobs(rest) if rest else {})

    @asynccontextmanager
    async def open(self, digest: Digest) -> AsyncIterator[BlobReader]:
        """Open a blob of the cache or the engine.

        Raises: BlobUnknown when neither has it; Unavailable when the engine cannot give it.
        """
        try:
            file = self._cache.open_file(digest)
        except BlobMissing:
            pass
        else:
            self.bytes_from_cache += file.size_bytes
            with file:
                yield CachedBlob(file)
            return
        async with AsyncExitStack() as stack:
            try:
                reader = await stack.enter_async_context(self._engine.open_blob(digest))
            except NotFound:
                raise BlobUnknown(f"{digest_text(digest)} is not on this host") from None
            except (EngineUnavailable, DataError) as error:
                raise Unavailable(f"{digest_text(digest)}: {error}") from error
            yield reader


class CachedBlob:
    """A blob of the cache, as the engine's ``BlobReader``."""

    def __init__(self, file: BlobFile) -> None:
        self._file = file
        self.size_bytes = file.size_bytes
        self.file: FileRange | None = FileRange(file.descriptor, 0, checked=True)

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` to ``end`` (excluded). Raises: DataError when the file is cut off."""
        while start < end:
            data = await trio.to_thread.run_sync(
                os.pread, self._file.descriptor, min(READ_BYTES, end - start), start
            )
            if not data:
                raise DataError(f"{digest_text(self._file.digest)} ends at byte {start}")
            yield data
            start += len(data)
