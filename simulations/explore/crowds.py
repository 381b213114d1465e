"""Random crowds: a seed is a small crowd with up to ten operations."""

from dataclasses import replace
from random import Random
from typing import Final

from typing_extensions import override

from simulations.explore.draw import Draw, Kind
from simulations.explore.hunt import Hunt
from simulations.kernel.chance import stream
from simulations.swarm import operations as ops
from simulations.swarm.operations import At, Operation
from simulations.swarm.scenario import Crowd, Outcome, play

NODES_MAX: Final = 9
OPERATIONS_MAX: Final = 10
GAPS_S: Final = (0.0, 0.05, 0.2, 0.2, 0.5, 0.5, 1.0, 3.0, 10.0)
SIMPLER: Final = (
    {"loss": 0.0},
    {"duplication": 0.0},
    {"jitter_s": 0.0},
    {"noticed_s": 3.0},
    {"layers": 1},
    {"image_bytes": 2_000_000},
    {"image_bytes": 6_000_000},
    {"origin_bytes_per_s": Crowd.origin_bytes_per_s},
)


def generate(seed: int) -> Crowd:
    """Return the crowd that this seed stands for."""
    random = stream(seed, "crowd")
    nodes = random.randint(1, NODES_MAX)
    draw = _DrawFaults(random, nodes)
    at_s = 0.0
    operations = []
    for _ in range(random.choice([0, random.randint(1, OPERATIONS_MAX), OPERATIONS_MAX])):
        operations.append(At(at_s, draw.operation()))
        at_s = draw.later(at_s, GAPS_S)
    return Crowd(
        seed=seed,
        nodes=nodes,
        image_bytes=random.choice([0, 300_000, 2_000_000, 6_000_000, 12_000_000, 12_000_000]),
        layers=random.randint(1, 5),
        origin_bytes_per_s=random.choice([0.1, 0.5, 1.0, 1.0, 1.0, 10.0]) * Crowd.link_bytes_per_s,
        loss=random.choice([0.0, 0.0, 0.0, 0.02, 0.1, 0.2]),
        duplication=random.choice([0.0, 0.0, 0.1]),
        jitter_s=random.choice([0.0, 0.0, 0.02]),
        noticed_s=random.choice([0.5, 3.0, 3.0, 20.0]),
        operations=tuple(operations),
    )


class _DrawFaults(Draw[Operation]):
    """Draws operations for a crowd."""

    def __init__(self, random: Random, nodes: int) -> None:
        super().__init__(random, nodes, favourite_share=0.3)

    @override
    def kinds(self) -> list[Kind[Operation]]:
        random = self.random
        return [
            Kind(3, lambda: ops.Come(self.host())),
            Kind(2, ops.Join),
            Kind(2, lambda: ops.Have(self.host())),
            Kind(2, lambda: ops.GiveUp(self.host())),
            Kind(2, lambda: ops.Leave(self.host())),
            Kind(3, lambda: ops.Kill(self.host())),
            Kind(4, lambda: ops.Restart(self.host(), wiped=random.random() < 0.3)),
            Kind(2, lambda: ops.Unplug(self.host())),
            Kind(2, lambda: ops.PlugIn(self.host())),
            Kind(2, lambda: ops.Slow(self.host(), random.choice([10_000.0, 200_000.0]))),
            Kind(2, lambda: ops.Flip(self.host())),
            Kind(1, lambda: ops.Forge(self.host())),
            Kind(1, lambda: ops.Refuse(self.host())),
            Kind(1, lambda: ops.OriginAway(random.choice([0.5, 2.0, 8.0]))),
            Kind(1, lambda: ops.OriginRate(random.choice([100_000.0, 1e6, 1e8]))),
            Kind(1, lambda: ops.Lose(random.choice([0.0, 0.02, 0.1, 0.2]))),
        ]


def _with_nodes(crowd: Crowd, nodes: int) -> Crowd:
    return replace(crowd, nodes=nodes)


CROWDS: Final[Hunt[Crowd, Outcome]] = Hunt(
    generate, play, SIMPLER, _with_nodes, replay="python -m simulations crowd"
)
