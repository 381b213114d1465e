"""The table of members: which fact wins, who is online, who stands next to whom.

Of two facts about one member the one with the larger ``precedence`` is right: a later generation
before a later incarnation before the graver status. So merging facts is commutative, associative
and idempotent, and every node that has heard the same facts has the same table.

Members stand on a ring by their IDs (which are random). Ring neighbours are the deterministic part
of dissemination and of watching; the order of probing is shuffled (SWIM §4.3).
"""

from bisect import bisect_left, insort
from collections.abc import Iterator, MutableMapping
from typing import TYPE_CHECKING

from msgspec.structs import replace

from beiran.gossip.common import CommonPicture
from beiran.gossip.layered import Layered
from beiran.gossip.membership.member import Address, Member, Status
from beiran.gossip.possession.state_hash import PICTURE_MODULUS, entry_hash
from beiran.ids import NodeId

if TYPE_CHECKING:
    from random import Random


class Membership:
    """Everybody we know of, ourselves included.

    Args:
      common: what we know from the beginning, ourselves included; else only ourselves.
    """

    def __init__(self, own: Member, random: "Random", common: CommonPicture | None = None) -> None:
        self.own = own
        self._random = random
        self._offline_since: dict[NodeId, float] = {}
        self._to_probe: list[NodeId] = []  # those of this round that were not probed yet
        self._members: MutableMapping[NodeId, Member]
        self._versions: MutableMapping[NodeId, int]
        if common is None:
            self._members, self._versions = {own.node: own}, {}
            self._ring: list[NodeId] = [own.node]
            self.picture = entry_hash(own, 0)
        else:
            self._members, self._versions = Layered(common.members), Layered(common.versions)
            self._ring = common.ring
            self.picture = common.picture
        self._ring_is_common = common is not None

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, node: NodeId) -> bool:
        return node in self._members

    def get(self, node: NodeId) -> Member | None:
        """What is known of ``node``, or None."""
        return self._members.get(node)

    def version(self, node: NodeId) -> int:
        """The version of a member's holdings as we have them; 0 if we know none."""
        return self._versions.get(node, 0)

    def all(self) -> Iterator[Member]:
        """Every member, ourselves included, in the order we came to know them."""
        return iter(self._members.values())

    @property
    def online_count(self) -> int:
        """Members that are alive or suspect, ourselves included."""
        return len(self._ring)

    def ring(self) -> Iterator[NodeId]:
        """The IDs of those who are online, ourselves included, sorted."""
        return iter(self._ring)

    def online_others(self) -> list[NodeId]:
        """The ring without ourselves, in its order."""
        return [node for node in self._ring if node != self.own.node]

    def offline_since(self, node: NodeId) -> float | None:
        """When we came to know that a member is offline, or None if it is not."""
        return self._offline_since.get(node)

    def offline(self) -> list[NodeId]:
        """Members that are down or have left, the longest gone first."""
        return list(self._offline_since)

    def put(self, member: Member, *, now: float, offline_for_s: float = 0.0) -> bool:
        """Take over a fact if it is newer than what we know. Returns whether it was."""
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
        self._offline_since.pop(node, None)
        self._versions.pop(node, None)
        self._members.pop(node, None)

    def suspect(self, node: NodeId) -> Member:
        """The fact that ``node`` is suspect in its present life."""
        return replace(self._members[node], status=Status.SUSPECT)

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
        """Up to ``count`` different online members at random, never ourselves."""
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
        """The next online member in a shuffled round, or None if we are alone. SWIM §4.3."""
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
        """What ``node`` contributes to the picture's hash."""
        return entry_hash(self._members[node], self.version(node))

    def _count(self, node: NodeId, sign: int) -> None:
        if node in self._members:
            self.picture = (self.picture + sign * self.entry(node)) % PICTURE_MODULUS

    def _enter_ring(self, node: NodeId) -> None:
        insort(self._own_ring(), node)
        if node != self.own.node:  # at a random place of the round, SWIM §4.3
            self._to_probe.append(node)

    def _leave_ring(self, node: NodeId) -> None:
        ring = self._own_ring()
        del ring[bisect_left(ring, node)]

    def _own_ring(self) -> list[NodeId]:
        if self._ring_is_common:
            self._ring = list(self._ring)
            self._ring_is_common = False
        return self._ring
