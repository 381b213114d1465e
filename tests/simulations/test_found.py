"""What ``explore`` found in the core, shrunk: one scenario each. All keep their promises now.

Found until now: one bug of the core (the version that an owner goes past others' with), and one of
the checkers.
"""

import pytest

from simulations.gossip.operations import At, Clone, Hold, Leave, Restart
from simulations.gossip.scenario import Scenario, play

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
def test_what_was_found_is_mended(name: str) -> None:
    outcome = play(FOUND[name])
    assert outcome.violation is None, str(outcome.violation)
