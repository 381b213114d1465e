"""One blob in flight: claims, what is held, the hash behind it, and restarts."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing
from blake3 import blake3

from beiran.cache import partial_blob as partial_module
from beiran.cache import prefix_hash
from beiran.cache.blob_cache import BlobCache
from beiran.cache.errors import BlobMissing, BlobRefused
from beiran.cache.files import sidecar_path
from beiran.cache.partial_blob import PartialBlob
from tests.cache.contents import content, digest_of, read, write
from tests.http.serving import eventually

MIB = 2**20
DATA = content(1, 9 * MIB + 17)
HALF = 4 * MIB


@pytest.fixture
async def cache(tmp_path: Path) -> BlobCache:
    return await BlobCache.open(tmp_path / "blobs", 100 * MIB)


@pytest.fixture
async def partial(cache: BlobCache) -> AsyncIterator[PartialBlob]:
    with closing(await cache.partial(digest_of(DATA), len(DATA))) as opened:
        yield opened
    with trio.fail_after(20):
        await opened.ended.wait()


async def test_a_blob_written_in_any_order_is_verified(
    cache: BlobCache, partial: PartialBlob
) -> None:
    await write(partial, HALF, DATA[HALF:])
    assert not await partial.verify()
    assert cache.size(partial.digest) is None
    await write(partial, 0, DATA[:HALF])
    assert await partial.verify()
    with cache.open_file(partial.digest) as file:  # before it is synced
        assert file.size_bytes == len(DATA)
    await partial.ended.wait()
    assert await cache.read(partial.digest) == DATA


async def test_wrong_bytes_do_not_verify_until_they_are_written_anew(partial: PartialBlob) -> None:
    await write(partial, 0, DATA[:HALF])
    await write(partial, HALF, bytes(MIB))
    await write(partial, HALF + MIB, DATA[HALF + MIB :])
    assert not await partial.verify()
    assert await partial.blake3(HALF, HALF + MIB) == blake3(bytes(MIB)).digest()
    partial.release(HALF, HALF + MIB)
    assert not partial.whole
    await write(partial, HALF, DATA[HALF : HALF + MIB])
    assert await partial.verify()


async def test_the_hash_follows_the_prefix_and_goes_back_to_a_mark(
    partial: PartialBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefix_hash, "BATCH_BYTES", 1)
    monkeypatch.setattr(partial._hash, "_wanted", 1)
    monkeypatch.setattr(prefix_hash, "MARK_BYTES", 2 * MIB)
    with trio.fail_after(20):
        for start in range(0, 8 * MIB, MIB):
            await write(partial, start, DATA[start : start + MIB])
        while partial._hash.position < 8 * MIB:
            await partial._hash._moved.wait()
    partial.release(5 * MIB, 6 * MIB)
    assert partial._hash.position == 4 * MIB
    await write(partial, 5 * MIB, DATA[5 * MIB : 6 * MIB])
    await write(partial, 8 * MIB, DATA[8 * MIB :])
    assert await partial.verify()


async def test_a_release_while_a_thread_hashes_takes_effect(partial: PartialBlob) -> None:
    await write(partial, 0, DATA[:MIB] + bytes(MIB) + DATA[2 * MIB :])
    partial.release(MIB, 2 * MIB)
    await write(partial, MIB, DATA[MIB : 2 * MIB])
    assert await partial.verify()


async def test_held_and_claimed_ranges_cannot_be_claimed(partial: PartialBlob) -> None:
    claim = partial.claim(0, MIB)
    assert claim is not None
    assert partial.claim(MIB - 1, 2 * MIB) is None
    partial.unclaim(claim)
    await write(partial, 0, DATA[:MIB])
    assert partial.claim(0, MIB) is None


async def test_the_first_complete_range_takes_over_the_claim(partial: PartialBlob) -> None:
    slow = partial.claim(0, MIB)
    assert slow is not None
    await partial.write(slow, 0, bytes(1000))
    await partial.put(0, [DATA[:1000], DATA[1000:MIB]])
    assert slow.lost
    await partial.write(slow, 0, bytes(MIB))
    partial.unclaim(slow)
    assert read(partial, 0, MIB) == DATA[:MIB]
    assert partial.claim(0, MIB) is None


async def test_taking_over_waits_for_a_write_under_way(partial: PartialBlob) -> None:
    slow = partial.claim(0, 8 * MIB)
    assert slow is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial.write, slow, 0, bytes(8 * MIB))
        while not slow.writing:
            await trio.lowlevel.checkpoint()
        await partial.put(0, [DATA[: 8 * MIB]])
        assert not slow.writing
    assert read(partial, 0, 8 * MIB) == DATA[: 8 * MIB]


async def test_verifying_waits_for_a_put_under_way(partial: PartialBlob) -> None:
    await write(partial, MIB, DATA[MIB:])
    slow = partial.claim(0, MIB)
    assert slow is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial.write, slow, 0, bytes(MIB))
        while not slow.writing:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(partial.put, 0, [DATA[:MIB]])
        while not slow.lost:
            await trio.lowlevel.checkpoint()
        assert not partial.whole
        assert await partial.verify()


async def test_only_a_trusted_prefix_is_waited_for(partial: PartialBlob) -> None:
    await write(partial, 0, DATA[:MIB], trusted=True)
    await write(partial, MIB, DATA[MIB:HALF])
    assert await partial.wait_for_prefix(1) == MIB
    reached: list[int] = []

    async def follow() -> None:
        reached.append(await partial.wait_for_prefix(MIB + 1))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        assert not reached
        await write(partial, HALF, DATA[HALF:])
        assert await partial.verify()  # verified is trusted
    assert reached == [len(DATA)]


async def test_closing_ends_the_wait_for_a_prefix(partial: PartialBlob) -> None:
    raised: list[str] = []

    async def follow() -> None:
        try:
            await partial.wait_for_prefix(1)
        except BlobMissing as error:
            raised.append(str(error))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow)
        await trio.testing.wait_all_tasks_blocked()
        partial.close()
    assert len(raised) == 1
    with pytest.raises(BlobMissing):
        await partial.blake3(0, 0)


async def test_held_bytes_survive_a_restart(tmp_path: Path, partial: PartialBlob) -> None:
    await write(partial, MIB, DATA[MIB:HALF], trusted=True)
    await write(partial, HALF, DATA[HALF : 5 * MIB], hold=False)
    partial.close()
    await partial.ended.wait()
    again = await BlobCache.open(tmp_path / "blobs", 100 * MIB)
    with closing(await again.partial(partial.digest, len(DATA))) as resumed:
        assert list(resumed.held) == list(resumed.trusted) == [(MIB, HALF)]
        await write(resumed, 0, DATA[:MIB])
        await write(resumed, HALF, DATA[HALF:])
        assert await resumed.verify()
        await resumed.ended.wait()


async def test_a_killed_agent_loses_only_bytes_that_were_not_noted(
    tmp_path: Path, partial: PartialBlob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial_module, "NOTE_BYTES", MIB)
    await write(partial, 0, DATA[:MIB])
    await eventually(sidecar_path(partial.path).exists)
    monkeypatch.setattr(partial_module, "NOTE_BYTES", 100 * MIB)
    await write(partial, MIB, DATA[MIB : 2 * MIB])
    again = await BlobCache.open(tmp_path / "blobs", 100 * MIB)  # the other is as good as dead
    with closing(await again.partial(partial.digest, len(DATA))) as resumed:
        assert list(resumed.held) == [(0, MIB)]
        resumed.discard()


async def test_closing_keeps_the_bytes_and_discarding_drops_them(cache: BlobCache) -> None:
    for discard, left in [(False, MIB), (True, 0)]:
        partial = await cache.partial(digest_of(DATA), len(DATA))
        await write(partial, MIB, DATA[MIB : 2 * MIB]) if not partial.held else None
        partial.discard() if discard else partial.close()
        await partial.ended.wait()
        assert cache.used_bytes == (len(DATA) if left else 0)
        again = await cache.partial(digest_of(DATA), len(DATA))
        assert again.held.total == left
        again.close()
        await again.ended.wait()


async def test_one_blob_is_in_flight_once(cache: BlobCache, partial: PartialBlob) -> None:
    assert await cache.partial(partial.digest, len(DATA)) is partial
    assert cache.in_flight(partial.digest) is partial
    with pytest.raises(BlobRefused):
        await cache.partial(partial.digest, 5)


async def test_an_empty_blob_is_whole_at_once(cache: BlobCache) -> None:
    with closing(await cache.partial(digest_of(b""), 0)) as partial:
        assert partial.whole
        assert await partial.verify()
        await partial.ended.wait()
    assert cache.size(digest_of(b"")) == 0
