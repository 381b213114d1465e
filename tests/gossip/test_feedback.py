"""What a node lets others' answers decide: whom it tells what, when it stops, when it suspects."""

from beiran.gossip.effects import Effect
from beiran.gossip.membership.member import Status
from beiran.gossip.messages import (
    Ack,
    Delta,
    Gossip,
    Held,
    Nack,
    Ping,
    PingReq,
    Suspect,
)
from tests.gossip.test_review import CODEC, OWN, Bench, at, peer, sent
from tests.gossip.world import description, digest, holding

ANOTHER_PICTURE = 12345


class Listener(Bench):
    """A bench whose peers answer every ping at once, except those that are silent."""

    def __init__(self, *, peers: int, **config: float) -> None:
        super().__init__(peers=peers, **config)
        self.peers = range(1, peers + 1)

    def said(self, effects: list[Effect], kind: type) -> list[tuple[int, object]]:
        return [
            (number, message)
            for number in self.peers
            for message in sent(effects, to=at(number))
            if isinstance(message, kind)
        ]

    def live(self, seconds: float, silent: tuple[int, ...] = ()) -> list[Effect]:
        """Let time pass in small steps, and answer pings."""
        found: list[Effect] = []
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            effects = self.did(self.node.advance(now=self.now))
            found += effects
            for number, ping in self.said(effects, Ping):
                assert isinstance(ping, Ping)
                if number not in silent:
                    found += self.hears(
                        number, Ack(ping.probe, peer(number), self.node.members.picture)
                    )
        return found


def told_by_gossip(bench: Listener, effects: list[Effect]) -> list[tuple[int, Gossip]]:
    return [(n, m) for n, m in bench.said(effects, Gossip) if isinstance(m, Gossip)]


def news_of(message: object) -> list[object]:
    assert isinstance(message, Ping | Ack | Gossip)
    return [item for item, _ in CODEC.decode_news_untrusted(message.news)]


def a_delta(owner: int, version: int) -> Delta:
    return Delta(peer(owner), version - 1, version, (Held(digest(f"image-{version}"), ()),))


def test_every_other_probe_goes_to_the_next_on_the_ring() -> None:
    bench = Listener(peers=9)
    bench.live(10)
    began = len(bench.effects)
    bench.live(40)
    probed = [number for number, _ in bench.said(bench.effects[began:], Ping)]
    ring = list(bench.node.members.ring())
    after_us = ring[(ring.index(OWN) + 1) % len(ring)]
    successor = next(number for number in bench.peers if peer(number) == after_us)
    assert 19 <= probed.count(successor) <= 25
    assert set(probed) == set(bench.peers)


def test_whoever_is_suspected_is_not_probed_as_the_next_on_the_ring() -> None:
    bench = Listener(peers=9, confirm_at_once=False)
    after_us = bench.node.members.neighbours(OWN, 2, step=1)
    first, second = (next(n for n in bench.peers if peer(n) == node) for node in after_us)
    bench.told(second, Suspect(peer(first), 5, 0, peer(second)))
    effects = bench.live(6, silent=(first,))
    probed = [number for number, _ in bench.said(effects, Ping)]
    assert probed.count(second) >= 2


def asked_others(bench: Listener, silent: int) -> list[tuple[int, PingReq]]:
    """Run until the silent peer's probe was passed to others."""
    while True:
        effects = bench.live(0.01, silent=(silent,))
        asked = [(n, m) for n, m in bench.said(effects, PingReq) if isinstance(m, PingReq)]
        if asked:
            assert {m.target for _, m in asked} == {peer(silent)}
            return asked


def nack(bench: Listener, by: int, request: PingReq) -> None:
    data = CODEC.encode_datagram(Nack(request.probe, peer(by)))
    bench.did(bench.node.receive_datagram(data, at(by), now=bench.now))


def test_when_all_who_were_asked_hear_nothing_either_the_target_is_suspected_at_once() -> None:
    bench = Listener(peers=9, confirm_at_once=False)
    asked = asked_others(bench, silent=1)
    for by, request in asked[:-1]:
        nack(bench, by, request)
        assert bench.status(1) == Status.ALIVE
    nack(bench, *asked[-1])
    assert bench.status(1) == Status.SUSPECT


def test_who_doubts_itself_waits_for_the_end_of_its_probe() -> None:
    bench = Listener(peers=9, confirm_at_once=False)
    asked = asked_others(bench, silent=1)
    bench.told(2, Suspect(OWN, 5, 0, peer(2)))  # it refutes, and thinks less of its own health
    for by, request in asked:
        nack(bench, by, request)
    assert bench.status(1) == Status.ALIVE


def test_news_rides_only_to_those_whose_picture_is_another() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    bench.told(3, a_delta(3, 7))  # leaves a gap: it is not taken over, and nothing is to be told
    bench.told(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    own = bench.node.members.picture
    (same,) = sent(bench.hears(4, Ping(1, peer(4), own)), to=at(4))
    (other,) = sent(bench.hears(4, Ping(2, peer(4), ANOTHER_PICTURE)), to=at(4))
    assert news_of(same) == []
    assert [item.version for item in news_of(other) if isinstance(item, Delta)] == [7]


def test_news_is_no_news_after_a_while() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    bench.told(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    bench.told(4, Suspect(peer(5), 5, 0, peer(4)))
    bench.live(bench.node._context.config.news_lasts_s + 0.1)
    (ack,) = sent(bench.hears(4, Ping(2, peer(4), ANOTHER_PICTURE)), to=at(4))
    assert not [item for item in news_of(ack) if isinstance(item, Delta)]


def test_an_ack_with_another_picture_is_answered_by_what_is_new() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    bench.told(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    own = bench.node.members.picture
    assert sent(bench.hears(4, Ack(77, peer(4), own)), to=at(4)) == []
    answers = sent(bench.hears(4, Ack(78, peer(4), ANOTHER_PICTURE)), to=at(4))
    versions = [i.version for answer in answers for i in news_of(answer) if isinstance(i, Delta)]
    assert versions == [7]


def test_news_of_others_is_pushed_once() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    effects = bench.told(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    assert len(told_by_gossip(bench, effects)) >= 2
    assert told_by_gossip(bench, bench.live(0.5)) == []


def test_our_own_news_that_nobody_has_repeated_is_pushed_again() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    effects = bench.did(bench.node.hold([holding("a")], [description("a")], now=bench.now))
    assert len(told_by_gossip(bench, effects)) == 3
    assert len(told_by_gossip(bench, bench.live(0.5))) == 3


def test_where_packets_get_lost_there_is_a_second_round() -> None:
    bench = Listener(peers=9)
    bench.live(1)
    while bench.now - bench.node._context.lost_at > 1:  # a ping of ours is not answered in time
        bench.live(0.1, silent=(1,))
    bench.told(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    before = len(told_by_gossip(bench, bench.effects))
    again = told_by_gossip(bench, bench.live(0.3))
    assert len(told_by_gossip(bench, bench.effects)) > before
    assert all(number != 3 for number, _ in again)  # it was the one who told us


def test_with_ticks_nothing_is_pushed_at_once() -> None:
    bench = Listener(peers=9, push_tick_s=0.2, by_picture=False)
    bench.live(5)
    effects = bench.told(3, Delta(peer(3), 0, 7, (Held(digest("image-7"), ()),)))
    assert told_by_gossip(bench, effects) == []
    told = told_by_gossip(bench, bench.live(0.25))
    assert len(told) == 3
