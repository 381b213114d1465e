"""Which fetches run: their order, slow peers, and bytes that another peer brought."""

from beiran.swarm.effects import FetchFromPeer
from beiran.swarm.pieces import cut
from simulations.swarm.host import Host
from simulations.swarm.world import MBIT, World
from tests.swarm.pulling import BIG, IMAGE, crowd


def test_blobs_are_fetched_in_their_order() -> None:
    world = World()
    hosts = crowd(world, 4)
    world.run_until(world.pulled(hosts, IMAGE), within_s=60)
    for host in hosts:
        assert host.done_at[IMAGE[0].digest] <= host.done_at[IMAGE[1].digest]


def test_several_seeds_serve_together_and_the_origin_nothing() -> None:
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


def test_a_fetch_from_a_seed_that_becomes_slow_is_cancelled() -> None:
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


def test_the_origin_helps_an_only_seed_that_is_slow() -> None:
    world = World()
    world.publish(IMAGE)
    seed, one = world.add_many(2)
    world.seed_blobs(seed, IMAGE)
    world.limit_uplink(seed, 10_000)
    world.pull(one, IMAGE, sources=[seed])
    world.run_until(world.pulled([one], IMAGE), within_s=120)


def test_a_fetch_continues_at_the_byte_where_another_peer_failed() -> None:
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
