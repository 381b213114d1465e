"""The hosts of a crowd, each with one swarm core, and the origin."""

from dataclasses import dataclass, field

from beiran.ids import Digest, NodeId
from beiran.swarm.node import SwarmNode
from simulations.kernel import host as kernel
from simulations.kernel.fluid import Flow, Pipe
from simulations.kernel.traffic import Traffic


@dataclass
class Origin:
    """A registry.

    Attributes:
      blobs: sizes of what it has, in bytes.
      refused: nodes that it denies everything.
      spoils: it sends bytes that the digest does not match.
      sent_bytes: all that left it, used or not.
    """

    pipe: Pipe
    blobs: dict[Digest, int] = field(default_factory=dict)
    refused: set[NodeId] = field(default_factory=set)
    up: bool = True
    spoils: bool = False
    sent_bytes: int = 0


@dataclass(eq=False)
class Transfer:
    """One fetch as its driver sees it.

    Attributes:
      giver: the peer that sends; None is the origin.
      active: fetches of the receiver, which the giver weighs.
      pieces_reported: pieces of it that the driver has reported to the core.
    """

    fetch: int
    digest: Digest
    start: int
    end: int
    giver: "Host | None"
    active: int = 0
    flow: Flow | None = None
    upload: int | None = None
    pieces_reported: int = 0
    over: bool = False


@dataclass(eq=False, slots=True, kw_only=True)
class Host(kernel.Host):
    """A host with one swarm core. ``up`` is False while its cable is out.

    Attributes:
      up_pipe, down_pipe: its connection for blobs.
      spoils: it flips bytes that it sends. lies: the hashes that it announces fit those bytes.
      file: marks of each piece on its disk: who spoiled it on its way; none if it is right.
      sizes: of the blobs that it wants or has. done_at: when each was whole and verified.
      stuck: the reason for each stuck blob. bans: the reason for each ban of a peer.
    """

    node: SwarmNode
    traffic: Traffic = field(default_factory=lambda: Traffic({}))
    up_pipe: Pipe
    down_pipe: Pipe
    spoils: bool = False
    lies: bool = False
    transfers: dict[int, Transfer] = field(default_factory=dict)
    uploads: dict[int, tuple["Host", Transfer]] = field(default_factory=dict)
    file: dict[tuple[Digest, int], tuple[str, ...]] = field(default_factory=dict)
    accepted: list[tuple[Digest, int]] = field(default_factory=list)
    done_at: dict[Digest, float] = field(default_factory=dict)
    stuck: dict[Digest, str] = field(default_factory=dict)
    bans: dict[NodeId, str] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    from_origin_bytes: int = 0

    @property
    def id(self) -> NodeId:
        """The UUID of its agent."""
        return self.node.own
