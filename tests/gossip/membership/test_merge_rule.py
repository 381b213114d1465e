"""The merge rule agrees with the order of facts, but where it gives a member time to refute."""

from itertools import product

import pytest

from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.membership.merge_rule import GOSSIP, PUSH_PULL, Ruling, rule
from beiran.ids import NodeId

LIVES = ((1, 0), (1, 1), (2, 0))
TABLES = pytest.mark.parametrize("table", [GOSSIP, PUSH_PULL], ids=["gossip", "push-pull"])


def known(life: tuple[int, int], status: Status) -> Member:
    return Member(NodeId(b"N" * 16), "n", Address("10.0.0.1", 8888), *life, status)


@TABLES
def test_a_fact_is_ignored_exactly_where_the_known_one_is_as_new(
    table: dict[Status, tuple[Ruling, ...]],
) -> None:
    for old_life, old, life, new in product(LIVES, Status, LIVES, Status):
        ruling = rule(table, known(old_life, old), life, new)
        if (old_life, old) == (life, new) == (life, Status.SUSPECT):
            assert ruling is Ruling.ACCUSE, "each accuser of one suspicion counts"
        else:
            assert (ruling is Ruling.IGNORE) == ((old_life, old) >= (life, new))


@TABLES
def test_only_a_member_itself_ends_its_life_at_once(
    table: dict[Status, tuple[Ruling, ...]],
) -> None:
    for old_life, life, new in product(LIVES, LIVES, (Status.SUSPECT, Status.DOWN)):
        ruling = rule(table, known(old_life, Status.ALIVE), life, new)
        assert ruling in (Ruling.IGNORE, Ruling.ACCUSE, Ruling.WEIGH)


def test_gossip_teaches_no_member_that_is_not_alive() -> None:
    rulings = {status: rule(GOSSIP, None, (1, 0), status) for status in Status}
    assert [status for status, ruling in rulings.items() if ruling is Ruling.TAKE] == [Status.ALIVE]


def test_a_push_pull_teaches_members_that_are_offline() -> None:
    for status in (Status.ALIVE, Status.DOWN, Status.LEFT):
        assert rule(PUSH_PULL, None, (1, 0), status) is Ruling.TAKE


def test_a_push_pull_brings_no_online_member_down() -> None:
    for old, life in product((Status.ALIVE, Status.SUSPECT), LIVES[1:]):
        assert rule(PUSH_PULL, known(LIVES[1], old), life, Status.DOWN) is Ruling.ACCUSE
