"""What all parts of a swarm core share: configuration, members, time, timers, pending effects.

A ``Timer`` names what becomes due and about what. ``SwarmNode.advance`` matches every kind.
"""

from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.sansio.context import CoreContext
from beiran.swarm.codec import SwarmCodec
from beiran.swarm.config import SwarmConfig
from beiran.swarm.counters import Count
from beiran.swarm.effects import Effect, SendDatagram
from beiran.swarm.messages import Message

if TYPE_CHECKING:
    from random import Random

LeaseKey = tuple[NodeId, Digest, int]
"""A lease: the rendezvous node that granted it, the blob, and its number there."""
SwarmKey = tuple[Digest, int]
"""The participants of one blob: its digest, and the size that they say it has."""


class AnnounceDue(Struct, frozen=True):
    """Announce the new pieces of a blob to its neighbours."""

    digest: Digest


class QueryDue(Struct, frozen=True):
    """A neighbour has not yet answered what it has of a blob."""

    digest: Digest
    node: NodeId


class HashesDue(Struct, frozen=True):
    """A neighbour has not yet answered a request for hashes."""

    digest: Digest
    node: NodeId


class RepeatDue(Struct, frozen=True):
    """Send the whole piece set of a blob to its neighbours again."""

    digest: Digest


class FetchesDue(Struct, frozen=True):
    """A peer that was busy or failed can be asked again."""


class WatchDue(Struct, frozen=True):
    """Look for fetches that stall and for blobs without a source."""


class RegisterDue(Struct, frozen=True):
    """Register a blob with its rendezvous node, for the first time or again."""

    digest: Digest


class LeasingChanged(Struct, frozen=True):
    """A pause is over in which this node did not offer to fetch from the origin."""


class ReportDue(Struct, frozen=True):
    """Report how far a lease is."""

    lease: LeaseKey


class DirectoryDue(Struct, frozen=True):
    """As a rendezvous node, look after the participants and leases of one blob."""

    swarm: SwarmKey


class LingerEnds(Struct, frozen=True):
    """A verified blob was announced for long enough."""

    digest: Digest


class BanEnds(Struct, frozen=True):
    """A banned peer may be asked again."""

    node: NodeId


Timer = (
    AnnounceDue
    | QueryDue
    | HashesDue
    | RepeatDue
    | FetchesDue
    | WatchDue
    | RegisterDue
    | LeasingChanged
    | ReportDue
    | DirectoryDue
    | LingerEnds
    | BanEnds
)


class Context(CoreContext[Timer, Effect]):
    """Shared by the parts of one core.

    Attributes:
      own: this node. ``members``: the other members that are online.
      heard_at: when each member last sent a datagram.
      to_self: messages of this node to itself, as it can be its own rendezvous node.
    """

    def __init__(
        self, own: NodeId, config: SwarmConfig, codec: SwarmCodec, random: "Random", now: float
    ) -> None:
        super().__init__(random, now)
        self.own = own
        self.config = config
        self.codec = codec
        self.members: dict[NodeId, Address] = {}
        self.heard_at: dict[NodeId, float] = {}
        self.to_self: deque[Message] = deque()

    def count(self, what: Count) -> None:
        """One more of these has happened."""
        self.counters[what] += 1

    def reaches(self, node: NodeId) -> bool:
        """Whether messages reach a node: an online member, or this node itself."""
        return node == self.own or node in self.members

    def set_members(self, members: dict[NodeId, Address]) -> None:
        """These other members are online now."""
        self.members = members
        for node in [node for node in self.heard_at if node not in members]:
            del self.heard_at[node]

    def send(self, to: NodeId, message: Message) -> None:
        """Send a message to an online member or to this node. Others get none."""
        if to == self.own:
            self.to_self.append(message)
            return
        address = self.members.get(to)
        if address is None:
            return
        data = self.codec.encode(message)
        self.count_sent(data)
        self.emit(SendDatagram(address, data))
