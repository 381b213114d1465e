"""Which members a node sends news to, and when it stops."""

from beiran.gossip.config import DATAGRAM_BYTES_MAX
from beiran.gossip.dissemination import NEWS_BYTES_MAX
from beiran.gossip.messages import (
    Ack,
    Ahead,
    Alive,
    Delta,
    Held,
    Ping,
    PingReq,
    Suspect,
)
from beiran.sansio.wire import packed_bytes
from simulations.gossip.images import description, digest, holding
from tests.gossip.bench import (
    ANOTHER_HASH,
    CODEC,
    IPV6,
    OWN,
    Listener,
    at,
    gossiped,
    news_of,
    peer,
    sent,
)


def a_delta(owner: int, version: int) -> Delta:
    return Delta(peer(owner), version - 1, version, (Held(digest(f"image-{version}"), ()),))


def test_news_rides_only_to_members_whose_state_hash_differs() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    bench.receive_news(3, a_delta(3, 7))  # leaves a gap: not applied, and not spread
    bench.receive_news(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    own = bench.node.members.state_hash
    (same,) = sent(bench.receive(4, Ping(1, peer(4), own)), to=at(4))
    (other,) = sent(bench.receive(4, Ping(2, peer(4), ANOTHER_HASH)), to=at(4))
    assert news_of(same) == []
    assert [item.version for item in news_of(other) if isinstance(item, Delta)] == [7]


def test_news_is_no_news_after_a_while() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    bench.receive_news(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    bench.receive_news(4, Suspect(peer(5), 5, 0, peer(4)))
    bench.live(bench.node._context.config.news_lasts_s + 0.1)
    (ack,) = sent(bench.receive(4, Ping(2, peer(4), ANOTHER_HASH)), to=at(4))
    assert not [item for item in news_of(ack) if isinstance(item, Delta)]


def test_an_ack_with_another_state_hash_is_answered_by_what_is_new() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    bench.receive_news(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    own = bench.node.members.state_hash
    assert sent(bench.receive(4, Ack(77, peer(4), own)), to=at(4)) == []
    answers = sent(bench.receive(4, Ack(78, peer(4), ANOTHER_HASH)), to=at(4))
    versions = [i.version for answer in answers for i in news_of(answer) if isinstance(i, Delta)]
    assert versions == [7]


def test_news_of_others_is_pushed_once() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    effects = bench.receive_news(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    assert len(gossiped(bench, effects)) >= 2
    assert gossiped(bench, bench.live(0.5)) == []


def test_own_news_without_an_echo_is_pushed_again() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    effects = bench.did(bench.node.hold([holding("a")], [description("a")], now=bench.now))
    assert len(gossiped(bench, effects)) == 3
    assert len(gossiped(bench, bench.live(0.5))) == 3


def test_where_packets_get_lost_there_is_a_second_round() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    while bench.now - bench.node._context.lost_at > 1:  # a ping of ours is not answered in time
        bench.live(0.1, silent=(1,))
    bench.receive_news(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    before = len(gossiped(bench, bench.effects))
    again = gossiped(bench, bench.live(0.3))
    assert len(gossiped(bench, bench.effects)) > before
    assert all(number != 3 for number, _ in again)  # member 3 sent the news


def test_with_ticks_nothing_is_pushed_at_once() -> None:
    bench = Listener(peers=9, push_tick_s=0.2, by_state_hash=False)
    bench.live(5)
    effects = bench.receive_news(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    assert gossiped(bench, effects) == []
    pushed = gossiped(bench, bench.live(0.25))
    assert len(pushed) == 3


def test_a_ping_req_about_an_ipv6_address_fits_a_datagram_full_of_news() -> None:
    room = NEWS_BYTES_MAX
    news = CODEC.encode_news(Ahead(peer(1), 1))
    count = room // packed_bytes(news)
    filler = CODEC.encode_news(Alive(peer(1), 1, 0, IPV6.packed_host, 1, ""))
    assert packed_bytes(filler) < room
    items = (news,) * count
    left = room - sum(map(packed_bytes, items))
    probe = 2**32 - 1
    message = PingReq(probe, OWN, peer(1), IPV6.packed_host, 65535, items)
    assert len(CODEC.encode_datagram(message)) + left <= DATAGRAM_BYTES_MAX
