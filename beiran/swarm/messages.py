"""The messages of the swarm, all of them datagrams, and nothing else.

Each is a msgpack array: the tag, the sender, the blob's digest, the other fields. A new field goes
last and has a default; a message is never changed otherwise. Every length has a bound.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from beiran.ids import WireDigest, WireNodeId
from beiran.oci.images import SizeBytes
from beiran.swarm.config import HASH_BYTES, HASHES_MAX, NEIGHBOURS_MAX, PIECES_MAX, SEEDS_MAX

Bits = Annotated[bytes, Meta(max_length=PIECES_MAX // 8)]
"""A piece set: bit ``i`` (little-endian) stands for piece ``i``."""
PieceNumber = Annotated[int, Meta(ge=0, lt=PIECES_MAX)]
Number = Annotated[int, Meta(ge=0, lt=2**32)]
TruncatedHash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class LeaseState(IntEnum):
    """How far a lease is, as its holder reports."""

    RUNNING = 0
    DONE = 1
    FAILED = 2
    REFUSED = 3  # the origin denies the blob to this node


class PieceHash(Struct, frozen=True, array_like=True):
    """A piece's BLAKE3, cut to 16 bytes.

    ``first_hand``: the sender fetched the piece from the origin, or has verified the whole blob.
    """

    piece: PieceNumber
    hash: TruncatedHash
    first_hand: bool = False


class Register(Struct, frozen=True, array_like=True, tag=1):
    """Take part in fetching a blob. Goes to its rendezvous node, which answers ``Participants``.

    Attributes:
      number: the answer repeats it.
      held: pieces that the sender has. ``fetching``: pieces that it fetches from the origin now.
      lacking: pieces that it lacks and can ask no peer for.
      can_lease: it can fetch from the origin now. ``origin_possible``: it may be able to later.
      neighbours_wanted: how many participants the answer should name.
      seeds: nodes that announced the whole blob to the sender.
    """

    sender: WireNodeId
    digest: WireDigest
    size_bytes: SizeBytes
    number: Number
    held: Bits
    fetching: Bits
    lacking: Bits
    can_lease: bool
    origin_possible: bool
    neighbours_wanted: Annotated[int, Meta(ge=0, le=NEIGHBOURS_MAX)]
    seeds: Annotated[tuple[WireNodeId, ...], Meta(max_length=SEEDS_MAX)] = ()


class Participants(Struct, frozen=True, array_like=True, tag=2):
    """Answer ``Register``. Sent unasked, with ``number`` 0, when ``leasable`` changes.

    Attributes:
      count: participants, the receiver included.
      leasable: some pieces are neither held nor fetched from the origin.
      leased: a participant fetches from the origin now. ``origin_possible``: one may later.
      neighbours: some participants. ``seeds``: some nodes that have the whole blob.
    """

    sender: WireNodeId
    digest: WireDigest
    number: Number
    count: Number
    leasable: bool
    leased: bool
    origin_possible: bool
    neighbours: Annotated[tuple[WireNodeId, ...], Meta(max_length=NEIGHBOURS_MAX)] = ()
    seeds: Annotated[tuple[WireNodeId, ...], Meta(max_length=SEEDS_MAX)] = ()


class Leave(Struct, frozen=True, array_like=True, tag=3):
    """Take part no longer, and have no piece of the blob."""

    sender: WireNodeId
    digest: WireDigest


class Grant(Struct, frozen=True, array_like=True, tag=4):
    """Lease pieces to a participant: it fetches them from the origin, and sends ``LeaseReport``."""

    sender: WireNodeId
    digest: WireDigest
    lease: Number
    first: PieceNumber
    count: Annotated[int, Meta(ge=1, le=PIECES_MAX)]


class LeaseReport(Struct, frozen=True, array_like=True, tag=5):
    """Report how far a lease is, every 0.2 s. Once it is over, ``LeaseAnswer`` confirms the report.

    Attributes:
      bytes_done: so far. ``throttled``: a rate limit of the sender's own makes the lease wait.
    """

    sender: WireNodeId
    digest: WireDigest
    lease: Number
    bytes_done: SizeBytes
    state: LeaseState
    throttled: bool = False


class LeaseAnswer(Struct, frozen=True, array_like=True, tag=6):
    """End a lease: its holder reported so, or another participant has it now."""

    sender: WireNodeId
    digest: WireDigest
    lease: Number


class Have(Struct, frozen=True, array_like=True, tag=7):
    """Announce the pieces that the sender has, and hashes of those that are new to the receiver.

    Attributes:
      reply_wanted: answer with a ``Have``.
      interested: the sender lacks pieces; announce yours to it.
      uploads: how many it serves now.
      hashes_unknown: it does not know the hashes of its pieces.
    """

    sender: WireNodeId
    digest: WireDigest
    size_bytes: SizeBytes
    held: Bits
    reply_wanted: bool
    interested: bool
    uploads: Annotated[int, Meta(ge=0, le=65535)]
    hashes: Annotated[tuple[PieceHash, ...], Meta(max_length=HASHES_MAX)] = ()
    hashes_unknown: bool = False


class HashesWanted(Struct, frozen=True, array_like=True, tag=8):
    """Ask for the hashes of pieces. Answered by ``Have`` with as many as fit."""

    sender: WireNodeId
    digest: WireDigest
    size_bytes: SizeBytes
    pieces: Bits


Message = Register | Participants | Leave | Grant | LeaseReport | LeaseAnswer | Have | HashesWanted
