"""Serving blobs to peers: which, to whom, how many at once."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from beiran.http.messages import FileSlice, HttpError, Request
from beiran.ids import Digest, NodeId, digest_text
from beiran.oci.manifests import digest_of
from beiran.settings.settings import Limit
from beiran.transfer.blob_download import BlobRequest
from tests.cache.contents import content
from tests.pull.site import (
    LAYER,
    NAME,
    OWN,
    PEER,
    PEER_HOST,
    Site,
    open_pair,
    open_site,
)


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    async with open_site(tmp_path) as site:
        yield site


def asked_by_peer(digest: Digest, host: str = PEER_HOST) -> Request:
    return Request(
        method="GET", path="/", listener="tcp", path_args={"digest": digest_text(digest)}, peer=host
    )


async def put(site: Site, data: bytes) -> Digest:
    await site.cache.put(digest_of(data), data)
    return digest_of(data)


async def test_a_busy_answer_costs_no_descriptor_and_pins_nothing(
    tmp_path: Path,
) -> None:
    async with open_site(tmp_path, upload_limit=Limit(None, 1)) as site:
        digest = await put(site, LAYER)
        answer = await site.uploads.answer(asked_by_peer(digest), digest)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            with pytest.raises(HttpError, match="serves as many peers"):
                await site.uploads.answer(asked_by_peer(digest), digest)
        assert len(os.listdir("/proc/self/fd")) == before
        assert isinstance(answer.body, FileSlice)
        assert answer.close is not None
        os.close(answer.body.descriptor)
        await answer.close()
        await site.cache.resize(0)
        assert site.cache.size(digest) is None


async def test_an_evicted_blob_is_no_longer_offered(site: Site) -> None:
    digest = await put(site, LAYER)
    node = site.driver.node
    assert await site.uploads.having([digest]) == {digest: len(LAYER)}
    assert node.holds(digest, 0, len(LAYER))
    await site.cache.resize(0)
    assert not node.holds(digest, 0, len(LAYER))


async def test_of_several_members_at_one_address_the_one_that_asks_is_served(
    tmp_path: Path,
) -> None:
    data = content(1, 2**20)
    digest = digest_of(data)
    beside = [NodeId(b"a" * 16), NodeId(b"z" * 16)]
    async with open_pair(tmp_path, beside=beside) as (giver, taker):
        await giver.cache.put(digest, data)
        assert await giver.uploads.having([digest])
        wanted = BlobRequest(digest=digest, size_bytes=len(data), name=NAME, sources=(PEER,))
        async with taker.downloads.fetching(wanted) as download:
            assert download is not None
            await download.whole()
        assert {served.node for served in giver.uploads.served()} == {OWN}
