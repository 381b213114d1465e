"""What ``explore`` looks for and how, whatever its scenarios are of."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Sought = TypeVar("Sought")


@dataclass(frozen=True)
class Found(Generic[Sought]):
    """A seed whose scenario violates an invariant; ``text`` tells which."""

    seed: int
    text: str
    scenario: Sought


@dataclass(frozen=True)
class Hunt(Generic[Sought]):
    """One kind of scenarios.

    Attributes:
      explore_one: play the scenario of a seed; a module's function, for other processes.
      shrink: play one that violates an invariant, and make it small. Calls back with how many
        were played, and returns the small one and what it violates.
      replay: the command that plays one again, without the scenario.
    """

    explore_one: Callable[[int], Found[Sought] | None]
    shrink: Callable[[Sought, Callable[[int], None]], tuple[Sought, str]]
    replay: str
