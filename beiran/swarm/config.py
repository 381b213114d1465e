"""The swarm's parameters. The defaults were measured with ``python -m tests.swarm.table``."""

from typing import Final

from msgspec import Struct

DATAGRAM_BYTES_MAX: Final = 1400  # as gossip's: below any Ethernet MTU, tunnels too
PIECE_BYTES: Final = 512 * 1024
PIECE_BYTES_SMALL: Final = 256 * 1024  # of small blobs: they are through a large crowd sooner
SMALL_BLOB_BYTES: Final = 16 * 1024 * 1024  # at most
PIECES_MAX: Final = 1024  # so that a bitmap is 128 bytes
HASH_BYTES: Final = 16  # of a piece's BLAKE3, as announced: hints need not withstand 2^128
HASHES_MAX: Final = 48  # in one datagram
NEIGHBOURS_MAX: Final = 32  # told in one datagram, and kept for one blob
SEEDS_MAX: Final = 8  # told in one datagram
TRACKED_MAX: Final = 4096  # blobs that one node is the rendezvous of at a time
PARTICIPANTS_MAX: Final = 16384  # of one blob, at its rendezvous node
DAMAGED_MAX: Final = 4  # verifications that may fail before a blob is given up
LEASE_PIECES_MAX: Final = 16


class SwarmConfig(Struct, frozen=True, kw_only=True):
    """How one node takes part. All members of a cluster should use the same."""

    neighbours: int = 14  # each tells so many others at once what it got
    announce_gap_s: float = 0.05  # pieces got within this are told in one datagram
    repeat_have_s: float = 2.0  # the whole bitmap, so that nothing lost stays lost
    ask_retry_s: float = 0.25
    ask_tries: int = 4

    register_retry_s: float = 0.15
    register_tries: int = 4  # unanswered: then the next of the ranking is asked
    register_interval_s: float = 0.5
    unresponsive_s: float = 10.0  # a rendezvous node that did not answer is passed over this long
    linger_s: float = 60.0  # how long who has a blob whole stays known to its rendezvous node

    leases_start: int = 5  # origin leases of one blob at a time; grows while that helps
    leases_first: int = 2  # until the first pieces are out: they come sooner when fewer share
    leases_max: int = 64
    lease_stalled_s: float = 0.8  # no report, or no more bytes
    lease_first_byte_s: float = 3.0  # connecting, TLS, a token: before the first byte
    lease_report_s: float = 0.2
    lease_slower_s: float = 1.0  # than a fresh lease would be

    in_flight_s: float = 0.35  # so much of what we receive in a second is asked for at once
    fetches_min: int = 6  # one of them waits to be answered
    fetches_max: int = 24
    fetches_per_peer: int = 6  # where few have it; otherwise each is asked for one at a time
    uploads_min: int = 5
    uploads_first: int = 1
    uploads_max: int = 48
    uploads_of_piece: int = 3  # at once, of a blob in flight: who gets it first gives it on
    uploads_waiting: int = 4  # requests beyond; more are told that we are busy
    stalled_s: float = 1.0  # a peer that sends nothing for so long is left
    slower_s: float = 1.0  # … and one that needs so much longer than others
    busy_s: float = 0.07
    slow_s: float = 5.0  # who was left for being slow is asked last for so long
    alone_s: float = 3.0  # nobody gives, and no lease is to be had: to the origin ourselves
    stuck_s: float = 3.0  # no source, and none turned up for so long
    distrust_s: float = 3600.0  # a liar is left alone so long, twice as long with each lie
