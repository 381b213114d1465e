"""A hunt: play the scenario of each seed, and shrink what violates an invariant.

``CLUSTERS`` and ``CROWDS`` are the two hunts; both have their kind of scenario drawn, played and
shrunk here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from simulations.explore.shrink import Played, Shrinkable, shrink

ScenarioT = TypeVar("ScenarioT", bound=Shrinkable)
OutcomeT = TypeVar("OutcomeT", bound=Played[Any])


@dataclass(frozen=True)
class Found(Generic[ScenarioT]):
    """A seed whose scenario violates an invariant."""

    seed: int
    violation: str
    scenario: ScenarioT


@dataclass(frozen=True)
class Hunt(Generic[ScenarioT, OutcomeT]):
    """One kind of random scenarios.

    Attributes:
      generate: returns the scenario of a seed.
      play: runs a scenario with its checkers.
      simpler: fields with values that make any scenario simpler.
      with_nodes: returns a scenario with another number of hosts.
      replay: the command that plays a scenario again, which its text is appended to.
    """

    generate: Callable[[int], ScenarioT]
    play: Callable[[ScenarioT], OutcomeT]
    simpler: Sequence[Mapping[str, object]]
    with_nodes: Callable[[ScenarioT, int], ScenarioT]
    replay: str

    def explore_one(self, seed: int) -> Found[ScenarioT] | None:
        """Play the scenario of one seed; any process may call this."""
        scenario = self.generate(seed)
        outcome = self.play(scenario)
        if outcome.violation is None:
            return None
        return Found(seed, str(outcome.violation), scenario)

    def shrink(
        self, outcome: OutcomeT, tried: Callable[[int], None] = lambda tries: None
    ) -> OutcomeT:
        """Return the outcome of the smallest scenario found that violates the same invariant.

        Args:
          tried: called with how many scenarios were played.
        """
        return shrink(
            outcome, self.play, simpler=self.simpler, with_nodes=self.with_nodes, tried=tried
        )
