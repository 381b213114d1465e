"""Simulated hosts and networks do what real ones do."""

import pytest

from beiran.gossip.effects import Effect, MemberChanged
from beiran.gossip.membership.member import Status
from simulations.gossip.host import Host
from simulations.gossip.world import World
from simulations.kernel.links import Link, LogNormal, Uniform
from simulations.kernel.world import NotReached


def verdicts(world: World) -> list[tuple[float, str, str]]:
    """Fills with (time, host, member held for down) as the world runs."""
    fallen: list[tuple[float, str, str]] = []

    def found(host: Host, effect: Effect) -> None:
        if isinstance(effect, MemberChanged) and effect.member.status == Status.DOWN:
            fallen.append((world.now, host.name, effect.member.name))

    world.found.append(found)
    return fallen


def said(host: Host) -> int:
    """Packets sent by the process; its kernel goes on to answer handshakes."""
    return host.traffic.packets - host.traffic.by_kind()["tcp-control"][0]


def test_a_killed_agent_is_down_by_evidence_and_a_dead_machine_by_silence() -> None:
    world = World(1)
    hosts = world.cluster(20)
    world.run(3.0)
    world.kill(hosts[3])
    assert world.run_until(world.converged, within_s=10.0) < 0.5
    world.power_off(hosts[4])
    assert world.run_until(world.converged, within_s=60.0) > 1.0


def test_a_restart_keeps_what_the_engine_holds_even_if_the_database_is_lost() -> None:
    world = World(2)
    hosts = world.cluster(5)
    world.hold(hosts[1], "a", "b")
    world.run(2.0)
    for wiped in (False, True):
        world.kill(hosts[1])
        world.release(hosts[1], "a" if wiped else "b")
        world.run(5.0)
        world.restart(hosts[1], wiped=wiped)
        world.run_until(world.converged, within_s=30.0)
    assert all(not h.node.possession.holdings(hosts[1].id) for h in hosts)


def test_a_stopped_process_takes_inputs_late_and_declares_no_host_down() -> None:
    world = World(3)
    hosts = world.cluster(6)
    fallen = verdicts(world)
    world.stop(hosts[0], 20.0)
    world.run(40.0)
    assert {member for _, _, member in fallen} == {"h0"}
    assert world.converged()


def test_a_blocked_process_sends_nothing_until_it_is_free() -> None:
    world = World(4)
    hosts = world.cluster(4)
    world.run(1.0)
    world.block(hosts[2], 3.0)
    before = said(hosts[2])
    world.run(2.9)
    assert said(hosts[2]) == before
    world.run(1.0)
    assert said(hosts[2]) > before
    world.run_until(world.converged, within_s=30.0)


def test_a_slow_host_handles_one_input_after_the_other() -> None:
    world = World(5)
    hosts = world.cluster(3)
    world.slow(hosts[0], 0.4)
    world.run(30.0)
    assert hosts[0].hampered
    world.slow(hosts[0], 0.0)
    world.run(1.0)
    world.run_until(world.converged, within_s=30.0)
    assert not hosts[0].hampered


def test_a_cut_in_one_direction_leaves_the_other() -> None:
    world = World(6, beacons=False)
    first, second = world.cluster(2)
    world.network.cut(first.number, second.number)
    world.run(60.0)
    assert second.node.members.online_count == 1  # it hears nothing, and the other still does
    world.heal()
    world.run_until(world.converged, within_s=60.0)


def test_beacons_stay_within_their_lan() -> None:
    world = World(7)
    here, there = world.add(lan="here"), world.add(lan="there")
    world.run(10.0)
    assert here.node.members.online_count == there.node.members.online_count == 1
    world.join(here, [there])
    world.run_until(world.converged, within_s=10.0)


def test_loss_duplication_and_reordering_are_survived() -> None:
    link = Link(LogNormal(0.002, 1.0), loss=0.2, duplication=0.2, reordering=0.3, reorder_s=0.5)
    world = World(9, link=link)
    hosts = world.cluster(8)
    for number, host in enumerate(hosts):
        world.hold(host, f"image-{number}")
    world.run_until(world.converged, within_s=60.0)


def test_a_drifting_clock_wakes_its_agent_at_other_times() -> None:
    world = World(10, link=Link(Uniform(0.001, 0.001)))
    fast, right = world.cluster(2)
    world.drift(fast, 2.0)
    world.run(100.0)
    pings = [host.traffic.by_kind()["ping"][0] for host in (fast, right)]
    assert 1.8 < pings[0] / pings[1] < 2.2


def test_a_clock_set_back_does_not_bring_back_an_older_life() -> None:
    world = World(11)
    hosts = world.cluster(4)
    world.hold(hosts[1], "a")
    world.step_clock(hosts[1], -1e9)
    world.restart(hosts[1], wiped=True)
    world.run_until(world.converged, within_s=60.0)


def test_a_settled_cluster_is_one_that_came_together() -> None:
    world = World(12)
    hosts = world.settled(50, lambda number: [f"image-{number % 3}", "base"])
    assert world.converged()
    world.run(20.0)
    assert sum(host.node.counters["syncs_begun"] for host in hosts) == 0
    world.hold(hosts[7], "new")
    assert world.run_until(world.converged, within_s=5.0) < 0.5
    world.kill(hosts[8])
    assert world.run_until(world.converged, within_s=5.0) < 0.5
    world.restart(hosts[8])
    world.power_off(hosts[9])
    world.run_until(world.converged, within_s=60.0)


def test_two_agents_with_one_uuid_are_reported_and_forgotten() -> None:
    world = World(14)
    hosts = world.cluster(4)
    clone = world.clone(hosts[1])
    world.run(20.0)
    assert hosts[1].node.counters["identity_conflicts"] > 0
    world.power_off(clone)
    world.run_until(world.converged, within_s=60.0)


def test_a_condition_that_is_not_met_in_time_is_reported() -> None:
    world = World(15)
    world.cluster(2)
    with pytest.raises(NotReached, match="h1"):
        world.run_until(lambda: False, within_s=1.0)
