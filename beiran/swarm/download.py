"""What is known of one blob in flight: our pieces, and who else has which."""

from typing import Final

from msgspec import Struct, field

from beiran.ids import Digest, NodeId
from beiran.swarm.pieces import Pieces, members

HASHES_TRIES: Final = 4  # asked for so often, a node does not know its pieces' hashes


class Neighbour(Struct):
    """Somebody with whom we exchange what we have of one blob.

    Attributes:
      held: pieces it says it has. ``unfit``: those of them that we do not ask it for any more.
      claims: hashes that it announced, by piece; ``first_hand``: had from the origin, it says.
      disputed: pieces whose hash others, who should know it better, announce otherwise.
      outvoted: pieces of which more others announce another hash. ``refuted``: … of which we know
        from the origin that it announced a wrong one.
      audited: the origin was asked about its word. tainted: how many hashes are, by its word.
      reformed: pieces of which it announced another hash when it was not asked for them any more.
      broken: claims that its bytes did not fit, until it says whether it stands by them.
      told: our pieces that it was told of. ``wants``: it lacks some.
      heard: it has spoken of the blob. ``asks_left``: how often it is still asked to.
    """

    node: NodeId
    held: int = 0
    unfit: int = 0
    disputed: int = 0
    outvoted: int = 0
    refuted: int = 0
    audited: bool = False
    tainted: int = 0
    reformed: int = 0
    claims: dict[int, bytes] = field(default_factory=dict)
    claimed: int = 0
    broken: dict[int, bytes] = field(default_factory=dict)
    first_hand: int = 0
    told: int = 0
    wants: bool = True
    heard: bool = False
    asks_left: int = 0
    hashes_asked_at: float = float("-inf")
    hashes_asks: int = 0
    contradictions: int = 0

    @property
    def fit(self) -> int:
        """Pieces that it can be asked for."""
        return self.held & ~self.unfit & ~self.disputed

    @property
    def ready(self) -> int:
        """Pieces that it can be asked for and whose hash it told, where it can tell.

        None until it has said whether it stands by a word that its bytes broke.
        """
        if self.hashes_asks >= HASHES_TRIES:
            return self.fit
        return 0 if self.broken else self.fit & self.claimed

    def claim(self, piece: int, hash: bytes, first_hand: bool) -> None:
        """It announces a hash; a later one replaces an earlier (it may have been fooled)."""
        self.claims[piece] = hash
        self.claimed |= 1 << piece
        if first_hand:
            self.first_hand |= 1 << piece
        else:
            self.first_hand &= ~(1 << piece)


class Registration(Struct):
    """What we and the rendezvous node know of each other, concerning one blob."""

    rendezvous: NodeId
    number: int = 0
    unanswered: int = 0
    answered: bool = False
    willing: bool = False
    count: int = 1
    leasable: bool = True
    leased: bool = False
    hopeful: bool = True


class Progress(Struct, frozen=True):
    """How far a blob is. ``wasted_bytes``: fetched and not used, or used twice."""

    size_bytes: int
    held_bytes: int
    from_peers_bytes: int
    from_origin_bytes: int
    wasted_bytes: int
    per_peer_bytes: dict[NodeId, int]
    participants: int


class Download:
    """One blob in flight. Its parts are changed by the modules whose idea they are.

    Attributes:
      held: accepted pieces; ``first_hand``: those that we fetched from the origin ourselves.
      in_flight: pieces of running fetches; ``fetches`` counts those of each piece.
      availability: how many neighbours can be asked for each piece.
      corrected: pieces whose hash may be another than we announced at first.
      partial: offset up to which a piece that is not accepted should be in the file.
      recheck: doubted pieces that only the origin may give.
      leased_at: when the origin had yet something to do for it, as its rendezvous node last said.
      said: the first hash that we heard or found of each piece. ``conflicted``: pieces of which
        another one was heard, too.
      tainted: hashes that a liar brought into the world, by piece.
      worthless: pieces that we hold, and for which only liars vouched.
      suspects: who may be a liar. ``auditing``: pieces that are fetched to find out.
    """

    def __init__(self, digest: Digest, pieces: Pieces, rank: int, registration: Registration):
        self.digest = digest
        self.pieces = pieces
        self.rank = rank
        self.from_origin = False
        self.held = 0
        self.first_hand = 0
        self.in_flight = 0
        self.fetches: dict[int, int] = {}
        self.partial: dict[int, int] = {}
        self.hashes: dict[int, bytes] = {}
        self.givers: dict[int, NodeId] = {}
        self.neighbours: dict[NodeId, Neighbour] = {}
        self.availability = [0] * pieces.count
        self.registration = registration
        self.refused = False
        self.origin_failures = 0
        self.origin_again_at = 0.0
        self.sources_due_at = 0.0
        self.announced_at = float("-inf")
        self.recheck = 0
        self.said: dict[int, bytes] = {}
        self.conflicted = 0
        self.tainted: dict[int, set[bytes]] = {}
        self.worthless = 0
        self.suspects: dict[NodeId, None] = {}
        self.auditing = 0
        self.corrected = 0
        self.times_damaged = 0
        self.complete_told = False
        self.given_up = False
        self.verified = False
        self.idle_since: float | None = None
        self.leased_at = float("-inf")
        self.alone = False
        self.stuck_since: float | None = None
        self.stuck_told = False
        self.from_peers_bytes = 0
        self.from_origin_bytes = 0
        self.wasted_bytes = 0
        self.per_peer_bytes: dict[NodeId, int] = {}

    @property
    def missing(self) -> int:
        """Pieces that are not accepted."""
        return self.pieces.all & ~self.held

    @property
    def complete(self) -> bool:
        """All pieces are accepted."""
        return self.held == self.pieces.all

    @property
    def able(self) -> bool:
        """Whether the origin may give it to us, for all we know."""
        return self.from_origin and not self.refused

    @property
    def vouched(self) -> int:
        """Pieces of which we know the hash, not only by what others say."""
        return self.pieces.all if self.verified else self.first_hand

    def seeds(self) -> list[NodeId]:
        """Neighbours that have the blob whole, and may be asked for all of it."""
        whole = self.pieces.all
        return [n.node for n in self.neighbours.values() if n.heard and n.fit == whole]

    def set_held(self, neighbour: Neighbour, held: int) -> None:
        """A neighbour has these pieces now."""
        old = neighbour.fit
        neighbour.held = held
        self._count(old, neighbour.fit)

    def set_unfit(self, neighbour: Neighbour, pieces: int) -> None:
        """Do not ask a neighbour for these pieces any more."""
        old = neighbour.fit
        neighbour.unfit |= pieces
        self._count(old, neighbour.fit)

    def reform(self, neighbour: Neighbour, piece: int) -> None:
        """A neighbour has another word for a piece: it may be asked for it again, once."""
        bit = 1 << piece
        if neighbour.unfit & bit & ~neighbour.reformed:
            old = neighbour.fit
            neighbour.reformed |= bit
            neighbour.unfit &= ~bit
            self._count(old, neighbour.fit)

    def set_disputed(self, neighbour: Neighbour, disputed: int) -> None:
        """Do not ask a neighbour for just these pieces, as long as its word stands alone."""
        old = neighbour.fit
        neighbour.disputed = disputed
        self._count(old, neighbour.fit)

    def shun(self, neighbour: Neighbour) -> None:
        """A neighbour lied: nothing that it says or has counts."""
        self.set_unfit(neighbour, self.pieces.all)
        neighbour.claims.clear()
        neighbour.broken.clear()
        neighbour.claimed = neighbour.first_hand = neighbour.disputed = neighbour.outvoted = 0
        self.suspects.pop(neighbour.node, None)

    def remove(self, node: NodeId) -> Neighbour | None:
        """A neighbour is gone, or not asked any more."""
        neighbour = self.neighbours.pop(node, None)
        if neighbour is not None:
            self._count(neighbour.fit, 0)
            self.suspects.pop(node, None)
        return neighbour

    def begin(self, pieces: int) -> None:
        """A fetch of these pieces begins."""
        self.in_flight |= pieces
        for piece in members(pieces):
            self.fetches[piece] = self.fetches.get(piece, 0) + 1

    def end(self, pieces: int) -> None:
        """A fetch of these pieces is over."""
        for piece in members(pieces):
            self.fetches[piece] -= 1
            if not self.fetches[piece]:
                del self.fetches[piece]
                self.in_flight &= ~(1 << piece)

    def held_bytes(self) -> int:
        """Bytes of accepted pieces."""
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
            self.from_peers_bytes,
            self.from_origin_bytes,
            self.wasted_bytes,
            dict(self.per_peer_bytes),
            self.registration.count,
        )

    def _count(self, old: int, fit: int) -> None:
        for piece in members(fit & ~old):
            self.availability[piece] += 1
        for piece in members(old & ~fit):
            self.availability[piece] -= 1
