"""Random scenarios, thousands of them: find one that breaks an invariant, and make it small.

A seed is a scenario. What is found is shrunk (``shrinking.py``); what remains prints as Python for
``tests/simulations/test_found.py``.
"""

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Final

from simulations.explore import shrink as shrinking
from simulations.explore.hunt import Found, Hunt
from simulations.gossip import operations as ops
from simulations.gossip.operations import At, Operation
from simulations.gossip.scenario import Outcome, Scenario, play
from simulations.kernel.chance import stream

OPERATIONS_MAX: Final = 16
NODES_MIN: Final = 2
NODES_MAX: Final = 9
STOP_S_MAX: Final = 12.0
GAPS_S: Final = (0.0, 0.0, 0.02, 0.3, 0.3, 2.0, 2.0, 5.0, 20.0, 70.0)
SIMPLER: Final = (
    {"loss": 0.0},
    {"old": ()},
    {"beacons": True},
    {"together": True},
    {"calm_s": 0.0},
)

Play = Callable[[Scenario], Outcome]


def generate(seed: int) -> Scenario:
    """The scenario that this seed stands for."""
    random = stream(seed, "scenario")
    nodes = random.randint(NODES_MIN, NODES_MAX)
    dice = _Dice(random, nodes)
    at = 0.0
    operations = []
    for _ in range(random.randint(1, OPERATIONS_MAX)):
        at = round(at + random.choice(GAPS_S) * random.choice([0.5, 1.0, 1.0]), 3)
        operations.append(At(at, dice.operation()))
    old = tuple(n for n in range(nodes) if random.random() < 0.5) if random.random() < 0.15 else ()
    return Scenario(
        seed=seed,
        nodes=nodes,
        operations=tuple(operations),
        beacons=random.random() < 0.7,
        loss=random.choice([0.0, 0.0, 0.0, 0.02, 0.1, 0.2]),
        old=old,
        together=random.random() < 0.8,
        calm_s=random.choice([0.0, 5.0, 30.0, 60.0]),
    )


def explore_one(seed: int) -> Found[Scenario] | None:
    """Play the scenario of one seed."""
    scenario = generate(seed)
    outcome = play(scenario)
    if outcome.violation is None:
        return None
    return Found(seed, str(outcome.violation), scenario)


class _Dice:
    """Draws operations for a cluster of so many hosts.

    A scenario has only some kinds of mishaps, so that those it has meet each other and changes
    more often (swarm testing: Groce and others, 2012).
    """

    def __init__(self, random: Random, nodes: int) -> None:
        self._random = random
        self._nodes = nodes
        self._images = 0
        share = random.choice([0.2, 0.5, 1.0])
        mishaps = [kind for kind in self._mishaps() if random.random() < share]
        self._makers = self._changes() + mishaps
        self._favourite = random.randrange(nodes)  # what befalls one host meets on it

    def operation(self) -> Operation:
        """One at random, of the kinds that this scenario has."""
        weights = [weight for weight, _ in self._makers]
        (_, make) = self._random.choices(self._makers, weights)[0]
        return make()

    def _changes(self) -> list[tuple[int, Callable[[], Operation]]]:
        """What engines do. A hundred at once is more than there are tombstones."""
        random = self._random
        return [
            (4, self._hold),
            (2, lambda: ops.Hold(self._host(), "many", random.choice([20, 120]))),
            (4, lambda: ops.Release(self._host(), count=random.choice([1, 2, 100, 100]))),
        ]

    def _mishaps(self) -> list[tuple[int, Callable[[], Operation]]]:
        """All others; restarts and splits are the most usual."""
        random = self._random
        return [
            (2, lambda: ops.Crash(self._host())),
            (2, lambda: ops.PowerOff(self._host())),
            (5, lambda: ops.Restart(self._host(), wiped=random.random() < 0.4)),
            (1, ops.CrashAll),
            (1, lambda: ops.RestartAll(random.random() < 0.3, random.choice([0.0, 1.0, 5.0]))),
            (2, lambda: ops.Leave(self._host())),
            (1, ops.Join),
            (2, lambda: ops.Stop(self._host(), self._seconds())),
            (2, lambda: ops.Block(self._host(), self._seconds())),
            (1, lambda: ops.Slow(self._host(), random.choice([0.0, 0.001, 0.02, 0.3]))),
            (1, lambda: ops.StepClock(self._host(), random.choice([-1e9, -100.0, 3.0, 1e5]))),
            (1, lambda: ops.Drift(self._host(), random.choice([0.98, 0.9999, 1.0001, 1.02]))),
            (3, self._split),
            (2, lambda: ops.Cut(self._host(), self._host())),
            (3, ops.Heal),
            (1, lambda: ops.Flap(self._host(), random.choice([0.1, 0.7, 3.0]), self._seconds())),
            (1, lambda: ops.Lose(random.choice([0.0, 0.02, 0.1, 0.2]))),
            (1, lambda: ops.Garble(random.choice([0.0, 0.2]), random.choice([0.0, 0.3]))),
            (1, lambda: ops.Babble(self._host(), self._seconds())),
            (1, lambda: ops.Clone(self._host())),
            (1, lambda: ops.Move(self._host())),
            (1, lambda: ops.Change(self._host(), old=random.random() < 0.5)),
        ]

    def _host(self) -> int:
        if self._random.random() < 0.4:
            return self._favourite
        return self._random.randrange(self._nodes)

    def _seconds(self) -> float:
        return round(self._random.uniform(0.2, STOP_S_MAX), 2)

    def _hold(self) -> Operation:
        self._images += 1
        image = self._random.choice(["a", "b", f"image-{self._images}"])
        tag = self._random.choice(["latest", "latest", "other"])
        return ops.Hold(self._host(), image, tag=tag)

    def _split(self) -> Operation:
        hosts = list(range(self._nodes))
        self._random.shuffle(hosts)
        cut = self._random.randint(1, self._nodes - 1)
        return ops.Split((tuple(sorted(hosts[:cut])), tuple(sorted(hosts[cut:]))))


def shrink(
    outcome: Outcome, *, play: Play = play, tried: Callable[[int], None] = lambda tries: None
) -> Outcome:
    """The smallest scenario found that violates the same invariant."""
    return shrinking.shrink(outcome, play, simpler=SIMPLER, with_nodes=_with_nodes, tried=tried)


def _with_nodes(scenario: Scenario, nodes: int) -> Scenario:
    old = tuple(number for number in scenario.old if number < nodes)
    return replace(scenario, nodes=nodes, old=old)


def _shrink(scenario: Scenario, tried: Callable[[int], None]) -> tuple[Scenario, str]:
    small = shrink(play(scenario), tried=tried)
    return small.scenario, str(small.violation)


CLUSTERS: Final = Hunt(explore_one, _shrink, "python -m simulations run")
