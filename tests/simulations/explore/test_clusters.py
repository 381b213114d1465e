"""Random scenarios hold all invariants; a violation is shrunk."""

import pytest

from beiran.gossip.membership.suspicion_protocol import SuspicionProtocol
from simulations.explore.clusters import CLUSTERS, generate
from simulations.gossip.operations import (
    At,
    Clone,
    Hold,
    Lose,
    PowerOff,
    Release,
    Stop,
)
from simulations.gossip.scenario import Scenario, play


@pytest.mark.parametrize("seed", range(60))
def test_random_scenarios_violate_nothing(seed: int) -> None:
    outcome = play(generate(seed))
    assert outcome.violation is None, f"{outcome.violation}\n{outcome.scenario!r}"
    assert outcome.converged_after_s is not None


def test_a_violation_is_shrunk_to_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SuspicionProtocol, "decide", lambda self, node: None)
    off = At(6.0, PowerOff(1))
    around = (At(1.0, Hold(0, "a")), At(2.0, Lose(0.02)), At(8.0, Release(0, "a")))
    after = (At(9.0, Clone(3)), At(9.5, Stop(2, 1.0)))
    outcome = play(Scenario(3, 6, (*around, off, *after), loss=0.02, calm_s=5.0))
    assert outcome.violation is not None
    small = CLUSTERS.shrink(outcome)
    assert small.violation is not None
    assert small.violation.invariant == outcome.violation.invariant
    assert [at.do for at in small.scenario.operations] == [PowerOff(1)]
    assert small.scenario.nodes < 6
    assert small.scenario.loss == 0.0
