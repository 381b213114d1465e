"""Who takes part in a crowd: hosts with one agent each, and the origin."""

from dataclasses import dataclass, field

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId
from beiran.swarm.node import SwarmNode
from simulations.kernel.fluid import Flow, Link


@dataclass
class Origin:
    """A registry.

    Attributes:
      refused: nodes that it denies everything.
      spoils: it gives other bytes than the digest is of.
      sent_bytes: all that left it, used or not.
    """

    link: Link
    blobs: dict[Digest, int] = field(default_factory=dict)
    refused: set[NodeId] = field(default_factory=set)
    up: bool = True
    spoils: bool = False
    sent_bytes: int = 0


@dataclass(eq=False)
class Transfer:
    """One fetch as its executor sees it. ``giver``: None is the origin."""

    fetch: int
    digest: Digest
    start: int
    end: int
    giver: "Host | None"
    active: int = 0
    flow: Flow | None = None
    upload: int | None = None
    pieces_told: int = 0
    over: bool = False


@dataclass(eq=False)
class Host:
    """A host with one agent.

    Attributes:
      silent: its cable is out.
      spoils: it flips bytes of what it gives. lies: the hashes that it announces fit its bytes.
      file: what each piece on its disk consists of: nothing but the truth, or who spoiled it.
      done_at: when each blob was whole and right. sizes: of the blobs that it wants or has.
    """

    name: str
    node: SwarmNode
    address: Address
    up: Link
    down: Link
    running: bool = True
    silent: bool = False
    spoils: bool = False
    lies: bool = False
    transfers: dict[int, Transfer] = field(default_factory=dict)
    uploads: dict[int, tuple["Host", Transfer]] = field(default_factory=dict)
    file: dict[tuple[Digest, int], tuple[str, ...]] = field(default_factory=dict)
    accepted: list[tuple[Digest, int]] = field(default_factory=list)
    done_at: dict[Digest, float] = field(default_factory=dict)
    stuck: dict[Digest, str] = field(default_factory=dict)
    distrusted: dict[NodeId, str] = field(default_factory=dict)
    sizes: dict[Digest, int] = field(default_factory=dict)
    from_origin_bytes: int = 0
    wake_at: float | None = None

    @property
    def id(self) -> NodeId:
        """Its agent."""
        return self.node.own

    @property
    def reachable(self) -> bool:
        """Its agent runs and its cable is in."""
        return self.running and not self.silent
