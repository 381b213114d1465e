"""Blobs, and ways to bring them into a cache."""

import hashlib
import os
import random

from beiran.cache.blob_cache import BlobCache
from beiran.cache.partial_blob import PartialBlob
from beiran.ids import Digest


def content(seed: int, size: int) -> bytes:
    """The same bytes for the same seed and size."""
    return random.Random(seed).randbytes(size)


def digest_of(data: bytes) -> Digest:
    return Digest(hashlib.sha256(data).digest())


async def write(
    partial: PartialBlob, start: int, data: bytes, *, hold: bool = True, trusted: bool = False
) -> None:
    """Write a range that is neither held nor claimed."""
    claim = partial.claim(start, start + len(data))
    assert claim is not None
    try:
        await partial.write(claim, start, data)
    finally:
        partial.unclaim(claim)
    if hold:
        partial.hold(start, start + len(data), trusted=trusted)


def read(partial: PartialBlob, start: int, end: int) -> bytes:
    """Bytes of the file of a blob in flight."""
    return os.pread(partial.descriptor, end - start, start)


async def bring(cache: BlobCache, data: bytes) -> Digest:
    """Put a blob into the cache, verified and under its final name."""
    partial = await cache.partial(digest_of(data), len(data))
    if data:
        await write(partial, 0, data)
    assert await partial.verify()
    await partial.ended.wait()
    return digest_of(data)
