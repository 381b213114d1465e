"""Every bug that a review of pulls found, one scenario each: one agent's sharing, a real origin."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from beiran.api.models import PullDone, PullFailed, TagMeaning
from beiran.cache.errors import CacheFull
from beiran.engine import interface as contract
from beiran.errors import DataError
from beiran.http.messages import FileSlice, HttpError, Request, Response, Route, json_response
from beiran.ids import Digest, digest_text
from beiran.mirror.backend import OpenBlob
from beiran.mirror.errors import Denied, Unavailable
from beiran.oci.manifests import DOCKER_INDEX, digest_of
from beiran.pull import authorization
from beiran.settings.settings import Limit
from beiran.transfer.blob_download import BlobRequest
from tests.cache.contents import content, write
from tests.http.serving import serve
from tests.pull.site import (
    CONFIG,
    INDEX,
    LAYER,
    MANIFEST,
    MIB,
    NAME,
    PEER,
    PEER_HOST,
    Site,
    TakingEngine,
    manifest_of,
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


async def test_a_peer_that_is_told_busy_costs_no_descriptor_and_pins_nothing(
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


async def test_a_blob_that_is_coming_with_another_size_is_an_error_of_who_asks_for_it(
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


@pytest.mark.parametrize("failure", [OSError("I/O error"), CacheFull("no room"), KeyError("bug")])
async def test_whatever_goes_wrong_with_one_pull_the_agent_goes_on(
    tmp_path: Path, failure: Exception
) -> None:
    engine = TakingEngine()
    async with open_site(tmp_path, engine=engine) as site:
        for engine.failure in (failure, None):
            async with site.pulls.following(str(NAME) + ":1", node=None, platform=None) as rows:
                *_, end = [row async for row in rows]
            assert isinstance(end, PullFailed if engine.failure else PullDone)


async def test_a_pull_through_a_cache_without_room_is_no_end_of_the_agent(tmp_path: Path) -> None:
    async with open_site(tmp_path, cache_bytes=100, engine=TakingEngine()) as site:
        answer = await site.backend.manifest(NAME, "1")
        assert answer.data == MANIFEST
        async with site.backend.blob(NAME, digest_of(LAYER)) as reader:
            assert await read(reader) == LAYER


async def read(reader: OpenBlob) -> bytes:
    piece = reader.file(0, reader.size_bytes)
    if piece is None:
        return b"".join([chunk async for chunk in reader.chunks(0, reader.size_bytes)])
    try:
        if piece.gate is not None:
            at = 0
            while at < piece.length:
                at = await piece.gate(at, piece.length)
        return os.pread(piece.descriptor, piece.length, piece.start)
    finally:
        os.close(piece.descriptor)


async def known_and_away(folder: Path, stack: AsyncExitStack) -> Site:
    """One that pulled the manifest in an earlier life, and whose origin is away now."""
    async with open_site(folder) as site:
        for tag in ("1", "many"):
            await site.backend.manifest(NAME, tag)
    site = await stack.enter_async_context(open_site(folder))
    site.registry.down = True
    return site


async def asked_again(site: Site, tag: str | Digest, *, until: str) -> None:
    """Ask until the origin counts as back, which is found out in the background."""
    with trio.fail_after(20):
        while (await site.backend.manifest(NAME, tag)).source != until:  # noqa: ASYNC110
            await trio.sleep(0.05)


@pytest.mark.parametrize("tag", ["1", "many"])
@pytest.mark.parametrize("for_engine", [True, False])
async def test_what_was_served_while_the_origin_was_away_is_not_granted_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, for_engine: bool, tag: str
) -> None:
    monkeypatch.setattr(authorization, "OFFLINE_GRANT_S", 1e-9)
    async with AsyncExitStack() as stack:
        site = await known_and_away(tmp_path, stack)
        assert (await site.backend.manifest(NAME, tag, for_engine=for_engine)).source == "peers"
        site.registry.down, site.registry.denies = False, True
        with pytest.raises(Denied):
            await asked_again(site, digest_of(MANIFEST), until="origin")


async def test_where_blobs_are_is_found_out_anew_when_the_origin_is_back(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        site = await known_and_away(tmp_path, stack)
        assert (await site.backend.manifest(NAME, "1")).source == "peers"
        site.registry.down = False
        await asked_again(site, "1", until="origin")
        async with site.backend.blob(NAME, digest_of(LAYER)) as reader:
            assert await read(reader) == LAYER


@pytest.mark.parametrize("for_engine", [True, False])
async def test_what_is_no_image_is_served_as_it_is(site: Site, for_engine: bool) -> None:
    artefact = manifest_of(b"{}", "application/vnd.oci.empty.v1+json", LAYER)
    site.registry.tags["chart"] = artefact
    site.registry.blobs[digest_text(digest_of(b"{}"))] = b"{}"
    answer = await site.backend.manifest(NAME, "chart", for_engine=for_engine)
    assert answer.data == artefact
    async with site.backend.blob(NAME, digest_of(LAYER)) as reader:
        assert await read(reader) == LAYER


async def test_what_was_evicted_is_not_offered_any_more(site: Site) -> None:
    digest = await put(site, LAYER)
    node = site.driver.node
    assert await site.uploads.having([digest]) == {digest: len(LAYER)}
    assert node.holds(digest, 0, len(LAYER))
    await site.cache.resize(0)
    assert not node.holds(digest, 0, len(LAYER))


async def test_a_fetch_that_is_cancelled_before_it_began_leaves_nothing_under_way(
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


class DamagedEngine(TakingEngine):
    """Has a config that turns out to be damaged when it is opened."""

    damage_known = False

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        if self.damage_known:
            return {}
        return {digest: len(CONFIG) for digest in digests if digest == digest_of(CONFIG)}

    @asynccontextmanager
    async def open_blob(self, digest: Digest) -> AsyncIterator[contract.BlobReader]:
        self.damage_known = True
        raise DataError("what is on disk is something else")
        yield


async def test_a_config_that_is_damaged_here_comes_from_the_origin(tmp_path: Path) -> None:
    async with open_site(tmp_path, engine=DamagedEngine()) as site:
        assert (await site.backend.manifest(NAME, "1")).data == MANIFEST


async def test_a_peer_whose_clock_is_wrong_does_not_say_what_a_tag_means(site: Site) -> None:
    await site.backend.manifest(NAME, "1")  # remembered with our own clock
    told = TagMeaning(
        reference=f"{NAME}:1",
        digest=digest_text(digest_of(INDEX)),
        media_type=DOCKER_INDEX,
        size_bytes=len(INDEX),
        resolved_at="",
    )

    async def answer(request: Request) -> Response:
        return json_response(told)

    async with serve([Route(method="GET", pattern="/tags", handler=answer)]) as served:
        site.put_member(PEER, "127.0.0.1", served.port)
        site.registry.down = True
        for resolved_at in ("2999-01-01T00:00:00.000Z", "z\nforged", "2001-01-01T00:00:00.000Z"):
            told = msgspec.structs.replace(told, resolved_at=resolved_at)
            assert (await site.backend.manifest(NAME, "1")).data == MANIFEST
