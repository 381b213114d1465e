"""Deltas bring any copy of an owner's holdings to the owner's state, or are refused."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from beiran.gossip.messages import Delta
from beiran.gossip.possession.owner_log import Possession
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding
from simulations.gossip.images import digest
from tests.gossip.bench import peer

OWNER = NodeId(b"O" * 16)
IMAGES = [Digest(bytes([i]) * 32) for i in range(6)]

changes = st.lists(
    st.tuples(st.sampled_from(IMAGES), st.sampled_from(["hold", "release"]), st.integers(0, 2)),
    max_size=40,
)


def owner_after(operations: list[tuple[Digest, str, int]], tombstones: int = 64) -> Possession:
    owner = Possession({}, {}, tombstones_max=tombstones)
    owner.begin(OWNER, 100)
    apply_to(owner, operations)
    return owner


def apply_to(owner: Possession, operations: list[tuple[Digest, str, int]]) -> list[Delta]:
    deltas = []
    for image, kind, tag in operations:
        if kind == "hold":
            deltas += owner.change(OWNER, [Holding(image, (f"tag:{tag}",))], [])
        else:
            deltas += owner.change(OWNER, [], [image])
    return deltas


def state(possession: Possession) -> tuple[int, set[Holding]]:
    return possession.version(OWNER), set(possession.holdings(OWNER))


@given(changes, st.integers(1, 8))
def test_one_delta_brings_a_stranger_up_to_date(
    operations: list[tuple[Digest, str, int]], tombstones: int
) -> None:
    owner = owner_after(operations, tombstones)
    copy = Possession({}, {}, tombstones_max=tombstones)
    delta = owner.delta_since(OWNER, 0)
    assert delta is not None
    copy.apply(delta)
    assert state(copy) == state(owner)


@given(changes, changes, st.integers(1, 8))
def test_a_delta_since_any_version_brings_a_copy_up_to_date(
    before: list[tuple[Digest, str, int]], after: list[tuple[Digest, str, int]], tombstones: int
) -> None:
    owner = owner_after(before, tombstones)
    copy = Possession({}, {}, tombstones_max=tombstones)
    first = owner.delta_since(OWNER, 0)
    assert first is not None
    copy.apply(first)
    apply_to(owner, after)
    delta = owner.delta_since(OWNER, copy.version(OWNER))
    if delta is not None:
        copy.apply(delta)
    assert state(copy) == state(owner)


@given(changes, st.randoms(), st.integers(0, 3))
def test_deltas_in_any_order_and_number_never_make_a_wrong_copy(
    operations: list[tuple[Digest, str, int]], random: Random, repeats: int
) -> None:
    """Whatever arrives, a copy at version v is what the owner was at version v."""
    owner = Possession({}, {}, tombstones_max=64)
    owner.begin(OWNER, 100)
    history = {100: state(owner)[1]}
    deltas = []
    for operation in operations:
        for delta in apply_to(owner, [operation]):
            deltas.append(delta)
            history[delta.version] = state(owner)[1]
    shuffled = deltas * (repeats + 1)
    random.shuffle(shuffled)
    copy = Possession({}, {}, tombstones_max=64)
    copy.begin(OWNER, 100)
    for delta in shuffled:
        copy.apply(delta)
        version, held = state(copy)
        assert held == history[version]
    last = owner.delta_since(OWNER, copy.version(OWNER))
    if last is not None:
        copy.apply(last)
    assert state(copy) == state(owner)


@given(changes, changes)
def test_a_copy_of_a_copy_is_as_good_as_the_owner(
    before: list[tuple[Digest, str, int]], after: list[tuple[Digest, str, int]]
) -> None:
    owner = owner_after(before)
    relay, far = Possession({}, {}, tombstones_max=4), Possession({}, {}, tombstones_max=4)
    for target, source in ((relay, owner), (far, relay)):
        delta = source.delta_since(OWNER, 0)
        assert delta is not None
        target.apply(delta)
    for delta in apply_to(owner, after):
        relay.apply(delta)
    delta = relay.delta_since(OWNER, far.version(OWNER))
    if delta is not None:
        far.apply(delta)
    assert state(far) == state(owner)


def test_the_same_again_is_no_change() -> None:
    owner = owner_after([(IMAGES[0], "hold", 1)])
    version = owner.version(OWNER)
    assert owner.change(OWNER, [Holding(IMAGES[0], ("tag:1",))], [IMAGES[1]]) == []
    assert owner.version(OWNER) == version


def test_a_delta_with_a_gap_is_refused_and_known_as_one() -> None:
    owner = Possession({}, {}, tombstones_max=64)
    owner.begin(OWNER, 100)
    first, second = apply_to(owner, [(IMAGES[0], "hold", 1), (IMAGES[1], "hold", 1)])
    copy = Possession({}, {}, tombstones_max=64)
    copy.begin(OWNER, 100)
    assert copy.is_gap(second)
    assert copy.apply(second) is None
    assert not copy.is_gap(first)
    assert copy.apply(first) is not None
    assert copy.apply(second) is not None


def test_an_image_is_held_until_its_last_holder_lets_go() -> None:
    possession = Possession({}, {}, tombstones_max=4)
    other = NodeId(b"P" * 16)
    possession.restore(OWNER, 5, [Holding(IMAGES[0])])
    possession.restore(other, 5, [Holding(IMAGES[0])])
    assert possession.holders(IMAGES[0]) == [OWNER, other]
    possession.change(OWNER, [], [IMAGES[0]])
    assert possession.is_held(IMAGES[0])
    assert possession.forget(other) == [IMAGES[0]]
    assert not possession.is_held(IMAGES[0])


def test_a_release_of_an_image_that_was_never_known_is_passed_on() -> None:
    owner = peer(1)
    source, between, behind = (Possession({}, {}, tombstones_max=64) for _ in range(3))
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
