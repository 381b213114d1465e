"""What all parts of one node share: its parameters, its clock's last reading, its way out."""

import hashlib
from collections import Counter, deque
from typing import TYPE_CHECKING

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.sansio.timers import Timers
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.effects import Effect, PeerDistrusted, PeerForgiven, SendDatagram
from beiran.swarm.integrity.ban_list import Distrust
from beiran.swarm.messages import Message

if TYPE_CHECKING:
    from random import Random


TimerKey = tuple[str, object]
"""What is due, and about whom."""


class Context:
    """Shared by the parts of a node; each part is handed it and nothing global.

    Attributes:
      now: the time of the input being handled, in seconds.
      members: the online others, by node.
      heard: when a datagram came from each, last.
      generations: of the members' agents, as far as we are told.
      found_out: liars that the parts have still to be rid of. forgiven: liars no longer.
      to_self: messages of this node to itself (it may be its own rendezvous node).
      reconsider: how we are registered is to be looked over at the end of this input.
      counters: what happened how often, for people.
    """

    def __init__(
        self, own: NodeId, config: SwarmConfig, codec: SwarmCodec, random: "Random", now: float
    ) -> None:
        self.own = own
        self.config = config
        self.codec = codec
        self.random = random
        self.now = now
        self.members: dict[NodeId, Address] = {}
        self.heard: dict[NodeId, float] = {}
        self.generations: dict[NodeId, int] = {}
        self.found_out: list[NodeId] = []
        self.forgiven: list[NodeId] = []
        self._distrust = Distrust(config)
        self.timers: Timers[TimerKey] = Timers()
        self.effects: list[Effect] = []
        self.to_self: deque[Message] = deque()
        self.reconsider = False
        self.counters: Counter[str] = Counter()
        self._unresponsive: dict[NodeId, float] = {}
        self._rankings: dict[Digest, list[NodeId]] = {}

    def emit(self, effect: Effect) -> None:
        """Want something done, or tell what was found out."""
        self.effects.append(effect)

    def set_timer(self, kind: str, about: object, delay_s: float) -> None:
        """Be called for ``kind`` in ``delay_s`` seconds; replaces an earlier one about the same."""
        self.timers.set((kind, about), self.now + delay_s)

    def set_timer_by(self, kind: str, about: object, delay_s: float) -> None:
        """As ``set_timer``, but one that is due earlier stays."""
        at = self.timers.deadline((kind, about))
        if at is None or at > self.now + delay_s:
            self.timers.set((kind, about), self.now + delay_s)

    def cancel_timer(self, kind: str, about: object) -> None:
        """Not be called for it, if that was so."""
        self.timers.cancel((kind, about))

    def send(self, to: NodeId, message: Message) -> None:
        """Send a message to a member, or to ourselves; to others it is not sent."""
        if to == self.own:
            self.to_self.append(message)
            return
        address = self.members.get(to)
        if address is None:
            return
        data = self.codec.encode(message)
        self.counters["datagrams_sent"] += 1
        self.counters["datagram_bytes_sent"] += len(data)
        self.emit(SendDatagram(address, data))

    @property
    def distrusted(self) -> dict[NodeId, str]:
        """Who sent what it must have known to be wrong, and why we think so."""
        return self._distrust.reasons

    def trusts(self, node: NodeId) -> bool:
        """Whether a node may be asked: an online member that was not found out."""
        return node in self.members and node not in self.distrusted

    def distrust(self, node: NodeId, reason: str) -> None:
        """Ask a node for nothing for a long time. (It is still given what it asks for.)"""
        if node not in self.distrusted:
            for_s = self._distrust.begin(node, reason, self.generations.get(node))
            self.set_timer("trust", node, for_s)
            self.found_out.append(node)
            self.counters["peers_distrusted"] += 1
            self.emit(PeerDistrusted(node, reason))

    def forgive(self, node: NodeId) -> None:
        """Ask a node again."""
        if self._distrust.end(node):
            self.cancel_timer("trust", node)
            self.forgiven.append(node)
            self.counters["peers_forgiven"] += 1
            self.emit(PeerForgiven(node))

    # --- rendezvous -------------------------------------------------------------------------

    def rendezvous(self, digest: Digest) -> NodeId:
        """The first by highest random weight over (digest, node) of those who answer.

        Source: Thaler and Ravishankar, "A Name-Based Mapping Scheme for Rendezvous" (1996).
        """
        ranking = self._rankings.get(digest)
        if ranking is None:
            ranking = sorted((self.own, *self.members), key=lambda n: weight(digest, n))
            ranking = self._rankings[digest] = ranking[: -RANKED_MAX - 1 : -1]
        for node in ranking:
            if self._unresponsive.get(node, self.now) <= self.now:
                return node
        return self.own

    def pass_over(self, node: NodeId) -> None:
        """``node`` did not answer as a rendezvous node; ask the next for a while."""
        self._unresponsive[node] = self.now + self.config.unresponsive_s

    def members_changed(self) -> None:
        """Rank anew; and who was started again begins anew."""
        self._rankings.clear()
        for node in self._distrust.restarted(self.generations):
            self.forgive(node)
        self._distrust.forget(but=self.members)
        for node in [n for n in self.heard if n not in self.members]:
            del self.heard[node]
        for node in [n for n in self._unresponsive if n not in self.members]:
            del self._unresponsive[node]

    def forget_ranking(self, digest: Digest) -> None:
        """The blob is not spoken of any more."""
        self._rankings.pop(digest, None)


RANKED_MAX = 8  # as many rendezvous nodes may be out of order at once


def weight(digest: Digest, node: NodeId) -> bytes:
    """The random weight of a node for a blob: the same everywhere."""
    return hashlib.blake2b(digest + node, digest_size=8, person=b"beiran-hrw").digest()
