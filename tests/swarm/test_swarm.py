"""Many nodes, one image: who has it in the end, what the origin gave, and what mishaps cost."""

from beiran.swarm.config import SwarmConfig
from beiran.swarm.effects import CancelFetch, FetchFromPeer, PieceDoubted
from beiran.swarm.node import BlobWanted
from beiran.swarm.pieces import cut
from simulations.swarm.blobs import Blob, image
from simulations.swarm.host import Host
from simulations.swarm.world import MBIT, World

IMAGE_BYTES = 24_000_000
IMAGE = image(2, IMAGE_BYTES)
ALONE_S = IMAGE_BYTES / (50 * MBIT)
BIG = [Blob("big", 100_000_000)]


def crowd(world: World, count: int, blobs: list[Blob] = IMAGE) -> list[Host]:
    """All pull at the same moment."""
    world.publish(blobs)
    hosts = world.add_many(count)
    for host in hosts:
        world.pull(host, blobs)
    return hosts


def from_origin(world: World, blobs: list[Blob] = IMAGE) -> float:
    """What the origin sent, in copies of the image."""
    return world.origin.sent_bytes / sum(blob.size_bytes for blob in blobs)


def test_one_host_alone_gets_it_from_the_origin_at_the_links_rate() -> None:
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


def test_blobs_are_fetched_in_their_order() -> None:
    world = World()
    hosts = crowd(world, 4)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    for host in hosts:
        assert host.done_at[IMAGE[0].digest] <= host.done_at[IMAGE[1].digest]


def test_several_complete_peers_give_together_and_the_origin_nothing() -> None:
    world = World()
    world.publish(BIG)
    seeds = world.add_many(4, up=50 * MBIT)
    one = world.add(down=1000 * MBIT)
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, BIG)
    world.pull(one, BIG, sources=seeds)
    took_s = world.run_until(world.pulled([one], BIG), within_s=60)
    assert took_s < BIG[0].size_bytes / (50 * MBIT) / 3.0
    assert world.origin.sent_bytes == 0
    progress = one.node.progress(BIG[0].digest)
    assert progress is not None
    assert len(progress.per_peer_bytes) == 4


def test_peers_that_were_believed_to_have_it_and_have_not_cost_a_moment() -> None:
    world = World()
    world.publish(IMAGE)
    hosts = world.add_many(3)
    world.pull(hosts[0], IMAGE, sources=hosts[1:])
    world.run_until(world.pulled(hosts[:1], IMAGE), within_s=60)
    assert from_origin(world) == 1.0


def test_a_seed_that_is_no_member_is_not_waited_for() -> None:
    world = World()
    world.publish(IMAGE)
    alone = world.add()
    stranger = world.add()
    world.pull(alone, IMAGE, sources=[stranger])
    took_s = world.run_until(world.pulled([alone], IMAGE), within_s=60)
    assert took_s < 1.1 * ALONE_S


def test_late_comers_take_it_from_those_who_came_first() -> None:
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


def test_early_leavers_take_nothing_with_them() -> None:
    world = World()
    hosts = crowd(world, 6)
    world.run(1.5)
    for blob in IMAGE:
        world.do(hosts[0], hosts[0].node.drop(blob.digest, now=world.now))
    assert not hosts[0].transfers
    world.run_until(world.pulled(hosts[1:], IMAGE), within_s=60)
    assert from_origin(world) < 1.2


def test_hosts_die_and_the_others_finish() -> None:
    world = World(5)
    hosts = crowd(world, 8)
    world.run(1.5)
    world.kill(hosts[0])
    world.kill(hosts[1])
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) < 1.5


def test_a_host_falls_silent_and_the_others_finish() -> None:
    world = World(5, noticed_s=6.0)
    hosts = crowd(world, 6)
    world.run(1.5)
    world.unplug(hosts[2])
    took_s = world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert took_s < 3 * ALONE_S
    assert from_origin(world) < 1.5


def test_the_rendezvous_nodes_die_and_others_take_over() -> None:
    world = World(2)
    hosts = crowd(world, 8)
    world.run(1.2)
    rendezvous = [host for host in hosts if len(host.node._rendezvous)]
    assert rendezvous
    for host in rendezvous:
        world.kill(host)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) < 2.0


def test_a_silent_rendezvous_node_is_passed_over_before_gossip_knows() -> None:
    world = World(2, noticed_s=100.0)
    hosts = crowd(world, 6)
    world.run(0.5)
    rendezvous = [host for host in hosts if len(host.node._rendezvous)]
    for host in rendezvous:
        world.unplug(host)
    took_s = world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert took_s < 30
    others = [host for host in hosts if host not in rendezvous]
    assert sum(host.node.counters["rendezvous_passed_over"] for host in others) > 0


def test_a_seed_that_slows_to_a_crawl_is_left() -> None:
    world = World()
    seeds = world.add_many(3)
    one = world.add(down=1000 * MBIT)
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, BIG)
    world.pull(one, BIG, sources=seeds, from_origin=False)
    world.run(1.0)
    world.limit_uplink(seeds[0], 10_000)
    took_s = world.run_until(world.pulled([one], BIG), within_s=60)
    assert took_s < 1.4 * BIG[0].size_bytes / (100 * MBIT)


def test_an_only_seed_that_crawls_is_helped_by_the_origin() -> None:
    world = World()
    world.publish(IMAGE)
    seed, one = world.add_many(2)
    world.seed_blobs(seed, IMAGE)
    world.limit_uplink(seed, 10_000)
    world.pull(one, IMAGE, sources=[seed])
    world.run_until(world.pulled([one], IMAGE), within_s=120)


def test_who_spoils_what_it_serves_is_named_and_none_of_it_accepted() -> None:
    world = World(4)
    world.publish(IMAGE)
    hosts = world.add_many(8)
    liars = hosts[:3]
    for liar in liars:
        liar.spoils = True
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts, IMAGE), within_s=120)
    assert world.wrong_accepted == 0
    named = {node for host in hosts for node in host.distrusted}
    assert named == {liar.id for liar in liars}


def test_seeds_that_spoil_are_named_and_their_bytes_resumed_elsewhere() -> None:
    world = World(4)
    seeds = world.add_many(8)
    one = world.add(down=1000 * MBIT)
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, BIG)
    for liar in seeds[:3]:
        liar.spoils = True
    world.pull(one, BIG, sources=seeds, from_origin=False)
    world.run_until(world.pulled([one], BIG), within_s=60)
    assert world.wrong_accepted == 0
    assert set(one.distrusted) == {liar.id for liar in seeds[:3]}


def test_seeds_without_hashes_that_spoil_are_found_out_at_the_end() -> None:
    world = World(4)
    world.publish(IMAGE)
    seeds = world.add_many(4)
    one = world.add()
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, IMAGE, hashes=False)
    seeds[0].spoils = True
    trace: list[str] = []
    world.trace = trace.append
    world.pull(one, IMAGE, sources=seeds)
    world.run_until(world.pulled([one], IMAGE), within_s=120)
    assert any(PieceDoubted.__name__ in line for line in trace)
    assert world.origin.sent_bytes > 0


def test_a_damaged_blob_without_origin_is_fetched_again_from_others() -> None:
    world = World(4)
    seeds = world.add_many(3)
    one = world.add()
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, IMAGE, hashes=False)
    seeds[0].spoils = True
    world.pull(one, IMAGE, sources=seeds, from_origin=False)
    world.run(120)
    assert one.done_at.keys() | one.stuck.keys() == {blob.digest for blob in IMAGE}


def test_an_only_source_that_spoils_ends_as_stuck_and_never_loops() -> None:
    world = World(4)
    seed, one = world.add_many(2)
    world.seed_blobs(seed, IMAGE, hashes=False)
    seed.spoils = True
    world.pull(one, IMAGE, sources=[seed], from_origin=False)
    world.run(60)
    assert set(one.stuck) == {blob.digest for blob in IMAGE}
    assert not one.transfers


def test_an_origin_that_gives_wrong_bytes_ends_as_stuck() -> None:
    world = World()
    world.origin.spoils = True
    hosts = crowd(world, 1)
    world.run(30)
    assert set(hosts[0].stuck) == {blob.digest for blob in IMAGE}
    assert all("the origin gives" in reason for reason in hosts[0].stuck.values())


def test_who_is_refused_by_the_origin_gets_it_from_those_who_are_not() -> None:
    world = World(6)
    world.publish(IMAGE)
    hosts = world.add_many(4)
    world.origin.refused = {hosts[0].id, hosts[1].id}
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert from_origin(world) == 1.0


def test_all_are_refused_and_told_so_once() -> None:
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


def test_a_stuck_blob_goes_on_when_a_source_turns_up() -> None:
    world = World()
    one, seed = world.add_many(2)
    world.pull(one, IMAGE, from_origin=False)
    world.run(10)
    assert one.stuck
    world.seed_blobs(seed, IMAGE)
    world.pull(one, IMAGE, sources=[seed], from_origin=False)
    world.run_until(world.pulled([one], IMAGE), within_s=60)


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


def test_a_restart_goes_on_with_the_pieces_that_are_there() -> None:
    world = World()
    hosts = crowd(world, 1)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    again = world.add()
    blob = IMAGE[0]
    held = dict(hosts[0].node._provisions[blob.digest].hashes)
    del held[3]
    again.sizes[blob.digest] = blob.size_bytes
    for piece in held:
        again.file[blob.digest, piece] = ()
    wanted = BlobWanted(blob.digest, blob.size_bytes, True)
    world.do(again, again.node.want(wanted, now=world.now, pieces_held=held))
    world.run_until(world.pulled([again], [blob]), within_s=60)
    assert [piece for _, piece in again.accepted] == [3]


def test_an_empty_blob_is_complete_at_once() -> None:
    world = World()
    one = world.add()
    world.pull(one, [Blob("empty", 0)])
    world.run_until(world.pulled([one], [Blob("empty", 0)]), within_s=1)


def test_only_what_is_held_may_be_given() -> None:
    world = World()
    hosts = crowd(world, 2)
    world.run(1.0)
    node, blob = hosts[0].node, IMAGE[0]
    held = [piece for digest, piece in hosts[0].accepted if digest == blob.digest]
    assert held
    size = cut(blob.size_bytes).piece_bytes
    assert node.holds(blob.digest, held[0] * size, held[0] * size + 10)
    assert not node.holds(blob.digest, 0, blob.size_bytes)
    assert not node.holds(blob.digest, 10, 10)
    assert not node.holds(IMAGE[1].digest, 0, 1)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    assert node.holds(blob.digest, 0, blob.size_bytes)
    assert not node.holds(blob.digest, 0, blob.size_bytes + 1)
    world.do(hosts[0], node.withdraw(blob.digest, now=world.now))
    assert not node.holds(blob.digest, 0, 1)


def test_the_prefix_from_the_origin_grows_while_one_pulls_alone() -> None:
    world = World()
    hosts = crowd(world, 1)
    node, digest = hosts[0].node, IMAGE[0].digest
    seen = [node.prefix_from_origin_bytes(digest)]
    while digest not in hosts[0].done_at:
        world.run(0.2)
        if node.progress(digest) is not None and digest not in hosts[0].done_at:
            seen.append(node.prefix_from_origin_bytes(digest))
    assert seen == sorted(seen)
    assert seen[-1] > IMAGE[0].size_bytes // 2


def test_a_fetch_goes_on_at_the_byte_where_another_peer_failed() -> None:
    world = World()
    seeds = world.add_many(2)
    one = world.add()
    world.update_members()
    for seed in seeds:
        world.seed_blobs(seed, IMAGE)
    starts: list[int] = []
    do = world.do

    def watch(host: Host, effects: list[object]) -> None:
        starts.extend(e.start for e in effects if isinstance(e, FetchFromPeer))
        do(host, effects)  # type: ignore[arg-type]

    world.do = watch  # type: ignore[method-assign,assignment]
    world.pull(one, IMAGE, sources=seeds, from_origin=False)
    world.run(1.0)
    world.kill(seeds[0])
    world.run_until(world.pulled([one], IMAGE), within_s=60)
    assert any(start % cut(IMAGE[0].size_bytes).piece_bytes for start in starts)


def test_dropping_a_blob_cancels_its_fetches() -> None:
    world = World()
    hosts = crowd(world, 2)
    world.run(1.0)
    effects = hosts[0].node.drop(IMAGE[0].digest, now=world.now)
    assert any(isinstance(effect, CancelFetch) for effect in effects)
    assert hosts[0].node.progress(IMAGE[0].digest) is None


def test_nothing_is_due_when_nothing_is_wanted_any_more() -> None:
    world = World(config=SwarmConfig(linger_s=2.0))
    hosts = crowd(world, 3)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    world.run(30)
    assert [host.node.next_deadline() for host in hosts] == [None] * 3


def test_a_liar_whose_hashes_fit_its_bytes_is_found_out_and_all_finish() -> None:
    world = World(8)
    world.publish(IMAGE)
    hosts = world.add_many(5)
    hosts[0].spoils = hosts[0].lies = True
    for host in hosts:
        world.pull(host, IMAGE)
    world.run_until(world.pulled(hosts[1:], IMAGE), within_s=120)
    assert all(set(host.distrusted) <= {hosts[0].id} for host in hosts[1:])
    assert not any(host.stuck for host in hosts[1:])
