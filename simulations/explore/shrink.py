"""Shrinking: a scenario that violates an invariant is made small, whatever it is a scenario of.

Operations are left out first (delta debugging: Zeller and Hildebrandt, 2002), then hosts and
disturbances of the whole, and times are rounded, as long as the same invariant is violated.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, replace
from typing import Any, ClassVar, Final, Generic, Protocol, TypeVar

from simulations.kernel.checkers import Violation
from simulations.kernel.operations import At

TRIES_MAX: Final = 400  # scenarios played to shrink one; 0.1 s of processor time each


class Shrinkable(Protocol):
    """A scenario: a frozen dataclass of hosts and operations."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    @property
    def nodes(self) -> int:
        """Hosts."""
        ...

    @property
    def operations(self) -> tuple[At[Any], ...]:
        """Operations and their times."""
        ...


ScenarioOut = TypeVar("ScenarioOut", bound=Shrinkable, covariant=True)


class Played(Protocol[ScenarioOut]):
    """The outcome of a scenario."""

    @property
    def scenario(self) -> ScenarioOut:
        """The scenario that was played."""
        ...

    @property
    def violation(self) -> Violation | None:
        """The first invariant that did not hold, or None."""
        ...


Outcome = TypeVar("Outcome", bound=Played[Any])


def shrink(
    outcome: Outcome,
    play: Callable[[Any], Outcome],
    *,
    simpler: Sequence[Mapping[str, object]],
    with_nodes: Callable[[Any, int], Any],
    tried: Callable[[int], None],
) -> Outcome:
    """Return the outcome of the smallest scenario found that violates the same invariant.

    The arguments are those of ``Hunt``.
    """
    assert outcome.violation is not None, "only a violation can be shrunk"
    return _Shrinker(outcome, play, simpler, with_nodes, tried).run()


class _Shrinker(Generic[Outcome]):
    def __init__(
        self,
        outcome: Outcome,
        play: Callable[[Any], Outcome],
        simpler: Sequence[Mapping[str, object]],
        with_nodes: Callable[[Any, int], Any],
        tried: Callable[[int], None],
    ) -> None:
        self._best = outcome
        self._play = play
        self._simpler = simpler
        self._with_nodes = with_nodes
        self._tried = tried
        self._tries = 0

    def run(self) -> Outcome:
        before: object = None
        while before != self._best.scenario and self._tries < TRIES_MAX:
            before = self._best.scenario
            self._fewer_operations()
            self._fewer_nodes()
            for changes in self._simpler:
                self._try(replace(self._best.scenario, **changes))
            self._rounder_times()
        return self._best

    def _try(self, scenario: Any) -> bool:
        """Take ``scenario`` if it violates the same invariant."""
        if scenario == self._best.scenario or self._tries >= TRIES_MAX:
            return False
        self._tries += 1
        self._tried(self._tries)
        outcome = self._play(scenario)
        known = self._best.violation
        if outcome.violation is None or known is None:
            return False
        if outcome.violation.invariant != known.invariant:
            return False
        self._best = outcome
        return True

    def _fewer_operations(self) -> None:
        size = max(1, len(self._best.scenario.operations) // 2)
        while size:
            place = 0
            while place < len(self._best.scenario.operations):
                operations = self._best.scenario.operations
                fewer = operations[:place] + operations[place + size :]
                if not self._try(replace(self._best.scenario, operations=fewer)):
                    place += size
            size //= 2

    def _fewer_nodes(self) -> None:
        while self._best.scenario.nodes > 1:
            scenario = self._best.scenario
            if not self._try(self._with_nodes(scenario, scenario.nodes - 1)):
                return

    def _rounder_times(self) -> None:
        for place in range(len(self._best.scenario.operations)):
            operations = list(self._best.scenario.operations)
            at = operations[place]
            for digits in (0, 1):
                operations[place] = replace(at, at_s=round(at.at_s, digits))
                if self._try(replace(self._best.scenario, operations=tuple(operations))):
                    break
