"""Which participant is leased which pieces, and which leases are granted to another."""

from random import Random

from beiran.ids import NodeId
from beiran.swarm.config import SwarmConfig
from beiran.swarm.pieces import cut
from beiran.swarm.rendezvous.leases import THROTTLED_S, Lease, Leases, Participant
from tests.swarm.three_nodes import PIECE, A, B


def leases_of_two(*, free_b: bool = True) -> tuple[Leases, Lease]:
    """A and B take part; A holds the only lease. Of a blob of one piece."""
    leases = Leases(cut(PIECE), SwarmConfig(), Random(1), 0.0)
    leases.register(Participant(A, 0.0, can_lease=True, origin_possible=True))
    (lease,) = leases.grant(0.0, {})
    leases.register(Participant(B, 0.0, can_lease=free_b, origin_possible=True))
    return leases, lease


def report(leases: Leases, lease: Lease, bytes_done: int, now: float, *, throttled: bool) -> None:
    assert leases.report(lease.number, lease.holder, bytes_done, now, throttled=throttled)


def test_a_throttled_holder_keeps_its_lease_while_no_other_could_fetch() -> None:
    leases, lease = leases_of_two(free_b=False)
    for tenth in range(1, 200):
        report(leases, lease, 0, tenth / 10, throttled=True)
        assert leases.overdue(tenth / 10) == []


def test_a_throttled_holder_loses_its_lease_to_a_free_participant() -> None:
    leases, lease = leases_of_two()
    report(leases, lease, 1000, 0.1, throttled=True)
    assert leases.overdue(0.2) == []  # a moment is nothing
    report(leases, lease, 1000, 1.0, throttled=True)
    assert leases.overdue(1.0) == [lease]
    leases.failed(lease)
    (again,) = leases.grant(1.1, {})
    assert again.holder == B


def test_a_lease_does_not_move_between_throttled_participants() -> None:
    leases, lease = leases_of_two()
    leases.participants[B].throttled_at = 0.0
    for tenth in range(1, round(THROTTLED_S * 10)):
        report(leases, lease, 0, tenth / 10, throttled=True)
        assert leases.overdue(tenth / 10) == []
    report(leases, lease, 0, THROTTLED_S + 0.1, throttled=True)
    assert leases.overdue(THROTTLED_S + 0.1) == [lease]  # that was long ago: try again


def test_a_throttled_and_silent_holder_loses_its_lease() -> None:
    leases, lease = leases_of_two(free_b=False)
    report(leases, lease, 0, 0.1, throttled=True)
    assert leases.overdue(2.0) == [lease]


def test_a_throttled_holder_is_not_too_slow() -> None:
    leases, lease = leases_of_two()
    leases._piece_s = 0.1
    for tenth in range(1, 100):
        report(leases, lease, tenth * 100, tenth / 10, throttled=True)
        assert leases.overdue(tenth / 10) == []


def test_throttling_is_remembered_over_a_registration() -> None:
    leases, lease = leases_of_two()
    report(leases, lease, 0, 1.0, throttled=True)
    leases.register(Participant(A, 1.1, can_lease=True))
    assert leases.participants[A].throttled_at == 1.0


def test_pieces_of_a_banned_participant_are_open_again() -> None:
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
