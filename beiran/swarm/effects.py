"""What the core wants done, and what it has found out. The core never acts: it returns these."""

from enum import Enum

from msgspec import Struct

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId


class FetchFailure(Enum):
    """Why a fetch ended before its last byte."""

    UNREACHABLE = "unreachable"
    """No connection, or nobody answers."""
    BUSY = "busy"
    """The peer gives to others and has no room: ask again soon."""
    MISSING = "missing"
    """The peer does not have it."""
    BROKEN = "broken"
    """It ended early: what came so far is kept."""
    ORIGIN_REFUSED = "origin refused"
    """The origin says with authority: no such blob, or not for us."""
    ORIGIN_UNAVAILABLE = "origin unavailable"
    """The origin cannot be reached, or is overloaded. It may come back."""


class SendDatagram(Struct, frozen=True):
    """Send ``data`` (at most ``DATAGRAM_BYTES_MAX``) to the UDP port of an agent."""

    to: Address
    data: bytes


class FetchFromPeer(Struct, frozen=True):
    """Fetch a blob's bytes from ``start`` to before ``end`` from a peer, into the partial file.

    ``start`` may lie within a piece (another source gave what is before it). Tell
    ``fetch_progressed`` now and then, ``piece_arrived`` at the end of each piece, ``fetch_done`` or
    ``fetch_failed`` at the end.
    """

    fetch: int
    node: NodeId
    address: Address
    digest: Digest
    start: int
    end: int
    first_piece: int
    active: int
    """So many others bring bytes to us just now. Tell the peer: who has least is served first."""


class FetchFromOrigin(Struct, frozen=True):
    """As ``FetchFromPeer``, from the origin; ``start`` is always the start of a piece."""

    fetch: int
    digest: Digest
    start: int
    end: int
    first_piece: int


class CancelFetch(Struct, frozen=True):
    """Stop this fetch: from now on no byte of it may be written.

    Nothing more needs to be told of it, and nothing told of it counts.
    """

    fetch: int


class UploadAdmitted(Struct, frozen=True):
    """A request that ``begin_upload`` let wait may be answered now."""

    upload: int


class PieceAccepted(Struct, frozen=True):
    """The bytes of a piece in the partial file are right for all we know."""

    digest: Digest
    piece: int


class PieceDoubted(Struct, frozen=True):
    """A piece that was accepted is fetched again: the whole was damaged."""

    digest: Digest
    piece: int


class BlobComplete(Struct, frozen=True):
    """All pieces are accepted. Verify the whole, then tell ``verified`` or ``damaged``."""

    digest: Digest


class PeerDistrusted(Struct, frozen=True):
    """A peer sent what it must have known to be wrong. It is asked for nothing for a long time."""

    node: NodeId
    reason: str


class PeerForgiven(Struct, frozen=True):
    """A peer that lied is asked again: its agent was restarted, or much time has passed."""

    node: NodeId


class BlobStuck(Struct, frozen=True):
    """No source is left for a blob that is wanted. Told once; new sources set it going again."""

    digest: Digest
    reason: str


Effect = (
    SendDatagram
    | FetchFromPeer
    | FetchFromOrigin
    | CancelFetch
    | UploadAdmitted
    | PieceAccepted
    | PieceDoubted
    | BlobComplete
    | PeerDistrusted
    | PeerForgiven
    | BlobStuck
)
