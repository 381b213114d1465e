"""A host: a machine with clocks, ports and a disk, and the agent's process on it.

``take`` is the same loop as ``agent/gossip_driver.py``: an input, its effects, and when to wake
up. A process may be stopped (nothing runs; inputs wait), blocked (it runs, but what it sends and
receives waits, as in Lifeguard's experiments) or slow (each input takes time, others wait).
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any, Final

from beiran.gossip.codec import Codec
from beiran.gossip.effects import Effect
from beiran.gossip.membership.member import Address
from beiran.gossip.node import GossipNode, Remembered
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription
from simulations.kernel.clock import HostClock
from simulations.kernel.network import Queue

if TYPE_CHECKING:
    from simulations.gossip.tcp import Watching

RECEIVE_BUFFER_BYTES: Final = 4 * 1024 * 1024  # as beiran/net/udp.py asks for
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
    28: "arp",
    29: "keepalive",
    31: "tcp-control",
}
"""What travels, by its tag on the wire (docs/protocol.md); 31 stands for handshakes, 28
and 29 for what kernels send (``simulations.fidelity`` counts them)."""
TCP_CONTROL: Final = 31
KINDS_MAX: Final = 32


class Traffic:
    """Packets and bytes (with all heads) that a host has sent, by kind."""

    __slots__ = ("bytes_by_tag", "packets_by_tag")

    def __init__(self) -> None:
        self.packets_by_tag = [0] * KINDS_MAX
        self.bytes_by_tag = [0] * KINDS_MAX

    @property
    def packets(self) -> int:
        """All packets sent."""
        return sum(self.packets_by_tag)

    @property
    def bytes(self) -> int:
        """All bytes sent."""
        return sum(self.bytes_by_tag)

    def by_kind(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by kind, of those that were sent."""
        return {
            name: (self.packets_by_tag[tag], self.bytes_by_tag[tag])
            for tag, name in KINDS.items()
            if self.packets_by_tag[tag]
        }


@dataclass
class Disk:
    """What outlives a process: the database, as its last life left it.

    ``generation`` and ``version`` are 0 where there is no database. Descriptions are of images
    that somebody was known to hold.
    """

    generation: int = 0
    version: int = 0
    holdings: tuple[Holding, ...] = ()
    remembered: tuple[Remembered, ...] = ()
    descriptions: tuple[ImageDescription, ...] = ()


@dataclass(eq=False, slots=True)
class Host:
    """One machine.

    Attributes:
      number: its place in ``World.hosts``; operations name hosts by it.
      lan: its broadcast domain.
      node: the core of the present life, or of the last one.
      life: how many processes have run here. left_in_life: which of them last said goodbye.
      running: whether the process runs (or is stopped or blocked, but exists).
      up: whether the machine answers at all; one that is off is silent.
      clone: it is a copy of another, whose UUID it uses.
      engine: what its Docker Engine holds, whether an agent runs or not.
      disk_kept: whether this life began with the database as the last one left it.
      overheard: the last datagrams received, for ``simulations.gossip.babble``.
      wakes_at: virtual time for which the next wake-up is planned.
    """

    number: int
    name: str
    address: Address
    lan: str
    id: NodeId
    codec: Codec
    node: GossipNode
    path_random: Random
    clock: HostClock = field(default_factory=HostClock)
    life: int = 1
    left_in_life: int = 0
    running: bool = True
    up: bool = True
    clone: bool = False
    engine: dict[Digest, Holding] = field(default_factory=dict)
    described: dict[Digest, ImageDescription] = field(default_factory=dict)
    overheard: deque[bytes] | None = None
    stopped_until: float | None = None
    blocked_until: float | None = None
    cost_s: float = 0.0
    busy_until: float = 0.0
    wakes_at: float = float("inf")
    uplink: Queue = field(default_factory=Queue)
    downlink: Queue = field(default_factory=Queue)
    traffic: Traffic = field(default_factory=Traffic)
    disk: Disk = field(default_factory=Disk)
    disk_kept: bool = True
    inbox: deque[tuple[int, Callable[..., None], tuple[Any, ...]]] = field(default_factory=deque)
    inbox_bytes: int = 0
    outbox: list[Effect] = field(default_factory=list)
    hampered: bool = False
    requests: dict[int, int] = field(default_factory=dict)
    watches: "dict[NodeId, Watching]" = field(default_factory=dict)
    watched_by: "dict[int, Watching]" = field(default_factory=dict)
    refused_at: dict[int, float] = field(default_factory=dict)

    @property
    def online(self) -> bool:
        """Whether machine and process are there and say so."""
        return self.running and self.up

    def rescue(self) -> Disk:
        """What the database gives back after a power failure: this life's generation, and at
        the worst nothing else of this life."""
        return replace(self.disk, generation=self.node.own.generation)

    def note_hampered(self) -> None:
        """Whether inputs must wait has perhaps changed."""
        self.hampered = (
            self.stopped_until is not None
            or self.blocked_until is not None
            or self.cost_s > 0.0
            or bool(self.inbox)
        )

    def remember(self) -> Disk:
        """What the database of this host would give back at the next start."""
        node, own = self.node, self.id
        images: dict[Any, None] = {}
        remembered = []
        for member in [*node.members.all(), *node.remembered]:
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
