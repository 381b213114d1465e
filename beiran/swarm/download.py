"""State of the blobs that this node fetches. Only this module changes that state.

Each part of the core decides something (which piece to fetch, whom to believe, when to register)
and asks the ``Download`` to note it by a method. So each invariant below is kept in one place.

A download's stage follows this table::

    FETCHING  -> VERIFYING   all pieces are accepted (``BlobComplete``)
    VERIFYING -> VERIFIED    the SHA-256 of the whole is the digest
    VERIFYING -> FETCHING    it is not: suspect pieces are revoked and fetched again
    VERIFYING -> GIVEN_UP    ... DAMAGED_MAX times, or no piece is left to suspect

Invariants:

- ``held`` has a piece if and only if ``hashes`` has its hash.
- ``availability[p]`` is the number of neighbours that can be asked for piece ``p``.
- ``in_flight`` has a piece if and only if ``fetches`` counts at least one fetch of it.
"""

from collections.abc import Mapping
from enum import Enum
from typing import Final

from msgspec import Struct, field

from beiran.ids import Digest, NodeId
from beiran.swarm.config import HASH_BYTES
from beiran.swarm.pieces import Pieces, pieces_in

HASH_REQUESTS_MAX: Final = 4
"""After this many requests without an answer, a neighbour does not know its pieces' hashes.

At 0.1 s each: a loss of 20 % drops four requests or answers in a row in 2 % of the cases.
"""
ORIGIN_FAILURES_MAX: Final = 6
"""An origin that fails this often in a row is not counted on: some 15 s with the pauses below."""
ORIGIN_PAUSE_S: Final = 0.5  # after the first failure, doubled with each further one
ORIGIN_PAUSE_MAX_S: Final = 5.0  # an origin that is back is used within this time; chosen


class Neighbour(Struct):
    """A peer with which this node exchanges piece sets of one blob (BitTorrent's peer set).

    Attributes:
      held: pieces that it has, as it announced last.
      excluded: pieces that it is not asked for any more, as it sent them wrongly or was banned.
      disputed: pieces whose hash neighbours with better evidence announce otherwise.
      outvoted: pieces of which more neighbours announce another hash.
      refuted: pieces of which it announced another hash than the origin's bytes have.
      audited: the origin was asked about one of its pieces.
      discredited: how many hashes are discredited on its account.
      readmitted: pieces that were excluded and may be asked for again, once.
      claims: the hashes that it announced, by piece. ``claimed``: the set of these pieces.
      mismatched: claims that its bytes did not match, until it confirms or replaces them.
      first_hand: pieces that it fetched from the origin or verified with the whole, by its word.
      announced: pieces of this node that it was sent.
      interested: it lacks pieces. ``heard_from``: it has sent a ``Have`` of the blob.
      queries_left: how often it is still asked for its first ``Have``.
      contradictions: pieces without a claim whose bytes others' claims contradicted.
    """

    node: NodeId
    held: int = 0
    excluded: int = 0
    disputed: int = 0
    outvoted: int = 0
    refuted: int = 0
    audited: bool = False
    discredited: int = 0
    readmitted: int = 0
    claims: dict[int, bytes] = field(default_factory=dict)
    claimed: int = 0
    mismatched: dict[int, bytes] = field(default_factory=dict)
    first_hand: int = 0
    announced: int = 0
    interested: bool = True
    heard_from: bool = False
    queries_left: int = 0
    hashes_asked_at: float = float("-inf")
    hash_requests: int = 0
    contradictions: int = 0

    @property
    def usable(self) -> int:
        """Pieces that it can be asked for."""
        return self.held & ~self.excluded & ~self.disputed

    @property
    def requestable(self) -> int:
        """Usable pieces whose hash it announced; all usable ones if it knows no hashes.

        None while a mismatched claim waits for its answer.
        """
        if self.hash_requests >= HASH_REQUESTS_MAX:
            return self.usable
        return 0 if self.mismatched else self.usable & self.claimed

    @property
    def knows_no_hashes(self) -> bool:
        """Whether the peer has no hashes: it said so, or answered no request for them."""
        return self.hash_requests >= HASH_REQUESTS_MAX

    def hear(self, *, held: int, interested: bool, hashes_unknown: bool) -> None:
        """A ``Have`` came. ``held`` itself is noted by ``Download.set_held``."""
        self.heard_from = True
        self.interested = interested
        if hashes_unknown:
            self.hash_requests = HASH_REQUESTS_MAX
        elif held & ~self.held:
            self.hash_requests = 0
        for piece in [p for p in self.mismatched if not held >> p & 1]:
            del self.mismatched[piece]  # it no longer offers the piece: nothing to confirm

    def claim(self, piece: int, hash: bytes, *, first_hand: bool) -> None:
        """Note a hash that the peer announces.

        It replaces an earlier one: the peer may have passed on the error of another.
        """
        self.claims[piece] = hash
        self.claimed |= 1 << piece
        if first_hand:
            self.first_hand |= 1 << piece
        else:
            self.first_hand &= ~(1 << piece)

    def mismatch(self, piece: int) -> None:
        """Its bytes do not match its claim. It is asked at once whether it confirms the claim."""
        self.mismatched[piece] = self.claims.pop(piece)
        self.claimed &= ~(1 << piece)
        self.hash_requests = 0
        self.hashes_asked_at = float("-inf")

    def confirms_mismatch(self, piece: int, claim: bytes) -> bool:
        """Whether a claim repeats one that its bytes did not match. Ends the wait for it."""
        return self.mismatched.pop(piece, None) == claim

    def contradict(self, piece: int, hash: bytes, *, counts: bool) -> None:
        """Its bytes hash to ``hash``, for which it made no claim and others another.

        Noted as its claim, so that a second neighbour with the same bytes shows it right.
        """
        self.claims[piece] = hash
        self.claimed |= 1 << piece
        self.contradictions += counts

    def note_outvoted(self, piece: int, *, outvoted: bool) -> None:
        """Whether more neighbours announce another hash of a piece."""
        self.outvoted = self.outvoted | 1 << piece if outvoted else self.outvoted & ~(1 << piece)

    def refute(self, piece: int) -> bool:
        """The origin's bytes have another hash than it claims. Returns whether this is new."""
        new = not self.refuted >> piece & 1
        self.refuted |= 1 << piece
        return new

    def note_discredited(self) -> None:
        """One hash more is discredited on its account."""
        self.discredited += 1

    def note_audited(self) -> None:
        """The origin is asked about one of its pieces."""
        self.audited = True

    def note_query(self) -> None:
        """Note that this node asks the peer for its first ``Have``."""
        self.queries_left -= 1

    def note_announced(self, pieces: int) -> None:
        """Note that this node announced these pieces to the peer."""
        self.announced = pieces

    def forget_announced(self, pieces: int = -1) -> None:
        """Announce these pieces (all by default) to the peer again."""
        self.announced &= ~pieces

    def note_hash_request(self, now: float, *, last_was_useful: bool) -> None:
        """Note that this node asks the peer for hashes."""
        self.hashes_asked_at = now
        self.hash_requests = 0 if last_was_useful else self.hash_requests + 1


class Registration(Struct):
    """The state of this node's registration at the blob's rendezvous node.

    Attributes:
      number: of the last ``Register``. ``unanswered``: how many in a row had no answer.
      answered: the present rendezvous node has answered.
      can_lease: this node offered to fetch from the origin.
      count: participants. ``leasable``, ``leased``, ``origin_possible``: as in ``Participants``.
      origin_active_at: when pieces were last leased or to be leased.
    """

    rendezvous: NodeId
    number: int = 0
    unanswered: int = 0
    answered: bool = False
    can_lease: bool = False
    count: int = 1
    leasable: bool = True
    leased: bool = False
    origin_possible: bool = True
    origin_active_at: float = float("-inf")

    def move(self, rendezvous: NodeId) -> None:
        """Another node is the rendezvous node now."""
        if rendezvous != self.rendezvous:
            self.rendezvous, self.answered, self.unanswered = rendezvous, False, 0

    def send(self, number: int, *, can_lease: bool) -> None:
        """A ``Register`` goes out."""
        self.number, self.can_lease = number, can_lease
        self.unanswered += 1

    def receive(
        self, *, count: int, leasable: bool, leased: bool, origin_possible: bool, now: float
    ) -> None:
        """A ``Participants`` came, as an answer or unasked."""
        self.count, self.leasable, self.leased = count, leasable, leased
        self.origin_possible = origin_possible
        if leasable or leased:
            self.origin_active_at = now

    def acknowledge(self) -> None:
        """Note that the rendezvous node answered a registration."""
        self.unanswered, self.answered = 0, True


class OriginAccess(Struct):
    """Whether the origin gives this blob to this node, by its answers so far.

    Attributes:
      known: an origin is known at all. ``refused``: it denied the blob to this node.
      failures: in a row. ``retry_at``: it is not asked again before this time.
    """

    known: bool = False
    refused: bool = False
    failures: int = 0
    retry_at: float = 0.0

    @property
    def allowed(self) -> bool:
        """Whether an origin is known that has not refused the blob."""
        return self.known and not self.refused

    @property
    def possible(self) -> bool:
        """Whether the origin is allowed, and failed less than ``ORIGIN_FAILURES_MAX`` in a row."""
        return self.allowed and self.failures < ORIGIN_FAILURES_MAX

    def offer(self, now: float) -> None:
        """Note that a pull names an origin. It is asked at once, even after failures."""
        self.known, self.refused, self.failures, self.retry_at = True, False, 0, now

    def refuse(self) -> None:
        """Note that the origin denied the blob to this node."""
        self.refused = True

    def fail(self, now: float) -> float:
        """Note that the origin failed. Returns: seconds until it is asked again."""
        pause_s = min(ORIGIN_PAUSE_MAX_S, ORIGIN_PAUSE_S * 2.0 ** min(self.failures, 8))
        self.failures += 1
        self.retry_at = now + pause_s
        return pause_s

    def succeed(self) -> None:
        """Note that the origin sent a piece."""
        self.failures = 0


class HashEvidence(Struct):
    """Evidence about the hashes of one blob, beside the neighbours' claims.

    Attributes:
      first_seen: the first hash announced or found of each piece.
      conflicted: pieces of which a second hash turned up.
      discredited: hashes that a banned peer brought into the swarm, by piece.
      unsupported: held pieces whose hash only banned peers vouched for.
      suspects: neighbours to be audited, in the order in which they became suspect.
      auditing: pieces that are fetched from the origin for an audit.
      refetch: revoked pieces that only the origin may give.
    """

    first_seen: dict[int, bytes] = field(default_factory=dict)
    conflicted: int = 0
    discredited: dict[int, set[bytes]] = field(default_factory=dict)
    unsupported: int = 0
    suspects: dict[NodeId, None] = field(default_factory=dict)
    auditing: int = 0
    refetch: int = 0

    def note(self, piece: int, hash: bytes) -> bool:
        """A hash of a piece is announced or found. Returns whether the piece is conflicted."""
        if self.first_seen.setdefault(piece, hash) != hash:
            self.conflicted |= 1 << piece
        return bool(self.conflicted >> piece & 1)

    def discredit(self, piece: int, hash: bytes) -> bool:
        """A banned peer is the source of this hash. Returns whether that is new."""
        hashes = self.discredited.setdefault(piece, set())
        new = hash not in hashes
        hashes.add(hash)
        return new

    def is_discredited(self, piece: int, hash: bytes) -> bool:
        """Whether a banned peer is the source of this hash."""
        return hash in self.discredited.get(piece, ())

    def note_conflict(self, piece: int, *, unsupported: bool) -> None:
        """A piece's hash is discredited; ``unsupported``: the piece is held by that hash."""
        self.conflicted |= 1 << piece
        self.unsupported |= unsupported << piece

    def suspect(self, node: NodeId) -> None:
        """Audit this neighbour when its turn comes."""
        self.suspects[node] = None

    def clear(self, node: NodeId) -> None:
        """Do not audit this node any more."""
        self.suspects.pop(node, None)

    def begin_audit(self, pieces: int) -> None:
        """These pieces are fetched from the origin to find out who is wrong."""
        self.auditing = pieces

    def take_unsupported(self) -> int:
        """Returns the unsupported pieces, which the caller revokes."""
        pieces, self.unsupported = self.unsupported, 0
        return pieces

    def set_refetch(self, pieces: int) -> None:
        """Only the origin may give these revoked pieces."""
        self.refetch = pieces


class Progress(Struct, frozen=True):
    """How far a download is. ``wasted_bytes``: received and not used, or received twice."""

    size_bytes: int
    held_bytes: int
    from_peers_bytes: int
    from_origin_bytes: int
    wasted_bytes: int
    per_peer_bytes: dict[NodeId, int]
    participants: int


class Stage(Enum):
    """How far a download is; the transitions stand at the top of the module."""

    FETCHING = "fetching"
    VERIFYING = "verifying"
    VERIFIED = "verified"
    GIVEN_UP = "given up"


class Download:
    """One blob that this node fetches.

    Attributes:
      rank: downloads with lower ranks come first; equal ranks by digest.
      held: accepted pieces. ``first_hand``: those that this node fetched from the origin itself.
      hashes: of the held pieces. ``suppliers``: the peers that gave them.
      fetches: how many fetches run of each piece. ``in_flight``: the set of these pieces.
      partial: the offset up to which a piece that is not held should be in the file.
      reannounce: revoked pieces, whose hash may differ from the one announced before.
      sources_due_at: until then the nodes that should have the blob are waited for, and the
        origin is not asked.
      idle_since: fetches could run, and no neighbour can be asked, since this time.
      without_lease: this node fetches from the origin without a lease.
    """

    def __init__(self, digest: Digest, pieces: Pieces, rank: int, rendezvous: NodeId) -> None:
        self.digest: Final = digest
        self.pieces: Final = pieces
        self.rank = rank
        self.stage = Stage.FETCHING
        self.times_damaged = 0
        self.registration: Final = Registration(rendezvous)
        self.origin: Final = OriginAccess()
        self.evidence: Final = HashEvidence()
        self.held = 0
        self.first_hand = 0
        self.hashes: Final[dict[int, bytes]] = {}
        self.suppliers: Final[dict[int, NodeId]] = {}
        self.reannounce = 0
        self.in_flight = 0
        self.fetches: Final[dict[int, int]] = {}
        self.partial: Final[dict[int, int]] = {}
        self.neighbours: Final[dict[NodeId, Neighbour]] = {}
        self.availability: Final = [0] * pieces.count
        self.announced_at = float("-inf")
        self.sources_due_at = 0.0
        self.idle_since: float | None = None
        self.without_lease = False
        self.stuck = False
        self._stuck_since: float | None = None
        self._from_peers_bytes = 0
        self._from_origin_bytes = 0
        self._wasted_bytes = 0
        self._per_peer_bytes: dict[NodeId, int] = {}

    # --- what it lacks ----------------------------------------------------------------------

    @property
    def missing(self) -> int:
        """Pieces that are not held."""
        return self.pieces.all & ~self.held

    @property
    def complete(self) -> bool:
        """All pieces are held."""
        return self.held == self.pieces.all

    @property
    def verified(self) -> bool:
        """The whole has the right SHA-256."""
        return self.stage is Stage.VERIFIED

    @property
    def attested(self) -> int:
        """Pieces whose hash this node knows to be right, not only by others' word."""
        return self.pieces.all if self.verified else self.first_hand

    # --- its stage --------------------------------------------------------------------------

    def want(self, rank: int) -> None:
        """Want the blob (again), at the earlier rank. Report it again if it gets stuck."""
        self.rank = min(self.rank, rank)
        self.stuck, self._stuck_since = False, None

    def restore(self, hashes: Mapping[int, bytes]) -> None:
        """Hold pieces that lie in the partial file since before this node started."""
        for piece, hash in hashes.items():
            if 0 <= piece < self.pieces.count:
                self.held |= 1 << piece
                self.hashes[piece] = hash[:HASH_BYTES]

    def begin_verifying(self) -> bool:
        """All pieces are held, perhaps. Returns whether the whole is to be verified now."""
        if self.stage is not Stage.FETCHING or not self.complete:
            return False
        self.stage = Stage.VERIFYING
        return True

    def verify(self) -> None:
        """The whole has the right SHA-256."""
        self.stage = Stage.VERIFIED

    def note_damage(self) -> None:
        """The whole has another SHA-256."""
        self.times_damaged += 1

    def resume(self) -> None:
        """Fetch again, after some pieces were found suspect."""
        self.stage = Stage.FETCHING

    def give_up(self) -> None:
        """Fetch no more. The caller reports that."""
        self.stage, self.stuck = Stage.GIVEN_UP, True

    def note_sources(self, now: float, *, any_left: bool, patience_s: float) -> bool:
        """Whether any source is left. Returns True once none was for ``patience_s`` seconds."""
        if self.stuck or any_left:
            self._stuck_since = None
        elif self._stuck_since is None:
            self._stuck_since = now
        elif now - self._stuck_since >= patience_s:
            self.stuck = True
            return True
        return False

    def note_idle(self, now: float, *, idle: bool) -> None:
        """Whether fetches could run, and no neighbour can be asked."""
        if not idle:
            self.idle_since = None
        elif self.idle_since is None:
            self.idle_since = now

    def await_sources(self, until: float) -> None:
        """Do not ask the origin before this time."""
        self.sources_due_at = until

    def begin_without_lease(self) -> None:
        """Fetch from the origin without a lease, until a peer gives a piece."""
        self.without_lease = True

    def note_announced(self, now: float) -> None:
        """Its new pieces are announced to the neighbours."""
        self.announced_at = now

    # --- its pieces -------------------------------------------------------------------------

    def accept(self, piece: int, hash: bytes, supplier: NodeId | None) -> None:
        """Hold a piece. ``supplier``: None for the origin."""
        bit = 1 << piece
        self.held |= bit
        self.hashes[piece] = hash
        self.evidence.refetch &= ~bit
        self.partial.pop(piece, None)
        if supplier is None:
            self.first_hand |= bit
            self.origin.succeed()
            self.suppliers.pop(piece, None)
        else:
            self.suppliers[piece] = supplier
            self.evidence.first_seen.setdefault(piece, hash)
            self.without_lease = False

    def refuse(self, piece: int) -> None:
        """A piece that arrived is not held; its bytes are wasted."""
        self._wasted_bytes += self.pieces.length(piece)
        self.partial.pop(piece, None)

    def revoke(self, pieces: int) -> None:
        """Held pieces are to be fetched again, and not from the peers that gave them."""
        self.reannounce |= pieces
        self.evidence.unsupported &= ~pieces
        for neighbour in self.neighbours.values():
            neighbour.forget_announced(pieces)
        self.held &= ~pieces
        for piece in pieces_in(pieces):
            supplier = self.suppliers.pop(piece, None)
            neighbour_or_none = self.neighbours.get(supplier) if supplier is not None else None
            if neighbour_or_none is not None:
                self.exclude(neighbour_or_none, 1 << piece)
            del self.hashes[piece]

    def begin_fetch(self, pieces: int) -> None:
        """A fetch of these pieces begins."""
        self.in_flight |= pieces
        for piece in pieces_in(pieces):
            self.fetches[piece] = self.fetches.get(piece, 0) + 1

    def end_fetch(self, pieces: int) -> None:
        """A fetch of these pieces is over."""
        for piece in pieces_in(pieces):
            self.fetches[piece] -= 1
            if not self.fetches[piece]:
                del self.fetches[piece]
                self.in_flight &= ~(1 << piece)

    def keep_partial(self, piece: int, position: int) -> None:
        """The file has a piece's bytes up to the offset ``position``."""
        self.partial[piece] = position

    def take_partial(self, piece: int) -> int | None:
        """The offset up to which the file has a piece, which is forgotten; or None."""
        return self.partial.pop(piece, None)

    # --- its neighbours ---------------------------------------------------------------------

    def seeds(self) -> list[NodeId]:
        """Neighbours that have the blob whole and can be asked for all of it."""
        whole = self.pieces.all
        return [n.node for n in self.neighbours.values() if n.heard_from and n.usable == whole]

    def add(self, neighbour: Neighbour) -> Neighbour:
        """Exchange piece sets with a peer from now on."""
        self.neighbours[neighbour.node] = neighbour
        return neighbour

    def remove(self, node: NodeId) -> bool:
        """Forget a neighbour. Returns whether it was one."""
        neighbour = self.neighbours.pop(node, None)
        if neighbour is None:
            return False
        self._count(neighbour.usable, 0)
        self.evidence.clear(node)
        return True

    def set_held(self, neighbour: Neighbour, held: int) -> None:
        """A neighbour has these pieces now."""
        before = neighbour.usable
        neighbour.held = held
        self._count(before, neighbour.usable)

    def exclude(self, neighbour: Neighbour, pieces: int) -> None:
        """Do not ask a neighbour for these pieces any more."""
        before = neighbour.usable
        neighbour.excluded |= pieces
        self._count(before, neighbour.usable)

    def readmit(self, neighbour: Neighbour, piece: int) -> None:
        """A neighbour replaced its claim of a piece: it may be asked for the piece again, once."""
        bit = 1 << piece
        if neighbour.excluded & bit & ~neighbour.readmitted:
            before = neighbour.usable
            neighbour.readmitted |= bit
            neighbour.excluded &= ~bit
            self._count(before, neighbour.usable)

    def dispute(self, neighbour: Neighbour, piece: int, *, disputed: bool) -> None:
        """Whether better evidence speaks against a neighbour's claim of a piece."""
        bit = 1 << piece
        if bool(neighbour.disputed & bit) != disputed:
            before = neighbour.usable
            neighbour.disputed ^= bit
            self._count(before, neighbour.usable)

    def ban(self, neighbour: Neighbour) -> None:
        """A neighbour is banned: it is asked for nothing, and its claims count for nothing."""
        self.exclude(neighbour, self.pieces.all)
        neighbour.claims.clear()
        neighbour.mismatched.clear()
        neighbour.claimed = neighbour.first_hand = neighbour.disputed = neighbour.outvoted = 0
        self.evidence.clear(neighbour.node)

    def _count(self, before: int, after: int) -> None:
        for piece in pieces_in(after & ~before):
            self.availability[piece] += 1
        for piece in pieces_in(before & ~after):
            self.availability[piece] -= 1

    # --- its bytes --------------------------------------------------------------------------

    def count_received(self, source: NodeId | None, count: int) -> None:
        """``count`` bytes came. ``source``: None for the origin."""
        if source is None:
            self._from_origin_bytes += count
        else:
            self._from_peers_bytes += count
            self._per_peer_bytes[source] = self._per_peer_bytes.get(source, 0) + count

    def count_wasted(self, count: int) -> None:
        """``count`` bytes came for nothing."""
        self._wasted_bytes += count

    def held_bytes(self) -> int:
        """Bytes of held pieces."""
        count = self.held.bit_count() * self.pieces.piece_bytes
        last = self.pieces.count - 1
        if last >= 0 and self.held >> last & 1:
            count -= self.pieces.piece_bytes - self.pieces.length(last)
        return count

    def progress(self) -> Progress:
        """How far it is."""
        return Progress(
            self.pieces.size_bytes,
            self.held_bytes(),
            self._from_peers_bytes,
            self._from_origin_bytes,
            self._wasted_bytes,
            dict(self._per_peer_bytes),
            self.registration.count,
        )


def in_download_order(downloads: Mapping[Digest, Download]) -> list[Download]:
    """Downloads that lack pieces, the first to be fetched first."""
    wanted = [d for d in downloads.values() if not d.complete and d.stage is not Stage.GIVEN_UP]
    return sorted(wanted, key=lambda d: (d.rank, d.digest))
