"""Participants and the rendezvous nodes that they register with."""

from random import Random

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.rendezvous.registration import RANKED_MAX, Ranking
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


# --- rendezvous hashing --------------------------------------------------------------------------

NODES = [NodeId(bytes([number]) * 16) for number in range(20)]
BLOBS = [Digest(bytes([number]) * 32) for number in range(100)]


def ranking(own: NodeId, members: list[NodeId]) -> tuple[Context, Ranking]:
    context = Context(own, SwarmConfig(), SwarmCodec("default"), Random(1), 0.0)
    context.set_members({node: Address("10.0.0.1", 8888) for node in members if node != own})
    return context, Ranking(context)


def test_all_nodes_with_the_same_members_agree_on_the_rendezvous_node() -> None:
    rankings = [ranking(own, NODES)[1] for own in NODES[:3]]
    for blob in BLOBS:
        assert len({each.first(blob) for each in rankings}) == 1


def test_only_the_blobs_of_a_member_that_is_gone_move() -> None:
    _, before = ranking(NODES[0], NODES)
    _, after = ranking(NODES[0], NODES[:-1])
    for blob in BLOBS:
        assert after.first(blob) == before.first(blob) or before.first(blob) == NODES[-1]


def test_a_rendezvous_node_that_is_passed_over_comes_back_after_a_while() -> None:
    context, ranks = ranking(NODES[0], NODES)
    first = ranks.first(BLOBS[0])
    ranks.pass_over(first)
    second = ranks.first(BLOBS[0])
    assert second != first
    context.now = context.config.unresponsive_s + 0.1
    assert ranks.first(BLOBS[0]) == first


def test_a_node_is_the_rendezvous_node_itself_when_no_other_answers() -> None:
    _, ranks = ranking(NODES[0], NODES)
    for _ in range(RANKED_MAX):
        if ranks.first(BLOBS[0]) != NODES[0]:
            ranks.pass_over(ranks.first(BLOBS[0]))
    assert ranks.first(BLOBS[0]) == NODES[0]
