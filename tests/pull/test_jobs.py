"""One agent's pulls while they last: joined, given up, followed; whom it gives blobs, how fast."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from beiran.api.models import PullDone, PullProgress
from beiran.client.trio_client import Client, Follow
from beiran.engine.open import open_engine
from beiran.http.connection import HttpConnection
from beiran.http.token_bucket import TokenBucket
from beiran.ids import digest_text
from beiran.oci.manifests import DOCKER_CONFIG, digest_of
from beiran.pull import jobs
from beiran.settings.settings import Limit
from beiran.transfer import downloads
from beiran.transfer.blob_download import BlobRequest
from beiran_cli.demo_images import make_layout
from tests.cache.contents import content
from tests.http import serving
from tests.http.serving import eventually, serve
from tests.pull.site import (
    CONFIG,
    LAYER,
    MANIFEST,
    NAME,
    PEER,
    TAR,
    Registry,
    Site,
    TakingEngine,
    manifest_of,
    open_pair,
    open_site,
)
from tests.registry.origin_server import Asked, Reply

OTHER_TAR = Random(2).randbytes(3000)
OTHER_LAYER = gzip.compress(OTHER_TAR, mtime=0)
OTHER_CONFIG = json.dumps(
    {
        **json.loads(CONFIG),
        "rootfs": {"type": "layers", "diff_ids": [digest_text(digest_of(OTHER_TAR))]},
    }
).encode()
OTHER = manifest_of(OTHER_CONFIG, DOCKER_CONFIG, OTHER_LAYER)
LAYER_DIGEST = digest_text(digest_of(LAYER))


CHUNK_BYTES_MAX = 2**20
"""So much who takes from a limiter takes at most at once."""


class SlowRegistry(Registry):
    """Two images; of the first one the layer is held back until ``opened``.

    Attributes:
      reached: when somebody has asked for it.
      layers_asked: how often.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tags["2"] = OTHER
        self.blobs |= {digest_text(digest_of(data)): data for data in (OTHER_CONFIG, OTHER_LAYER)}
        self.reached, self.opened = trio.Event(), trio.Event()
        self.layers_asked = 0

    async def __call__(self, asked: Asked) -> Reply:
        if asked.method == "GET" and asked.target.endswith(LAYER_DIGEST):
            self.layers_asked += 1
            self.reached.set()
            await self.opened.wait()
        return await super().__call__(asked)


@pytest.fixture
def registry() -> SlowRegistry:
    return SlowRegistry()


@pytest.fixture
def engine() -> TakingEngine:
    return TakingEngine()


@pytest.fixture
async def site(tmp_path: Path, registry: SlowRegistry, engine: TakingEngine) -> AsyncIterator[Site]:
    async with open_site(tmp_path, registry=registry, engine=engine) as site:
        yield site


async def test_a_second_pull_of_the_same_joins_the_first(
    site: Site, registry: SlowRegistry, engine: TakingEngine
) -> None:
    ended: list[PullDone] = []

    async def pull(reference: str) -> None:
        ended.append(await site.pulls.pull(reference))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull, "team/app:1")
        await registry.reached.wait()
        nursery.start_soon(pull, "docker.io/team/app:1")  # the same by its whole name
        await trio.testing.wait_all_tasks_blocked()
        registry.opened.set()
    assert len(ended) == 2
    assert ended[0] == ended[1]
    assert ended[0].bytes_from_origin == len(LAYER)
    assert registry.layers_asked == 1
    assert len(engine.loaded) == 1


class LeavingRegistry(Registry):
    """Goes away when it has given one of an image's two layers, until it is ``back``."""

    def __init__(self) -> None:
        super().__init__()
        diff_ids = [digest_text(digest_of(tar)) for tar in (TAR, OTHER_TAR)]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        config = json.dumps({**json.loads(CONFIG), "rootfs": rootfs}).encode()
        self.tags["1"] = manifest_of(config, DOCKER_CONFIG, LAYER, OTHER_LAYER)
        self.blobs |= {digest_text(digest_of(data)): data for data in (config, OTHER_LAYER)}
        self.away, self.back = trio.Event(), trio.Event()

    async def __call__(self, asked: Asked) -> Reply:
        if asked.method == "GET" and asked.target.endswith(digest_text(digest_of(OTHER_LAYER))):
            self.away.set()
        if self.away.is_set() and not self.back.is_set():
            return Reply(raw=b"")
        return await super().__call__(asked)


async def test_a_pull_that_has_begun_waits_for_who_is_away_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(jobs, "RETRY_INTERVAL_S", 0.1)
    monkeypatch.setattr(serving, "PATIENCE_S", 50.0)  # an origin is given up after some 15 s
    caplog.set_level("INFO")
    registry, engine = LeavingRegistry(), TakingEngine()
    ended: list[PullDone] = []
    async with open_site(tmp_path, engine=engine, registry=registry) as site:

        async def pull() -> None:
            ended.append(await site.pulls.pull("team/app:1"))

        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pull)
                await eventually(lambda: "is interrupted" in caplog.text)
                registry.back.set()
    assert [done.bytes_from_origin for done in ended] == [len(LAYER) + len(OTHER_LAYER)]
    assert len(engine.loaded) == 1


async def test_who_joins_late_is_told_all_that_went_before(
    site: Site, registry: SlowRegistry
) -> None:
    rows: list[Any] = []

    async def follow(into: list[Any]) -> None:
        async with site.pulls.following("team/app:1", node=None, platform=None) as told:
            async for row in told:
                into.append(row)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, [])
        await registry.reached.wait()
        nursery.start_soon(follow, rows)
        await trio.testing.wait_all_tasks_blocked()
        registry.opened.set()
    progress = [row for row in rows if isinstance(row, PullProgress)]
    assert {row.digest for row in progress} == {LAYER_DIGEST}
    assert progress[-1].state == "done"
    assert isinstance(rows[-1], PullDone)


async def test_a_pull_goes_on_for_who_still_waits_when_another_gives_it_up(
    site: Site, registry: SlowRegistry, engine: TakingEngine
) -> None:
    gives_up = trio.CancelScope()

    async def pull_and_give_up() -> None:
        with gives_up:
            await site.pulls.pull("team/app:1")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pull_and_give_up)
        await registry.reached.wait()
        nursery.start_soon(site.pulls.pull, "team/app:1")
        await trio.testing.wait_all_tasks_blocked()
        gives_up.cancel()
        await trio.testing.wait_all_tasks_blocked()
        registry.opened.set()
    assert gives_up.cancelled_caught
    assert registry.layers_asked == 1
    assert len(engine.loaded) == 1


def files_of(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


async def test_a_pull_that_is_given_up_leaves_nothing_half_done_and_others_go_on(
    tmp_path: Path, registry: SlowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "LINGER_S", 0.01)
    images = tmp_path / "images"
    make_layout(images)
    before = files_of(images)
    engine = open_engine(f"oci:{images}", cache_dir=tmp_path / "data")
    gives_up = trio.CancelScope()
    done: list[PullDone] = []

    async def give_up_in_the_middle(site: Site) -> None:
        with gives_up:
            await site.pulls.pull("team/app:1")

    async def pull_other(site: Site) -> None:
        done.append(await site.pulls.pull("team/app:2"))

    async with trio.open_nursery() as nursery:
        send, receive = trio.open_memory_channel[Any](100)
        nursery.start_soon(engine.serve, send)
        await receive.receive()
        async with open_site(tmp_path, registry=registry, engine=engine) as site:
            async with trio.open_nursery() as pulls:
                pulls.start_soon(give_up_in_the_middle, site)
                await registry.reached.wait()
                assert site.transfers.rows() == []  # nothing has come yet
                assert site.downloads.is_under_way(digest_of(LAYER))
                gives_up.cancel()
                await trio.testing.wait_all_tasks_blocked()
                assert files_of(images) == before
                pulls.start_soon(pull_other, site)
            await eventually(lambda: not site.downloads.in_flight)
            assert site.cache.in_flight(digest_of(LAYER)) is None
            assert done[0].image == digest_text(digest_of(OTHER_CONFIG))
            assert NAME.repository + ":2" in (images / "index.json").read_text()
            assert NAME.repository + ":1" not in (images / "index.json").read_text()
            registry.opened.set()
            again = await site.pulls.pull("team/app:1")
            assert again.image == digest_text(digest_of(CONFIG))
            assert NAME.repository + ":1" in (images / "index.json").read_text()
        nursery.cancel_scope.cancel()


async def test_transfers_are_followed_from_their_beginning_to_their_end(tmp_path: Path) -> None:
    data = content(1, 2 * 2**20)
    digest = digest_of(data)
    slowly = {"download_limit": Limit(1, None)}
    async with (
        open_pair(tmp_path, taker=slowly) as (giver, taker),
        serve(taker.routes) as asked,
        Client(url=f"http://127.0.0.1:{asked.port}") as client,
    ):
        await giver.cache.put(digest, data)
        assert await giver.uploads.having([digest]) == {digest: len(data)}
        follow: Follow[dict[str, Any]] = client.follow(
            "/transfers?follow=true", msgspec.json.decode
        )
        wanted = BlobRequest(digest=digest, size_bytes=len(data), name=NAME, sources=(PEER,))
        with trio.fail_after(30):
            async with follow as changes:
                assert await anext(changes) == {"change": "listed"}
                async with taker.downloads.fetching(wanted) as download:
                    assert download is not None
                    begun = await anext(changes)
                    taker.driver._peer_bytes.bytes_per_s = None
                    await download.whole()
                told = [begun]
                while told[-1]["change"] != "removed":
                    told.append(await anext(changes))
    assert begun["change"] == "added"
    row = begun["transfer"]
    assert (row["direction"], row["digest"]) == ("in", digest_text(digest))
    assert row["bytes_total"] == len(data)
    assert row["reference"] == str(NAME)
    sizes = [change["transfer"]["bytes_done"] for change in told]
    assert sizes == sorted(sizes)
    assert {change["transfer"]["id"] for change in told} == {row["id"]}


def holds_back(limiter: TokenBucket) -> bool:
    """Whether somebody waits for it."""
    return limiter._queue.locked()


@pytest.mark.parametrize("limited", ["upload", "download"])
async def test_what_goes_between_nodes_is_held_back_by_the_limits(
    tmp_path: Path, limited: str
) -> None:
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


async def test_who_is_no_member_is_told_so_and_given_nothing(site: Site) -> None:
    await site.backend.manifest(NAME, "1")
    await site.cache.put(digest_of(LAYER), LAYER)
    questions = [
        ("GET", f"/blobs/{LAYER_DIGEST}"),
        ("HEAD", f"/blobs/{LAYER_DIGEST}"),
        ("POST", "/blobs/have"),
        ("GET", f"/manifests/{digest_text(digest_of(MANIFEST))}"),
        ("GET", f"/tags?reference={NAME}:1"),
        ("GET", f"/images/{digest_text(digest_of(CONFIG))}/manifest"),
        ("POST", f"/prefetch/here?reference={NAME}:1"),
    ]
    body = json.dumps({"digests": [LAYER_DIGEST]}).encode()
    async with serve(site.routes) as served:
        for is_member in (False, True, False):
            site.put_member(
                PEER,
                "127.0.0.1" if is_member else "10.9.8.7",
                incarnation=served.counters.http_requests + 1,
            )
            for method, path in questions:
                stream = await trio.open_tcp_stream("127.0.0.1", served.port)
                connection = HttpConnection(stream, "x")
                answer = await connection.ask(method, path, body=body if "have" in path else b"")
                answered = await connection.read(bytes_max=2**20) if method != "HEAD" else b""
                connection.close()
                if not is_member or "prefetch" in path:  # which its operator does not allow
                    assert answer.status == 403, path
                    assert method == "HEAD" or b"DENIED" in answered
                    assert LAYER not in answered
                else:
                    assert answer.status == (404 if "images" in path else 200), path
