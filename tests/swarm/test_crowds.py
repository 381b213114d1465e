"""Many nodes and one image: which have it in the end, what the origin sent, what faults cost."""

from simulations.swarm.world import World
from tests.swarm.pulling import ALONE_S, IMAGE, crowd, from_origin


def test_a_single_host_fetches_at_the_rate_of_its_link() -> None:
    world = World()
    hosts = crowd(world, 1)
    took_s = world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert took_s < 1.1 * ALONE_S
    assert from_origin(world) == 1.0


def test_a_crowd_draws_each_byte_from_the_origin_once() -> None:
    world = World()
    hosts = crowd(world, 16)
    took_s = world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) == 1.0
    assert took_s < 2.5 * ALONE_S  # a short pull: the start and the end weigh more
    assert world.wrong_accepted == 0


def test_the_same_seed_gives_the_same_trace() -> None:
    traces: list[list[str]] = []
    for _ in range(2):
        world = World(7, loss=0.1, jitter_s=0.01)
        trace: list[str] = []
        world.trace = trace.append
        hosts = crowd(world, 5)
        world.run_until(world.pulled(hosts, IMAGE), within_s=60)
        traces.append(trace)
    assert traces[0] == traces[1]


def test_lost_repeated_and_reordered_datagrams_do_no_harm() -> None:
    world = World(3, loss=0.2, duplication=0.2, jitter_s=0.05)
    hosts = crowd(world, 8)
    world.run_until(world.pulled(hosts, IMAGE), within_s=120)
    assert from_origin(world) < 1.3
    assert all(sorted(set(h.accepted)) == sorted(h.accepted) for h in hosts)


def test_sources_that_lack_the_blob_cost_a_moment() -> None:
    world = World()
    world.publish(IMAGE)
    hosts = world.add_many(3)
    world.pull(hosts[0], IMAGE, sources=hosts[1:])
    world.run_until(world.pulled(hosts[:1], IMAGE), within_s=60)
    assert from_origin(world) == 1.0


def test_a_seed_that_is_no_member_is_not_waited_for() -> None:
    world = World()
    world.publish(IMAGE)
    single = world.add()
    stranger = world.add()
    world.pull(single, IMAGE, sources=[stranger])
    took_s = world.run_until(world.pulled([single], IMAGE), within_s=60)
    assert took_s < 1.1 * ALONE_S


def test_late_participants_fetch_from_the_earlier_ones() -> None:
    world = World()
    first = crowd(world, 4)
    world.run(2.0)
    late = [world.add() for _ in range(3)]
    world.update_members()
    for host in late:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(first + late, IMAGE), within_s=60)
    assert from_origin(world) < 1.05
    last = world.add()
    world.update_members()
    world.pull(last, IMAGE)
    world.run_until(world.pulled([last], IMAGE), within_s=60)
    assert from_origin(world) < 1.05


def test_participants_that_leave_early_cost_the_origin_little() -> None:
    world = World()
    hosts = crowd(world, 6)
    world.run(1.5)
    for blob in IMAGE:
        world.do(hosts[0], hosts[0].node.drop(blob.digest, now=world.now))
    assert not hosts[0].transfers
    world.run_until(world.pulled(hosts[1:], IMAGE), within_s=60)
    assert from_origin(world) < 1.2


def test_the_others_finish_when_hosts_die() -> None:
    world = World(5)
    hosts = crowd(world, 8)
    world.run(1.5)
    world.kill(hosts[0])
    world.kill(hosts[1])
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) < 1.5


def test_the_others_finish_when_a_host_falls_silent() -> None:
    world = World(5, noticed_s=6.0)
    hosts = crowd(world, 6)
    world.run(1.5)
    world.unplug(hosts[2])
    took_s = world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert took_s < 3 * ALONE_S
    assert from_origin(world) < 1.5


def test_nodes_refused_by_the_origin_fetch_from_the_others() -> None:
    world = World(6)
    world.publish(IMAGE)
    hosts = world.add_many(4)
    world.origin.refused = {hosts[0].id, hosts[1].id}
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) == 1.0


def test_a_blob_refused_to_all_is_reported_as_stuck_once() -> None:
    world = World(6)
    world.publish(IMAGE)
    hosts = world.add_many(3)
    world.origin.refused = {host.id for host in hosts}
    trace: list[str] = []
    world.trace = trace.append
    for host in hosts:
        world.pull(host, IMAGE)
    world.run(30)
    for host in hosts:
        assert set(host.stuck) == {blob.digest for blob in IMAGE}
        assert all("refused" in reason for reason in host.stuck.values())
    assert sum("BlobStuck" in line for line in trace) == 3 * len(IMAGE)


def test_an_origin_that_is_away_for_a_while_only_delays() -> None:
    world = World()
    hosts = crowd(world, 4)
    world.run(1.0)
    world.origin.up = False
    world.schedule(world.now + 4.0, lambda: setattr(world.origin, "up", True))
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert not any(host.stuck for host in hosts)


def test_an_origin_that_stays_away_ends_as_stuck() -> None:
    world = World()
    world.origin.up = False
    hosts = crowd(world, 3)
    world.run(90)
    assert all("unavailable" in reason for host in hosts for reason in host.stuck.values())
    assert all(len(host.stuck) == len(IMAGE) for host in hosts)
