"""Pulls of one agent: joined, cancelled, followed, interrupted, planned again."""

import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from beiran.api.models import PullDone, PullFailed, PullProgress
from beiran.cache.errors import CacheFull
from beiran.engine.open import open_engine
from beiran.ids import digest_text
from beiran.oci.manifests import DOCKER_CONFIG, digest_of
from beiran.pull import jobs
from beiran.settings.values import EngineSpec
from beiran.transfer import downloads
from beiran_cli.demo_images import make_layout
from tests.http import serving
from tests.http.serving import eventually
from tests.pull.engines import open_unpacked
from tests.pull.site import (
    CONFIG,
    LAYER,
    NAME,
    TAR,
    Registry,
    Site,
    TakingEngine,
    manifest_of,
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


class SlowRegistry(Registry):
    """Two images; of the first one the layer is held back until ``opened``.

    Attributes:
      reached: set when a client asks for it.
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


async def test_a_pull_that_has_begun_waits_for_an_origin_that_went_away(
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


async def test_a_late_follower_gets_every_layers_row(site: Site, registry: SlowRegistry) -> None:
    rows: list[Any] = []

    async def follow(into: list[Any]) -> None:
        async with site.pulls.following("team/app:1", node=None, platform=None) as sent:
            async for row in sent:
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


async def test_a_pull_goes_on_while_it_has_a_follower(
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


async def test_a_cancelled_pull_leaves_nothing_half_done_and_others_go_on(
    tmp_path: Path, registry: SlowRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "LINGER_S", 0.01)
    images = tmp_path / "images"
    make_layout(images)
    before = files_of(images)
    engine = open_engine(EngineSpec("oci", str(images)), cache_dir=tmp_path / "data")
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
            await eventually(lambda: not site.driver.downloads)
            assert site.cache.in_flight(digest_of(LAYER)) is None
            assert done[0].image == digest_text(digest_of(OTHER_CONFIG))
            assert NAME.repository + ":2" in (images / "index.json").read_text()
            assert NAME.repository + ":1" not in (images / "index.json").read_text()
            registry.opened.set()
            again = await site.pulls.pull("team/app:1")
            assert again.image == digest_text(digest_of(CONFIG))
            assert NAME.repository + ":1" in (images / "index.json").read_text()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("failure", [OSError("I/O error"), CacheFull("no room"), KeyError("bug")])
async def test_a_failed_pull_does_not_end_the_agent(tmp_path: Path, failure: Exception) -> None:
    engine = TakingEngine()
    async with open_site(tmp_path, engine=engine) as site:
        for engine.failure in (failure, None):
            async with site.pulls.following(str(NAME) + ":1", node=None, platform=None) as rows:
                *_, end = [row async for row in rows]
            assert isinstance(end, PullFailed if engine.failure else PullDone)


@pytest.mark.parametrize("tar_bytes", [len(TAR), len(TAR) + 1000, len(TAR) - 1000])
async def test_a_pull_is_planned_again_without_a_peer_that_said_a_wrong_size(
    tmp_path: Path, tar_bytes: int
) -> None:
    engine = TakingEngine()
    async with open_unpacked(tmp_path, tar_bytes, engine) as (_, taker):
        done = await taker.pulls.pull("team/app:1")
        assert len(engine.loaded) == 1
        if tar_bytes == len(TAR):
            assert (done.bytes_from_peers, done.bytes_from_origin) == (len(TAR), 0)
        else:
            assert done.bytes_from_origin == len(LAYER)
