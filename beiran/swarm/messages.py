"""Every datagram of the swarm, and nothing else.

All are msgpack arrays with the tag first, then the sender and the blob. New fields go last and
have a default; a message is never changed otherwise. Every length has a bound.
"""

from enum import IntEnum
from typing import Annotated

from msgspec import Meta, Struct

from beiran.ids import WireDigest, WireNodeId
from beiran.oci.images import SizeBytes
from beiran.swarm.config import HASH_BYTES, HASHES_MAX, NEIGHBOURS_MAX, PIECES_MAX, SEEDS_MAX

Bits = Annotated[bytes, Meta(max_length=PIECES_MAX // 8)]
"""A set of pieces: bit ``i`` (little-endian) stands for piece ``i``."""
PieceNumber = Annotated[int, Meta(ge=0, lt=PIECES_MAX)]
Number = Annotated[int, Meta(ge=0, lt=2**32)]
TruncatedHash = Annotated[bytes, Meta(min_length=HASH_BYTES, max_length=HASH_BYTES)]


class LeaseState(IntEnum):
    """How far a lease is, as its holder reports."""

    RUNNING = 0
    DONE = 1
    FAILED = 2
    REFUSED = 3  # the origin denies it to this node


class PieceHash(Struct, frozen=True, array_like=True):
    """A piece's BLAKE3, cut to 16 bytes.

    ``first_hand``: the sender had it from the origin, or has verified the whole blob.
    """

    piece: PieceNumber
    hash: TruncatedHash
    first_hand: bool = False


class Register(Struct, frozen=True, array_like=True, tag=1):
    """To the rendezvous node: I take part in fetching this blob. Answered by ``Participants``.

    Attributes:
      number: the answer repeats it.
      held: pieces that the sender has; ``fetching``: those it fetches from the origin just now.
      starved: pieces that the sender lacks and knows nobody to ask for, and it has nothing to do.
      willing: it can fetch from the origin now. able: it may be able to later (never where the
        origin denied the blob to it).
      neighbours_wanted: how many others it would like to be told of.
      seeds: nodes that told the sender that they have the blob whole.
    """

    sender: WireNodeId
    digest: WireDigest
    size_bytes: SizeBytes
    number: Number
    held: Bits
    fetching: Bits
    starved: Bits
    willing: bool
    able: bool
    neighbours_wanted: Annotated[int, Meta(ge=0, le=NEIGHBOURS_MAX)]
    seeds: Annotated[tuple[WireNodeId, ...], Meta(max_length=SEEDS_MAX)] = ()


class Participants(Struct, frozen=True, array_like=True, tag=2):
    """The answer to ``Register``, and sent unasked when ``leasable`` changes (``number`` 0).

    Attributes:
      count: how many take part, the asker included.
      leasable: the origin has enough to do with this blob yet.
      leased: somebody fetches from the origin now. hopeful: somebody may yet.
      neighbours: some others that take part; seeds: some that have the blob whole.
    """

    sender: WireNodeId
    digest: WireDigest
    number: Number
    count: Number
    leasable: bool
    leased: bool
    hopeful: bool
    neighbours: Annotated[tuple[WireNodeId, ...], Meta(max_length=NEIGHBOURS_MAX)] = ()
    seeds: Annotated[tuple[WireNodeId, ...], Meta(max_length=SEEDS_MAX)] = ()


class Leave(Struct, frozen=True, array_like=True, tag=3):
    """I no longer take part, nor do I have any of it."""

    sender: WireNodeId
    digest: WireDigest


class Grant(Struct, frozen=True, array_like=True, tag=4):
    """To a participant: fetch these pieces from the origin. Answered by ``LeaseReport``."""

    sender: WireNodeId
    digest: WireDigest
    lease: Number
    first: PieceNumber
    count: Annotated[int, Meta(ge=1, le=PIECES_MAX)]


class LeaseReport(Struct, frozen=True, array_like=True, tag=5):
    """From a lease's holder, several times a second: bytes so far. Answered by ``LeaseAnswer``
    when the lease is over. ``held_back``: a limit of the holder's own makes it wait.
    """

    sender: WireNodeId
    digest: WireDigest
    lease: Number
    bytes_done: SizeBytes
    state: LeaseState
    held_back: bool = False


class LeaseAnswer(Struct, frozen=True, array_like=True, tag=6):
    """This lease is over: as you reported, or since it was given to another."""

    sender: WireNodeId
    digest: WireDigest
    lease: Number


class Have(Struct, frozen=True, array_like=True, tag=7):
    """What the sender has of a blob, and hashes of pieces that are new.

    Attributes:
      asks: answer with yours. wants: the sender lacks some, tell it what you get.
      uploads: how many it serves just now.
      hashless: the sender does not know the hashes of what it has.
    """

    sender: WireNodeId
    digest: WireDigest
    size_bytes: SizeBytes
    held: Bits
    asks: bool
    wants: bool
    uploads: Annotated[int, Meta(ge=0, le=65535)]
    hashes: Annotated[tuple[PieceHash, ...], Meta(max_length=HASHES_MAX)] = ()
    hashless: bool = False


class HashesWanted(Struct, frozen=True, array_like=True, tag=8):
    """Which hashes do these pieces have? Answered by ``Have`` with as many as fit."""

    sender: WireNodeId
    digest: WireDigest
    size_bytes: SizeBytes
    pieces: Bits


Message = Register | Participants | Leave | Grant | LeaseReport | LeaseAnswer | Have | HashesWanted
