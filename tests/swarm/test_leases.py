"""Who fetches what from the origin: whom limits hold back, and who errs about a blob's size."""

from random import Random

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import PIECE_BYTES_SMALL, SwarmConfig
from beiran.swarm.effects import CancelFetch, Effect, FetchFromOrigin, SendDatagram
from beiran.swarm.messages import (
    Grant,
    LeaseAnswer,
    LeaseReport,
    LeaseState,
    Leave,
    Message,
    Participants,
    Register,
)
from beiran.swarm.node import BlobWanted, SwarmNode
from beiran.swarm.pieces import cut
from beiran.swarm.rendezvous.leases import HELD_BACK_S, Lease, Leases, Participant
from simulations.swarm.blobs import Blob, image
from simulations.swarm.host import Host, Transfer
from simulations.swarm.world import World

CODEC = SwarmCodec("default")
OWN, A, B = (NodeId(bytes([n]) * 16) for n in range(3))
AT = {A: Address("10.0.0.1", 8888), B: Address("10.0.0.2", 8888)}
BLOB = Digest(b"b" * 32)
PIECE = PIECE_BYTES_SMALL


# --- the rendezvous node's picture ----------------------------------------------------------


def leases_of_two(*, willing_b: bool = True) -> tuple[Leases, Lease]:
    """A and B take part; A holds the only lease. Of a blob of one piece."""
    leases = Leases(cut(PIECE), SwarmConfig(), Random(1), 0.0)
    leases.register(Participant(A, 0.0, willing=True, able=True))
    (lease,) = leases.grant(0.0, {})
    leases.register(Participant(B, 0.0, willing=willing_b, able=True))
    return leases, lease


def report(leases: Leases, lease: Lease, bytes_done: int, now: float, *, held_back: bool) -> None:
    assert leases.report(lease.number, lease.holder, bytes_done, now, held_back=held_back)


def test_who_is_held_back_keeps_its_lease_while_nobody_else_could_fetch() -> None:
    leases, lease = leases_of_two(willing_b=False)
    for tenth in range(1, 200):
        report(leases, lease, 0, tenth / 10, held_back=True)
        assert leases.overdue(tenth / 10) == []


def test_who_is_held_back_loses_its_lease_to_who_could_fetch_at_once() -> None:
    leases, lease = leases_of_two()
    report(leases, lease, 1000, 0.1, held_back=True)
    assert leases.overdue(0.2) == []  # a moment is nothing
    report(leases, lease, 1000, 1.0, held_back=True)
    assert leases.overdue(1.0) == [lease]
    leases.failed(lease)
    (again,) = leases.grant(1.1, {})
    assert again.holder == B


def test_a_lease_does_not_go_to_and_fro_between_those_who_are_all_held_back() -> None:
    leases, lease = leases_of_two()
    leases.participants[B].held_back_at = 0.0
    for tenth in range(1, round(HELD_BACK_S * 10)):
        report(leases, lease, 0, tenth / 10, held_back=True)
        assert leases.overdue(tenth / 10) == []
    report(leases, lease, 0, HELD_BACK_S + 0.1, held_back=True)
    assert leases.overdue(HELD_BACK_S + 0.1) == [lease]  # that was long ago: try again


def test_who_is_held_back_and_silent_loses_its_lease() -> None:
    leases, lease = leases_of_two(willing_b=False)
    report(leases, lease, 0, 0.1, held_back=True)
    assert leases.overdue(2.0) == [lease]


def test_who_moves_slowly_under_its_own_limit_is_not_called_slow() -> None:
    leases, lease = leases_of_two()
    leases._piece_s = 0.1
    for tenth in range(1, 100):
        report(leases, lease, tenth * 100, tenth / 10, held_back=True)
        assert leases.overdue(tenth / 10) == []


def test_being_held_back_is_remembered_over_a_registration() -> None:
    leases, lease = leases_of_two()
    report(leases, lease, 0, 1.0, held_back=True)
    leases.register(Participant(A, 1.1, willing=True))
    assert leases.participants[A].held_back_at == 1.0


def test_what_a_liar_has_and_fetches_is_open_again() -> None:
    leases, lease = leases_of_two()
    leases.done(lease, 0.5)
    leases.seeds[A] = 0.5
    assert not leases.open()
    leases.disregard(A)
    assert leases.open() == 1
    (again,) = leases.grant(1.0, {A: "it lied"})
    assert again.holder == B
    leases.disregard(B)
    assert not leases.running
    leases.disregard(NodeId(b"s" * 16))  # a stranger


# --- the lessee's reports -------------------------------------------------------------------


def sent(effects: list[Effect]) -> list[Message]:
    return [CODEC.decode_untrusted(e.data) for e in effects if isinstance(e, SendDatagram)]


def lessee() -> tuple[SwarmNode, FetchFromOrigin]:
    """A node that holds a lease of another, and its fetch."""
    node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members(AT, now=0.0)
    node.want(BlobWanted(BLOB, PIECE, True), now=0.0)
    grant = CODEC.encode(Grant(A, BLOB, 7, 0, 1))
    effects = node.receive_datagram(grant, AT[A], now=0.0)
    return node, next(e for e in effects if isinstance(e, FetchFromOrigin))


def reports(node: SwarmNode, until: float) -> list[LeaseReport]:
    found: list[LeaseReport] = []
    while (deadline := node.next_deadline()) is not None and deadline <= until:
        messages = sent(node.advance(now=deadline))
        found += [message for message in messages if isinstance(message, LeaseReport)]
    return found


def test_a_lessee_tells_that_its_own_limit_holds_it_back_until_bytes_come() -> None:
    node, fetch = lessee()
    assert [r.held_back for r in reports(node, 0.3)] == [False]
    node.fetch_held_back(fetch.fetch, now=0.3)
    assert {r.held_back for r in reports(node, 1.0)} == {True}
    node.fetch_progressed(fetch.fetch, 1000, now=1.0)
    assert {r.held_back for r in reports(node, 1.5)} == {False}
    node.fetch_held_back(fetch.fetch, now=1.5)
    assert {r.held_back for r in reports(node, 2.0)} == {True}
    node.fetch_answered(fetch.fetch, now=2.0)
    assert {r.held_back for r in reports(node, 2.5)} == {False}
    node.fetch_held_back(fetch.fetch, now=2.5)
    _, done = node.piece_arrived(fetch.fetch, 0, b"h" * 32, now=2.6)
    done += node.fetch_done(fetch.fetch, now=2.6)
    (last,) = [m for m in sent(done) if isinstance(m, LeaseReport)]
    assert last == LeaseReport(OWN, BLOB, 7, PIECE, LeaseState.DONE)


def test_being_held_back_is_told_of_any_fetch_and_of_none() -> None:
    node, fetch = lessee()
    assert node.fetch_held_back(99, now=0.1) == []
    lost = node.receive_datagram(CODEC.encode(LeaseAnswer(A, BLOB, 7)), AT[A], now=0.2)
    assert CancelFetch(fetch.fetch) in lost
    assert node.fetch_held_back(fetch.fetch, now=0.3) == []


class OneAtOnce(World):
    """Hosts whose own limit lets them fetch but one range from the origin at once."""

    def __init__(self, seed: int, *, tells: bool = True) -> None:
        super().__init__(seed)
        self.tells = tells
        ask = self._transfers._ask_origin

        def ask_when_free(host: Host, transfer: Transfer) -> None:
            others = [t for t in host.transfers.values() if t.giver is None and t.flow is not None]
            if not others:
                ask(host, transfer)
                return
            if self.tells:
                self.do(host, host.node.fetch_held_back(transfer.fetch, now=self.now))
            self._transfers._later(0.05, host, transfer, ask_when_free)

        self._transfers._ask_origin = ask_when_free  # type: ignore[method-assign]


def test_leases_are_not_given_on_for_a_limit_that_all_have() -> None:
    given_on = []
    for tells in (False, True):
        world = OneAtOnce(1, tells=tells)
        blobs = [Blob("slow", 8 * 1024 * 1024)]
        world.origin.pipe.bytes_per_s = 400_000.0
        world.publish(blobs)
        hosts = world.add_many(2)
        for host in hosts:
            world.pull(host, blobs)
        world.run_until(world.pulled(hosts, blobs), within_s=600)
        given_on.append(sum(host.node.counters["leases_given_on"] for host in hosts))
        copies = world.origin.sent_bytes / blobs[0].size_bytes
    assert given_on[1] < given_on[0]
    assert given_on[1] == 0
    assert copies == 1.0


# --- sizes ----------------------------------------------------------------------------------


def rendezvous() -> SwarmNode:
    node = SwarmNode(OWN, cluster="default", config=SwarmConfig(), random=Random(1), now=0.0)
    node.set_members(AT, now=0.0)
    return node


def registers(
    node: SwarmNode, sender: NodeId, size_bytes: int, now: float, *, number: int = 1
) -> list[Message]:
    register = Register(sender, BLOB, size_bytes, number, b"", b"", b"", True, True, 5)
    return sent(node.receive_datagram(CODEC.encode(register), AT[sender], now=now))


def test_who_errs_about_a_size_is_alone_with_its_error() -> None:
    node = rendezvous()
    first = registers(node, A, PIECE - 1, 0.0)
    second = registers(node, B, PIECE, 0.0)
    for messages in (first, second):
        assert {m.count for m in messages if isinstance(m, Participants)} == {1}
        assert [m.count for m in messages if isinstance(m, Grant)] == [1]
    assert node.counters["bad_packets"] == 0


def test_reports_are_of_the_crowd_that_their_sender_is_in() -> None:
    node = rendezvous()
    registers(node, A, PIECE - 1, 0.0)
    (grant,) = [m for m in registers(node, B, PIECE, 0.0) if isinstance(m, Grant)]
    done = CODEC.encode(LeaseReport(B, BLOB, grant.lease, PIECE, LeaseState.DONE))
    answers = sent(node.receive_datagram(done, AT[B], now=0.5))
    assert LeaseAnswer(OWN, BLOB, grant.lease) in answers
    stray = CODEC.encode(LeaseReport(A, BLOB, grant.lease, 5, LeaseState.RUNNING))
    assert sent(node.receive_datagram(stray, AT[A], now=0.5)) == [
        LeaseAnswer(OWN, BLOB, grant.lease)
    ]


def test_who_corrects_a_size_leaves_the_crowd_that_it_was_in() -> None:
    node = rendezvous()
    registers(node, A, PIECE - 1, 0.0)
    registers(node, B, PIECE, 0.0)
    assert len(node._rendezvous) == 2
    messages = registers(node, A, PIECE, 0.1, number=2)
    assert {m.count for m in messages if isinstance(m, Participants)} == {2}
    assert len(node._rendezvous) == 1
    for node_id in (A, B):
        node.receive_datagram(CODEC.encode(Leave(node_id, BLOB)), AT[node_id], now=0.2)
    assert len(node._rendezvous) == 0
    assert node.next_deadline() is None


def test_one_wrong_size_keeps_nobody_else_from_the_blob() -> None:
    world = World(3)
    right = image(1, 12_000_000)
    wrong = [Blob(right[0].name, 11_000_000)]
    world.publish(right)
    hosts = world.add_many(6)
    world.pull(hosts[0], wrong)
    world.run(0.3)
    for host in hosts[1:]:
        world.pull(host, right)
    world.run_until(world.pulled(hosts[1:], right), within_s=30)
    assert world.origin.sent_bytes <= 12_000_000 + 11_000_000


# --- slow answers ---------------------------------------------------------------------------


class Slow(World):
    """Datagrams need much longer than a registration waits for its answer."""

    def receive(self, host: Host, source: Address, data: bytes) -> None:
        self.schedule(self.now + 0.1, super().receive, host, source, data)


def test_answers_that_come_after_the_next_question_are_answers() -> None:
    world = Slow(1)
    blobs = image(3, 24_000_000)
    world.publish(blobs)
    hosts = world.add_many(6)
    for host in hosts:
        world.pull(host, blobs)
    world.run_until(world.pulled(hosts, blobs), within_s=60)
    assert sum(host.node.counters["rendezvous_passed_over"] for host in hosts) == 0
    assert world.origin.sent_bytes <= 1.02 * 24_000_000
