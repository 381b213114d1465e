"""The merge rule of membership: which of two facts about a member wins, as one table.

``member_updates`` looks up each fact that arrives, and carries the ruling out.

SWIM §4.2 gives the order of messages about a member M, i and j being incarnations:

    {Alive M, i}    overrides {Suspect M, j} and {Alive M, j} for i > j
    {Suspect M, i}  overrides {Suspect M, j} for i > j, and {Alive M, j} for i >= j
    {Confirm M, i}  overrides {Alive M, j} and {Suspect M, j} for any j

Here a member's *life* is its generation and then its incarnation, so that a node that was started
again, which begins at incarnation 0, overrides what was known of its earlier runs. ``Down`` and
``Left`` take the place of ``Confirm``. They name a life too and override no later one, so that a
member can come back (memberlist does the same).

By that order alone (``Member.precedence``) merging is commutative, associative and idempotent:
nodes that have heard the same facts agree. Two rulings deviate from it on purpose, and both end in
a suspicion, which the order settles again:

- ``WEIGH``: another node declares a member down. A node that has evidence of its own to the
  contrary only suspects the member, which then has its time to refute.
- ``ACCUSE`` in a push-pull: the other side holds a member for down. It may be a part of a split
  network, or the fact may be long refuted.

A node applies this rule to no fact about itself: ``own_member`` refutes it.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from beiran.gossip.membership.member import Member, Status


class Ruling(Enum):
    """What to do with a fact."""

    IGNORE = "nothing: what is known is as new, or newer"
    TAKE = "it replaces what is known"
    ACCUSE = "it begins a suspicion, or adds an accuser to the one that runs"
    WEIGH = "take it, unless first-hand evidence speaks against it: then accuse"


_NO, _TAKE, _ACCUSE, _WEIGH = Ruling.IGNORE, Ruling.TAKE, Ruling.ACCUSE, Ruling.WEIGH

# What is known of the member: nothing; or, in the life that the fact names, this status; or an
# earlier life, in which it is online or offline. Of a life before the known one nothing is taken.
#                  unknown  alive    suspect  down   left   earlier, online  earlier, offline
GOSSIP: Final = {
    Status.ALIVE:   (_TAKE, _NO,     _NO,     _NO,   _NO,   _TAKE,           _TAKE),
    Status.SUSPECT: (_NO,   _ACCUSE, _ACCUSE, _NO,   _NO,   _ACCUSE,         _ACCUSE),
    Status.DOWN:    (_NO,   _WEIGH,  _WEIGH,  _NO,   _NO,   _WEIGH,          _WEIGH),
    Status.LEFT:    (_NO,   _TAKE,   _TAKE,   _TAKE, _NO,   _TAKE,           _TAKE),
}  # fmt: skip
# A push-pull carries everything that is known of a member, its name and address too: so members
# that are offline are learned from it. A suspect is learned as alive, and then accused.
PUSH_PULL: Final = {
    Status.ALIVE:   GOSSIP[Status.ALIVE],
    Status.SUSPECT: GOSSIP[Status.SUSPECT],
    Status.DOWN:    (_TAKE, _ACCUSE, _ACCUSE, _NO,   _NO,   _ACCUSE,         _TAKE),
    Status.LEFT:    (_TAKE, _TAKE,   _TAKE,   _TAKE, _NO,   _TAKE,           _TAKE),
}  # fmt: skip
_UNKNOWN: Final = 0
_EARLIER_ONLINE: Final = 5
_EARLIER_OFFLINE: Final = 6


def rule(
    table: Mapping[Status, tuple[Ruling, ...]],
    known: Member | None,
    life: tuple[int, int],
    status: Status,
) -> Ruling:
    """Look up a fact: the member has ``status`` in its ``life``.

    Args:
      table: ``GOSSIP`` or ``PUSH_PULL``, by the way the fact came.
      known: what this node knows of the member.
    """
    if known is None:
        return table[status][_UNKNOWN]
    if life < known.life:
        return Ruling.IGNORE
    if life == known.life:
        return table[status][1 + known.status]
    return table[status][_EARLIER_ONLINE if known.status.online else _EARLIER_OFFLINE]
