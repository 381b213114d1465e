"""Random gossip scenarios: a seed is a cluster with up to 16 operations."""

from dataclasses import replace
from random import Random
from typing import Final

from typing_extensions import override

from simulations.explore.draw import Draw, Kind
from simulations.explore.hunt import Hunt
from simulations.gossip import operations as ops
from simulations.gossip.operations import At, Operation
from simulations.gossip.scenario import Outcome, Scenario, play
from simulations.kernel.chance import stream

OPERATIONS_MAX: Final = 16
NODES_MIN: Final = 2
NODES_MAX: Final = 9
STOP_S_MAX: Final = 12.0
GAPS_S: Final = (0.0, 0.0, 0.02, 0.3, 0.3, 2.0, 2.0, 5.0, 20.0, 70.0)
"""Between operations: at one instant, within a round trip, a probe, a suspicion, a push-pull."""
SIMPLER: Final = (
    {"loss": 0.0},
    {"old": ()},
    {"beacons": True},
    {"together": True},
    {"calm_s": 0.0},
)


def generate(seed: int) -> Scenario:
    """Return the scenario that this seed stands for."""
    random = stream(seed, "scenario")
    nodes = random.randint(NODES_MIN, NODES_MAX)
    draw = _DrawFaults(random, nodes)
    at_s = 0.0
    operations = []
    for _ in range(random.randint(1, OPERATIONS_MAX)):
        at_s = draw.later(at_s, GAPS_S)
        operations.append(At(at_s, draw.operation()))
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


class _DrawFaults(Draw[Operation]):
    """Draws operations for a cluster."""

    def __init__(self, random: Random, nodes: int) -> None:
        self._images = 0
        super().__init__(random, nodes, favourite_share=0.4)

    @override
    def usual(self) -> list[Kind[Operation]]:
        # a hundred releases at once are more than there are tombstones
        random = self.random
        return [
            Kind(4, self._hold),
            Kind(2, lambda: ops.Hold(self.host(), "many", random.choice([20, 120]))),
            Kind(4, lambda: ops.Release(self.host(), count=random.choice([1, 2, 100, 100]))),
        ]

    @override
    def kinds(self) -> list[Kind[Operation]]:
        random = self.random
        return [
            Kind(2, lambda: ops.Crash(self.host())),
            Kind(2, lambda: ops.PowerOff(self.host())),
            Kind(5, lambda: ops.Restart(self.host(), wiped=random.random() < 0.4)),
            Kind(1, ops.CrashAll),
            Kind(1, lambda: ops.RestartAll(random.random() < 0.3, random.choice([0.0, 1.0, 5.0]))),
            Kind(2, lambda: ops.Leave(self.host())),
            Kind(1, ops.Join),
            Kind(2, lambda: ops.Stop(self.host(), self._seconds())),
            Kind(2, lambda: ops.Block(self.host(), self._seconds())),
            Kind(1, lambda: ops.Slow(self.host(), random.choice([0.0, 0.001, 0.02, 0.3]))),
            Kind(1, lambda: ops.StepClock(self.host(), random.choice([-1e9, -100.0, 3.0, 1e5]))),
            Kind(1, lambda: ops.Drift(self.host(), random.choice([0.98, 0.9999, 1.0001, 1.02]))),
            Kind(3, self._split),
            Kind(2, lambda: ops.Cut(self.host(), self.host())),
            Kind(3, ops.Heal),
            Kind(1, lambda: ops.Flap(self.host(), random.choice([0.1, 0.7, 3.0]), self._seconds())),
            Kind(1, lambda: ops.Lose(random.choice([0.0, 0.02, 0.1, 0.2]))),
            Kind(1, lambda: ops.Garble(random.choice([0.0, 0.2]), random.choice([0.0, 0.3]))),
            Kind(1, lambda: ops.Babble(self.host(), self._seconds())),
            Kind(1, lambda: ops.Clone(self.host())),
            Kind(1, lambda: ops.Move(self.host())),
            Kind(1, lambda: ops.Change(self.host(), old=random.random() < 0.5)),
        ]

    def _seconds(self) -> float:
        return round(self.random.uniform(0.2, STOP_S_MAX), 2)

    def _hold(self) -> Operation:
        self._images += 1
        image = self.random.choice(["a", "b", f"image-{self._images}"])
        tag = self.random.choice(["latest", "latest", "other"])
        return ops.Hold(self.host(), image, tag=tag)

    def _split(self) -> Operation:
        hosts = list(range(self.nodes))
        self.random.shuffle(hosts)
        cut = self.random.randint(1, self.nodes - 1)
        return ops.Split((tuple(sorted(hosts[:cut])), tuple(sorted(hosts[cut:]))))


def _with_nodes(scenario: Scenario, nodes: int) -> Scenario:
    old = tuple(number for number in scenario.old if number < nodes)
    return replace(scenario, nodes=nodes, old=old)


CLUSTERS: Final[Hunt[Scenario, Outcome]] = Hunt(
    generate, play, SIMPLER, _with_nodes, replay="python -m simulations run"
)
