"""Virtual time: events without end are found out."""

import pytest

from simulations.gossip.world import World
from simulations.kernel.time import Storm


def test_events_without_end_are_a_storm() -> None:
    world = World(16)

    def again() -> None:
        world.schedule(world.now + 1e-6, again)

    again()
    with pytest.raises(Storm):
        world.run(1.0)
