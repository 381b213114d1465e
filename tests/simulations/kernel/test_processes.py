"""Process states and reachability are those of the kernel, whatever a host runs."""

from simulations.swarm.blobs import image
from simulations.swarm.world import World

IMAGE = image(2, 4_000_000)


def test_a_stopped_process_of_a_crowd_takes_its_datagrams_late() -> None:
    world = World(1)
    world.publish(IMAGE)
    hosts = world.add_many(4)
    for host in hosts:
        world.pull(host, IMAGE)
    world.run(0.2)
    world.stop(hosts[1], 2.0)
    world.run(1.0)
    assert hosts[1].inbox
    world.run_until(world.pulled(hosts, IMAGE), within_s=60.0)
    assert not hosts[1].inbox


def test_a_partition_splits_a_crowd() -> None:
    world = World(2)
    world.publish(IMAGE)
    hosts = world.add_many(4)
    world.partition(hosts[:2], hosts[2:])
    for host in hosts:
        world.pull(host, IMAGE)
    world.run(2.0)
    assert world.dropped["cut"] > 0
    world.heal()
    world.run_until(world.pulled(hosts, IMAGE), within_s=120.0)
