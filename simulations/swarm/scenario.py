"""A crowd that pulls one image: who comes, what befalls it and when, and whether it ends well.

    outcome = play(Crowd(seed=7, nodes=5, operations=(At(3.0, Kill(2)),)))
    assert outcome.violation is None

Its ``repr`` is Python that makes it again. All hosts want the image at once, but those that
``Come``, ``Join`` or ``Have`` it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beiran.swarm.config import SwarmConfig
from beiran.swarm.pieces import cut
from simulations.gossip.checkers import Violation
from simulations.gossip.scenario import where
from simulations.kernel.notation import read, scenario_text
from simulations.swarm import operations as operations_module
from simulations.swarm.blobs import image
from simulations.swarm.bound import fluid_bound_s, whole_pieces_bound_s
from simulations.swarm.checkers import REST_S, Checkers
from simulations.swarm.crowd import Stage
from simulations.swarm.operations import (
    At,
    Come,
    Flip,
    Forge,
    Have,
    Join,
    Operation,
    OriginRate,
    Slow,
)
from simulations.swarm.world import MBIT, STARTED_AT_S, World

PATIENCE_S: Final = 150.0
"""Whatever befell it, a crowd is done so long after that, and after the time that it needs."""
PATIENCE_TIMES: Final = 4.0
LOOK_S: Final = 0.1
RATE: Final = 50 * MBIT


@dataclass(frozen=True)
class Crowd:
    """A crowd and what befalls it.

    Attributes:
      nodes: hosts at the start, members of one cluster.
      image_bytes: in ``layers`` equal ones.
      link_bytes_per_s: of each host, each way.
      loss, duplication: of datagrams. jitter_s: they may overtake each other by so much.
      noticed_s: how long gossip takes to tell of one that is gone.
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
    operations: tuple[At, ...] = ()

    def __repr__(self) -> str:
        return scenario_text(self)

    def number_of(self, *kinds: type[Operation]) -> set[int]:
        """The hosts that any operation of these kinds befalls."""
        operations = (at.do for at in self.operations if isinstance(at.do, kinds))
        return {getattr(operation, "host", -1) for operation in operations}

    @property
    def origin_rates(self) -> list[float]:
        """At the start and later, in bytes a second."""
        changed = [at.do.bytes_per_s for at in self.operations if isinstance(at.do, OriginRate)]
        return [self.origin_bytes_per_s, *changed]

    @property
    def calm(self) -> bool:
        """Nothing befalls it for which the origin would have to give anything twice."""
        harmless = all(at.do.harmless for at in self.operations)
        return harmless and not self.loss and not self.duplication and not self.jitter_s

    @property
    def pieces(self) -> int:
        """Of all its layers."""
        return sum(cut(blob.size_bytes).count for blob in image(self.layers, self.image_bytes))


@dataclass
class Outcome:
    """What came of a crowd.

    Attributes:
      violation: the first invariant that did not hold, or None.
      bound_s: the fluid bound of those who ended with the image; late ones count from when they
        came. whole_pieces_s: with whole pieces; None where rates differ.
    """

    scenario: Crowd
    stage: Stage
    violation: Violation | None
    bound_s: float
    whole_pieces_s: float | None


def play(
    crowd: Crowd,
    *,
    prepare: Callable[[Stage], None] = lambda stage: None,
    progress: Callable[[float], None] = lambda share: None,
    config: SwarmConfig | None = None,
) -> Outcome:
    """Run a crowd with all checkers.

    Args:
      prepare: called before anything happens (traces, chronicles).
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
    stage = Stage(world, image(crowd.layers, crowd.image_bytes), crowd.link_bytes_per_s)
    prepare(stage)
    checkers = Checkers(stage, calm=crowd.calm)
    try:
        _Run(crowd, stage, checkers, progress).play()
    except Exception as error:  # whatever the core raises is a violation, and can be shrunk
        checkers.fail("the core raised", where(error))
    whole = _whole_pieces_s(crowd, stage)
    return Outcome(crowd, stage, checkers.violation, _bound_s(crowd, stage), whole)


def read_crowd(text: str) -> Crowd:
    """Read what ``repr`` printed. Raises: SettingsError for anything else."""
    names = {
        name: value
        for name, value in vars(operations_module).items()
        if isinstance(value, type) and (issubclass(value, Operation) or value is At)
    }
    return read(text, Crowd, names)


def _bound_s(crowd: Crowd, stage: Stage) -> float:
    """Late ones have what is left of the time when they come; liars' uplinks are of no use."""
    ended = [host for host in stage.wanted if stage.has(host)]
    rate, useful = crowd.link_bytes_per_s, len(stage.hosts) - len(stage.liars)
    slow = [at.do for at in crowd.operations if isinstance(at.do, Slow)]
    ups = [rate] * (useful - len(slow)) + [one.up_bytes_per_s for one in slow]
    from_start = fluid_bound_s(
        crowd.image_bytes, crowd.origin_bytes_per_s, ups, [rate] * len(ended)
    )
    alone_s = crowd.image_bytes / rate
    last_s = max((stage.came_at[host] - STARTED_AT_S for host in ended), default=0.0) + alone_s
    return max(from_start, last_s)


def _whole_pieces_s(crowd: Crowd, stage: Stage) -> float | None:
    uneven = crowd.number_of(Slow, Flip, Forge, Have, Come, Join)
    if uneven or crowd.origin_bytes_per_s != crowd.link_bytes_per_s:
        return None
    rate, hosts = crowd.link_bytes_per_s, sum(map(stage.has, stage.wanted))
    return whole_pieces_bound_s(crowd.image_bytes, crowd.pieces, rate, hosts)


class _Run:
    """One crowd under way."""

    def __init__(
        self, crowd: Crowd, stage: Stage, checkers: Checkers, progress: Callable[[float], None]
    ) -> None:
        self._crowd = crowd
        self._stage = stage
        self._checkers = checkers
        self._progress = progress

    def play(self) -> None:
        """All of it, or up to the first violation."""
        crowd, stage, world = self._crowd, self._stage, self._stage.world
        world.publish(stage.blobs)
        for _ in range(crowd.nodes):
            stage.add()
        world.tell_members()
        began = world.now
        first = [at for at in crowd.operations if at.at_s <= 0]
        later = sorted((at for at in crowd.operations if at.at_s > 0), key=lambda at: at.at_s)
        for at in first:
            at.do(stage)
        waiting = crowd.number_of(Come, Have)
        for number, host in enumerate(stage.hosts[: crowd.nodes]):
            if number not in waiting and host.running:
                stage.pull(host)
        for at in later:
            self._advance(began + at.at_s)
            if self._checkers.violation is not None:
                return
            at.do(stage)
        self._finish()

    def _finish(self) -> None:
        stage, world, checkers = self._stage, self._stage.world, self._checkers
        alone_s = self._crowd.image_bytes / min(self._crowd.origin_rates)
        patience_s = PATIENCE_S + PATIENCE_TIMES * alone_s
        until = world.now + patience_s
        while world.now < until and not checkers.settled() and checkers.violation is None:
            self._advance(min(until, world.now + LOOK_S))
        if checkers.violation is None:
            checkers.at_end()
        if checkers.violation is None:
            for host in stage.hosts:  # who was told that there is no source is told to give up
                if host.running and not stage.has(host):
                    world.give_up(host, host.sizes)
            world.run(2 * world.config.linger_s + REST_S)  # its rendezvous node's comes after it
            checkers.at_rest()

    def _advance(self, until: float) -> None:
        stage, world = self._stage, self._stage.world
        while world.now < until and self._checkers.violation is None:
            world.run(min(LOOK_S, until - world.now))
            self._checkers.look()
            owed = stage.owed()
            self._progress(sum(map(stage.has, owed)) / max(1, len(owed)))
