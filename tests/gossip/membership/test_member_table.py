"""Merging facts: in any order, any number of times, the same table and the same state hash."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.member_table import MemberTable
from beiran.gossip.possession.state_hash import bucket_hashes, bucket_of
from beiran.gossip.tables import Tables
from beiran.ids import NodeId

OWN = Member(NodeId(b"\0" * 16), "own", Address("10.0.0.1", 8888), 1, 0, Status.ALIVE)


def member(number: int, *, generation: int = 1, incarnation: int = 0, status: int = 0) -> Member:
    node = NodeId(Random(number).randbytes(16))
    address = Address(f"10.0.0.{number + 2}", 8888)
    return Member(node, f"h{number}", address, generation, incarnation, Status(status))


facts = st.lists(
    st.builds(
        member,
        st.integers(0, 4),
        generation=st.integers(1, 2),
        incarnation=st.integers(0, 2),
        status=st.integers(0, 3),
    ),
    max_size=30,
)


def table(items: list[Member]) -> MemberTable:
    membership = MemberTable(OWN, Random(1), Tables.restored(OWN, 1))
    for item in items:
        membership.put(item, now=0.0)
    return membership


@given(facts, st.randoms(use_true_random=False))
def test_facts_in_any_order_and_number_make_one_table(facts: list[Member], random: Random) -> None:
    shuffled = facts * 2
    random.shuffle(shuffled)
    one, other = table(facts), table(shuffled)
    assert {m.node: m for m in one.all()} == {m.node: m for m in other.all()}
    assert one.state_hash == other.state_hash
    assert one.online_others() == other.online_others()


@given(facts)
def test_the_state_hash_is_the_sum_of_its_entries(facts: list[Member]) -> None:
    membership = table(facts)
    total = sum(membership.entry(m.node) for m in membership.all())
    assert membership.state_hash == total % 2**63
    entries = [(m.node, membership.entry(m.node)) for m in membership.all()]
    for bits in (0, 3, 12):
        hashes = bucket_hashes(entries, bits)
        assert len(hashes) == 8 << bits
        assert all(0 <= bucket_of(node, bits) < 1 << bits for node, _ in entries)


@given(facts)
def test_an_offline_member_contributes_nothing(facts: list[Member]) -> None:
    membership = table(facts)
    without = table([m for m in membership.all() if m.status.online])
    assert membership.state_hash == without.state_hash


@given(facts)
def test_every_round_probes_each_online_member_once(facts: list[Member]) -> None:
    membership = table(facts)
    others = membership.online_others()
    for _ in range(len(others)):  # to the end of a round that began while members came
        membership.next_to_probe()
    rounds = [membership.next_to_probe() for _ in range(3 * len(others))]
    assert not rounds or {node for node in rounds if node} == set(others)


@given(facts, st.integers(0, 6), st.sampled_from([1, -1]))
def test_ring_neighbours_are_those_next_by_id(facts: list[Member], count: int, step: int) -> None:
    membership = table(facts)
    ring = sorted([*membership.online_others(), OWN.node])
    start = ring.index(OWN.node)
    expected = [ring[(start + step * (i + 1)) % len(ring)] for i in range(min(count, len(ring)))]
    expected = expected[: expected.index(OWN.node)] if OWN.node in expected else expected
    assert membership.neighbours(OWN.node, count, step=step) == expected


def test_a_member_that_is_not_on_the_ring_has_neighbours_where_it_would_stand() -> None:
    membership = table([member(i) for i in range(4)])
    absent = NodeId(b"\x80" * 16)
    ring = sorted([*membership.online_others(), OWN.node])
    after = [node for node in ring if node > absent] + ring
    before = [node for node in reversed(ring) if node < absent] + ring[::-1]
    assert membership.neighbours(absent, 2, step=1) == after[:2]
    assert membership.neighbours(absent, 2, step=-1) == before[:2]


def test_some_members_are_different_and_not_ourselves() -> None:
    membership = table([member(i) for i in range(100)])
    without = frozenset(membership.online_others()[:3])
    for _ in range(100):
        chosen = membership.some(3, without=without)
        assert len(set(chosen)) == 3
        assert OWN.node not in chosen
        assert not without & set(chosen)
