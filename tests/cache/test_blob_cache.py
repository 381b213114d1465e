"""The blob cache: what is kept, what is evicted first, and what any end leaves on disk."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.cache.blob_cache import BlobCache
from beiran.cache.errors import BlobMissing, BlobRefused, CacheFull
from beiran.cache.files import BlobName, sidecar_path
from beiran.errors import LocalError
from tests.cache.contents import bring, content, digest_of, write
from tests.requirements import missing

MIB = 2**20


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_a_small_blob_is_put_and_read(tmp_path: Path) -> None:
    cache = await BlobCache.open(tmp_path / "blobs", 1000)
    await cache.put(digest_of(b"{}"), b"{}")
    await cache.put(digest_of(b"{}"), b"{}")
    assert await cache.read(digest_of(b"{}")) == b"{}"
    assert (cache.used_bytes, cache.digests) == (2, [digest_of(b"{}")])
    with pytest.raises(BlobRefused):
        await cache.put(digest_of(b"{}"), b"[]")
    with pytest.raises(BlobMissing):
        await cache.read(digest_of(b"[]"))


async def test_the_least_recently_used_is_evicted_first_even_after_a_restart(
    tmp_path: Path,
) -> None:
    cache = await BlobCache.open(tmp_path, 300)
    first, second, third = [await bring(cache, content(seed, 100)) for seed in range(3)]
    await cache.read(first)
    cache = await BlobCache.open(tmp_path, 300)
    assert cache.digests == [second, third, first]
    await bring(cache, content(4, 150))
    assert cache.digests[:1] == [first]
    assert cache.used_bytes == 250
    assert names(tmp_path / "scratch") == []


async def test_pinned_open_and_arriving_blobs_are_not_evicted(tmp_path: Path) -> None:
    cache = await BlobCache.open(tmp_path, 400)
    pinned, opened = [await bring(cache, content(seed, 100)) for seed in range(2)]
    flying = content(2, 100)
    with cache.pin([pinned]), cache.open_file(opened) as file:
        with closing(await cache.partial(digest_of(flying), 100)) as partial:
            assert not cache.has_room(101)
            assert cache.used_bytes == 300
            await write(partial, 0, flying)
            assert await partial.verify()
            await partial.ended.wait()
        assert os.pread(file.descriptor, 100, 0) == content(1, 100)
    await cache.resize(100)
    assert cache.digests == [digest_of(flying)]


async def test_an_open_blob_is_readable_after_it_was_removed(tmp_path: Path) -> None:
    cache = await BlobCache.open(tmp_path, 400)
    digest = await bring(cache, content(1, 100))
    with cache.open_file(digest) as file:
        await cache.remove(digest)
        assert cache.size(digest) is None
        assert os.pread(file.descriptor, 100, 0) == content(1, 100)


async def test_a_file_deleted_by_another_program_is_missing(tmp_path: Path) -> None:
    cache = await BlobCache.open(tmp_path, 400)
    digest = await bring(cache, content(1, 100))
    (tmp_path / "whole" / str(BlobName(digest, 100))).unlink()
    with pytest.raises(BlobMissing):
        cache.open_file(digest)
    assert (cache.size(digest), cache.used_bytes) == (None, 0)


async def test_blobs_in_use_may_exceed_the_bound_and_are_evicted_afterwards(
    tmp_path: Path,
) -> None:
    cache = await BlobCache.open(tmp_path, 100)
    large = content(2, 150)
    with cache.pin([digest_of(large)]):
        await bring(cache, content(1, 60))
        await bring(cache, large)
        assert cache.digests == [digest_of(large)]
    assert (cache.digests, cache.used_bytes) == ([], 0)


async def test_a_blob_larger_than_the_disk_is_refused_and_nothing_is_evicted(
    tmp_path: Path,
) -> None:
    cache = await BlobCache.open(tmp_path, 100)
    await bring(cache, content(1, 60))
    with pytest.raises(CacheFull):
        await cache.partial(digest_of(b""), 2**60)
    with pytest.raises(CacheFull):
        await cache.put(digest_of(bytes(101)), bytes(101))
    assert cache.used_bytes == 60
    assert names(tmp_path / "scratch") == []


async def test_opening_drops_what_cannot_be_trusted(tmp_path: Path) -> None:
    cache = await BlobCache.open(tmp_path, 10 * MIB)
    good, cut = [await bring(cache, content(seed, 1000)) for seed in range(2)]
    os.truncate(tmp_path / "whole" / str(BlobName(cut, 1000)), 999)
    (tmp_path / "whole" / "README").write_text("what is this")
    (tmp_path / "scratch" / "new.7").write_bytes(b"half of a manif")
    flying = {}
    for seed in range(4):
        flying[seed] = tmp_path / "partial" / str(BlobName(digest_of(content(seed, 50)), 50))
        flying[seed].write_bytes(content(seed, 50))
    sidecar_path(flying[0]).write_bytes(b'{"held":[[0,10]],"trusted":[]}')
    sidecar_path(flying[1]).write_bytes(b'{"held":[[0,51]],"trusted":[]}')
    sidecar_path(flying[2]).write_bytes(b'{"held":[[0,')
    again = await BlobCache.open(tmp_path, 10 * MIB)
    assert again.digests == [good]
    assert again.used_bytes == 1050
    assert names(tmp_path / "whole") == [str(BlobName(good, 1000))]
    assert names(tmp_path / "partial") == [flying[0].name, flying[0].name + ".held"]
    assert names(tmp_path / "scratch") == []


async def test_a_folder_that_cannot_be_used_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LocalError, match="file"):
        await BlobCache.open(tmp_path / "file", 1)


OPERATION = st.one_of(
    st.tuples(
        st.sampled_from(["put", "bring", "begin", "half", "open", "remove"]), st.integers(0, 7)
    ),
    st.tuples(st.sampled_from(["settle", "kill", "pin"]), st.just(0)),
)
CACHE_BYTES = 1500


def blob_of(seed: int) -> bytes:
    return content(seed, 100 + 90 * seed)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(operations=st.lists(OPERATION, max_size=25))
def test_any_operations_and_kills_leave_only_right_bytes(
    operations: list[tuple[str, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A kill is to go on with a copy of what is on disk, while the other's threads are at work."""
    base = tmp_path_factory.mktemp("blobs")
    try:
        trio.run(run_operations, base, operations)
    finally:
        shutil.rmtree(base)


def copy_as_it_is(folder: Path, to: Path) -> None:
    for kind in ("whole", "partial", "scratch"):
        (to / kind).mkdir(parents=True)
        for path in (folder / kind).iterdir():
            with suppress(FileNotFoundError):
                shutil.copy2(path, to / kind)


async def end_of(cache: BlobCache) -> None:
    for partial in list(cache._in_flight.values()):
        partial.close()
    await cache.settle()


async def run_operations(base: Path, operations: list[tuple[str, int]]) -> None:
    folder = base / "0"
    cache = await BlobCache.open(folder, CACHE_BYTES)
    for number, (operation, seed) in enumerate(operations, 1):
        data = blob_of(seed)
        digest = digest_of(data)
        before = cache.digests
        try:
            if operation == "put":
                await cache.put(digest, data)
            elif operation == "bring" and cache.size(digest) is None:
                partial = await cache.partial(digest, len(data))
                for start, end in [(50, len(data)), (0, 50)]:
                    if not partial.held.overlaps(start, end):
                        await write(partial, start, data[start:end])
                assert await partial.verify()
            elif operation in ("begin", "half") and cache.size(digest) is None:
                partial = await cache.partial(digest, len(data))
                if not partial.held:
                    await write(partial, 0, data[:50])
                if operation == "half":
                    partial.close()
            elif operation == "open":
                with cache.open_file(digest) as file:
                    assert os.pread(file.descriptor, len(data), 0) == data
            elif operation == "remove":
                await cache.remove(digest)
            elif operation == "settle":
                await cache.settle()
            elif operation == "kill":
                copy_as_it_is(folder, base / str(number))
                await end_of(cache)
                folder = base / str(number)
                cache = await BlobCache.open(folder, CACHE_BYTES)
            elif operation == "pin":
                pinned = cache.digests[:1]
                with cache.pin(pinned):
                    await cache.resize(0)
                    going = [d for d in cache.digests if d in cache._in_flight]
                    assert [d for d in cache.digests if d not in going or d in pinned] == pinned
                await cache.resize(CACHE_BYTES)
        except (CacheFull, BlobMissing):
            assert [d for d in cache.digests if d in before] == cache.digests
        kept = cache.digests
        for each in kept:
            if cache.size(each) is not None:  # beyond the bound, what was read goes
                assert digest_of(await cache.read(each)) == each
        assert set(cache.digests) <= set(kept)
    await end_of(cache)
    await cache.resize(CACHE_BYTES)  # what was needed may have been more
    assert cache.used_bytes <= CACHE_BYTES
    final = await BlobCache.open(folder, CACHE_BYTES)
    assert final.digests == cache.digests
    assert sum(path.stat().st_size for path in (folder / "whole").iterdir()) == sum(
        final.size(digest) or 0 for digest in final.digests
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    if reason := missing("mount", root=True):
        pytest.skip(reason)
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.lab
async def test_a_full_disk_evicts_blobs_and_then_raises(small_disk: Path) -> None:
    cache = await BlobCache.open(small_disk, 1000 * MIB)
    old = await bring(cache, content(1, 3 * MIB))
    recent = await bring(cache, content(2, 2 * MIB))
    stranger = small_disk / "of another program"
    data = content(3, 5 * MIB)
    with closing(await cache.partial(digest_of(data), len(data))) as partial:  # 3 MiB free
        assert cache.digests == [recent]
        stranger.write_bytes(bytes(2 * MIB))
        for start in range(0, 5 * MIB, MIB):
            await write(partial, start, data[start : start + MIB])
        assert cache.digests == []  # the recent one went on the way
        assert await partial.verify()
        await partial.ended.wait()
    with pytest.raises(CacheFull), cache.pin([digest_of(data)]):
        await cache.put(old, content(1, 3 * MIB))
    assert cache.digests == [digest_of(data)]
    small = content(5, 900 * 1024)
    with closing(await cache.partial(digest_of(small), len(small))) as partial:
        (small_disk / "more").write_bytes(bytes(600 * 1024))
        with cache.pin([digest_of(data)]), pytest.raises(CacheFull):
            await write(partial, 0, small)
        assert not partial.held
        await write(partial, 0, small)  # the other is no longer pinned
        assert await partial.verify()
        await partial.ended.wait()
    assert await cache.read(digest_of(small)) == small
