"""When a suspicion begins, what ends it, and when a member is declared down."""

from beiran.gossip.membership.member import Status
from beiran.gossip.membership.suspicion import ACCUSERS_MAX
from beiran.gossip.messages import (
    Ack,
    Alive,
    Down,
    Gossip,
    Left,
    Ping,
    Suspect,
    SyncVector,
)
from simulations.gossip.world import World
from tests.gossip.bench import CODEC, OWN, Bench, at, peer, requests, sent
from tests.gossip.verdicts import Verdicts


def test_a_down_about_a_member_that_is_not_suspected_only_begins_a_suspicion() -> None:
    bench = Bench(peers=9)
    bench.run(2.1)  # no member was heard for 2.1 s
    number = next(n for n in range(1, 10) if bench.status(n) == Status.ALIVE)
    bench.receive_news(10, Down(peer(number), 5, 0, peer(11)))
    assert bench.status(number) == Status.SUSPECT
    bench.receive_news(10, Down(peer(number), 5, 0, peer(12)))
    assert bench.status(number) == Status.SUSPECT, "it has had no time to refute"
    bench.run(1.5)
    bench.receive_news(10, Down(peer(number), 5, 0, peer(12)))
    assert bench.status(number) == Status.DOWN


def test_verdicts_of_the_smaller_part_of_a_split_network_do_not_spread_when_it_heals() -> None:
    for seed in range(6):
        world = World(seed=seed)
        verdicts = Verdicts(world)
        hosts = world.cluster(7)
        lone, others = hosts[:2], hosts[2:]
        world.partition(lone, others)
        world.run_until(
            lambda lone=lone: any(h.node.counters["verdicts"] for h in lone),  # type: ignore[misc]
            within_s=60,
        )
        world.heal()
        world.run(20)
        spread = [v for v in verdicts if v.by in others and v.member.status == Status.DOWN]
        assert {v.member.node for v in spread} <= {host.id for host in lone}


def test_a_suspicion_after_all_have_left_raises_nothing() -> None:
    bench = Bench(peers=1)
    bench.receive_news(1, Left(peer(1), 5, 1))
    bench.did(bench.node.leave(now=bench.now))
    bench.receive_news(1, Suspect(peer(1), 5, 2, peer(2)))
    bench.run(60.0)


def test_a_suspect_that_was_heard_is_pinged_once_more_before_it_is_declared_down() -> None:
    bench = Bench(peers=9, confirm_at_once=False)
    bench.receive_news(2, Suspect(peer(1), 5, 0, peer(2)))
    asked_at = heard_until = bench.now + 20.0
    while bench.status(1) != Status.DOWN:
        bench.now += 0.05
        for ping in sent(bench.did(bench.node.advance(now=bench.now)), to=at(1)):
            asked_at = bench.now
            if isinstance(ping, Ping) and bench.now < heard_until:  # it never hears of it
                bench.receive(1, Ack(ping.probe, peer(1), bench.node.members.state_hash))
        for number in range(2, 10):
            bench.receive(number, Ping(1, peer(number), bench.node.members.state_hash))
    assert bench.now > heard_until
    assert bench.now - asked_at < 2 * bench.node._context.config.last_call_s


def test_a_suspect_that_is_heard_is_informed_at_once_and_once() -> None:
    bench = Bench(peers=9, confirm_at_once=False)
    bench.receive_news(2, Suspect(peer(1), 5, 0, peer(2)))
    bench.now += 0.01
    datagrams = []
    for _ in range(2):
        bench.receive(1, Gossip(peer(1), ()))
        datagrams.append(sent(bench.did(bench.node.advance(now=bench.now)), to=at(1)))
        bench.now += 0.01
    (ping,) = datagrams[0]
    assert isinstance(ping, Ping)
    first, _ = CODEC.decode_news_untrusted(ping.news)[0]
    assert first == Suspect(peer(1), 5, 0, bench.node.own.node)
    assert datagrams[1] == []


def test_a_clock_that_begins_at_zero_does_not_keep_a_suspicion_from_ending() -> None:
    suspected_at, heard_at = 1.3, 3.4  # their difference is rounded
    assert suspected_at + (heard_at - suspected_at) < heard_at
    bench = Bench(peers=9, now=1.0)
    bench.now = suspected_at
    bench.receive_news(2, Suspect(peer(1), 5, 0, peer(2)))
    while bench.status(1) == Status.SUSPECT:
        bench.now += 0.05
        if bench.now > heard_at > bench.now - 0.05:
            bench.now = heard_at
            bench.receive(1, Gossip(peer(1), ()))
        bench.did(bench.node.advance(now=bench.now))
        for number in range(2, 10):
            bench.receive(number, Gossip(peer(number), ()))
    assert bench.status(1) == Status.DOWN
    assert bench.now > heard_at


def test_a_suspect_that_refutes_itself_is_not_pinged() -> None:
    bench = Bench(peers=9, confirm_at_once=False)
    bench.receive_news(2, Suspect(peer(1), 5, 0, peer(2)))
    bench.now += 0.01
    where = at(1)
    bench.receive_news(1, Alive(peer(1), 5, 1, where.packed_host, where.port, "h1"))
    assert bench.status(1) == Status.ALIVE
    assert sent(bench.did(bench.node.advance(now=bench.now)), to=at(1)) == []


def test_a_watcher_whose_check_is_refused_accuses_the_member() -> None:
    bench = Bench(peers=4)
    bench.run(1.0)  # by then it watches its neighbours
    watched = next(
        n for n in range(1, 5) if bench.node.members.neighbours(OWN, 1, step=1) == [peer(n)]
    )
    other = watched % 4 + 1
    bench.receive(watched, Ping(1, peer(watched), 12345))
    (begin, *_) = [r for r in requests(bench.run(0.5)) if r.to == at(watched)]
    vector = CODEC.encode_stream(SyncVector(bench.alive(watched), (), ()))
    bench.did(bench.node.receive_reply(begin.token, vector, now=bench.now))  # it was let in once
    suspect = Suspect(peer(watched), 5, 9, peer(other), refused=True)
    (check, *_) = [r for r in requests(bench.receive_news(other, suspect)) if r.to == at(watched)]
    bench.did(bench.node.request_failed(check.token, refused=True, now=bench.now))
    assert bench.status(watched) == Status.DOWN


def test_accusers_that_do_not_exist_do_not_pile_up() -> None:
    bench = Bench(peers=5)
    for number in range(10, 200):
        bench.receive_news(2, Suspect(peer(1), 5, 0, peer(number)))
    suspicion = bench.node._suspicions.get(peer(1))
    assert suspicion is not None
    assert len(suspicion.accusers) == ACCUSERS_MAX


def test_members_whose_last_witness_goes_are_each_declared_down_once() -> None:
    bench = Bench(peers=4, confirm_at_once=False)
    for number in (1, 2, 3, 4):
        bench.receive(number, Gossip(peer(number), ()))
    for number in (1, 2, 3, 4):
        bench.did(bench.node.refused(at(number), now=bench.now))
    assert [bench.status(number) for number in (1, 2, 3, 4)] == [Status.DOWN] * 4
    assert bench.node.counters["verdicts"] == 4
