"""Lifeguard's experiments (Dadgar, Phillips, Currey, arXiv 1707.00788, §V), with our core.

128 members probe once a second. C of them are blocked in lock-step for D: just before sending and
just after receiving, while their timers run.

- *Interval*: blocked for D and free for I, again and again for two minutes. A false positive is a
  verdict that a member reaches by itself about a member that was never blocked. The experiment
  counts all of them, those reached by members that were never blocked themselves, and how often
  any member adopted one, from itself or from others.
- *Threshold*: blocked once for D. The experiment measures how long after the begin of the block a
  blocked member is first declared down by a member that is not blocked, and by all of these.

The whole grid has 360 cells of two virtual minutes for each configuration, which takes many hours.
``PART`` are the cells that are run without ``whole``. Shares of SWIM's false positives are shares
of the sums over the cells.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, MemberChanged
from beiran.gossip.membership.member import Status
from beiran.ids import NodeId
from simulations.experiments.configs import OURS, SWIM, lifeguard
from simulations.experiments.table import (
    Experiment,
    Options,
    Progress,
    Row,
    median,
    percentile,
    run_trials,
)
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.chance import stream
from simulations.kernel.links import Link, Uniform

MEMBERS: Final = 128
BLOCKED: Final = (1, 4, 8, 12, 16, 20, 24, 28, 32)
BLOCK_S: Final = (0.128, 0.512, 2.048, 8.192, 32.768)
FREE_S: Final = (0.001, 0.004, 0.016, 0.064, 0.256, 1.024, 4.096, 16.384)
PART: Final = (
    (1, 32.768, 0.001),
    (4, 32.768, 4.096),
    (16, 32.768, 0.064),
    (32, 32.768, 16.384),
    (8, 8.192, 0.016),
)
"""C, D in s, I in s: cells with blocks that are long enough for SWIM to have false positives."""
LASTS_S: Final = 120.0
QUIET_S: Final = 5.0  # a settled cluster loses its step in a few rounds; the paper waits 15 s
AFTER_S: Final = 15.0  # after a single block: its suspicions are over
LINK: Final = Link(latency=Uniform(0.0001, 0.0005))  # the paper's agents shared one machine
PAPER_FIRST_DETECTION_S: Final = 12.44  # SWIM, median
SWIM_DETECTION_WITHIN: Final = 0.05
FALSE_POSITIVES_SHARE_MAX: Final = 0.0015
DETECTION_SHARE_MAX: Final = 0.5

SHARED: Final = replace(OURS, probe_interval_s=1.0, probe_timeout_s=0.5, indirect_probes=3)
CONFIGURATIONS: Final[dict[str, GossipConfig]] = {
    "SWIM": SWIM,
    "LHA-Probe": lifeguard(suspicion=False, buddy=False),
    "LHA-Suspicion": lifeguard(probe=False, buddy=False),
    "Buddy System": lifeguard(probe=False, suspicion=False),
    "Lifeguard": lifeguard(),
    "Lifeguard 4, 6": lifeguard(alpha=4.0),
    "Lifeguard 2, 6": lifeguard(alpha=2.0),
    "Lifeguard 2, 2": lifeguard(alpha=2.0, beta=2.0),
    "ours": SHARED,
}
PAPER_PERCENT: Final[dict[str, tuple[float, float, float]]] = {
    "SWIM": (100, 100, 100),
    "Lifeguard": (100, 1.5, 1.9),
    "Lifeguard 4, 6": (83, 3.2, 4.8),
    "Lifeguard 2, 6": (54, 24, 14),
    "Lifeguard 2, 2": (53, 98, 31),
}
"""Median first detection, false positives, those at healthy members, in percent of SWIM's. The
paper's figures of the parts alone are not at hand."""


@dataclass(frozen=True)
class Cell:
    """One case of the grid. ``free_s`` is 0 where the members are blocked only once."""

    configuration: str
    blocked: int
    block_s: float
    free_s: float
    seed: int
    members: int = MEMBERS
    lasts_s: float = LASTS_S


@dataclass
class Found:
    """The result of a cell.

    Attributes:
      false_positives: verdicts about members that were never blocked, where they were reached.
      at_healthy: of these, verdicts reached by members that were never blocked.
      believed: how often a member that was never blocked was down for some member.
      first_s: for each blocked member that was found, when the first healthy one declared it down.
      everywhere_s: for each that all healthy members found, when the last one did.
    """

    cell: Cell
    false_positives: int
    at_healthy: int
    believed: int
    first_s: list[float]
    everywhere_s: list[float]
    packets_per_member_s: float


def run_cell(cell: Cell) -> Found:
    """Run one case."""
    config = CONFIGURATIONS[cell.configuration]
    where = (cell.blocked, cell.block_s, cell.free_s)
    world = World(seed=cell.seed, link=LINK, config=config, beacons=False, icmp=False)
    hosts = world.settled(cell.members)
    world.run(QUIET_S)
    chosen = stream(cell.seed, "blocked", *where).sample(hosts, cell.blocked)
    sick = {host.id: world.now for host in chosen}
    down: dict[NodeId, list[float]] = {node: [] for node in sick}
    raised = at_healthy = believed = 0
    verdicts = Counter[NodeId]()

    def note(host: Host, effect: Effect) -> None:
        nonlocal raised, at_healthy, believed
        if not isinstance(effect, MemberChanged) or effect.member.status != Status.DOWN:
            return
        own = host.node.counters["verdicts"] > verdicts[host.id]
        verdicts[host.id] += own
        if effect.member.node in sick:
            if host.id not in sick:
                down[effect.member.node].append(world.now - begun_at)
            return
        believed += 1
        if own:
            raised += 1
            at_healthy += host.id not in sick

    begun_at = world.now
    world.found.append(note)
    while True:
        for host in chosen:
            world.block(host, cell.block_s)
        world.run(cell.block_s)
        if not cell.free_s:
            world.run(AFTER_S)
            break
        world.run(cell.free_s)
        if world.now - begun_at >= cell.lasts_s:
            break
    healthy = cell.members - cell.blocked
    took_s = world.now
    return Found(
        cell,
        raised,
        at_healthy,
        believed,
        [times[0] for times in down.values() if times],
        [times[healthy - 1] for times in down.values() if len(times) >= healthy],
        sum(host.traffic.packets for host in world.hosts) / len(world.hosts) / took_s,
    )


def grid(*, whole: bool) -> Sequence[tuple[int, float, float]]:
    """Return the interval experiment's cells: C, D, I."""
    return [(c, d, i) for c in BLOCKED for d in BLOCK_S for i in FREE_S] if whole else PART


def interval(options: Options, progress: Progress) -> list[Row]:
    """Count the false positives of each configuration, beside the paper's."""
    chosen = grid(whole=options.whole)
    trials = [
        Cell(name, c, d, i, options.seed * 1009 + trial)
        for name in CONFIGURATIONS
        for trial in range(options.trials_or(1))
        for c, d, i in chosen
    ]
    found = run_trials(run_cell, trials, options.jobs, progress)
    swim = _of(found, "SWIM")
    return [_interval_row(name, _of(found, name), swim) for name in CONFIGURATIONS]


def threshold(options: Options, progress: Progress) -> list[Row]:
    """Measure the detection times of each configuration, beside the paper's.

    Only blocks that last longer than SWIM's suspicion are of use: 32 s.
    """
    trials = [
        Cell(name, c, BLOCK_S[-1], 0.0, options.seed * 1013 + trial)
        for name in CONFIGURATIONS
        for trial in range(options.trials_or(1))
        for c in BLOCKED
    ]
    found = run_trials(run_cell, trials, options.jobs, progress)
    swim = _of(found, "SWIM")
    return [_threshold_row(name, _of(found, name), swim) for name in CONFIGURATIONS]


def _of(found: Sequence[Found], name: str) -> list[Found]:
    return [one for one in found if one.cell.configuration == name]


def _interval_row(name: str, found: Sequence[Found], swim: Sequence[Found]) -> Row:
    total = sum(one.false_positives for one in found)
    healthy = sum(one.at_healthy for one in found)
    swim_total = sum(one.false_positives for one in swim)
    swim_healthy = sum(one.at_healthy for one in swim)
    paper = PAPER_PERCENT.get(name)
    target = met = ""
    if name == "ours":
        good = total <= FALSE_POSITIVES_SHARE_MAX * swim_total and not healthy
        target = f"<= {FALSE_POSITIVES_SHARE_MAX:.2%}, none at healthy"
        met = "yes" if good else "NO"
    return {
        "configuration": name,
        "cells": len(found),
        "false_positives": total,
        "at_healthy": healthy,
        "believed": sum(one.believed for one in found),
        "percent": _percent(total, swim_total),
        "percent_at_healthy": _percent(healthy, swim_healthy),
        "paper_percent": paper[1] if paper else "",
        "paper_percent_at_healthy": paper[2] if paper else "",
        "packets_per_member_s": sum(one.packets_per_member_s for one in found) / len(found),
        "target": target,
        "met": met,
    }


def _percent(part: int, of: int) -> float | str:
    """Return a share of SWIM's in percent; empty where SWIM has none."""
    return 100 * part / of if of else ""


def _threshold_row(name: str, found: Sequence[Found], swim: Sequence[Found]) -> Row:
    first = [time for one in found for time in one.first_s]
    everywhere = [time for one in found for time in one.everywhere_s]
    swim_first = median(time for one in swim for time in one.first_s)
    paper = PAPER_PERCENT.get(name)
    target = met = ""
    if name == "SWIM":
        target = f"{PAPER_FIRST_DETECTION_S} s within {SWIM_DETECTION_WITHIN:.0%}"
        within = abs(median(first) / PAPER_FIRST_DETECTION_S - 1) <= SWIM_DETECTION_WITHIN
        met = "yes" if within else "NO"
    elif name == "ours":
        target = f"<= {DETECTION_SHARE_MAX:.0%} of SWIM's"
        met = "yes" if median(first) <= DETECTION_SHARE_MAX * swim_first else "NO"
    return {
        "configuration": name,
        "found": len(first),
        "of": sum(one.cell.blocked for one in found),
        "first_median_s": median(first),
        "first_p99_s": percentile(first, 0.99),
        "everywhere_median_s": median(everywhere),
        "everywhere_p99_s": percentile(everywhere, 0.99),
        "percent": 100 * median(first) / swim_first,
        "paper_percent": paper[0] if paper else "",
        "false_positives": sum(one.false_positives for one in found),
        "target": target,
        "met": met,
    }


EXPERIMENTS: Final = (
    Experiment(
        "lifeguard-interval",
        "Lifeguard's interval experiment: false positives, C x D x I",
        interval,
    ),
    Experiment(
        "lifeguard-threshold", "Lifeguard's threshold experiment: detection times", threshold
    ),
)
