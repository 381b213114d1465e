"""What the core wants done, and what it has found out. The core never acts: it returns these."""

from msgspec import Struct

from beiran.gossip.membership.member import Address, Member, Status
from beiran.ids import Digest, NodeId
from beiran.oci.images import Holding, ImageDescription


class SendDatagram(Struct, frozen=True):
    """Send ``data`` (at most ``DATAGRAM_BYTES_MAX``) to the UDP port of an agent."""

    to: Address
    data: bytes
    confirmed: bool = False
    """It answered lately: the kernel need not ask ARP again (``MSG_CONFIRM``, send(2))."""


class Broadcast(Struct, frozen=True):
    """Send a beacon to the beacon port of every LAN we are on."""

    data: bytes


class SendRequest(Struct, frozen=True):
    """POST ``data`` to the agent's TCP port; hand what comes to ``receive_reply(token, …)``.

    Where no reply comes within ``timeout_s``, call ``request_failed(token, …)``.
    """

    to: Address
    data: bytes
    token: int
    timeout_s: float


class Watch(Struct, frozen=True):
    """Keep an idle TCP connection to this member; tell ``watch_broken`` when it ends."""

    node: NodeId
    address: Address


class Unwatch(Struct, frozen=True):
    """Close the connection that ``Watch`` opened."""

    node: NodeId


class MemberChanged(Struct, frozen=True):
    """What we know of a member is new. ``previous`` is None when we see it for the first time."""

    member: Member
    previous: Status | None
    reason: str = ""


class MemberForgotten(Struct, frozen=True):
    """A member gone for long is reaped: nothing is kept of it."""

    node: NodeId


class HoldingsChanged(Struct, frozen=True):
    """What ``owner`` holds is new; ourselves included.

    Attributes:
      version: of the owner's holdings after this change; grows with each.
      held: added, or held already and now under other names.
      released: no longer held.
      reset: ``held`` is all there is; whatever else was known of the owner is void.
    """

    owner: NodeId
    version: int
    held: tuple[Holding, ...] = ()
    released: tuple[Digest, ...] = ()
    reset: bool = False


class ImageDescribed(Struct, frozen=True):
    """An image that somebody holds was described to us."""

    description: ImageDescription


class ImageForgotten(Struct, frozen=True):
    """Nobody known to us holds this image any more: its description is dropped."""

    image: Digest


class IdentityConflict(Struct, frozen=True):
    """Another agent, at this address, uses our UUID. An operator must give one of us another."""

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
