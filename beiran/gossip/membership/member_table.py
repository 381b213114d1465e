"""The table of members: which of them are online, and which stand next to each other.

``merge_rule`` decides which of two facts about a member wins. ``put`` only guards the table: it
refuses a fact that has no larger ``precedence`` than the known one. ``member_changes`` is its only
caller.

Members stand on a ring by their IDs (which are random). Ring neighbours are the deterministic part
of dissemination and of connection watches; the order of probing is shuffled (SWIM §4.3).
"""

from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING

from beiran.gossip.membership.member import Address, Member
from beiran.gossip.possession.state_hash import STATE_HASH_MODULUS, entry_hash
from beiran.gossip.tables import Tables
from beiran.ids import NodeId

if TYPE_CHECKING:
    from random import Random


class MemberTable:
    """All members that this node knows, itself included.

    Args:
      tables: what it begins with, this node included.

    Attributes:
      state_hash: of the online members and the versions of their holdings.
      remembered: members of an earlier life that have not shown themselves in this one.
    """

    def __init__(self, own: Member, random: "Random", tables: Tables) -> None:
        self.own = own
        self.state_hash = tables.state_hash
        self.remembered = tables.remembered
        self._random = random
        self._members = tables.members
        self._versions = tables.versions
        self._ring = tables.ring  # a tuple: cores of a simulation share one until it changes
        self._offline_since: dict[NodeId, float] = {}
        self._to_probe: list[NodeId] = []  # those of this round that were not probed yet

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node: NodeId) -> bool:
        return node in self._members

    def get(self, node: NodeId) -> Member | None:
        """The member with this ID, or None."""
        return self._members.get(node)

    def version(self, node: NodeId) -> int:
        """The version of a member's holdings as this node has them; 0 if it has none."""
        return self._versions.get(node, 0)

    def all(self) -> Iterator[Member]:
        """Every member, this node included, in the order in which they became known."""
        return iter(self._members.values())

    @property
    def online_count(self) -> int:
        """How many members are alive or suspect, this node included."""
        return len(self._ring)

    def ring(self) -> Iterator[NodeId]:
        """The IDs of the online members, this node included, sorted."""
        return iter(self._ring)

    def online_others(self) -> list[NodeId]:
        """The ring without this node, in its order."""
        return [node for node in self._ring if node != self.own.node]

    def offline_since(self, node: NodeId) -> float | None:
        """When this node learned that a member is offline, or None if it is not."""
        return self._offline_since.get(node)

    def offline(self) -> list[NodeId]:
        """Members that are down or have left, the longest gone first."""
        return list(self._offline_since)

    def put(self, member: Member, *, now: float, offline_for_s: float = 0.0) -> bool:
        """Take over a fact if it is newer than what is known. Returns whether it was."""
        known = self._members.get(member.node)
        if known is not None and known.precedence >= member.precedence:
            return False
        self._count(member.node, -1)
        self._members[member.node] = member
        if member.node == self.own.node:
            self.own = member
        self._count(member.node, +1)
        was_online = known is not None and known.status.online
        if member.status.online and not was_online:
            self._offline_since.pop(member.node, None)
            self._enter_ring(member.node)
        elif not member.status.online:
            if was_online:
                self._leave_ring(member.node)
            self._offline_since.setdefault(member.node, now - offline_for_s)
        return True

    def set_version(self, node: NodeId, version: int) -> None:
        """The holdings of ``node`` are at ``version`` now."""
        self._count(node, -1)
        self._versions[node] = version
        self._count(node, +1)

    def forget(self, node: NodeId) -> None:
        """Keep nothing of an offline member, or of one that was only remembered."""
        self.remembered.pop(node, None)
        self._offline_since.pop(node, None)
        self._versions.pop(node, None)
        self._members.pop(node, None)

    def neighbours(self, node: NodeId, count: int, *, step: int) -> list[NodeId]:
        """Up to ``count`` online members that follow ``node`` on the ring.

        Args:
          step: 1 for successors, -1 for predecessors.
        """
        size = len(self._ring)
        place = bisect_left(self._ring, node)
        present = place < size and self._ring[place] == node
        start = place if present or step < 0 else place - 1
        found: list[NodeId] = []
        for distance in range(1, size + 1):
            other = self._ring[(start + step * distance) % size]
            if other == node or len(found) == count:
                break
            found.append(other)
        return found

    def some(self, count: int, *, without: frozenset[NodeId] = frozenset()) -> list[NodeId]:
        """Up to ``count`` different online members at random, never this node."""
        if count <= 0:
            return []
        size = len(self._ring)
        if size <= 4 * (count + len(without) + 1):
            pool = [n for n in self._ring if n not in without and n != self.own.node]
            return self._random.sample(pool, min(count, len(pool)))
        found: list[NodeId] = []
        while len(found) < count:  # at least three of four draws are fit
            node = self._ring[self._random.randrange(size)]
            if node not in without and node != self.own.node and node not in found:
                found.append(node)
        return found

    def next_to_probe(self) -> NodeId | None:
        """The next online member of a shuffled round, or None if there is no other. SWIM §4.3."""
        for _ in range(2):
            pool = self._to_probe
            while pool:  # a shuffle, as far as it is needed
                place = self._random.randrange(len(pool))
                node, pool[place] = pool[place], pool[-1]
                pool.pop()
                member = self._members.get(node)
                if member is not None and member.status.online:
                    return node
            self._to_probe = self.online_others()
        return None

    def at(self, address: Address) -> Member | None:
        """The online member at this address, or None."""
        for node in self._ring:
            member = self._members[node]
            if member.address == address:
                return member
        return None

    def entry(self, node: NodeId) -> int:
        """What ``node`` contributes to the state hash."""
        return entry_hash(self._members[node], self.version(node))

    def _count(self, node: NodeId, sign: int) -> None:
        if node in self._members:
            self.state_hash = (self.state_hash + sign * self.entry(node)) % STATE_HASH_MODULUS

    def _enter_ring(self, node: NodeId) -> None:
        place = bisect_left(self._ring, node)
        self._ring = (*self._ring[:place], node, *self._ring[place:])
        if node != self.own.node:  # at a random place of the round, SWIM §4.3
            self._to_probe.append(node)

    def _leave_ring(self, node: NodeId) -> None:
        place = bisect_left(self._ring, node)
        self._ring = self._ring[:place] + self._ring[place + 1 :]
