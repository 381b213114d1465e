"""The swarm's limits and parameters, each with its reason.

"Sweep" stands for cold pulls of 80 MB by 16 hosts with links of 50 Mbit/s in the simulator (three
seeds, ``python -m tests.swarm.table 16 --set NAME=VALUE``), where the defaults take 1.126 times the
bound of Kumar and Ross (2006) and the origin sends 1.00 copies. ``docs/`` has further results under
simulations and benchmarks. A value without a source was chosen for the reason given, and not
measured against others.
"""

from typing import Final

from msgspec import Struct

DATAGRAM_BYTES_MAX: Final = 1400  # as in gossip: below the MTU of Ethernet and of tunnels in it
PIECE_BYTES: Final = 512 * 1024
"""Smaller pieces spread sooner, larger ones cost fewer requests (libtorrent: 16 KiB to 16 MiB)."""
PIECE_BYTES_SMALL: Final = 256 * 1024
"""Of small blobs. 20 MB reach 1,000 hosts in 5.3 s instead of 6.6 s (docs: simulations)."""
SMALL_BLOB_BYTES: Final = 16 * 1024 * 1024
"""The largest small blob. Larger ones have more than 32 pieces: the last one weighs little."""
PIECES_MAX: Final = 1024  # a piece set is 128 bytes at most, a tenth of a datagram
HASH_BYTES: Final = 16
"""Of a piece's BLAKE3, as announced. Finding a second preimage of 128 bits is out of reach, and the
blob's SHA-256 decides in the end."""
HASHES_MAX: Final = 48  # in one datagram: 48 * 23 bytes, beside a full piece set
NEIGHBOURS_MAX: Final = 32  # named in one datagram (18 bytes each), and kept for one blob
SEEDS_MAX: Final = 8  # named in one datagram
TRACKED_MAX: Final = 4096
"""Blobs that one node is the rendezvous node of at a time; bounds its memory."""
PARTICIPANTS_MAX: Final = 16384
"""Of one blob, at its rendezvous node; bounds its memory."""
DAMAGED_MAX: Final = 4
"""Failed verifications before a blob is given up. Suspicion widens from one to the next, and the
third one revokes every piece that this node did not fetch from the origin itself."""
LEASE_PIECES_MAX: Final = 16
"""Pieces of one lease: 8 MiB, 1.3 s of a link of 50 Mbit/s. Larger leases save requests, and lose
more when their holder fails."""


class SwarmConfig(Struct, frozen=True, kw_only=True):
    """How one node takes part. All members of a cluster should use the same values."""

    # Announcing pieces.
    neighbours: int = 14
    """Peers that a node asks the rendezvous node for, in all. Sweep: 8 cost 2.4 % of the time;
    more than 14 gained nothing in a crowd of 1,000 (docs: simulations)."""
    announce_gap_s: float = 0.05
    """Pieces accepted within this time share one datagram. Sweep: 0 s gained nothing, 0.2 s cost
    1.5 % of the time."""
    repeat_have_s: float = 2.0
    """How often the whole piece set is sent again. It repairs what the loss of datagrams hid."""
    query_retry_s: float = 0.25
    query_tries: int = 4
    """A node that should have pieces is asked this often: 1 s, then it is no source."""

    # Registering with the rendezvous node.
    register_retry_s: float = 0.15
    register_tries: int = 4
    """Unanswered registrations before the next node of the ranking is asked: 0.6 s."""
    register_interval_s: float = 0.5
    """Between answered registrations. The rendezvous node leases nothing that it does not know."""
    unresponsive_s: float = 10.0
    """How long a rendezvous node that did not answer is passed over. Gossip finds a dead one
    within some 4 s; this covers one that lives and does not answer."""
    linger_s: float = 60.0
    """How long a verified blob stays registered: later participants find this node as a seed."""

    # Leasing the origin's pieces, as a rendezvous node.
    leases_start: int = 5
    """Leases of one blob at a time, at first. Sweep: 3 cost 12 % of the time and 2 cost 27 %, as
    the origin's link idles between two requests; 8 and 12 gained nothing. The number grows while
    that helps (``rendezvous/leases.py``)."""
    leases_first: int = 2
    """... until the first lease is done: pieces come sooner when fewer share the origin's link.
    Sweep: 1 and 5 differ from it by less than 1 %, which is within what seeds differ."""
    leases_max: int = 64  # a bound on connections to the origin
    lease_stalled_s: float = 0.8
    """Without a report or a byte for this time (four reports), a lease is granted to another."""
    lease_first_byte_s: float = 3.0
    """The same before the first byte: a connection, TLS and a token take up to 3 s."""
    lease_report_s: float = 0.2
    lease_slower_s: float = 1.0
    """A lease that needs this much longer than a new one would is granted to another."""

    # Fetching from peers.
    in_flight_s: float = 0.35
    """Fetches run for the bytes that arrive in this time: several times a request's round trip and
    the wait for an upload slot."""
    fetches_min: int = 6  # one of them may wait for an upload slot
    fetches_max: int = 24
    fetches_per_peer: int = 6
    """From one peer, where few have the blob. Elsewhere each is asked for one piece at a time."""
    stalled_s: float = 1.0
    """A fetch that brings nothing for this time is cancelled."""
    slower_s: float = 1.0
    """So is one that needs this much longer than two typical fetches (``fetch_scheduler.py``)."""
    busy_s: float = 0.07
    """Pause after BUSY, times 0.5 to 1.5: about the time of a piece at 50 Mbit/s. Longer pauses,
    with a third of the refusals, took the same time (docs: benchmarks)."""
    slow_s: float = 5.0
    """How long a peer is asked last after a cancelled fetch, doubled with each, up to 8 times."""

    # Serving peers.
    uploads_min: int = 5
    uploads_first: int = 1
    """Uploads at once before any has ended; one more with each that ends. The first copies of a
    piece double sooner when few share the link."""
    uploads_max: int = 48
    uploads_of_piece: int = 3
    """Of one piece at once, of a blob that this node lacks parts of: the receivers pass it on."""
    uploads_waiting: int = 4
    """Requests that wait for a slot, so that the link never idles. Further ones get BUSY."""

    # What to do without a source, and about misbehaving peers.
    without_lease_s: float = 3.0
    """Neither a peer nor a lease for this time: fetch from the origin without a lease. It is longer
    than finding a new rendezvous node takes, as two nodes that fetch one piece cost the origin."""
    stuck_s: float = 3.0
    """Without any source for this time, a blob is reported as stuck."""
    ban_s: float = 3600.0
    """How long a misbehaving peer is banned, doubled each time. An operator mends a disk in about
    an hour; a restart of the peer's agent ends the ban at once."""
