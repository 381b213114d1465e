"""How fast an update reaches all nodes, and the bytes that it costs each.

The clusters came together long ago; links take 1 ms one way. An event is one host that holds one
image more. A node knows it when it has merged it into its state.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, HoldingsChanged
from beiran.oci.images import Holding, RepoDigest
from simulations.experiments.configs import MEMBERLIST, OURS
from simulations.experiments.table import (
    Experiment,
    Options,
    Progress,
    Row,
    mean,
    median,
    percentile,
    run_trials,
)
from simulations.gossip.host import Host
from simulations.gossip.images import digest
from simulations.gossip.world import World
from simulations.kernel.chance import stream
from simulations.kernel.links import Link, Uniform

LINK: Final = Link(latency=Uniform(0.0005, 0.0015))
WARM_S: Final = 3.0
APART_S: Final = 5.0  # one event after the other
PATIENCE_S: Final = 30.0
ALL_KNOW_MAX_S: Final = {1000: 0.5, 10_000: 1.0}
LOSS_FACTOR_MAX: Final = 2.0
EVENT_BYTES_MAX: Final = 400.0
HOLDING_LAYERS: Final = 11  # layers of an image, where holdings of layers are counted


@dataclass(frozen=True)
class Spread:
    """A cluster and its events.

    Attributes:
      images: number that each host holds from the beginning, all the same ones.
      known: the events are of an image that others hold, so no node asks for its description; it
        has one tag and one digest, as after a pull.
    """

    nodes: int
    loss: float
    events: int
    seed: int
    config: GossipConfig = OURS
    images: int = 0
    known: bool = False


@dataclass
class Spreading:
    """The result.

    Attributes:
      all_know_s: for each event, when the last node knew; infinite beyond ``PATIENCE_S``.
      half_know_s: when half of the nodes knew.
      first_hearings: nodes that knew each event at its end.
      bytes_per_event: sent by a node beyond those of an idle one, with all headers; NaN with loss,
        where the traffic of suspicions varies more.
      packets_per_event: the same in packets.
    """

    all_know_s: list[float]
    half_know_s: list[float]
    first_hearings: list[int]
    bytes_per_event: float
    packets_per_event: float


def spread(case: Spread) -> Spreading:
    """Run the events of one cluster, and without loss the same cluster without events."""
    world, hosts = _cluster(case)
    before = _sent(world)
    known: list[float] = []
    found = Spreading([], [], [], math.nan, math.nan)
    event: list[tuple[bytes, float]] = []

    def note(host: Host, effect: Effect) -> None:
        if isinstance(effect, HoldingsChanged) and event and effect.owner == event[0][0]:
            known.append(world.now - event[0][1])

    world.found.append(note)
    chance = stream(case.seed, "events", case.nodes)
    lasted_s = 0.0
    for number in range(case.events):
        host = hosts[chance.randrange(case.nodes)]
        event[:] = [(host.id, world.now)]
        known.clear()
        image = f"new-{number}"
        if case.known:
            owned = f"common-{number % case.images}"
            pulled = Holding(
                digest(owned), (f"{image}:latest",), (RepoDigest(image, digest(image)),)
            )
            world.hold_these(host, [pulled], [])
        else:
            world.hold(host, image)
        start = world.now
        world.run(APART_S)
        while len(known) < case.nodes and world.now - start < PATIENCE_S:
            world.run(APART_S)
        lasted_s += world.now - start
        complete = len(known) >= case.nodes
        found.all_know_s.append(max(known) if complete else float("inf"))
        found.half_know_s.append(median(known))
        found.first_hearings.append(len(known))
    if case.loss:
        return found
    after = _sent(world)
    idle_world, _ = _cluster(case)
    idle_before = _sent(idle_world)
    idle_world.run(lasted_s)
    idle_after = _sent(idle_world)
    for place, name in ((0, "bytes_per_event"), (1, "packets_per_event")):
        more = (after[place] - before[place]) - (idle_after[place] - idle_before[place])
        setattr(found, name, more / case.nodes / case.events)
    return found


def dissemination(options: Options, progress: Progress) -> list[Row]:
    """Measure the times with and without loss, at 100, 1,000 and 10,000 nodes."""
    cases = [
        Spread(nodes, loss, options.trials_or(20 if nodes <= 1000 else 5), options.seed, config)
        for nodes in options.sizes(100, 1000, 10_000)
        for loss in (0.0, 0.1)
        for config in ((OURS, MEMBERLIST) if nodes <= 1000 else (OURS,))
    ]
    found = run_trials(spread, cases, options.jobs, progress)
    return [_times_row(case, one) for case, one in zip(cases, found, strict=True)]


def event_bytes(options: Options, progress: Progress) -> list[Row]:
    """Measure the bytes that one more holding costs each node."""
    rows: list[Row] = []
    sizes = options.sizes(1000)
    cases = [
        Spread(nodes, 0.0, options.trials_or(20), options.seed, config, images=46, known=True)
        for nodes in sizes
        for config in (OURS, MEMBERLIST)
    ]
    found = run_trials(spread, cases, options.jobs, progress)
    for case, one in zip(cases, found, strict=True):
        ours = case.config is OURS or case.config == OURS
        rows.append(
            {
                "who": "ours" if ours else "memberlist's rule",
                "nodes": case.nodes,
                "holdings": case.nodes * case.images * HOLDING_LAYERS,
                "events": case.events,
                "bytes_per_node": one.bytes_per_event,
                "packets_per_node": one.packets_per_event,
                "target": f"<= {EVENT_BYTES_MAX:.0f}" if ours else "",
                "met": ("yes" if one.bytes_per_event <= EVENT_BYTES_MAX else "NO") if ours else "",
            }
        )
    return rows


def _cluster(case: Spread) -> tuple[World, list[Host]]:
    link = Link(latency=LINK.latency, loss=case.loss)
    world = World(seed=case.seed, link=link, config=case.config, beacons=False)
    names = tuple(f"common-{number}" for number in range(case.images))
    hosts = world.settled(case.nodes, lambda number: names)
    world.run(WARM_S)
    return world, hosts


def _sent(world: World) -> tuple[int, int]:
    hosts: Sequence[Host] = world.hosts
    return sum(h.traffic.bytes for h in hosts), sum(h.traffic.packets for h in hosts)


def _times_row(case: Spread, found: Spreading) -> Row:
    ours = case.config == OURS
    limit = ALL_KNOW_MAX_S.get(case.nodes, 0.0) * (LOSS_FACTOR_MAX if case.loss else 1.0)
    worst = max(found.all_know_s)
    return {
        "who": "ours" if ours else "memberlist's ticks",
        "nodes": case.nodes,
        "loss": case.loss,
        "events": case.events,
        "half_know_median_s": median(found.half_know_s),
        "all_know_mean_s": mean(found.all_know_s),
        "all_know_median_s": median(found.all_know_s),
        "all_know_p99_s": percentile(found.all_know_s, 0.99),
        "all_know_worst_s": worst,
        "bytes_per_node": "" if case.loss else found.bytes_per_event,
        "target": f"<= {limit} s" if limit and ours else "",
        "met": ("yes" if worst <= limit else "NO") if limit and ours else "",
    }


EXPERIMENTS: Final = (
    Experiment("dissemination", "when all nodes know of one image event, by size", dissemination),
    Experiment("event-bytes", "what one more holding costs each of 1,000 nodes", event_bytes),
)
