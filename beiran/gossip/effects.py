"""What the core wants done, and what it has found out. The core never acts: it returns these.

The driver carries out the first six kinds; the store and the event stream take the others.
"""

from msgspec import Struct

from beiran.gossip.membership.member import Address, Member, Status
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription


class SendDatagram(Struct, frozen=True):
    """Send ``data`` (at most ``DATAGRAM_BYTES_MAX``) to the UDP port of an agent."""

    to: Address
    data: bytes
    confirmed: bool = False
    """The address answered lately: the kernel need not ask ARP again (``MSG_CONFIRM``, send(2))."""


class Broadcast(Struct, frozen=True):
    """Send a beacon to the beacon port of each LAN of this host."""

    data: bytes


class SendRequest(Struct, frozen=True):
    """POST ``data`` to the agent's TCP port, and hand the reply to ``receive_reply(token, …)``.

    If none comes within ``timeout_s``, call ``request_failed(token, …)``.
    """

    to: Address
    data: bytes
    token: int
    timeout_s: float


class Watch(Struct, frozen=True):
    """Keep an idle TCP connection to this member, and call ``watch_broken`` when it ends."""

    node: NodeId
    address: Address


class Unwatch(Struct, frozen=True):
    """Close the connection that ``Watch`` opened."""

    node: NodeId


class MemberChanged(Struct, frozen=True):
    """A newer fact about a member was taken over. ``previous``: None for a new member."""

    member: Member
    previous: Status | None
    reason: str = ""


class MemberForgotten(Struct, frozen=True):
    """A member that was offline for ``forget_s`` is reaped: nothing is kept of it."""

    node: NodeId


class HoldingsChanged(Struct, frozen=True):
    """The holdings of an owner have changed; this node is one of the owners.

    Attributes:
      version: of the owner's holdings after this change; grows with each.
      held: added, or held before and now under other names.
      released: no longer held.
      reset: ``held`` is all that the owner holds; nothing known before counts.
    """

    owner: NodeId
    version: int
    held: tuple[Holding, ...] = ()
    released: tuple[Digest, ...] = ()
    reset: bool = False


class ImageDescribed(Struct, frozen=True):
    """The description of a held image has come."""

    description: ImageDescription


class ImageForgotten(Struct, frozen=True):
    """No known owner holds this image any more: its description is dropped."""

    image: Digest


class IdentityConflict(Struct, frozen=True):
    """Another agent, at this address, uses this node's UUID. An operator must give one another."""

    address: Address


Effect = (
    SendDatagram
    | Broadcast
    | SendRequest
    | Watch
    | Unwatch
    | MemberChanged
    | MemberForgotten
    | HoldingsChanged
    | ImageDescribed
    | ImageForgotten
    | IdentityConflict
)
