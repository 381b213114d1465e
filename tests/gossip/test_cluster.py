"""Clusters of real cores on virtual time: the promises that users of the protocol rely on."""

import pytest

from beiran.gossip.codec import Codec
from beiran.gossip.config import GossipConfig
from beiran.gossip.effects import Effect, IdentityConflict
from beiran.gossip.membership.member import Address, Status
from beiran.gossip.messages import Gossip, Suspect
from beiran.ids import NodeId
from simulations.gossip.host import CLUSTER, KINDS, Host
from simulations.gossip.images import digest
from simulations.gossip.stores import Stores, open_stores
from simulations.gossip.world import World
from simulations.kernel.links import Link
from tests.gossip.verdicts import Verdicts

ONE_IN_TEN_TWICE = 0.19
"""Loss of a way on which the sender's and the receiver's side each lose a tenth."""
ONE_IN_FOUR_TWICE = 0.44


def online_as_seen_by(host: Host) -> int:
    return host.node.members.online_count


def rows(stores: Stores, host: Host) -> set[NodeId]:
    """Return the other members that the host's database has."""
    return {known.member.node for known in stores.save(host).remembered}


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_members_find_each_other_by_beacon(count: int) -> None:
    World(seed=count).cluster(count, within_s=5)


def test_members_find_each_other_through_one_address_without_beacons() -> None:
    World(seed=4, beacons=False).cluster(10, within_s=10)


def test_an_address_that_does_not_answer_is_tried_again() -> None:
    world = World(seed=5, beacons=False)
    first = world.add()
    world.kill(first)
    second = world.add(join=[first])
    world.run(12)
    assert online_as_seen_by(second) == 1
    world.restart(first)
    world.run_until(world.converged, within_s=10)


@pytest.mark.parametrize("loss", [0.0, ONE_IN_TEN_TWICE, ONE_IN_FOUR_TWICE])
def test_a_holding_reaches_all_nodes(loss: float) -> None:
    world = World(seed=6)
    hosts = world.cluster(20)
    world.network.change(loss=loss)
    world.hold(hosts[0], "a", "b")
    world.run_until(world.converged, within_s=30)
    assert all(set(host.held(hosts[0].id)) == {digest("a"), digest("b")} for host in hosts)
    world.release(hosts[0], "a")
    world.run_until(world.converged, within_s=30)
    assert all(set(host.held(hosts[0].id)) == {digest("b")} for host in hosts)
    assert all(host.node.descriptions.get(digest("a")) is None for host in hosts)


def test_an_update_without_loss_reaches_all_nodes_in_one_round() -> None:
    world = World(seed=7)
    hosts = world.cluster(50)
    world.run(5)
    world.hold(hosts[3], "a")
    assert world.run_until(world.converged, within_s=5) < world.config.push_again_s


def test_many_images_at_once_are_fetched_rather_than_pushed() -> None:
    world = World(seed=8)
    hosts = world.cluster(5)
    world.hold(hosts[0], *(f"image-{i}" for i in range(300)))
    world.run_until(world.converged, within_s=10)
    assert all(len(host.held(hosts[0].id)) == 300 for host in hosts)


def test_a_killed_agent_is_down_at_once_by_its_neighbours_evidence() -> None:
    world = World(seed=9)
    hosts = world.cluster(20)
    world.run(2)
    world.kill(hosts[7])
    assert world.run_until(world.converged, within_s=10) < 0.5


def test_of_three_agents_two_killed_at_once_are_both_down() -> None:
    world = World(seed=10)
    hosts = world.cluster(3)
    world.run(2)
    world.kill(hosts[1])
    world.kill(hosts[2])
    world.run_until(world.converged, within_s=10)


@pytest.mark.parametrize("count", [2, 20])
def test_a_silent_host_is_down_within_the_suspicion_time(count: int) -> None:
    world = World(seed=11)
    hosts = world.cluster(count)
    world.run(2)
    world.power_off(hosts[1])
    assert world.run_until(world.converged, within_s=30) > 1.0


@pytest.mark.parametrize("loss", [0.0, ONE_IN_FOUR_TWICE])
def test_a_host_whose_firewall_rejects_tcp_is_not_declared_down(loss: float) -> None:
    world = World(seed=28, link=Link(loss=loss))
    verdicts = Verdicts(world)
    hosts = [world.add() for _ in range(20)]
    hosts[3].rejects_tcp = True
    world.run(120)
    assert verdicts.down(hosts) == []


def test_a_leaving_node_is_never_shown_as_failed() -> None:
    world = World(seed=13)
    hosts = world.cluster(10)
    world.run(2)
    verdicts = Verdicts(world)
    world.leave(hosts[2])
    world.run_until(lambda: not hosts[2].running, within_s=2)
    world.run_until(world.converged, within_s=5)
    world.run(20)
    assert verdicts.down(hosts) == []
    left = {h.node.members.get(hosts[2].id) for h in world.online()}
    assert {member.status for member in left if member} == {Status.LEFT}


def test_all_may_leave_at_once() -> None:
    world = World(seed=30)
    hosts = world.cluster(3)
    verdicts = Verdicts(world)
    for host in hosts:
        world.do(host, host.node.leave(now=world.now))
    world.run(10)
    assert all(host.node.leave_acknowledged for host in hosts)
    assert verdicts.down(hosts) == []


@pytest.mark.parametrize("loss", [ONE_IN_TEN_TWICE, ONE_IN_FOUR_TWICE])
def test_no_member_is_declared_down_for_lost_packets_alone(loss: float) -> None:
    world = World(seed=14)
    hosts = world.cluster(20)
    verdicts = Verdicts(world)
    world.network.change(loss=loss)
    world.run(180)
    assert verdicts.down(hosts) == []


def test_stopped_members_do_not_declare_healthy_ones_down() -> None:
    world = World(seed=15)
    hosts = world.cluster(20)
    verdicts = Verdicts(world)
    sick, healthy = hosts[:8], hosts[8:]
    for _ in range(5):
        for host in sick:
            world.stop(host, 8.0)
        world.run(16)
    assert verdicts.down(healthy) == []


def test_two_halves_of_a_split_network_merge_by_themselves() -> None:
    world = World(seed=16)
    hosts = world.cluster(20)
    world.partition(hosts[:10], hosts[10:])
    world.run(60)
    assert online_as_seen_by(hosts[0]) == 10
    world.hold(hosts[0], "a")
    world.hold(hosts[15], "b")
    world.heal()
    verdicts = Verdicts(world)
    world.run_until(world.converged, within_s=5)
    assert verdicts.down(hosts) == [], "the merge declares no host down a second time"


def test_an_isolated_host_doubts_itself_for_a_while() -> None:
    world = World(seed=17)
    hosts = world.cluster(20)
    verdicts = Verdicts(world)
    world.partition(hosts[:1], hosts[1:])
    world.run(45)
    assert verdicts.down(hosts[1:]) == []
    assert hosts[0].node.deaf
    world.heal()
    world.run_until(world.converged, within_s=5)


@pytest.mark.parametrize("wiped", [False, True])
def test_after_a_restart_the_view_and_the_databases_are_right_again(wiped: bool) -> None:
    world = World(seed=18)
    with open_stores(world, range(5)) as stores:
        hosts = world.cluster(5)
        world.hold(hosts[0], "a", "b")
        world.hold(hosts[1], "c")
        world.run_until(world.converged, within_s=5)
        world.kill(hosts[0])
        world.run(3)
        world.release(hosts[0], "a")
        world.restart(hosts[0], wiped=wiped)
        world.run_until(world.converged, within_s=10)
        assert all(set(host.held(hosts[0].id)) == {digest("b")} for host in hosts)
        assert stores.differences() == []


def test_all_restart_at_once() -> None:
    world = World(seed=19)
    hosts = world.cluster(10)
    for number, host in enumerate(hosts):
        world.hold(host, f"image-{number}")
    world.run_until(world.converged, within_s=5)
    for host in hosts:
        world.kill(host)
    for host in hosts:
        world.restart(host)
    world.run_until(world.converged, within_s=10)


def test_without_beacons_all_restarted_agents_find_each_other_from_memory() -> None:
    world = World(seed=20, beacons=False)
    hosts = world.cluster(10)
    for host in hosts:
        world.kill(host)
    for host in hosts:
        world.restart(host)
    world.run_until(world.converged, within_s=30)


def test_other_clusters_are_counted_and_ignored() -> None:
    world = World(seed=21)
    ours = world.add()
    theirs = world.add(codec=Codec("another"))
    world.run(10)
    assert online_as_seen_by(ours) == online_as_seen_by(theirs) == 1
    assert ours.node.counters["other_cluster_packets"] > 0


def test_two_hosts_with_one_uuid_are_reported() -> None:
    world = World(seed=22)
    conflicts: list[Effect] = []

    def found(host: Host, effect: Effect) -> None:
        if isinstance(effect, IdentityConflict):
            conflicts.append(effect)

    world.found.append(found)
    world.clone(world.add())
    world.run(15)
    assert conflicts


def test_a_member_that_is_suspected_refutes_with_a_larger_incarnation() -> None:
    world = World(seed=23)
    hosts = world.cluster(3)
    verdicts = Verdicts(world)
    world.run(1)
    codec = Codec(CLUSTER)
    own = hosts[0].node.own
    accusation = Suspect(own.node, own.generation, own.incarnation, hosts[1].id)
    packet = codec.encode_datagram(Gossip(hosts[1].id, (codec.encode_news(accusation),)))
    world.receive(hosts[2], hosts[1].address, packet)
    suspected = hosts[2].node.members.get(own.node)
    assert suspected is not None
    assert suspected.status == Status.SUSPECT
    world.run_until(lambda: hosts[0].node.own.incarnation > own.incarnation, within_s=2)
    world.run(1)
    cleared = hosts[2].node.members.get(own.node)
    assert cleared is not None
    assert cleared.status == Status.ALIVE
    world.run(20)
    assert verdicts.down(hosts) == []


def test_an_agent_that_moves_to_another_address_stays_a_member() -> None:
    world = World(seed=24)
    hosts = world.cluster(5)
    verdicts = Verdicts(world)
    moved = hosts[0]
    world.move(moved, Address("10.9.9.9", 8888))
    world.run(10)
    assert world.converged()
    assert verdicts.down(hosts) == []
    known = hosts[1].node.members.get(moved.id)
    assert known is not None
    assert known.address == moved.address


def test_idle_traffic_does_not_grow_with_the_cluster() -> None:
    datagrams = {"ping", "ack", "ping-req", "nack", "gossip", "beacon", "want", "described"}
    tags = [tag for tag, kind in KINDS.items() if kind in datagrams]

    def sent(hosts: list[Host]) -> tuple[int, int]:
        packets = sum(host.traffic.packets_by_tag[tag] for host in hosts for tag in tags)
        return packets, sum(host.traffic.bytes_by_tag[tag] for host in hosts for tag in tags)

    def packets_and_bytes_per_second(count: int) -> tuple[float, float]:
        world = World(seed=25)
        hosts = world.cluster(count)
        world.run(20)
        packets_before, bytes_before = sent(hosts)
        world.run(120)
        packets, size_bytes = sent(hosts)
        seconds = 120 * count
        return (packets - packets_before) / seconds, (size_bytes - bytes_before) / seconds

    small_packets, small_bytes = packets_and_bytes_per_second(5)
    large_packets, large_bytes = packets_and_bytes_per_second(60)
    assert large_bytes <= small_bytes * 1.02
    assert large_packets <= small_packets * 1.02
    assert large_packets <= 2.2  # a ping and an ack a second, and now and then a beacon


def test_a_forgotten_member_leaves_nothing_behind() -> None:
    world = World(seed=27, config=GossipConfig(forget_s=30.0))
    with open_stores(world, range(4)) as stores:
        hosts = world.cluster(4)
        world.hold(hosts[1], "a")
        world.run_until(world.converged, within_s=5)
        assert all(hosts[1].id in rows(stores, host) for host in hosts if host is not hosts[1])
        world.kill(hosts[1])
        world.run(60)
        for host in world.online():
            assert hosts[1].id not in host.node.members
            assert host.node.descriptions.get(digest("a")) is None
            assert hosts[1].id not in rows(stores, host)


def test_a_remembered_member_that_never_shows_itself_is_forgotten() -> None:
    world = World(seed=29, config=GossipConfig(forget_s=30.0))
    with open_stores(world, range(3)) as stores:
        hosts = world.cluster(3)
        world.hold(hosts[1], "a")
        world.run_until(world.converged, within_s=5)
        for host in hosts:
            world.kill(host)
        alone = world.restart(hosts[0])
        assert rows(stores, alone) == {hosts[1].id, hosts[2].id}
        world.run(40)
        assert rows(stores, alone) == set()
        assert alone.node.descriptions.get(digest("a")) is None
