"""Draw operations at random: what every kind of random scenario has in common.

A scenario has only some kinds of operations, so that those it has meet each other and their effects
add up (swarm testing: Groce and others, 2012), and one host is hit more often than the others.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Generic, NamedTuple, TypeVar

Op = TypeVar("Op")


class Kind(NamedTuple, Generic[Op]):
    """A kind of operation: how often it is drawn, relative to others, and how it is made."""

    weight: int
    make: Callable[[], Op]


class Draw(Generic[Op]):
    """Draws the operations of one scenario; a subclass says of which kinds.

    Args:
      nodes: hosts of the scenario.
      favourite_share: of the operations, how many hit the favourite host.
    """

    def __init__(self, random: Random, nodes: int, *, favourite_share: float) -> None:
        self.random = random
        self.nodes = nodes
        self._favourite_share = favourite_share
        share = random.choice([0.2, 0.5, 1.0])
        drawn = [kind for kind in self.kinds() if random.random() < share]
        self._kinds = [*self.usual(), *drawn] or self.kinds()
        self._favourite = random.randrange(nodes)

    def kinds(self) -> list[Kind[Op]]:
        """Return the kinds of which a scenario has only some."""
        raise NotImplementedError

    def usual(self) -> list[Kind[Op]]:
        """Return the kinds that every scenario has."""
        return []

    def operation(self) -> Op:
        """Draw an operation."""
        (kind,) = self.random.choices(self._kinds, [kind.weight for kind in self._kinds])
        return kind.make()

    def host(self) -> int:
        """Draw the number of a host."""
        if self.random.random() < self._favourite_share:
            return self._favourite
        return self.random.randrange(self.nodes)

    def later(self, at_s: float, gaps_s: Sequence[float]) -> float:
        """Draw the time of the next operation after ``at_s``, to a millisecond."""
        return round(at_s + self.random.choice(gaps_s) * self.random.choice([0.5, 1.0, 1.0]), 3)
