"""Scenarios print as Python and are read back; those that explore found hold."""

import pytest

from beiran.errors import SettingsError
from simulations.explore.clusters import generate
from simulations.gossip.operations import (
    At,
    Clone,
    Crash,
    Hold,
    Leave,
    Restart,
)
from simulations.gossip.scenario import Scenario, play, read_scenario


@pytest.mark.parametrize("seed", range(40))
def test_a_scenario_prints_as_python_that_makes_it(seed: int) -> None:
    scenario = generate(seed)
    assert read_scenario(repr(scenario)) == scenario


@pytest.mark.parametrize(
    "text",
    ["", "1", "Scenario(", "Scenario(seed=1)", "print(1)", "At(1.0, Crash(1))", "Scenario(x=2)"],
)
def test_other_text_is_no_scenario(text: str) -> None:
    with pytest.raises(SettingsError):
        read_scenario(text)


def test_a_scenario_reads_as_a_list_of_what_happens() -> None:
    scenario = Scenario(7, 5, (At(3.0, Crash(2)), At(9.5, Restart(2, wiped=True))))
    assert repr(scenario) == (
        "Scenario(\n    seed=7,\n    nodes=5,\n    operations=(\n"
        "        At(3.0, Crash(2)),\n        At(9.5, Restart(2, wiped=True)),\n    ),\n)"
    )


FOUND = {
    # Two that use one UUID outgrow each other's versions. Both went past by one, so that one
    # version could stand for two things, and who had the other's never learned of it.
    "one version stands for two things": Scenario(
        seed=171,
        nodes=3,
        loss=0.02,
        together=False,
        operations=(
            At(27.0, Clone(2)),
            At(47.0, Hold(2, "a")),
        ),
    ),
    "one version stands for two things, without loss": Scenario(
        seed=562,
        nodes=3,
        operations=(
            At(55.0, Clone(2)),
            At(127.0, Hold(2, "a")),
        ),
    ),
    # It says goodbye, loses its database and starts again within the second that is its
    # generation: the checker took it for one that had not come back.
    "back within the second of its goodbye": Scenario(
        seed=6590,
        nodes=5,
        operations=(
            At(0.0, Leave(4)),
            At(0.0, Restart(4, wiped=True)),
        ),
    ),
}


@pytest.mark.parametrize("name", FOUND)
def test_scenarios_that_explore_found_hold(name: str) -> None:
    outcome = play(FOUND[name])
    assert outcome.violation is None, str(outcome.violation)
