"""Whom a node probes, what an outcome says, and what it answers to others."""

from beiran.gossip.membership.member import Status
from beiran.gossip.messages import (
    Ack,
    Nack,
    Ping,
    PingReq,
    Suspect,
)
from simulations.gossip.images import description, holding
from tests.gossip.bench import CODEC, OWN, Bench, Listener, at, peer, sent


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


def test_a_suspect_is_not_probed_as_the_successor() -> None:
    bench = Listener(peers=9, confirm_at_once=False)
    after_us = bench.node.members.neighbours(OWN, 2, step=1)
    first, second = (next(n for n in bench.peers if peer(n) == node) for node in after_us)
    bench.receive_news(second, Suspect(peer(first), 5, 0, peer(second)))
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


def test_nacks_of_all_that_were_asked_make_the_target_suspect_at_once() -> None:
    bench = Listener(peers=9, confirm_at_once=False)
    asked = asked_others(bench, silent=1)
    for by, request in asked[:-1]:
        nack(bench, by, request)
        assert bench.status(1) == Status.ALIVE
    nack(bench, *asked[-1])
    assert bench.status(1) == Status.SUSPECT


def test_a_node_in_bad_health_waits_for_the_end_of_its_probe() -> None:
    bench = Listener(peers=9, confirm_at_once=False)
    asked = asked_others(bench, silent=1)
    bench.receive_news(2, Suspect(OWN, 5, 0, peer(2)))  # it refutes, and its health score worsens
    for by, request in asked:
        nack(bench, by, request)
    assert bench.status(1) == Status.ALIVE


def test_acks_of_strangers_leave_nothing_behind() -> None:
    bench = Bench(peers=2)
    before = len(bench.node._detector._answered_at)
    for number in range(100, 200):
        bench.receive(number, Ack(number, peer(number), 1))
    assert len(bench.node._detector._answered_at) == before


def test_a_relayed_ack_does_not_confirm_the_address() -> None:
    bench = Bench(peers=2)
    ack = CODEC.encode_datagram(Ack(7, peer(1), bench.node.members.state_hash))
    bench.did(bench.node.receive_datagram(ack, at(2), now=bench.now))
    assert not bench.node._detector._answered_lately(peer(1))
    bench.did(bench.node.receive_datagram(ack, at(1), now=bench.now))
    assert bench.node._detector._answered_lately(peer(1))


def test_strangers_are_sent_no_news_under_any_name() -> None:
    bench = Bench(peers=2)
    bench.did(bench.node.hold([holding("a")], [description("a")], now=bench.now))
    heard = bench.receive(77, Ping(1, peer(77), 1))
    (ack,) = [m for m in sent(heard, to=at(77)) if isinstance(m, Ack)]
    assert ack.news == ()
    elsewhere = at(78)
    request = PingReq(1, peer(2), peer(1), elsewhere.packed_host, elsewhere.port)
    (ping,) = [m for m in sent(bench.receive(2, request), to=elsewhere) if isinstance(m, Ping)]
    assert ping.news == ()
