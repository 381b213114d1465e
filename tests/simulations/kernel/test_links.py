"""Links and ports delay, drop and limit packets."""

import pytest

from simulations.gossip.world import World
from simulations.kernel.links import Link, Port, Queue


def test_packets_larger_than_the_mtu_are_dropped() -> None:
    world = World(8, link=Link(mtu=60), beacons=False)
    first = world.add()
    world.add(join=[first])
    world.run(10.0)
    assert world.dropped["too large"] > 0


def test_a_narrow_uplink_delays_and_then_drops() -> None:
    queue = Queue(Port(bits_per_s=8000.0, queue_s=1.5))
    assert queue.wait_s(1000, now=0.0) == pytest.approx(1.0)
    assert queue.wait_s(1000, now=0.0) == pytest.approx(2.0)
    assert queue.wait_s(1000, now=0.0) is None
    assert queue.wait_s(500, now=10.0) == pytest.approx(0.5)
