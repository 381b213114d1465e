"""A scenario: a cluster, what befalls it and when, and whether it kept what it promises.

    outcome = play(Scenario(seed=7, nodes=5, operations=(At(3.0, Crash(2)), At(9.5, Restart(2)))))
    assert outcome.violation is None

Its ``repr`` is Python that makes it again. After the last operation everything is mended (the
network, slow hosts, copies of others); the cluster then has ``REST_S`` and ``QUIET_S`` to come to
one right picture, and must stay there.
"""

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from beiran.gossip.config import GossipConfig
from simulations.gossip import operations as operations_module
from simulations.gossip.checkers import Checkers, Violation
from simulations.gossip.old_wire import OldCodec
from simulations.gossip.operations import At, Operation
from simulations.gossip.stores import Stores
from simulations.gossip.world import CLUSTER, World
from simulations.kernel.chance import stream
from simulations.kernel.network import Link
from simulations.kernel.notation import read, scenario_text

START_WITHIN_S: Final = 2.0
REST_S: Final = 20.0
"""What was suspected is refuted or down by then."""
QUIET_S: Final = 120.0
"""A deaf node holds its verdicts for 60 s, and probes rarely while it doubts itself."""
STAY_S: Final = 5.0
LOOK_S: Final = 0.25


@dataclass(frozen=True)
class Scenario:
    """A cluster and what befalls it.

    Attributes:
      nodes: hosts at the start, which come together first if ``together``.
      old: of these the numbers of those that speak an older wire version.
      loss: share of datagrams lost from the start.
      settled: begin as a cluster that came together long ago (the only way with thousands).
      stores: hosts whose effects go into a real database, from which they restart.
    """

    seed: int
    nodes: int
    operations: tuple[At, ...] = ()
    beacons: bool = True
    loss: float = 0.0
    old: tuple[int, ...] = ()
    together: bool = True
    settled: bool = False
    stores: tuple[int, ...] = (0,)
    calm_s: float = 0.0
    """How long it runs on after the last operation, before everything is mended."""

    def __repr__(self) -> str:
        return scenario_text(self)


@dataclass
class Outcome:
    """What came of a scenario.

    Attributes:
      violation: the first invariant that did not hold, or None.
      converged_after_s: after everything was mended; None if it never did.
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
      prepare: called with the world before anything is in it (traces, recorders).
      progress: called with the virtual time now and then.
    """
    link = Link(loss=scenario.loss)
    world = World(
        scenario.seed, link=link, beacons=scenario.beacons, carried=carried, config=config
    )
    prepare(world)
    with Stores(world, () if scenario.settled else scenario.stores) as stores:
        run = _Run(scenario, world, stores, progress)
        try:
            run.play()
        except Exception as error:  # whatever the core raises is a violation, and can be shrunk
            run.checkers.fail("the core raised", where(error))
        return Outcome(scenario, world, run.checkers.violation, run.converged_after_s)


def length_s(scenario: Scenario) -> float:
    """How much virtual time a scenario takes at least."""
    last = max((at.at_s for at in scenario.operations), default=0.0)
    return last + scenario.calm_s + (0.0 if scenario.settled else REST_S) + STAY_S


def read_scenario(text: str) -> Scenario:
    """Read what ``repr`` printed. Raises: SettingsError for anything else."""
    names = {
        name: value
        for name, value in vars(operations_module).items()
        if isinstance(value, type) and (issubclass(value, Operation) or value is At)
    }
    return read(text, Scenario, names)


def where(error: Exception) -> str:
    """What was raised, and the line that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "nowhere"
    return f"{type(error).__name__}: {error} ({place})"


class _Run:
    """One scenario under way."""

    def __init__(
        self, scenario: Scenario, world: World, stores: Stores, progress: Callable[[float], None]
    ) -> None:
        self._scenario = scenario
        self._world = world
        self._stores = stores
        self._progress = progress
        self.converged_after_s: float | None = None
        self.checkers = Checkers(world)

    def play(self) -> None:
        """All of it, or up to the first violation."""
        world, scenario = self._world, self._scenario
        self._start()
        began = world.now
        for at in sorted(scenario.operations, key=lambda at: at.at_s):
            self._advance(began + at.at_s - world.now)
            if self.checkers.violation is not None:
                return
            self._do(at.do)
        self._advance(scenario.calm_s)
        if self.checkers.violation is None:
            self._mend()
            self._come_to_rest()

    def _start(self) -> None:
        scenario, world = self._scenario, self._world
        if scenario.settled:
            world.settled(scenario.nodes, lambda number: (f"base-{number % 10}", "base"))
            return
        random = stream(scenario.seed, "start")
        for number in range(scenario.nodes):
            codec = OldCodec(CLUSTER) if number in scenario.old else None
            world.add(join=world.hosts, codec=codec)  # or they never meet, if one does not start
            if number + 1 < scenario.nodes:
                world.run(random.uniform(0.0, START_WITHIN_S / scenario.nodes))
        if scenario.together:
            end = world.now + QUIET_S
            while not world.converged() and world.now < end:
                world.run(LOOK_S)

    def _advance(self, seconds: float) -> None:
        world = self._world
        end = world.now + max(0.0, seconds)
        while world.now < end and self.checkers.violation is None:
            world.run(min(1.0, end - world.now))
            self._progress(world.now)

    def _do(self, operation: Operation) -> None:
        wellness = self.checkers.wellness
        wellness.look()
        number = getattr(operation, "host", None)
        operation(self._world)
        if operation.disturbs:
            if number is None:
                wellness.break_up()
            elif number < len(self._world.hosts):
                wellness.unsettle(self._world.hosts[number])
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
        self.checkers.wellness.look()

    def _come_to_rest(self) -> None:
        world, checkers = self._world, self.checkers
        self._advance(0.0 if self._scenario.settled else REST_S)
        began = world.now
        while not world.converged() and world.now - began < QUIET_S:
            self._advance(LOOK_S)
            if checkers.violation is not None:
                return
        if world.converged():
            self.converged_after_s = world.now - began
            self._advance(STAY_S)
        checkers.at_rest()
        for text in self._stores.differences():
            checkers.fail("the database differs", text)
