"""Each description is asked for until it comes, and kept while the image is held."""

from dataclasses import replace
from random import Random

from beiran.gossip.config import GossipConfig
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.messages import (
    Delta,
    Described,
    Held,
    Left,
    Ping,
    Want,
)
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Tables
from simulations.gossip.images import description, digest
from simulations.gossip.world import World
from tests.gossip.bench import (
    CODEC,
    OWN,
    OWN_ADDRESS,
    Bench,
    at,
    peer,
    requests,
    sent,
)


def test_descriptions_wanted_before_a_restart_are_asked_for_after_it() -> None:
    world = World(seed=2)
    first, second = world.cluster(2)
    world.hold(second, "a")
    world.run_until(world.converged, within_s=5)
    world.kill(first)
    first.disk = replace(first.disk, descriptions=())
    world.restart(first)
    assert first.node.descriptions.get(digest("a")) is None
    world.run_until(lambda: first.node.descriptions.get(digest("a")) is not None, within_s=10)


def test_descriptions_of_images_without_a_holder_are_not_kept_over_a_restart() -> None:
    own = Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE)
    node = GossipNode(
        own,
        Tables.restored(own, 100, descriptions=[description("a")]),
        codec=CODEC,
        config=GossipConfig(),
        random=Random(1),
        now=0.0,
    )
    assert node.descriptions.get(digest("a")) is None


def test_an_image_that_no_member_can_describe_does_not_hold_up_others() -> None:
    bench = Bench(peers=2)
    bench.receive_news(1, Delta(peer(1), 0, 7, (Held(digest("never")),)))
    for _ in range(60):
        bench.run(1.0)
        for number in (1, 2):
            bench.receive(number, Ping(1, peer(number), bench.node.members.state_hash))
    bench.receive_news(2, Delta(peer(2), 0, 7, (Held(digest("other")),)))
    again = sent(bench.run(0.5), to=at(2))
    assert [m.images for m in again if isinstance(m, Want)] == [(digest("other"),)]


def test_an_offline_holder_is_not_asked_for_a_description() -> None:
    bench = Bench(peers=2)
    bench.receive_news(1, Delta(peer(1), 0, 7, (Held(digest("a")),)))
    bench.receive_news(2, Left(peer(1), 5, 1))
    later = bench.run(60.0)
    assert [m for m in sent(later, to=at(1)) if isinstance(m, Want)] == []
    assert [r for r in requests(later) if r.to == at(1)] == []


def test_an_asker_that_repeats_itself_is_answered_once() -> None:
    bench = Bench(peers=2)
    bench.receive_news(1, Delta(peer(1), 0, 7, (Held(digest("a")),)))
    for _ in range(5):
        bench.receive(2, Want(peer(2), (digest("a"), digest("a"))))
    effects = bench.did(
        bench.node.receive_datagram(
            CODEC.encode_datagram(Described(peer(1), (description("a"),))), at(1), now=bench.now
        )
    )
    assert len([m for m in sent(effects, to=at(2)) if isinstance(m, Described)]) == 1
