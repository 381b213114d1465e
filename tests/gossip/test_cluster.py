"""Whole clusters of cores on virtual time: what users of the protocol rely on."""

import pytest

from beiran.gossip.codec import Codec
from beiran.gossip.effects import Effect, IdentityConflict, MemberChanged
from beiran.gossip.membership.member import Status
from beiran.gossip.messages import Gossip, Suspect
from tests.gossip.world import Host, World, digest


@pytest.mark.parametrize("count", [2, 3, 5, 20])
def test_members_find_each_other_by_beacon(count: int) -> None:
    world = World(seed=count)
    for _ in range(count):
        world.add()
    world.run_until(world.converged, within_s=5)


def test_members_find_each_other_through_one_address_without_beacons() -> None:
    world = World(seed=4, broadcast=False)
    first = world.add()
    for _ in range(9):
        world.add(join=[first.address])
    world.run_until(world.converged, within_s=10)


def test_an_address_that_does_not_answer_is_tried_again() -> None:
    world = World(seed=5, broadcast=False)
    first = world.add()
    first.running = False
    second = world.add(join=[first.address])
    world.run(12)
    assert len(world.online_as_seen_by(second)) == 1
    world.restart(first)
    world.run_until(world.converged, within_s=10)


@pytest.mark.parametrize("loss", [0.0, 0.1, 0.25])
def test_a_holding_reaches_all_nodes(loss: float) -> None:
    world = World(seed=6)
    hosts = world.cluster(20)
    world.loss = loss
    world.hold(hosts[0], "a", "b")
    world.run_until(world.converged, within_s=30)
    world.release(hosts[0], "a")
    world.run_until(world.converged, within_s=30)
    assert all(digest("a") not in host.described for host in hosts)


def test_news_without_loss_reaches_all_nodes_in_one_round() -> None:
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


def test_a_silent_host_is_down_within_the_suspicion_time() -> None:
    world = World(seed=11)
    hosts = world.cluster(20)
    world.run(2)
    hosts[4].silent = True
    hosts[4].running = False
    assert world.run_until(world.converged, within_s=30) > 1.0


def test_one_of_two_that_falls_silent_is_down() -> None:
    world = World(seed=12)
    hosts = world.cluster(2)
    hosts[1].silent = True
    hosts[1].running = False
    world.run_until(world.converged, within_s=30)


@pytest.mark.parametrize("loss", [0.0, 0.25])
def test_a_firewall_that_rejects_tcp_brings_no_member_down(loss: float) -> None:
    world = World(seed=28, loss=loss)
    hosts = [world.add() for _ in range(20)]
    hosts[3].refuses_tcp = True
    world.run(120)
    assert world.false_offline(hosts) == []


def test_a_leaving_node_is_never_shown_as_failed() -> None:
    world = World(seed=13)
    hosts = world.cluster(10)
    world.run(2)
    world.leave(hosts[2])
    world.run_until(world.converged, within_s=5)
    world.run(20)
    assert not world.false_offline([hosts[2]])
    left = {h.node.members.get(hosts[2].id) for h in world.running()}
    assert {member.status for member in left if member} == {Status.LEFT}


def test_all_may_leave_at_once() -> None:
    world = World(seed=30)
    hosts = world.cluster(3)
    for host in hosts:
        world.do(host, host.node.leave(now=world.now))
    world.run(10)
    assert all(host.node.leave_acknowledged for host in hosts)
    assert world.false_offline(hosts) == []


@pytest.mark.parametrize("loss", [0.1, 0.25])
def test_lost_packets_alone_bring_no_member_down(loss: float) -> None:
    world = World(seed=14)
    hosts = world.cluster(20)
    world.loss = loss
    world.run(180)
    assert world.false_offline(hosts) == []


def test_paused_members_do_not_bring_healthy_ones_down() -> None:
    world = World(seed=15)
    hosts = world.cluster(20)
    sick, healthy = hosts[:8], hosts[8:]
    for _ in range(5):
        for host in sick:
            world.pause(host, 8.0)
        world.run(16)
    assert world.false_offline(healthy) == []


def test_two_halves_of_a_split_network_merge_by_themselves() -> None:
    world = World(seed=16)
    hosts = world.cluster(20)
    world.partition(hosts[:10], hosts[10:])
    world.run(60)
    assert len(world.online_as_seen_by(hosts[0])) == 10
    world.hold(hosts[0], "a")
    world.hold(hosts[15], "b")
    world.heal()
    before = {id(host): len(host.events) for host in hosts}
    world.run_until(world.converged, within_s=5)
    # The merge itself declares no member down a second time.
    news = [e for host in hosts for _, e in host.events[before[id(host)] :]]
    assert not [e for e in news if isinstance(e, MemberChanged) and e.member.status == Status.DOWN]


def test_an_isolated_host_doubts_itself_for_a_while() -> None:
    world = World(seed=17)
    hosts = world.cluster(20)
    world.partition(hosts[:1], hosts[1:])
    world.run(45)
    assert world.false_offline(hosts[1:]) == []
    assert hosts[0].node.deaf
    world.heal()
    world.run_until(world.converged, within_s=5)


@pytest.mark.parametrize("wiped", [False, True])
def test_after_a_restart_the_state_is_right_again(wiped: bool) -> None:
    world = World(seed=18)
    hosts = world.cluster(5)
    world.hold(hosts[0], "a", "b")
    world.hold(hosts[1], "c")
    world.run_until(world.converged, within_s=5)
    world.kill(hosts[0])
    world.run(3)
    again = world.restart(hosts[0], wiped=wiped)
    world.hold(again, "b")
    world.release(again, "a")
    world.run_until(world.converged, within_s=10)


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
    world = World(seed=20)
    hosts = world.cluster(10)
    world.broadcast = False
    for host in hosts:
        world.kill(host)
    for host in hosts:
        world.restart(host)
    world.run_until(world.converged, within_s=30)


def test_other_clusters_are_counted_and_ignored() -> None:
    world = World(seed=21)
    ours = world.add()
    theirs = world.add(cluster="another")
    world.run(10)
    assert len(world.online_as_seen_by(ours)) == len(world.online_as_seen_by(theirs)) == 1
    assert ours.node.counters["other_cluster_packets"] > 0


def test_two_hosts_with_one_uuid_each_report_the_other() -> None:
    world = World(seed=22)
    first = world.add()
    conflicts: list[Effect] = []
    do = world.do

    def listen(host: Host, effects: list[Effect]) -> None:
        conflicts.extend(effect for effect in effects if isinstance(effect, IdentityConflict))
        do(host, effects)

    world.do = listen  # type: ignore[method-assign]
    world.add(node_id=first.id, generation=2)
    world.run(15)
    assert conflicts


def test_a_member_that_is_suspected_refutes_with_a_larger_incarnation() -> None:
    world = World(seed=23)
    hosts = world.cluster(3)
    world.run(1)
    codec = Codec("default")
    own = hosts[0].node.own
    accusation = Suspect(own.node, own.generation, own.incarnation, hosts[1].id)
    packet = codec.encode_datagram(Gossip(hosts[1].id, (codec.encode_news(accusation),)))
    world.do(hosts[2], hosts[2].node.receive_datagram(packet, hosts[1].address, now=world.now))
    suspected = hosts[2].node.members.get(own.node)
    assert suspected is not None
    assert suspected.status == Status.SUSPECT
    world.run_until(lambda: hosts[0].node.own.incarnation > own.incarnation, within_s=2)
    world.run(1)
    cleared = hosts[2].node.members.get(own.node)
    assert cleared is not None
    assert cleared.status == Status.ALIVE
    world.run(20)
    assert world.false_offline(hosts) == []


def test_an_agent_that_moves_to_another_address_stays_a_member() -> None:
    world = World(seed=24)
    hosts = world.cluster(5)
    moved = hosts[0]
    del world.hosts[moved.address]
    moved.address = type(moved.address)("10.9.9.9", 8888)
    world.hosts[moved.address] = moved
    world.do(moved, moved.node.move_to(moved.address, now=world.now))
    world.run(10)
    assert world.converged()
    assert world.false_offline(hosts) == []
    known = hosts[1].node.members.get(moved.id)
    assert known is not None
    assert known.address == moved.address


def test_idle_traffic_does_not_grow_with_the_cluster() -> None:
    def packets_per_second(count: int) -> tuple[float, float]:
        world = World(seed=25)
        hosts = world.cluster(count)
        world.run(20)
        bytes_before = sum(host.sent_bytes for host in hosts)
        packets_before = sum(host.sent_packets for host in hosts)
        world.run(120)
        sent = sum(host.sent_bytes for host in hosts) - bytes_before
        packets = sum(host.sent_packets for host in hosts) - packets_before
        return sent / 120 / count, packets / 120 / count

    small_bytes, small_packets = packets_per_second(5)
    large_bytes, large_packets = packets_per_second(60)
    assert large_bytes <= small_bytes * 1.02
    assert large_packets <= small_packets * 1.02
    assert large_packets <= 2.2  # a ping and an ack a second, and now and then a beacon


def test_the_same_seed_gives_the_same_trace() -> None:
    def trace() -> list[tuple[float, str, str]]:
        world = World(seed=26, loss=0.1)
        hosts = [world.add() for _ in range(8)]
        world.hold(hosts[0], "a")
        world.run(5)
        world.kill(hosts[1])
        world.run(15)
        return [
            (at, host.node.own.name, f"{event.member.name}:{event.member.status}")
            for host in world.hosts.values()
            for at, event in host.events
        ]

    assert trace() == trace()


def test_a_forgotten_member_leaves_nothing_behind() -> None:
    world = World(seed=27, forget_s=30.0)
    hosts = world.cluster(4)
    world.hold(hosts[1], "a")
    world.run_until(world.converged, within_s=5)
    world.kill(hosts[1])
    world.run(60)
    assert all(hosts[1].id not in host.node.members for host in world.running())
    assert all(digest("a") not in host.described for host in world.running())
    assert all(hosts[1].id not in host.rows for host in world.running())


def test_a_remembered_member_that_never_shows_itself_is_forgotten() -> None:
    world = World(seed=29, forget_s=30.0)
    hosts = world.cluster(3)
    world.hold(hosts[1], "a")
    world.run_until(world.converged, within_s=5)
    for host in hosts:
        world.kill(host)
    alone = world.restart(hosts[0])
    assert hosts[1].id in alone.rows
    world.run(40)
    assert set(alone.rows) <= {alone.id}
    assert digest("a") not in alone.described
