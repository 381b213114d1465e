"""Addresses from the operator are tried as long as no known member answers there."""

from random import Random

from beiran.gossip.config import GossipConfig
from beiran.gossip.membership.member import Member, Status
from beiran.gossip.messages import (
    Ping,
)
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Tables
from tests.gossip.bench import (
    CODEC,
    Bench,
    at,
    peer,
    requests,
)


def test_a_seed_that_announces_another_address_is_not_asked_for_ever() -> None:
    bench = Bench()
    elsewhere = at(200)
    bench.did(bench.node.join([elsewhere], now=bench.now))
    (begin,) = [r for r in requests(bench.run(0.1)) if r.to == elsewhere]
    seed = Member(peer(1), "h1", at(1), 5, 0, Status.ALIVE)
    answering = GossipNode(
        seed,
        Tables.restored(seed, 7),
        codec=CODEC,
        config=GossipConfig(),
        random=Random(2),
        now=bench.now,
    )
    reply, _ = answering.receive_request(begin.data, now=bench.now)
    assert reply is not None
    bench.did(bench.node.receive_reply(begin.token, reply, now=bench.now))
    assert bench.status(1) == Status.ALIVE
    bench.run(0.5)
    for _ in range(12):
        bench.receive(1, Ping(1, peer(1), bench.node.members.state_hash))
        assert [r for r in requests(bench.run(0.5)) if r.to == elsewhere] == []
