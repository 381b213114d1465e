"""When a push-pull begins, and what ends it."""

import pytest

from beiran.gossip.membership.member import Status
from beiran.gossip.messages import (
    Delta,
    Described,
    Held,
    Left,
    Ping,
    StreamAck,
    SyncExchange,
    SyncWant,
)
from simulations.gossip.images import digest
from tests.gossip.bench import CODEC, Bench, at, peer, requests


@pytest.mark.parametrize(
    "answer", [StreamAck(peer(1)), Described(peer(1), ())], ids=["stream ack", "described"]
)
def test_a_reply_of_another_kind_does_not_end_all_push_pulls(
    answer: StreamAck | Described,
) -> None:
    bench = Bench(peers=2)
    for _ in range(2):
        bench.run(1.0)
        bench.receive(1, Ping(1, peer(1), 12345))
        begun = [r for r in requests(bench.run(0.5)) if r.to == at(1)]
        assert begun, "a difference that lasts begins a push-pull"
        data = CODEC.encode_stream(answer)
        for request in begun:
            bench.did(bench.node.receive_reply(request.token, data, now=bench.now))
    assert bench.node.counters["bad_packets"] >= 2


def test_a_want_that_is_listed_many_times_is_answered_once() -> None:
    bench = Bench(peers=1)
    bench.receive_news(1, Delta(peer(1), 0, 7, (Held(digest("a")),)))
    wants = (SyncWant(peer(1), 0),) * 1000
    request = CODEC.encode_stream(SyncExchange(peer(1), b"", wants=wants))
    reply, _ = bench.node.receive_request(request, now=bench.now)
    assert reply is not None
    answer = CODEC.decode_stream_untrusted(reply)
    assert isinstance(answer, SyncExchange)
    assert len(answer.members) == len(answer.deltas) == 1


def test_a_member_that_leaves_is_not_asked_for_its_state() -> None:
    bench = Bench(peers=3)
    left = CODEC.encode_news(Left(peer(1), 5, 1))
    bench.receive(1, Ping(1, peer(1), 12345, (left,)))
    assert bench.status(1) == Status.LEFT
    assert [r for r in requests(bench.run(0.2)) if r.to == at(1)] == []
