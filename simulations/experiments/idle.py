"""The cost of a cluster at rest for each node, by size; and SWIM's formulas beside it.

All packets that a node sends count: datagrams with Ethernet, IP and UDP headers, TCP with its
handshakes. Beacons are on, as they are in an agent.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from beiran.gossip.config import GossipConfig
from simulations.experiments.configs import MEMBERLIST, OURS
from simulations.experiments.silence import Silence, deaths
from simulations.experiments.table import (
    Experiment,
    Options,
    Progress,
    Row,
    mean,
    run_trials,
    silent,
)
from simulations.gossip.world import World

WARM_S: Final = 5.0
MEASURED_S: Final = 30.0
GROWTH_MAX: Final = 0.15
LIKE_SIZE: Final = 100  # growth is from here …
TO_SIZE: Final = 10_000  # … to here
SWIM_WITHIN: Final = 0.10
SWIM_DETECTION_PERIODS: Final = math.e / (math.e - 1)
"""Mean periods until a crash is first detected, in a large cluster (SWIM §3.1)."""


@dataclass(frozen=True)
class Rest:
    """A cluster at rest."""

    nodes: int
    seed: int
    config: GossipConfig = OURS


def rest(case: Rest) -> tuple[float, float, dict[str, float]]:
    """Return the bytes and packets that a node sends a second, and the bytes by kind."""
    world = World(seed=case.seed, config=case.config)
    hosts = world.settled(case.nodes)
    world.run(WARM_S)
    before = [(list(h.traffic.bytes_by_tag), h.traffic.packets) for h in hosts]
    by_kind: dict[str, float] = {}
    world.run(MEASURED_S)
    total = packets = 0
    for host, (bytes_then, packets_then) in zip(hosts, before, strict=True):
        total += host.traffic.bytes - sum(bytes_then)
        packets += host.traffic.packets - packets_then
        for name, (_, sent) in host.traffic.by_kind().items():
            by_kind[name] = by_kind.get(name, 0.0) + sent
    share = case.nodes * MEASURED_S
    return total / share, packets / share, by_kind


def idle(options: Options, progress: Progress) -> list[Row]:
    """Measure the bytes that a node sends a second, at sizes from 5 to 10,000."""
    cases = [Rest(nodes, options.seed) for nodes in options.sizes(5, 20, 100, 1000, 10_000)]
    found = run_trials(rest, cases, options.jobs, progress)
    like = {case.nodes: one[0] for case, one in zip(cases, found, strict=True)}.get(LIKE_SIZE)
    rows: list[Row] = []
    for case, (bytes_s, packets_s, _) in zip(cases, found, strict=True):
        growth = bytes_s / like - 1 if like else 0.0
        judged = case.nodes == TO_SIZE and like is not None
        rows.append(
            {
                "nodes": case.nodes,
                "bytes_per_node_s": bytes_s,
                "packets_per_node_s": packets_s,
                "growth_since_100": growth,
                "target": f"within {GROWTH_MAX:.0%}" if judged else "",
                "met": ("yes" if abs(growth) <= GROWTH_MAX else "NO") if judged else "",
            }
        )
    return rows


def swim(options: Options, progress: Progress) -> list[Row]:
    """Compare the first detection of a crash with T·e/(e-1), and the load with SWIM's two messages.

    First detection is the first suspicion anywhere: SWIM's formula ends there, before the suspicion
    time. SWIM counts from the begin of a period. Between hosts whose periods begin at different
    times that is the wait for the first probe, and the time of that probe.
    """
    kinds = [
        (who, config, nodes)
        for nodes in options.sizes(20, 50, 128)
        for who, config in (("ours", OURS), ("memberlist", MEMBERLIST))
    ]
    cases = [
        (Silence(config, nodes, options.seed), options.trials_or(200 if nodes <= 50 else 60))
        for _, config, nodes in kinds
    ]
    rests = [Rest(nodes, options.seed, config) for _, config, nodes in kinds]
    found = deaths(cases, options.jobs, progress)
    loads = run_trials(rest, rests, options.jobs, silent)
    return [
        _swim_row(who, nodes, config, [one.suspected_s for one in trials], packets_s)
        for (who, config, nodes), trials, (_, packets_s, _) in zip(kinds, found, loads, strict=True)
    ]


def _swim_row(
    who: str, nodes: int, config: GossipConfig, suspected_s: Sequence[float], packets_s: float
) -> Row:
    formula_s = config.probe_interval_s * SWIM_DETECTION_PERIODS
    found_s = mean(suspected_s)
    within = abs(found_s / formula_s - 1) <= SWIM_WITHIN
    return {
        "who": who,
        "nodes": nodes,
        "trials": len(suspected_s),
        "first_detection_mean_s": found_s,
        "formula_s": formula_s,
        "difference": found_s / formula_s - 1,
        "worst_s": max(suspected_s),
        "packets_per_node_s": packets_s,
        "formula_packets_s": 2 / config.probe_interval_s,
        "target": f"within {SWIM_WITHIN:.0%}" if who == "ours" else "",
        "met": ("yes" if within else "NO") if who == "ours" else "",
    }


EXPERIMENTS: Final = (
    Experiment("idle", "bytes a second of a node at rest, by the cluster's size", idle),
    Experiment("swim", "first detection and message load, beside SWIM's formulas", swim),
)
