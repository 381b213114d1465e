"""Each counter is defined once, with its help."""

import re
from pathlib import Path

import pytest

from beiran.agent.counters import CounterGroup, Counters, counters_of
from beiran.gossip.counters import COUNTERS as GOSSIP_COUNTERS
from beiran.http.server import HttpCounters
from beiran.net.beacon import BeaconCounters
from beiran.net.udp import UdpCounters
from beiran.swarm.counters import COUNTERS as SWARM_COUNTERS
from beiran.swarm.counters import FAILED, Count
from beiran.swarm.effects import FetchFailure

PACKAGE = Path(__file__).parents[2] / "beiran"


def counted_by_name(core: str) -> set[str]:
    """The names of the counters in a core's source, and in the context that both cores share."""
    paths = [*(PACKAGE / core).rglob("*.py"), PACKAGE / "sansio" / "context.py"]
    places = [
        place
        for path in paths
        for place in re.findall(r"counters\[([^\]]+)\] \+= ", path.read_text())
    ]
    return {name for place in places for name in re.findall(r'"(\w+)"', place)}


def test_gossip_defines_what_it_counts_and_counts_what_it_defines() -> None:
    assert counted_by_name("gossip") == set(GOSSIP_COUNTERS)


def test_the_swarm_counts_what_it_defines() -> None:
    paths = [path for path in (PACKAGE / "swarm").rglob("*.py") if path.name != "counters.py"]
    names = {name for path in paths for name in re.findall(r"\bCount\.(\w+)", path.read_text())}
    counted = {Count[name] for name in names} | set(FAILED.values()) | counted_by_name("swarm")
    assert counted == set(SWARM_COUNTERS)
    assert set(FAILED) == set(FetchFailure)


@pytest.mark.parametrize("struct", [UdpCounters(), BeaconCounters(), HttpCounters()])
def test_each_counter_of_a_socket_has_its_help(
    struct: UdpCounters | BeaconCounters | HttpCounters,
) -> None:
    group = counters_of(struct)
    assert set(group.help) == set(group.values())
    assert all(text.endswith(".") for text in group.help.values())


def test_a_counter_that_was_not_counted_yet_is_0_and_groups_have_their_prefixes() -> None:
    counts = {"b": 2}
    counters = Counters(
        [
            CounterGroup(help={"a": "As.", "b": "Bs."}, values=lambda: counts, prefix="x_"),
            CounterGroup(help={"a": "Others."}, values=lambda: {"a": 1}),
        ]
    )
    assert counters.values() == {"a": 1, "x_a": 0, "x_b": 2}
    assert counters.help == {"a": "Others.", "x_a": "As.", "x_b": "Bs."}
