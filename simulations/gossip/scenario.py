"""Gossip scenarios: a cluster, its operations, and whether all invariants held.

    outcome = play(Scenario(seed=7, nodes=5, operations=(At(3.0, Crash(2)), At(9.5, Restart(2)))))
    assert outcome.violation is None

The ``repr`` of a scenario is Python that makes it again. After the last operation everything is
mended (the network, slow hosts, clones). The cluster then has ``REST_S`` and ``QUIET_S`` to
converge, and must stay converged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from beiran.gossip.config import GossipConfig
from simulations.gossip import operations as operations_module
from simulations.gossip.checkers import Checkers
from simulations.gossip.codecs import OldCodec
from simulations.gossip.host import CLUSTER
from simulations.gossip.operations import At, OnHost, Operation
from simulations.gossip.stores import open_stores
from simulations.gossip.world import World
from simulations.kernel.chance import stream
from simulations.kernel.checkers import Violation
from simulations.kernel.links import Link
from simulations.kernel.operations import operations_in, read_text, scenario_text

START_WITHIN_S: Final = 2.0
REST_S: Final = 20.0
"""By then every suspicion is refuted or has become a verdict."""
QUIET_S: Final = 120.0
"""A node that hears from few holds its verdicts for 60 s, and probes rarely while it doubts
itself."""
STAY_S: Final = 5.0
LOOK_S: Final = 0.25


@dataclass(frozen=True)
class Scenario:
    """A cluster and its operations.

    Attributes:
      nodes: hosts at the start, which converge first if ``together``.
      beacons: whether agents broadcast.
      loss: share of datagrams that are lost from the start.
      old: numbers of the hosts that speak an older wire version.
      settled: begin as a cluster that came together long ago (the only way with thousands).
      stores: hosts whose effects go into a real database, from which they restart.
      calm_s: how long the run continues after the last operation, before everything is mended.
    """

    seed: int
    nodes: int
    operations: tuple[At[Operation], ...] = ()
    beacons: bool = True
    loss: float = 0.0
    old: tuple[int, ...] = ()
    together: bool = True
    settled: bool = False
    stores: tuple[int, ...] = (0,)
    calm_s: float = 0.0

    def __repr__(self) -> str:
        return scenario_text(self)

    @property
    def length_s(self) -> float:
        """Virtual seconds that it takes at least."""
        last = max((at.at_s for at in self.operations), default=0.0)
        return last + self.calm_s + (0.0 if self.settled else REST_S) + STAY_S


@dataclass
class Outcome:
    """The result of a scenario.

    Attributes:
      violation: the first invariant that did not hold, or None.
      converged_after_s: since everything was mended and ``REST_S`` over; None if it never did.
    """

    scenario: Scenario
    world: World
    violation: Violation | None
    converged_after_s: float | None = None


def play(
    scenario: Scenario,
    *,
    prepare: Callable[[World], None] = lambda world: None,
    progress: Callable[[float], None] = lambda now: None,
    carried: bool = False,
    config: GossipConfig | None = None,
) -> Outcome:
    """Run a scenario with all checkers.

    Args:
      prepare: called with the empty world (traces, records).
      progress: called with the virtual time now and then.
      carried, config: as in ``World``.
    """
    world = World(
        scenario.seed,
        link=Link(loss=scenario.loss),
        beacons=scenario.beacons,
        carried=carried,
        config=config,
    )
    prepare(world)
    checkers = Checkers(world)
    converged_after_s = None
    with open_stores(world, () if scenario.settled else scenario.stores) as stores:
        try:
            converged_after_s = _Run(scenario, world, checkers, progress).play()
            if checkers.violation is None:
                checkers.at_rest()
                for text in stores.differences():
                    checkers.fail("the database differs", text)
        except Exception as error:
            checkers.fail_for(error)
    return Outcome(scenario, world, checkers.violation, converged_after_s)


def read_scenario(text: str) -> Scenario:
    """Read the ``repr`` of a scenario. Raises: SettingsError for any other text."""
    return read_text(text, Scenario, operations_in(operations_module))


class _Run:
    """One scenario under way."""

    def __init__(
        self,
        scenario: Scenario,
        world: World,
        checkers: Checkers,
        progress: Callable[[float], None],
    ) -> None:
        self._scenario = scenario
        self._world = world
        self._checkers = checkers
        self._progress = progress

    def play(self) -> float | None:
        """Run up to the end or the first violation. Returns ``Outcome.converged_after_s``."""
        world, scenario = self._world, self._scenario
        self._start()
        began = world.now
        for at in sorted(scenario.operations, key=lambda at: at.at_s):
            self._advance(began + at.at_s - world.now)
            if self._checkers.violation is not None:
                return None
            self._apply(at.do)
        self._advance(scenario.calm_s)
        if self._checkers.violation is not None:
            return None
        self._mend()
        return self._come_to_rest()

    def _start(self) -> None:
        scenario, world = self._scenario, self._world
        if scenario.settled:
            world.settled(scenario.nodes, lambda number: (f"base-{number % 10}", "base"))
            return
        random = stream(scenario.seed, "start")
        for number in range(scenario.nodes):
            codec = OldCodec(CLUSTER) if number in scenario.old else None
            # all earlier hosts are seeds: with one seed they never meet if that one is down
            world.add(join=world.hosts, codec=codec)
            if number + 1 < scenario.nodes:
                world.run(random.uniform(0.0, START_WITHIN_S / scenario.nodes))
        if scenario.together:
            end = world.now + QUIET_S
            while not world.converged() and world.now < end:
                world.run(LOOK_S)

    def _advance(self, seconds: float) -> None:
        world = self._world
        end = world.now + max(0.0, seconds)
        while world.now < end and self._checkers.violation is None:
            world.run(min(1.0, end - world.now))
            self._progress(world.now)

    def _apply(self, operation: Operation) -> None:
        wellness = self._checkers.wellness
        wellness.look()
        operation.apply(self._world)
        if operation.disturbs:
            if isinstance(operation, OnHost):
                host = self._world.host(operation.host)
                if host is not None:
                    wellness.disturb(host)
            else:
                wellness.disturb_network()
        wellness.look()

    def _mend(self) -> None:
        world = self._world
        world.heal()
        world.network.change(loss=0.0, duplication=0.0, reordering=0.0)
        for host in world.hosts:
            if host.clone:
                world.power_off(host)
            world.slow(host, 0.0)
            world.drift(host, 1.0)
        self._checkers.wellness.look()

    def _come_to_rest(self) -> float | None:
        world = self._world
        self._advance(0.0 if self._scenario.settled else REST_S)
        began = world.now
        while not world.converged():
            if self._checkers.violation is not None or world.now - began >= QUIET_S:
                return None
            self._advance(LOOK_S)
        converged_after_s = world.now - began
        self._advance(STAY_S)
        return converged_after_s
