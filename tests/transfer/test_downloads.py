"""Downloads of one node: joined, cancelled, limited."""

from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from beiran.http.token_bucket import TokenBucket
from beiran.mirror.errors import Unavailable
from beiran.oci.manifests import digest_of
from beiran.settings.settings import Limit
from beiran.transfer.blob_download import BlobRequest
from tests.cache.contents import content, write
from tests.http.serving import eventually
from tests.pull.site import (
    LAYER,
    MIB,
    NAME,
    PEER,
    Site,
    open_pair,
    open_site,
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as site:
        yield site


async def test_a_request_with_another_size_fails_and_the_download_goes_on(
    site: Site,
) -> None:
    site.registry.blobs.clear()
    right = BlobRequest(digest=digest_of(LAYER), size_bytes=len(LAYER), name=NAME, from_origin=True)
    wrong = BlobRequest(digest=digest_of(LAYER), size_bytes=7, name=NAME, from_origin=True)
    transfers = site.downloads
    transfers.expect([right, wrong])  # as two pulls at once do; its task must not end the agent
    async with transfers.fetching(right):
        with pytest.raises(Unavailable, match="another size"):
            async with transfers.fetching(wrong):
                pass
    await trio.testing.wait_all_tasks_blocked()


async def test_a_download_that_is_cancelled_before_it_began_leaves_nothing(
    site: Site,
) -> None:
    data = content(1, 2 * MIB)
    digest = digest_of(data)
    with closing(await site.cache.partial(digest, len(data))) as partial:
        await write(partial, 0, data[:MIB])
    await partial.ended.wait()
    transfers = site.downloads

    async def cancel_when_begun() -> None:
        while site.cache.in_flight(digest) is None:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_begun)
        wanted = BlobRequest(digest=digest, size_bytes=len(data), name=NAME)
        async with transfers.fetching(wanted):
            raise AssertionError("it was cancelled before")
    assert not transfers.is_under_way(digest)
    assert site.cache.in_flight(digest) is None


CHUNK_BYTES_MAX = 2**20
"""The most that a fetch takes from a limiter at once."""


def holds_back(limiter: TokenBucket) -> bool:
    """Whether a fetch waits for it."""
    return limiter._queue.locked()


@pytest.mark.parametrize("limited", ["upload", "download"])
async def test_transfers_between_nodes_keep_to_the_limits(tmp_path: Path, limited: str) -> None:
    """At a byte a second nothing goes after the burst, however long one looks."""
    data = content(1, 4 * 2**20)
    digest = digest_of(data)
    slowly = {f"{limited}_limit": Limit(1, None)}
    limits: dict[str, Any] = {"giver" if limited == "upload" else "taker": slowly}
    async with open_pair(tmp_path, **limits) as (giver, taker):
        await giver.cache.put(digest, data)
        assert await giver.uploads.having([digest]) == {digest: len(data)}
        limiter = taker.driver._peer_bytes
        if limited == "upload":
            limiter = giver.uploads._limiter
        wanted = BlobRequest(digest=digest, size_bytes=len(data), name=NAME, sources=(PEER,))
        async with taker.downloads.fetching(wanted) as download:
            assert download is not None
            await eventually(lambda: holds_back(limiter))
            came = taker.transfers.counters()["blob_bytes_from_peers"]
            assert came <= limiter.burst_bytes + CHUNK_BYTES_MAX
            assert not download.ended
            limiter.bytes_per_s = None
            await download.whole()
        assert taker.transfers.counters()["blob_bytes_from_peers"] >= len(data)
        assert giver.uploads.bytes_served >= len(data)
