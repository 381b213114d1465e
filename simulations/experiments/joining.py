"""The cost of joining a large cluster, and the time that two halves take to converge.

*Joining*: a node without state joins a cluster that came together long ago. All bytes that any node
sends over TCP count, headers and acknowledgements included: until the new node knows the members
and their holdings, and then until it has the descriptions of the images. Each node holds images
that are drawn from a stock of the fleet; no two images share a layer.

*Healing*: a cluster is cut in two parts, which hold each other for down, and healed. The nodes have
converged when all see the same online members and holdings. Suspicions may last longer, and are
measured as well.
"""

import math
from dataclasses import dataclass
from typing import Final

from beiran.gossip.membership.member import Status
from simulations.experiments.table import Experiment, Options, Progress, Row, run_trials
from simulations.gossip.world import World
from simulations.kernel.chance import stream

IMAGES: Final = 17  # that a node holds: 17 of 11 layers are 187
LAYERS: Final = 11
STOCK: Final = 400  # different images in a fleet
PICTURE_BYTES_MAX: Final = {1000: 450e3, 10_000: 2e6}
LAYERS_AT: Final = {1000: 187, 10_000: 211}
JOIN_WITHIN_S: Final = 60.0
CUT_S: Final = 600.0
SHORT_CUT_S: Final = 20.0
HEAL_WITHIN_S: Final = 120.0
ONE_PICTURE_MAX_S: Final = 20.0
DATAGRAM_KINDS: Final = ("ping", "ack", "ping-req", "nack", "gossip", "beacon")


@dataclass(frozen=True)
class Joining:
    """A cluster that one node joins."""

    nodes: int
    seed: int
    images: int = IMAGES


@dataclass(frozen=True)
class Joined:
    """Bytes and seconds until members and holdings are known, and until images are described."""

    picture_bytes: int
    described_bytes: int
    known_s: float
    described_s: float


def join(case: Joining) -> Joined:
    """Let one node join."""
    world = World(seed=case.seed, beacons=False)
    chance = stream(case.seed, "stock")
    names = [f"image-{number}" for number in range(STOCK)]
    held = [chance.sample(names, case.images) for _ in range(case.nodes)]
    hosts = world.settled(case.nodes, lambda number: held[number], layers=LAYERS)
    world.run(2.0)
    before = _sent(world)
    began = world.now
    node = world.add(join=[hosts[0]]).node

    def knows() -> bool:
        return node.members.state_hash == hosts[0].node.members.state_hash

    known_s = world.run_until(knows, within_s=JOIN_WITHIN_S, every_s=0.005)
    picture_bytes = _sent(world) - before
    world.run_until(
        lambda: not node.descriptions.wanted_count, within_s=JOIN_WITHIN_S, every_s=0.005
    )
    return Joined(picture_bytes, _sent(world) - before, known_s, world.now - began)


def joining(options: Options, progress: Progress) -> list[Row]:
    """Measure the bytes until a new node knows the whole cluster."""
    sizes = options.sizes(100, 1000, 10_000)
    cases = [
        Joining(nodes, options.seed, math.ceil(LAYERS_AT.get(nodes, 187) / LAYERS))
        for nodes in sizes
    ]
    found = run_trials(join, cases, options.jobs, progress)
    rows: list[Row] = []
    for case, one in zip(cases, found, strict=True):
        limit = PICTURE_BYTES_MAX.get(case.nodes)
        rows.append(
            {
                "nodes": case.nodes,
                "images_each": case.images,
                "layers_each": case.images * LAYERS,
                "picture_bytes": one.picture_bytes,
                "known_s": one.known_s,
                "described_bytes": one.described_bytes,
                "described_s": one.described_s,
                "target": f"<= {limit:.0f} B" if limit else "",
                "met": ("yes" if one.described_bytes <= limit else "NO") if limit else "",
            }
        )
    return rows


@dataclass(frozen=True)
class Cut:
    """A cluster that is cut in two and healed; ``share`` of its nodes are on one side."""

    nodes: int
    seed: int
    cut_s: float = CUT_S
    share: float = 0.5


@dataclass(frozen=True)
class Healed:
    """The result, in seconds after the healing.

    Attributes:
      one_picture_s: when all nodes had converged.
      no_suspicion_s: when no node had a suspicion any more.
      offline: members that the first host held for offline when the cut was healed.
    """

    one_picture_s: float
    no_suspicion_s: float
    offline: int


def heal(case: Cut) -> Healed:
    """Cut a cluster in two, and heal it."""
    world = World(seed=case.seed, beacons=False)
    hosts = world.settled(case.nodes)
    world.run(2.0)
    side = round(case.nodes * case.share)
    world.partition(hosts[:side], hosts[side:])
    world.run(case.cut_s)
    seen = hosts[0].node.members.online_count
    for host in (hosts[0], hosts[-1]):
        world.hold(host, f"while-apart-{host.number}")
    world.run(1.0)
    world.heal()
    healed_at = world.now
    took_s = world.run_until(world.converged, within_s=HEAL_WITHIN_S, every_s=0.05)

    def no_suspicion() -> bool:
        return not any(
            member.status == Status.SUSPECT for host in hosts for member in host.node.members.all()
        )

    world.run_until(no_suspicion, within_s=HEAL_WITHIN_S, every_s=0.5)
    return Healed(took_s, world.now - healed_at, case.nodes - seen)


def healing(options: Options, progress: Progress) -> list[Row]:
    """Measure the seconds until two parts converge: halves, and a tenth cut off for 20 s."""
    cases = [
        Cut(nodes, options.seed + trial, cut_s, share)
        for nodes in options.sizes(100, 1000)
        for cut_s, share in ((SHORT_CUT_S, 0.9), (CUT_S, 0.5))
        for trial in range(options.trials_or(1))
    ]
    found = run_trials(heal, cases, options.jobs, progress)
    return [
        {
            "nodes": case.nodes,
            "cut_off": case.nodes - round(case.nodes * case.share),
            "cut_s": case.cut_s,
            "offline_before": one.offline,
            "one_picture_s": one.one_picture_s,
            "no_suspicion_s": one.no_suspicion_s,
            "target": f"<= {ONE_PICTURE_MAX_S:.0f} s",
            "met": "yes" if one.one_picture_s <= ONE_PICTURE_MAX_S else "NO",
        }
        for case, one in zip(cases, found, strict=True)
    ]


def _sent(world: World) -> int:
    """Return the bytes that all have sent, except pings and gossip."""
    return sum(
        host.traffic.bytes
        - sum(host.traffic.by_kind().get(kind, (0, 0))[1] for kind in DATAGRAM_KINDS)
        for host in world.hosts
    )


EXPERIMENTS: Final = (
    Experiment("joining", "bytes until a new node knows the whole cluster", joining),
    Experiment("healing", "seconds until two halves are one again after 10 minutes", healing),
)
