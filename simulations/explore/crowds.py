"""Random crowds, thousands of them: find one that breaks an invariant, and make it small.

A seed is a small crowd with some mishaps. What is found is shrunk as scenarios of clusters are
(``simulations/shrinking.py``); what remains prints as Python for ``tests/simulations``.
"""

from collections.abc import Callable
from random import Random
from typing import Final

from simulations.explore import shrink as shrinking
from simulations.explore.hunt import Found, Hunt
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

Play = Callable[[Crowd], Outcome]


def generate(seed: int) -> Crowd:
    """The crowd that this seed stands for."""
    random = stream(seed, "crowd")
    nodes = random.randint(1, NODES_MAX)
    dice = _Dice(random, nodes)
    at = 0.0
    operations = []
    for _ in range(random.choice([0, random.randint(1, OPERATIONS_MAX), OPERATIONS_MAX])):
        operations.append(At(at, dice.operation()))
        at = round(at + random.choice(GAPS_S) * random.choice([0.5, 1.0, 1.0]), 3)
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


def explore_one(seed: int) -> Found[Crowd] | None:
    """Play the crowd of one seed."""
    crowd = generate(seed)
    outcome = play(crowd)
    if outcome.violation is None:
        return None
    return Found(seed, str(outcome.violation), crowd)


def shrink(
    outcome: Outcome, *, play: Play = play, tried: Callable[[int], None] = lambda tries: None
) -> Outcome:
    """The smallest crowd found that violates the same invariant."""
    return shrinking.shrink(outcome, play, simpler=SIMPLER, tried=tried)


class _Dice:
    """Draws operations for a crowd of so many hosts; only some kinds for each crowd."""

    def __init__(self, random: Random, nodes: int) -> None:
        self._random = random
        self._nodes = nodes
        share = random.choice([0.2, 0.5, 1.0])
        kinds = [kind for kind in self._kinds() if random.random() < share]
        self._makers = kinds or self._kinds()
        self._favourite = random.randrange(nodes)  # what befalls one host meets on it

    def operation(self) -> Operation:
        """One at random, of the kinds that this crowd has."""
        weights = [weight for weight, _ in self._makers]
        (_, make) = self._random.choices(self._makers, weights)[0]
        return make()

    def _kinds(self) -> list[tuple[int, Callable[[], Operation]]]:
        random = self._random
        return [
            (3, lambda: ops.Come(self._host())),
            (2, ops.Join),
            (2, lambda: ops.Have(self._host())),
            (2, lambda: ops.GiveUp(self._host())),
            (2, lambda: ops.Leave(self._host())),
            (3, lambda: ops.Kill(self._host())),
            (4, lambda: ops.Restart(self._host(), wiped=random.random() < 0.3)),
            (2, lambda: ops.Unplug(self._host())),
            (2, lambda: ops.PlugIn(self._host())),
            (2, lambda: ops.Slow(self._host(), random.choice([10_000.0, 200_000.0]))),
            (2, lambda: ops.Flip(self._host())),
            (1, lambda: ops.Forge(self._host())),
            (1, lambda: ops.Refuse(self._host())),
            (1, lambda: ops.OriginAway(random.choice([0.5, 2.0, 8.0]))),
            (1, lambda: ops.OriginRate(random.choice([100_000.0, 1e6, 1e8]))),
            (1, lambda: ops.Lose(random.choice([0.0, 0.02, 0.1, 0.2]))),
        ]

    def _host(self) -> int:
        if self._random.random() < 0.3:
            return self._favourite
        return self._random.randrange(self._nodes)


def _shrink(crowd: Crowd, tried: Callable[[int], None]) -> tuple[Crowd, str]:
    small = shrink(play(crowd), tried=tried)
    return small.scenario, str(small.violation)


CROWDS: Final = Hunt(explore_one, _shrink, "python -m simulations crowd")
