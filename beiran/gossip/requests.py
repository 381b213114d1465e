"""The purpose of each TCP request that has no reply yet.

``Context.requests`` keeps one of these by token. ``GossipNode`` takes it out when the reply or the
failure comes, and hands it to the part that sent the request.
"""

from msgspec import Struct

from beiran.gossip.membership.member import Address
from beiran.ids import NodeId


class ProbeRequest(Struct, frozen=True):
    """A ``StreamPing``. ``probe``: the number of the probe it helps, or None if it helps none."""

    probe: int | None
    node: NodeId


class PushPullRequest(Struct, frozen=True):
    """A step of a push-pull that this node began.

    Attributes:
      node: the member at the address, if it is known. A push-pull with a stranger does not keep
        others waiting.
      state_hash: this node's, when the push-pull began.
      bits: two to this power is the number of buckets whose hashes were sent.
    """

    address: Address
    node: NodeId | None
    state_hash: int
    bits: int


class DescriptionRequest(Struct, frozen=True):
    """A ``Want`` that was too large, or tried too often, for datagrams."""


Request = ProbeRequest | PushPullRequest | DescriptionRequest
