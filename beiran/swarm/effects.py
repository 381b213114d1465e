"""What a swarm core wants done and has found out. The core never acts: it returns these."""

from enum import Enum

from msgspec import Struct

from beiran.gossip.membership.member import Address
from beiran.ids import Digest, NodeId


class FetchFailure(Enum):
    """Why a fetch ended before its last byte."""

    UNREACHABLE = "unreachable"
    """The peer takes no connection, or does not answer."""
    BUSY = "busy"
    """The peer has no free upload slot: ask again soon."""
    MISSING = "missing"
    """The peer does not have these bytes."""
    BROKEN = "broken"
    """The connection ended early. The bytes that came are kept."""
    ORIGIN_REFUSED = "origin refused"
    """The origin answers with authority: it has no such blob, or denies it to this node."""
    ORIGIN_UNAVAILABLE = "origin unavailable"
    """The origin cannot be reached or is overloaded. It may come back."""


class SendDatagram(Struct, frozen=True):
    """Send ``data`` (at most ``DATAGRAM_BYTES_MAX``) to the UDP port of an agent."""

    to: Address
    data: bytes


class FetchFromPeer(Struct, frozen=True):
    """Fetch a blob's bytes from ``start`` to before ``end`` from a peer, into the partial file.

    The driver calls ``fetch_progressed`` every 0.1 s or so, ``piece_arrived`` at the end of each
    piece, and ``fetch_done`` or ``fetch_failed`` at the end.

    Attributes:
      start: may lie within a piece, if another source gave the bytes before it.
      active: how many other fetches receive bytes now. The request carries it: a peer serves the
        requester with the fewest first.
    """

    fetch: int
    node: NodeId
    address: Address
    digest: Digest
    start: int
    end: int
    first_piece: int
    active: int


class FetchFromOrigin(Struct, frozen=True):
    """As ``FetchFromPeer``, from the origin. ``start`` is always the start of a piece."""

    fetch: int
    digest: Digest
    start: int
    end: int
    first_piece: int


class CancelFetch(Struct, frozen=True):
    """Stop this fetch: from now on, write no byte of it. The core ignores calls about it."""

    fetch: int


class UploadAdmitted(Struct, frozen=True):
    """Answer the request that ``begin_upload`` made wait."""

    upload: int


class PieceAccepted(Struct, frozen=True):
    """The bytes of a piece in the partial file are right, by all evidence so far."""

    digest: Digest
    piece: int


class PieceRevoked(Struct, frozen=True):
    """An accepted piece is not held any more: it is fetched again."""

    digest: Digest
    piece: int


class BlobComplete(Struct, frozen=True):
    """All pieces are accepted. Verify the whole, then call ``verified`` or ``damaged``."""

    digest: Digest


class PeerBanned(Struct, frozen=True):
    """A peer sent bytes or hashes that it must have known to be wrong. It is asked for nothing."""

    node: NodeId
    reason: str


class PeerUnbanned(Struct, frozen=True):
    """A ban ended: the peer's agent restarted, or the time of the ban has passed."""

    node: NodeId


class BlobStuck(Struct, frozen=True):
    """A wanted blob has no source left. Reported once; a new source sets it going again."""

    digest: Digest
    reason: str


Effect = (
    SendDatagram
    | FetchFromPeer
    | FetchFromOrigin
    | CancelFetch
    | UploadAdmitted
    | PieceAccepted
    | PieceRevoked
    | BlobComplete
    | PeerBanned
    | PeerUnbanned
    | BlobStuck
)
