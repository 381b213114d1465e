"""Participants and the rendezvous nodes that they register with."""

from beiran.gossip.membership.member import Address
from simulations.swarm.blobs import image
from simulations.swarm.host import Host
from simulations.swarm.world import World
from tests.swarm.pulling import IMAGE, crowd, from_origin


class Slow(World):
    """Datagrams need much longer than a registration waits for its answer."""

    def receive(self, host: Host, source: Address, data: bytes) -> None:
        self.schedule(self.now + 0.1, super().receive, host, source, data)


def test_an_answer_to_an_earlier_registration_counts() -> None:
    world = Slow(1)
    blobs = image(3, 24_000_000)
    world.publish(blobs)
    hosts = world.add_many(6)
    for host in hosts:
        world.pull(host, blobs)
    world.run_until(world.pulled(hosts, blobs), within_s=60)
    assert sum(host.node.counters["rendezvous_passed_over"] for host in hosts) == 0
    assert world.origin.sent_bytes <= 1.02 * 24_000_000


def test_the_next_ones_take_over_when_rendezvous_nodes_die() -> None:
    world = World(2)
    hosts = crowd(world, 8)
    world.run(1.2)
    rendezvous = [host for host in hosts if len(host.node._directory)]
    assert rendezvous
    for host in rendezvous:
        world.kill(host)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) < 2.0


def test_a_silent_rendezvous_node_is_passed_over_before_gossip_notices() -> None:
    world = World(2, noticed_s=100.0)
    hosts = crowd(world, 6)
    world.run(0.5)
    rendezvous = [host for host in hosts if len(host.node._directory)]
    for host in rendezvous:
        world.unplug(host)
    took_s = world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert took_s < 30
    others = [host for host in hosts if host not in rendezvous]
    assert sum(host.node.counters["rendezvous_passed_over"] for host in others) > 0
