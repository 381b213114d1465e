"""Every named scenario holds all invariants."""

import pytest

from simulations.gossip.catalogue import MAKERS
from simulations.gossip.scenario import play


@pytest.mark.parametrize("name", MAKERS)
def test_every_named_scenario_holds_all_invariants(name: str) -> None:
    outcome = play(MAKERS[name](9, 1, 0.0))
    assert outcome.violation is None, str(outcome.violation)
    assert outcome.converged_after_s is not None


@pytest.mark.parametrize("name", ["crash", "image", "leave"])
def test_large_clusters_begin_settled(name: str) -> None:
    scenario = MAKERS[name](120, 1, 0.0)
    assert scenario.settled
    outcome = play(scenario)
    assert outcome.violation is None, str(outcome.violation)
