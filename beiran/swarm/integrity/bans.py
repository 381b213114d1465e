"""The ban list: which peers misbehaved, why, and for how long this node asks them for nothing.

``piece_check`` bans a peer that sent wrong bytes or announced wrong hashes.

A broken disk makes an honest host send wrong bytes, and a disk can be replaced. So a ban ends: when
the peer's agent was restarted, as operators do after a repair; or after ``ban_s``, doubled with
each ban. A banned peer is still served. Each node judges by its own evidence only.

A ban takes effect at once: the peer's word counts for nothing from then on. What follows from it
(fetches are cancelled, pieces revoked, leases granted to others) is done by ``repair.Enforcement``,
which the node calls at one place, after each input.
"""

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from beiran.ids import NodeId
from beiran.swarm.context import BanEnds, Context
from beiran.swarm.counters import Count
from beiran.swarm.effects import PeerBanned, PeerUnbanned

DOUBLINGS_MAX: Final = 8  # with ban_s of an hour: eleven days at most


class _Record(Struct):
    """The bans of one peer so far. ``generation``: its agent's at the last ban."""

    bans: int = 0
    generation: int | None = None


class BanChanges(Struct, frozen=True):
    """The peers that were banned, and those whose ban ended, since the last call."""

    banned: list[NodeId]
    unbanned: list[NodeId]


class BanList:
    """All bans of this node.

    Attributes:
      reasons: the banned peers, and why. To be read only.
    """

    def __init__(self, context: Context) -> None:
        self.reasons: Final[dict[NodeId, str]] = {}
        self._context = context
        self._records: dict[NodeId, _Record] = {}
        self._generations: Mapping[NodeId, int] = {}
        self._banned: list[NodeId] = []
        self._unbanned: list[NodeId] = []

    def trusts(self, node: NodeId) -> bool:
        """Whether a node may be asked: an online member that is not banned."""
        return node in self._context.members and node not in self.reasons

    def ban(self, node: NodeId, reason: str) -> None:
        """Ban a node for ``ban_s``, doubled each time: no fetches, no belief in its claims."""
        if node in self.reasons:
            return
        context = self._context
        record = self._records.setdefault(node, _Record())
        doublings = min(record.bans, DOUBLINGS_MAX)
        record.generation = self._generations.get(node)
        record.bans += 1
        self.reasons[node] = reason
        self._banned.append(node)
        context.set_timer(BanEnds(node), context.config.ban_s * 2.0**doublings)
        context.count(Count.PEERS_DISTRUSTED)
        context.emit(PeerBanned(node, reason))

    def lift(self, node: NodeId) -> None:
        """A ban ends, if there is one."""
        if self.reasons.pop(node, None) is not None:
            self._context.cancel_timer(BanEnds(node))
            self._unbanned.append(node)
            self._context.count(Count.PEERS_FORGIVEN)
            self._context.emit(PeerUnbanned(node))

    def set_members(self, generations: Mapping[NodeId, int]) -> None:
        """Members came, went or restarted: lift the bans of restarted agents.

        Args:
          generations: of the members' agents, as far as known. A larger one is a later start.
        """
        self._generations = generations
        for node in [node for node in self.reasons if self._has_restarted(node)]:
            self.lift(node)
        members = self._context.members
        for node in [n for n in self._records if n not in members and n not in self.reasons]:
            del self._records[node]

    def take_changes(self) -> BanChanges | None:
        """The changes since the last call, or None if there are none."""
        if not self._banned and not self._unbanned:
            return None
        changes = BanChanges(self._banned, self._unbanned)
        self._banned, self._unbanned = [], []
        return changes

    def _has_restarted(self, node: NodeId) -> bool:
        then, now = self._records[node].generation, self._generations.get(node)
        return then is not None and now is not None and now > then
