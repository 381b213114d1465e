"""A host of a gossip cluster: the core that runs on it, its engine, its disk, its connections."""

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any, Final

from beiran.gossip.codec import Codec
from beiran.gossip.membership.member import Address
from beiran.gossip.node import GossipNode
from beiran.gossip.tables import Remembered
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription
from simulations.kernel import host as kernel
from simulations.kernel.traffic import KERNEL_KINDS, TAG_AT, TAG_BITS, Traffic

CLUSTER: Final = "default"
KINDS: Final = {
    10: "ping",
    11: "ack",
    12: "ping-req",
    13: "nack",
    14: "gossip",
    15: "beacon",
    16: "want",
    17: "described",
    20: "sync-begin",
    21: "sync-vector",
    22: "sync-exchange",
    24: "stream-ping",
    25: "stream-ack",
    **KERNEL_KINDS,
}
"""Kinds of packets by their tag on the wire (docs/reference/protocol.md)."""
SYNC_EXCHANGE: Final = 22
_DEFLATED: Final = 0x1D  # second byte of a body that is deflated


def kind_of(data: bytes) -> int:
    """Return the tag of a message (``KINDS``); 0 if it has none."""
    if len(data) <= TAG_AT:
        return 0
    if data[1] == _DEFLATED:  # of all bodies only those of push-pulls are long enough
        return SYNC_EXCHANGE
    return data[TAG_AT] & TAG_BITS


@dataclass
class Disk:
    """The state that outlives a process: what its database gives back at the next start.

    ``generation`` and ``version`` are 0 where there is no database. ``descriptions`` are of the
    images that some member was known to hold.
    """

    generation: int = 0
    version: int = 0
    holdings: tuple[Holding, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    descriptions: tuple[ImageDescription, ...] = ()


@dataclass(eq=False, slots=True, kw_only=True)
class Host(kernel.Host):
    """One machine with a gossip core.

    Attributes:
      id: the UUID of its agent.
      left_in_life: the last process that announced its leave.
      clone: it is a copy of another host, whose UUID it uses.
      rejects_tcp: its firewall answers every attempt to connect with a reset.
      engine: images that its Docker Engine holds, whether an agent runs or not.
      overheard: the last datagrams received, kept for ``simulations.gossip.babble``.
      disk_kept: whether the present process began with the database of the last one.
      requests: the life that asked, by the token of each open request.
      watches: its connections to ring neighbours. watched_by: those to it, by identity.
    """

    id: NodeId
    codec: Codec
    node: GossipNode
    traffic: Traffic = field(default_factory=lambda: Traffic(KINDS))
    left_in_life: int = 0
    clone: bool = False
    rejects_tcp: bool = False
    engine: dict[Digest, Holding] = field(default_factory=dict)
    described: dict[Digest, ImageDescription] = field(default_factory=dict)
    overheard: deque[bytes] | None = None
    disk: Disk = field(default_factory=Disk)
    disk_kept: bool = True
    requests: dict[int, int] = field(default_factory=dict)
    watches: "dict[NodeId, Connection]" = field(default_factory=dict)
    watched_by: "dict[int, Connection]" = field(default_factory=dict)

    @property
    def accepts_tcp(self) -> bool:
        """Whether connections to its agent succeed, given that the machine is reached."""
        return self.running and not self.rejects_tcp

    def held(self, owner: NodeId) -> dict[Digest, Holding]:
        """Return what this host believes that ``owner`` holds."""
        return {holding.image: holding for holding in self.node.possession.holdings(owner)}

    def rescue(self) -> Disk:
        """Return what a database gives back at worst after a power failure.

        SQLite may lose the last commits: of this life only its generation is sure.
        """
        return replace(self.disk, generation=self.node.own.generation)

    def remember(self) -> Disk:
        """Return what the database of this host would give back at the next start."""
        node, own = self.node, self.id
        images: dict[Any, None] = {}
        remembered = []
        for member in [*node.members.all(), *node.members.remembered.values()]:
            held = tuple(node.possession.holdings(member.node))
            images.update((h.image, None) for h in held)
            if member.node != own:
                version = node.possession.version(member.node)
                remembered.append(Remembered(member, version, held))
        described = [node.descriptions.get(image) for image in images]
        return Disk(
            generation=node.own.generation,
            version=node.possession.version(own),
            holdings=tuple(node.possession.holdings(own)),
            remembered=tuple(remembered),
            descriptions=tuple(known for known in described if known is not None),
        )


@dataclass(eq=False, slots=True)
class Connection:
    """A host's idle connection to a ring neighbour, or its attempts to open one.

    Attributes:
      life: of the watcher that wants it.
      peer: the machine at its other end; None while it is not open.
      began: when the last attempt began.
      was_open: whether it ever was; a refusal is evidence only then.
      quick: attempts made without waiting. wait_s: before the next one that waits.
    """

    watcher: Host
    life: int
    node: NodeId
    address: Address
    wait_s: float
    peer: Host | None = None
    began: float = 0.0
    was_open: bool = False
    quick: int = 0
