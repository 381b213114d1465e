"""What a review of the core found: each was wrong once."""

from random import Random

import pytest

from beiran.gossip.codec import Codec
from beiran.gossip.config import DATAGRAM_BYTES_MAX, GossipConfig
from beiran.gossip.dissemination import NEWS_BYTES_MAX
from beiran.gossip.effects import Effect, SendDatagram, SendRequest
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.messages import (
    Ack,
    Ahead,
    Alive,
    Delta,
    Described,
    Down,
    Gossip,
    Held,
    Left,
    News,
    Ping,
    PingReq,
    StreamAck,
    Suspect,
    SyncBegin,
    SyncExchange,
    SyncVector,
    SyncWant,
    Want,
)
from beiran.gossip.node import GossipNode, Remembered
from beiran.gossip.possession.owner_log import Possession
from beiran.ids import NodeId
from beiran.oci.images import Holding
from beiran.sansio.wire import packed_bytes
from tests.gossip.world import World, description, digest, holding

CODEC = Codec("default")
OWN = NodeId(b"O" * 16)
OWN_ADDRESS = Address("10.1.0.1", 8888)
IPV6 = Address("fd00:1111:2222:3333:4444:5555:6666:7777", 8888)


def peer(number: int) -> NodeId:
    return NodeId(bytes([number]) * 16)


def at(number: int) -> Address:
    return Address(f"10.1.0.{number}", 8888)


class Bench:
    """One core, and its peers played by hand."""

    def __init__(self, *, peers: int = 0, now: float = 1000.0, **config: object) -> None:
        self.now = now
        self.effects: list[Effect] = []
        self.node = GossipNode(
            Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE),
            cluster="default",
            config=GossipConfig(**config),  # type: ignore[arg-type]
            random=Random(1),
            now=self.now,
            version=100,
        )
        self.did(self.node.start(now=self.now, beacons=False))
        for number in range(1, peers + 1):
            self.meet(number)

    def did(self, effects: list[Effect]) -> list[Effect]:
        self.effects += effects
        return effects

    def meet(self, number: int, address: Address | None = None) -> None:
        self.told(number, self.alive(number, address=address))

    def alive(self, number: int, *, address: Address | None = None) -> Alive:
        where = address or at(number)
        return Alive(peer(number), 5, 0, where.packed_host, where.port, f"h{number}")

    def told(self, by: int, *news: News) -> list[Effect]:
        raws = tuple(CODEC.encode_news(item) for item in news)
        return self.hears(by, Gossip(peer(by), raws))

    def hears(self, by: int, message: Gossip | Ping | Ack | Want | PingReq) -> list[Effect]:
        data = CODEC.encode_datagram(message)
        return self.did(self.node.receive_datagram(data, at(by), now=self.now))

    def run(self, seconds: float) -> list[Effect]:
        found: list[Effect] = []
        end = self.now + seconds
        while (deadline := self.node.next_deadline()) is not None and deadline <= end:
            self.now = max(self.now, deadline)
            found += self.did(self.node.advance(now=self.now))
        self.now = end
        return found

    def status(self, number: int) -> Status | None:
        member = self.node.members.get(peer(number))
        return member.status if member else None


def requests(effects: list[Effect]) -> list[SendRequest]:
    return [effect for effect in effects if isinstance(effect, SendRequest)]


def sent(effects: list[Effect], *, to: Address) -> list[object]:
    return [
        CODEC.decode_datagram_untrusted(effect.data)
        for effect in effects
        if isinstance(effect, SendDatagram) and effect.to == to
    ]


# --- holdings -----------------------------------------------------------------------------------


def test_a_release_of_what_we_never_had_is_passed_on_to_who_has_it() -> None:
    owner = peer(1)
    source, between, behind = (Possession(tombstones_max=64) for _ in range(3))
    source.begin(owner, 100)
    for copy in (between, behind):
        copy.begin(owner, 100)
    source.change(owner, [Holding(digest("a"))], [])
    held = source.delta_since(owner, 100)
    assert held is not None
    behind.apply(held)
    source.change(owner, [], [digest("a")])
    both = source.delta_since(owner, 100)
    assert both is not None
    between.apply(both)
    rest = between.delta_since(owner, behind.version(owner))
    assert rest is not None
    behind.apply(rest)
    assert behind.holdings(owner) == []


def test_an_image_with_thousands_of_names_does_not_keep_others_from_being_told() -> None:
    world = World(seed=1)
    hosts = world.cluster(3)
    tags = tuple(f"app:build-{i}" for i in range(3000))
    images = [Holding(digest("a"), tags), Holding(digest("b"), ("x" * 600, "b:1")), holding("c")]
    names = [description(name) for name in "abc"]
    world.do(hosts[0], hosts[0].node.hold(images, names, now=world.now))
    world.run_until(world.converged, within_s=5)
    assert all(host.node.counters["bad_packets"] == 0 for host in hosts)


# --- descriptions -------------------------------------------------------------------------------


def test_what_an_earlier_life_had_no_time_to_ask_is_asked_after_the_restart() -> None:
    world = World(seed=2)
    first, second = world.cluster(2)
    world.hold(second, "a")
    world.run_until(world.converged, within_s=5)
    world.kill(first)
    first.described.clear()
    world.restart(first)
    world.run_until(world.converged, within_s=10)


def test_descriptions_of_what_nobody_holds_any_more_are_not_kept_over_a_restart() -> None:
    node = GossipNode(
        Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE),
        cluster="default",
        config=GossipConfig(),
        random=Random(1),
        now=0.0,
        version=100,
        descriptions=[description("a")],
    )
    assert node.descriptions.get(digest("a")) is None


def test_an_image_that_nobody_can_describe_does_not_hold_up_others() -> None:
    bench = Bench(peers=2)
    bench.told(1, Delta(peer(1), 0, 7, (Held(digest("never")),)))
    for _ in range(60):
        bench.run(1.0)
        for number in (1, 2):
            bench.hears(number, Ping(1, peer(number), bench.node.members.picture))
    bench.told(2, Delta(peer(2), 0, 7, (Held(digest("other")),)))
    again = sent(bench.run(0.5), to=at(2))
    assert [m.images for m in again if isinstance(m, Want)] == [(digest("other"),)]


def test_an_offline_holder_is_not_asked_what_its_image_is() -> None:
    bench = Bench(peers=2)
    bench.told(1, Delta(peer(1), 0, 7, (Held(digest("a")),)))
    bench.told(2, Left(peer(1), 5, 1))
    later = bench.run(60.0)
    assert [m for m in sent(later, to=at(1)) if isinstance(m, Want)] == []
    assert [r for r in requests(later) if r.to == at(1)] == []


def test_who_asks_twice_before_we_know_is_answered_once() -> None:
    bench = Bench(peers=2)
    bench.told(1, Delta(peer(1), 0, 7, (Held(digest("a")),)))
    for _ in range(5):
        bench.hears(2, Want(peer(2), (digest("a"), digest("a"))))
    told = bench.did(
        bench.node.receive_datagram(
            CODEC.encode_datagram(Described(peer(1), (description("a"),))), at(1), now=bench.now
        )
    )
    assert len([m for m in sent(told, to=at(2)) if isinstance(m, Described)]) == 1


# --- verdicts -----------------------------------------------------------------------------------


def test_a_verdict_on_somebody_nobody_suspects_is_doubted() -> None:
    bench = Bench(peers=9)
    bench.run(2.1)  # nobody was heard for a while
    number = next(n for n in range(1, 10) if bench.status(n) == Status.ALIVE)
    bench.told(10, Down(peer(number), 5, 0, peer(11)))
    assert bench.status(number) == Status.SUSPECT
    bench.told(10, Down(peer(number), 5, 0, peer(12)))
    assert bench.status(number) == Status.SUSPECT, "it has had no time to refute"
    bench.run(1.5)
    bench.told(10, Down(peer(number), 5, 0, peer(12)))
    assert bench.status(number) == Status.DOWN


def test_who_comes_out_of_a_small_part_of_a_split_net_brings_nobody_down() -> None:
    for seed in range(6):
        world = World(seed=seed)
        hosts = world.cluster(7)
        lone, others = hosts[:2], hosts[2:]
        world.partition(lone, others)
        world.run_until(
            lambda lone=lone: any(h.node.counters["verdicts"] for h in lone),  # type: ignore[misc]
            within_s=60,
        )
        world.heal()
        world.run(20)
        judged = {host.id for host in others}
        wrong = [e for h in others for _, e in h.events if e.member.node in judged]
        assert [e for e in wrong if e.member.status == Status.DOWN] == []


def test_a_suspicion_after_all_have_left_raises_nothing() -> None:
    bench = Bench(peers=1)
    bench.told(1, Left(peer(1), 5, 1))
    bench.did(bench.node.leave(now=bench.now))
    bench.told(1, Suspect(peer(1), 5, 2, peer(2)))
    bench.run(60.0)


def test_who_is_leaving_does_not_come_back_with_a_new_address() -> None:
    bench = Bench(peers=3)
    bench.did(bench.node.leave(now=bench.now))
    moved = bench.did(bench.node.move_to(at(99), now=bench.now))
    assert moved == []
    assert bench.node.own.status == Status.LEFT


def test_a_suspect_that_was_heard_is_asked_once_more_before_the_next_verdict() -> None:
    bench = Bench(peers=9, confirm_at_once=False)
    bench.told(2, Suspect(peer(1), 5, 0, peer(2)))
    asked_at = heard_until = bench.now + 20.0
    while bench.status(1) != Status.DOWN:
        bench.now += 0.05
        for ping in sent(bench.did(bench.node.advance(now=bench.now)), to=at(1)):
            asked_at = bench.now
            if isinstance(ping, Ping) and bench.now < heard_until:  # it never hears of it
                bench.hears(1, Ack(ping.probe, peer(1), bench.node.members.picture))
        for number in range(2, 10):
            bench.hears(number, Ping(1, peer(number), bench.node.members.picture))
    assert bench.now > heard_until
    assert bench.now - asked_at < 2 * bench.node._context.config.last_call_s


def test_a_suspect_that_speaks_to_us_is_told_at_once_and_once() -> None:
    bench = Bench(peers=9, confirm_at_once=False)
    bench.told(2, Suspect(peer(1), 5, 0, peer(2)))
    bench.now += 0.01
    told = []
    for _ in range(2):
        bench.hears(1, Gossip(peer(1), ()))
        told.append(sent(bench.did(bench.node.advance(now=bench.now)), to=at(1)))
        bench.now += 0.01
    (ping,) = told[0]
    assert isinstance(ping, Ping)
    first, _ = CODEC.decode_news_untrusted(ping.news)[0]
    assert first == Suspect(peer(1), 5, 0, bench.node.own.node)
    assert told[1] == []


def test_a_clock_that_begins_at_zero_does_not_keep_a_verdict_from_falling() -> None:
    suspected_at, heard_at = 1.3, 3.4  # their difference is rounded
    assert suspected_at + (heard_at - suspected_at) < heard_at
    bench = Bench(peers=9, now=1.0)
    bench.now = suspected_at
    bench.told(2, Suspect(peer(1), 5, 0, peer(2)))
    while bench.status(1) == Status.SUSPECT:
        bench.now += 0.05
        if bench.now > heard_at > bench.now - 0.05:
            bench.now = heard_at
            bench.hears(1, Gossip(peer(1), ()))
        bench.did(bench.node.advance(now=bench.now))
        for number in range(2, 10):
            bench.hears(number, Gossip(peer(number), ()))
    assert bench.status(1) == Status.DOWN
    assert bench.now > heard_at


def test_a_refutation_that_a_suspect_tells_us_itself_needs_no_ping() -> None:
    bench = Bench(peers=9, confirm_at_once=False)
    bench.told(2, Suspect(peer(1), 5, 0, peer(2)))
    bench.now += 0.01
    where = at(1)
    bench.told(1, Alive(peer(1), 5, 1, where.packed_host, where.port, "h1"))
    assert bench.status(1) == Status.ALIVE
    assert sent(bench.did(bench.node.advance(now=bench.now)), to=at(1)) == []


def test_who_comes_and_goes_within_milliseconds_says_goodbye_to_whoever_heard_it_come() -> None:
    world = World(seed=3)
    first = world.add()
    world.run(5)
    second = world.add()
    world.run_until(lambda: second.id in world.online_as_seen_by(first), within_s=1)
    world.run(0.004)  # a beacon's answer takes so long, a push-pull longer
    world.leave(second)
    world.run(5)
    known = first.node.members.get(second.id)
    assert known is not None
    assert known.status == Status.LEFT
    assert world.false_offline([second]) == []


def test_whoever_is_pinged_while_it_leaves_says_so() -> None:
    bench = Bench(peers=2)
    bench.did(bench.node.leave(now=bench.now))
    (ack,) = [m for m in sent(bench.hears(7, Ping(1, peer(7), 1)), to=at(7)) if isinstance(m, Ack)]
    assert [type(news) for news, _ in CODEC.decode_news_untrusted(ack.news)] == [Left]


def test_a_watcher_whose_check_is_refused_says_so() -> None:
    bench = Bench(peers=4)
    bench.run(1.0)  # by then it watches its neighbours
    watched = next(
        n for n in range(1, 5) if bench.node.members.neighbours(OWN, 1, step=1) == [peer(n)]
    )
    other = watched % 4 + 1
    bench.hears(watched, Ping(1, peer(watched), 12345))
    (begin, *_) = [r for r in requests(bench.run(0.5)) if r.to == at(watched)]
    vector = CODEC.encode_stream(SyncVector(bench.alive(watched), (), ()))
    bench.did(bench.node.receive_reply(begin.token, vector, now=bench.now))  # it was let in once
    suspect = Suspect(peer(watched), 5, 9, peer(other), refused=True)
    (check, *_) = [r for r in requests(bench.told(other, suspect)) if r.to == at(watched)]
    bench.did(bench.node.request_failed(check.token, refused=True, now=bench.now))
    assert bench.status(watched) == Status.DOWN


def test_who_hears_only_itself_hears_nobody() -> None:
    bench = Bench(peers=3)
    joined = bench.did(bench.node.join([at(200)], now=bench.now))
    joined += bench.run(0.1)
    (begin,) = [r for r in requests(joined) if r.to == at(200)]
    bench.run(3.0)
    own = Alive(OWN, 5, 0, OWN_ADDRESS.packed_host, 8888, "own")
    request = CODEC.encode_stream(SyncBegin(own, bytes(8)))
    reply, effects = bench.node.receive_request(request, now=bench.now)
    assert reply is not None
    bench.did(effects)
    bench.did(bench.node.receive_reply(begin.token, reply, now=bench.now))
    assert bench.node.hears_nobody


# --- what spoofed or strange packets can do -------------------------------------------------------


def test_acks_of_strangers_leave_nothing_behind() -> None:
    bench = Bench(peers=2)
    before = len(bench.node._detector._answered_at)
    for number in range(100, 200):
        bench.hears(number, Ack(number, peer(number), 1))
    assert len(bench.node._detector._answered_at) == before


def test_an_ack_that_another_passes_on_says_nothing_of_our_own_way() -> None:
    bench = Bench(peers=2)
    ack = CODEC.encode_datagram(Ack(7, peer(1), bench.node.members.picture))
    bench.did(bench.node.receive_datagram(ack, at(2), now=bench.now))
    assert not bench.node._detector.answered_lately(peer(1))
    bench.did(bench.node.receive_datagram(ack, at(1), now=bench.now))
    assert bench.node._detector.answered_lately(peer(1))


@pytest.mark.parametrize(
    "answer", [StreamAck(peer(1)), Described(peer(1), ())], ids=["stream ack", "described"]
)
def test_a_reply_of_another_kind_does_not_end_all_push_pulls(
    answer: StreamAck | Described,
) -> None:
    bench = Bench(peers=2)
    for _ in range(2):
        bench.run(1.0)
        bench.hears(1, Ping(1, peer(1), 12345))
        begun = [r for r in requests(bench.run(0.5)) if r.to == at(1)]
        assert begun, "a difference that lasts begins a push-pull"
        data = CODEC.encode_stream(answer)
        for request in begun:
            bench.did(bench.node.receive_reply(request.token, data, now=bench.now))
    assert bench.node.counters["bad_packets"] >= 2


def test_a_want_that_is_told_many_times_is_answered_once() -> None:
    bench = Bench(peers=1)
    bench.told(1, Delta(peer(1), 0, 7, (Held(digest("a")),)))
    wants = (SyncWant(peer(1), 0),) * 1000
    request = CODEC.encode_stream(SyncExchange(peer(1), b"", wants=wants))
    reply, _ = bench.node.receive_request(request, now=bench.now)
    assert reply is not None
    answer = CODEC.decode_stream_untrusted(reply)
    assert isinstance(answer, SyncExchange)
    assert len(answer.members) == len(answer.deltas) == 1


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


def test_strangers_are_sent_no_news_whoever_they_say_they_are() -> None:
    bench = Bench(peers=2)
    bench.did(bench.node.hold([holding("a")], [description("a")], now=bench.now))
    heard = bench.hears(77, Ping(1, peer(77), 1))
    (ack,) = [m for m in sent(heard, to=at(77)) if isinstance(m, Ack)]
    assert ack.news == ()
    elsewhere = at(78)
    request = PingReq(1, peer(2), peer(1), elsewhere.packed_host, elsewhere.port)
    (ping,) = [m for m in sent(bench.hears(2, request), to=elsewhere) if isinstance(m, Ping)]
    assert ping.news == ()


def test_accusers_that_do_not_exist_do_not_pile_up() -> None:
    bench = Bench(peers=5)
    for number in range(10, 200):
        bench.told(2, Suspect(peer(1), 5, 0, peer(number)))
    assert len(bench.node._verdicts._suspicions[peer(1)].accusers) < 20


# --- traffic at rest ------------------------------------------------------------------------------


def test_a_seed_that_calls_itself_by_another_address_is_not_asked_for_ever() -> None:
    bench = Bench()
    elsewhere = at(200)
    bench.did(bench.node.join([elsewhere], now=bench.now))
    (begin,) = [r for r in requests(bench.run(0.1)) if r.to == elsewhere]
    answering = GossipNode(
        Member(peer(1), "h1", at(1), 5, 0, Status.ALIVE),
        cluster="default",
        config=GossipConfig(),
        random=Random(2),
        now=bench.now,
        version=7,
    )
    reply, _ = answering.receive_request(begin.data, now=bench.now)
    assert reply is not None
    bench.did(bench.node.receive_reply(begin.token, reply, now=bench.now))
    assert bench.status(1) == Status.ALIVE
    bench.run(0.5)
    for _ in range(12):
        bench.hears(1, Ping(1, peer(1), bench.node.members.picture))
        assert [r for r in requests(bench.run(0.5)) if r.to == elsewhere] == []


def test_who_says_goodbye_is_not_asked_for_its_picture() -> None:
    bench = Bench(peers=3)
    left = CODEC.encode_news(Left(peer(1), 5, 1))
    bench.hears(1, Ping(1, peer(1), 12345, (left,)))
    assert bench.status(1) == Status.LEFT
    assert [r for r in requests(bench.run(0.2)) if r.to == at(1)] == []


def test_of_a_remembered_member_that_is_forgotten_nothing_is_left() -> None:
    old = Member(peer(1), "h1", at(1), 4, 0, Status.DOWN)
    node = GossipNode(
        Member(OWN, "own", OWN_ADDRESS, 5, 0, Status.ALIVE),
        cluster="default",
        config=GossipConfig(forget_s=10.0),
        random=Random(1),
        now=1.0,
        version=100,
        remembered=[Remembered(old, 50, (holding("a"),))],
    )
    node.start(now=1.0)
    now = 1.0
    while now < 12.0:
        now = node.next_deadline() or 12.0
        node.advance(now=now)
    assert node.members.version(peer(1)) == node.possession.version(peer(1)) == 0
