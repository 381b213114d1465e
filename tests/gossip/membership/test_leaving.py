"""A node that leaves says so, and nothing after that."""

from beiran.gossip.membership.member import Status
from beiran.gossip.messages import (
    Ack,
    Left,
    Ping,
)
from simulations.gossip.world import World
from tests.gossip.bench import CODEC, Bench, at, peer, sent
from tests.gossip.verdicts import Verdicts


def test_a_leaving_node_does_not_come_back_with_a_new_address() -> None:
    bench = Bench(peers=3)
    bench.did(bench.node.leave(now=bench.now))
    moved = bench.did(bench.node.move_to(at(99), now=bench.now))
    assert moved == []
    assert bench.node.own.status == Status.LEFT


def test_a_leave_milliseconds_after_a_beacon_reaches_all_that_heard_the_beacon() -> None:
    world = World(seed=3)
    verdicts = Verdicts(world)
    first = world.add()
    world.run(5)
    second = world.add()
    world.run_until(lambda: first.node.members.online_count == 2, within_s=1)
    world.run(0.004)  # the time of a beacon's answer; a push-pull takes longer
    world.leave(second)
    world.run(5)
    known = first.node.members.get(second.id)
    assert known is not None
    assert known.status == Status.LEFT
    assert verdicts.down([second]) == []


def test_the_acks_of_a_leaving_node_say_that_it_leaves() -> None:
    bench = Bench(peers=2)
    bench.did(bench.node.leave(now=bench.now))
    (ack,) = [
        m for m in sent(bench.receive(7, Ping(1, peer(7), 1)), to=at(7)) if isinstance(m, Ack)
    ]
    assert [type(news) for news, _ in CODEC.decode_news_untrusted(ack.news)] == [Left]
