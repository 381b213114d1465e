"""Which participant is leased which pieces, and which leases are granted to another."""

from random import Random

from beiran.ids import NodeId
from beiran.swarm.config import SwarmConfig
from beiran.swarm.pieces import cut
from beiran.swarm.rendezvous.leases import (
    LACKING_TIMES,
    SLOW_PENALTY,
    THROTTLED_S,
    Lease,
    Leases,
    Participant,
)
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
    (again,) = leases.grant(1.0, {A: "a reason"})
    assert again.holder == B
    leases.disregard(B)
    assert not leases.running
    leases.disregard(NodeId(b"s" * 16))  # a stranger


# --- how many, and to whom -----------------------------------------------------------------------


def many(count: int, *, pieces: int = 64) -> Leases:
    """``count`` participants that can all fetch from the origin."""
    leases = Leases(cut(pieces * PIECE), SwarmConfig(), Random(1), 0.0)
    for number in range(count):
        node = NodeId(bytes([100 + number]) * 16)
        leases.register(Participant(node, 0.0, can_lease=True, origin_possible=True))
    return leases


def finish(leases: Leases, now: float) -> None:
    for lease in list(leases.running.values()):
        assert leases.report(lease.number, lease.holder, lease.size_bytes, now) is lease
        leases.done(lease, now)


def test_few_leases_run_until_the_first_is_done() -> None:
    leases, config = many(10), SwarmConfig()
    first = leases.grant(0.0, {})
    assert [lease.count for lease in first] == [1] * config.leases_first
    finish(leases, 0.5)
    assert len(leases.grant(0.5, {})) == config.leases_start
    assert len({lease.holder for lease in leases.running.values()}) == config.leases_start


def test_no_piece_is_leased_twice_and_none_is_left_out() -> None:
    leases = many(4)
    leased: list[int] = []
    now = 0.0
    while leases.leasable():
        leased += [lease.pieces for lease in leases.grant(now, {})]
        now += 0.3
        finish(leases, now)
    assert sum(leased) == leases.pieces.all  # a sum with a common bit would differ
    assert leases.available == leases.pieces.all


def test_more_leases_are_kept_only_if_they_bring_more() -> None:
    for gain, more in ((1.0, False), (1.5, True)):
        leases, now = many(20, pieces=900), 0.0
        rate, counts = 1_000_000.0, []
        while now < 6.0:
            leases.grant(now, {})
            now = round(now + 0.1, 3)
            running = list(leases.running.values())
            faster = gain if len(running) > SwarmConfig().leases_start else 1.0
            for lease in running:
                done = lease.bytes_done + round(rate * faster * 0.1 / len(running))
                leases.report(lease.number, lease.holder, done, now)
                if done >= lease.size_bytes:
                    leases.done(lease, now)
            leases.adapt(now)
            counts.append(leases._at_once)
        tried = [count for count in counts if count > SwarmConfig().leases_start]
        assert tried
        after = counts[counts.index(tried[0]) :]
        assert (min(after) > SwarmConfig().leases_start) is more


def test_a_piece_that_its_holders_do_not_hand_out_is_leased_again() -> None:
    leases = Leases(cut(2 * PIECE), SwarmConfig(), Random(1), 0.0)
    leases.register(Participant(A, 0.0, held=0b11))
    for number in range(LACKING_TIMES + 1):
        assert leases.grant(number / 2, {}) == []
        lacking = Participant(B, number / 2, lacking=0b10, can_lease=True, number=number)
        leases.register(lacking)
    (lease,) = leases.grant(2.0, {})
    assert (lease.holder, lease.pieces) == (B, 0b10)
    assert leases.participants[A].unproductive


def test_an_old_registration_is_recognised() -> None:
    leases = Leases(cut(PIECE), SwarmConfig(), Random(1), 0.0)
    assert not leases.is_outdated(A, 5)
    leases.register(Participant(A, 0.0, number=5))
    assert leases.is_outdated(A, 4)
    assert not leases.is_outdated(A, 6)
    assert not leases.is_outdated(A, 5 - 65)  # of an agent that was restarted


def test_a_lease_that_is_much_slower_than_others_is_overdue_and_patience_grows() -> None:
    leases = many(3)
    finish_first = leases.grant(0.0, {})
    finish(leases, 0.2)
    assert finish_first
    leases.grant(0.2, {})
    slow, *others = leases.running.values()
    for lease in others:
        leases.report(lease.number, lease.holder, lease.size_bytes, 0.5)
        leases.done(lease, 0.5)
    now = 0.2
    while now < 2.0:
        now = round(now + 0.1, 3)
        leases.report(slow.number, slow.holder, slow.bytes_done + 100, now)
    typical_s = leases._piece_s
    assert typical_s is not None
    assert leases.overdue(now) == [slow]
    assert leases._piece_s == SLOW_PENALTY * typical_s


def test_a_grant_without_a_report_is_repeated() -> None:
    leases, lease = leases_of_two()
    assert leases.to_grant_again(0.1, 0.15) == []
    assert leases.to_grant_again(0.2, 0.15) == [lease]
    assert leases.to_grant_again(0.2, 0.15) == []
    report(leases, lease, 0, 0.3, throttled=False)
    assert leases.to_grant_again(9.0, 0.15) == []
