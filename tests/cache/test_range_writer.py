"""Bytes of a range as they arrive, and what is kept of them when a fetch ends early."""

from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio

from beiran.cache.blob_cache import BlobCache
from beiran.cache.partial_blob import PartialBlob
from beiran.cache.range_writer import Buffers, RangeWriter
from tests.cache.contents import content, digest_of, read

PIECE = 512 * 1024
DATA = content(1, 2 * PIECE)


@pytest.fixture
async def partial(tmp_path: Path) -> AsyncIterator[PartialBlob]:
    cache = await BlobCache.open(tmp_path / "blobs", 100 * PIECE)
    with closing(await cache.partial(digest_of(DATA), len(DATA))) as opened:
        yield opened
    with trio.fail_after(20):
        await opened.ended.wait()


def first_piece(partial: PartialBlob, accepted: Callable[[], None]) -> RangeWriter:
    def judge(start: int, end: int, blake3: bytes) -> bool:
        accepted()
        return True

    return RangeWriter(partial, 0, PIECE, piece_bytes=PIECE, judge=judge, buffers=Buffers())


async def test_a_piece_that_was_accepted_is_held_though_its_fetch_is_cancelled(
    partial: PartialBlob,
) -> None:
    slow = partial.claim(0, PIECE)
    assert slow is not None
    await partial.write(slow, 0, bytes(1000))
    # As the core does it: who was asked twice for a piece may stop as soon as one has brought it.
    scope = trio.CancelScope()
    with scope, first_piece(partial, accepted=scope.cancel) as writer:
        await writer.write(DATA[:PIECE])
    assert partial.held.covers(0, PIECE)
    assert read(partial, 0, PIECE) == DATA[:PIECE]
    partial.unclaim(slow)
