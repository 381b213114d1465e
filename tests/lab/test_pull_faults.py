"""Pulls go on when agents are killed, disks are full, caches small and peers wrong."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab.agents import Agents, RunningAgent, await_one_state, eventually
from tests.lab.conftest import missing_for_network
from tests.lab.network import Lan
from tests.lab.pulling import Origin, PullHost, random_image
from tests.lab.registry import missing_for_registry

pytestmark = pytest.mark.lab

CACHE_BYTES = 3_000_000


class Place(NamedTuple):
    """Hosts with agents whose engine is a layout folder, and a slow origin."""

    lan: Lan
    agents: Agents
    origin: Origin

    def start(self, count: int, **options: str) -> list[PullHost]:
        """Agents on the first hosts, that know each other."""
        running = self.agents.start_all(
            self.lan.hosts[1 : count + 1],
            engine="oci",
            origin=f"docker.io=http://{self.origin.address}",
            **options,
        )
        await_one_state(running)
        return [PullHost(agent) for agent in running]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if missing := missing_for_network() or missing_for_registry():
        pytest.skip(missing)
    with ExitStack() as stack:
        lan = stack.enter_context(Lan("brnlabfault", 4))
        origin = stack.enter_context(Origin(lan, lan.hosts[0], tmp_path / "origin"))
        agents = stack.enter_context(Agents(lan))
        yield Place(lan, agents, origin)
        agents.print_logs()


def has(host: PullHost, tag: str) -> bool:
    """Whether the layout folder of ``host`` has an image."""
    assert host.agent.layout is not None
    return tag in (host.agent.layout / "index.json").read_text()


def layer_of(host: PullHost, repository: str) -> str:
    """The digest of the first layer of a repository's tag 1."""
    answer = host.ask(f"/v2/library/{repository}/manifests/1")
    digest: str = json.loads(answer.body)["layers"][0]["digest"]
    return digest


def await_half(host: PullHost, size_bytes: int) -> None:
    def half() -> bool:
        counters = host.counters()
        return counters["from_origin"] + counters["from_peers"] > size_bytes // 2

    eventually(half, True, what=f"{host.name} has half of it")


@pytest.mark.parametrize("how", ["killed", "stopped"])
def test_an_agent_that_ends_in_the_middle_fails_no_pull_but_its_own(place: Place, how: str) -> None:
    hosts = place.start(3)
    size = 6_000_000
    place.origin.publish("library/killed:1", random_image("killed", size // 2, size // 2))
    place.lan.shape(place.origin.host, "16mbit")
    victim = hosts[0]
    with ThreadPoolExecutor(3) as threads:
        pulls = [threads.submit(host.pull, "killed:1", check=False) for host in hosts]
        await_half(victim, size)
        if how == "killed":
            victim.agent.kill9()
        else:
            victim.agent.stop()
        assert pulls[0].result().returncode != 0
        assert [pull.result().returncode for pull in pulls[1:]] == [0, 0]
    assert all(has(host, "killed:1") for host in hosts[1:])
    place.origin.stop()
    victim.agent.start()
    await_one_state([host.agent for host in hosts])
    victim.pull("killed:1")
    assert has(victim, "killed:1")
    counters = victim.counters()
    # Orderly, it notes what it has. Killed it loses what was not synced, of a small blob all.
    assert counters["from_peers"] < (size if how == "stopped" else 1.02 * size)


def test_a_full_disk_is_reported_and_does_not_last(place: Place) -> None:
    agent = place.agents.prepare(
        place.lan.hosts[1],
        engine="oci",
        origin=f"docker.io=http://{place.origin.address}",
        cache_bytes="1GB",
    )
    mount = f'mount -t tmpfs -o size=6m none {agent.data_dir}; exec "$@"'
    agent.words = ["unshare", "--mount", "sh", "-ec", mount, "sh", *agent.words]
    agent.start()
    host = PullHost(agent)
    place.origin.publish("library/big:1", random_image("big", 8_000_000))
    place.origin.publish("library/small:1", random_image("small", 1_000_000))
    done = host.pull("big:1", check=False)
    assert done.returncode != 0
    assert done.stderr.count("\n") <= 1
    assert "room" in done.stderr or "space" in done.stderr
    host.pull("small:1")
    assert has(host, "small:1")


def flip_a_byte_in_its_cache(agent: RunningAgent, digest: str) -> None:
    """Corrupt a blob as a broken disk or a misbehaving peer does."""
    (path,) = (agent.data_dir / "blobs" / "whole").glob(f"{digest[7:]}*")
    with path.open("r+b") as file:
        file.seek(1_200_000)
        byte = file.read(1)
        file.seek(1_200_000)
        file.write(bytes([byte[0] ^ 0xFF]))


@pytest.mark.parametrize("origin_is_up", [True, False], ids=["origin up", "origin stopped"])
def test_wrong_bytes_of_a_peer_reach_no_engine_and_the_pull_succeeds(
    place: Place, origin_is_up: bool
) -> None:
    corrupt, honest, puller = place.start(3)
    place.origin.publish("library/lied:1", random_image("lied", 2_500_000))
    for host in (corrupt, honest):
        host.pull("lied:1")

        assert host.agent.layout is not None
    layer = layer_of(corrupt, "lied")
    flip_a_byte_in_its_cache(corrupt.agent, layer)
    if not origin_is_up:
        place.origin.stop()
    puller.pull("lied:1")
    blobs = puller.agent.layout
    assert blobs is not None
    kept = (blobs / "blobs" / "sha256" / layer[7:]).read_bytes()
    (right,) = (honest.agent.data_dir / "blobs" / "whole").glob(f"{layer[7:]}*")
    assert kept == right.read_bytes()


def test_a_cache_outlives_its_agent_and_stays_within_its_bound(place: Place) -> None:
    (host,) = place.start(1, cache_bytes=str(CACHE_BYTES))
    layers = {}
    for name in ("first", "second", "third"):
        place.origin.publish(f"library/{name}:1", random_image(name, 1_300_000))
        layers[name] = layer_of(host, name)
        assert host.ask(f"/v2/library/{name}/blobs/{layers[name]}").status == 200
    whole = host.agent.data_dir / "blobs" / "whole"

    def used_bytes() -> int:
        return sum(path.stat().st_size for path in whole.iterdir())

    def is_kept(name: str) -> bool:
        return bool(list(whole.glob(f"{layers[name][7:]}*")))

    eventually(lambda: is_kept("third"), True, what="what came last is kept")
    eventually(lambda: used_bytes() <= CACHE_BYTES, True, what="the cache is within its bound")
    assert not is_kept("first")
    # What was evicted a moment ago is fetched again.
    assert host.ask(f"/v2/library/first/blobs/{layers['first']}").status == 200
    eventually(lambda: is_kept("first") and not is_kept("second"), True, what="it is kept again")
    host.agent.kill9()
    host.agent.start()
    place.origin.stop()
    for name in ("first", "third"):
        assert host.ask(f"/v2/library/{name}/blobs/{layers[name]}").status == 200
    assert host.ask(f"/v2/library/second/blobs/{layers['second']}").status in (404, 503)
