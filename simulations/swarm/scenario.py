"""Crowd scenarios: hosts that pull one image, their faults, and whether all invariants held.

    outcome = play(Crowd(seed=7, nodes=5, operations=(At(3.0, Kill(2)),)))
    assert outcome.violation is None

The ``repr`` of a crowd is Python that makes it again. All hosts want the image at once, except
those that ``Come``, ``Join`` or ``Have`` it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beiran.swarm.config import SwarmConfig
from beiran.swarm.pieces import cut
from simulations.kernel.checkers import Violation
from simulations.kernel.operations import operations_in, read_text, scenario_text
from simulations.swarm import operations as operations_module
from simulations.swarm.blobs import image
from simulations.swarm.bound import fluid_bound_s, whole_pieces_bound_s
from simulations.swarm.checkers import REST_S, Checkers
from simulations.swarm.image_pull import ImagePull
from simulations.swarm.operations import (
    At,
    Come,
    Flip,
    Forge,
    Have,
    Join,
    OnHost,
    Operation,
    OriginRate,
    Slow,
)
from simulations.swarm.world import MBIT, STARTED_AT_S, World

PATIENCE_S: Final = 150.0
PATIENCE_TIMES: Final = 4.0
"""A crowd must be done ``PATIENCE_S`` after the last operation, plus ``PATIENCE_TIMES`` the time
that one host alone would need at the origin's lowest rate."""
LOOK_S: Final = 0.1
RATE: Final = 50 * MBIT


@dataclass(frozen=True)
class Crowd:
    """A crowd and its operations.

    Attributes:
      nodes: hosts at the start, members of one cluster.
      image_bytes: in ``layers`` equal ones.
      link_bytes_per_s: of each host, each way.
      loss, duplication: shares of datagrams.
      jitter_s: a datagram is delayed by up to this much.
      noticed_s: how long after a host is gone the others learn it.
    """

    seed: int
    nodes: int
    image_bytes: int = 20_000_000
    layers: int = 6
    link_bytes_per_s: float = RATE
    origin_bytes_per_s: float = RATE
    loss: float = 0.0
    duplication: float = 0.0
    jitter_s: float = 0.0
    noticed_s: float = 3.0
    operations: tuple[At[Operation], ...] = ()

    def __repr__(self) -> str:
        return scenario_text(self)

    def hosts_of(self, *kinds: type[OnHost]) -> set[int]:
        """Return the hosts on which any operation of these kinds acts."""
        return {at.do.host for at in self.operations if isinstance(at.do, kinds)}

    @property
    def origin_rates(self) -> list[float]:
        """Rates of the origin at the start and later, in bytes a second."""
        changed = [at.do.bytes_per_s for at in self.operations if isinstance(at.do, OriginRate)]
        return [self.origin_bytes_per_s, *changed]

    @property
    def calm(self) -> bool:
        """Whether the origin has no reason to send anything twice."""
        disturbed = any(at.do.disturbs for at in self.operations)
        return not (disturbed or self.loss or self.duplication or self.jitter_s)

    @property
    def pieces(self) -> int:
        """Pieces of all layers."""
        return sum(cut(blob.size_bytes).count for blob in image(self.layers, self.image_bytes))


@dataclass
class Outcome:
    """The result of a crowd.

    Attributes:
      violation: the first invariant that did not hold, or None.
      bound_s: the fluid bound of the hosts that ended with the image; a late one counts from when
        it came.
      whole_pieces_s: the bound with whole pieces; None where rates differ.
    """

    scenario: Crowd
    pull: ImagePull
    violation: Violation | None
    bound_s: float
    whole_pieces_s: float | None


def play(
    crowd: Crowd,
    *,
    prepare: Callable[[ImagePull], None] = lambda pull: None,
    progress: Callable[[float], None] = lambda share: None,
    config: SwarmConfig | None = None,
) -> Outcome:
    """Run a crowd with all checkers.

    Args:
      prepare: called before anything happens (traces, records).
      progress: called now and then with the share of the hosts that are done.
    """
    world = World(
        crowd.seed,
        origin_rate=crowd.origin_bytes_per_s,
        loss=crowd.loss,
        duplication=crowd.duplication,
        jitter_s=crowd.jitter_s,
        noticed_s=crowd.noticed_s,
        config=config,
    )
    pull = ImagePull(world, image(crowd.layers, crowd.image_bytes), crowd.link_bytes_per_s)
    prepare(pull)
    checkers = Checkers(pull, calm=crowd.calm)
    try:
        _Run(crowd, pull, checkers, progress).play()
    except Exception as error:
        checkers.fail_for(error)
    whole = _whole_pieces_s(crowd, pull)
    return Outcome(crowd, pull, checkers.violation, _bound_s(crowd, pull), whole)


def read_crowd(text: str) -> Crowd:
    """Read the ``repr`` of a crowd. Raises: SettingsError for any other text."""
    return read_text(text, Crowd, operations_in(operations_module))


def _bound_s(crowd: Crowd, pull: ImagePull) -> float:
    """Return the bound; the uplinks of liars are of no use to others."""
    ended = [host for host in pull.wanted if pull.has(host)]
    rate, useful = crowd.link_bytes_per_s, len(pull.hosts) - len(pull.liars)
    slow = [at.do for at in crowd.operations if isinstance(at.do, Slow)]
    ups = [rate] * (useful - len(slow)) + [one.up_bytes_per_s for one in slow]
    from_start = fluid_bound_s(
        crowd.image_bytes, crowd.origin_bytes_per_s, ups, [rate] * len(ended)
    )
    alone_s = crowd.image_bytes / rate
    last_s = max((pull.came_at[host] - STARTED_AT_S for host in ended), default=0.0) + alone_s
    return max(from_start, last_s)


def _whole_pieces_s(crowd: Crowd, pull: ImagePull) -> float | None:
    uneven = (Slow, Flip, Forge, Have, Come, Join)
    if any(isinstance(at.do, uneven) for at in crowd.operations):
        return None
    if crowd.origin_bytes_per_s != crowd.link_bytes_per_s:
        return None
    rate, hosts = crowd.link_bytes_per_s, sum(map(pull.has, pull.wanted))
    return whole_pieces_bound_s(crowd.image_bytes, crowd.pieces, rate, hosts)


class _Run:
    """One crowd under way."""

    def __init__(
        self, crowd: Crowd, pull: ImagePull, checkers: Checkers, progress: Callable[[float], None]
    ) -> None:
        self._crowd = crowd
        self._pull = pull
        self._checkers = checkers
        self._progress = progress

    def play(self) -> None:
        """Run up to the end or the first violation."""
        crowd, pull, world = self._crowd, self._pull, self._pull.world
        world.publish(pull.blobs)
        for _ in range(crowd.nodes):
            pull.add()
        world.update_members()
        began = world.now
        first = [at for at in crowd.operations if at.at_s <= 0]
        later = sorted((at for at in crowd.operations if at.at_s > 0), key=lambda at: at.at_s)
        for at in first:
            at.do.apply(pull)
        waiting = crowd.hosts_of(Come, Have)
        for number, host in enumerate(pull.hosts[: crowd.nodes]):
            if number not in waiting and host.running:
                pull.want(host)
        for at in later:
            self._advance(began + at.at_s)
            if self._checkers.violation is not None:
                return
            at.do.apply(pull)
        self._finish()

    def _finish(self) -> None:
        pull, world, checkers = self._pull, self._pull.world, self._checkers
        alone_s = self._crowd.image_bytes / min(self._crowd.origin_rates)
        patience_s = PATIENCE_S + PATIENCE_TIMES * alone_s
        until = world.now + patience_s
        while world.now < until and not checkers.settled() and checkers.violation is None:
            self._advance(min(until, world.now + LOOK_S))
        if checkers.violation is None:
            checkers.at_end()
        if checkers.violation is None:
            for host in pull.hosts:  # a driver gives up when its core knows no source
                if host.running and not pull.has(host):
                    world.give_up(host, host.sizes)
            world.run(2 * world.config.linger_s + REST_S)  # the rendezvous node lingers after it
            checkers.at_rest()

    def _advance(self, until: float) -> None:
        pull, world = self._pull, self._pull.world
        while world.now < until and self._checkers.violation is None:
            world.run(min(LOOK_S, until - world.now))
            self._checkers.look()
            owed = pull.owed()
            self._progress(sum(map(pull.has, owed)) / max(1, len(owed)))
