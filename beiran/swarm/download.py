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
      broken: claims that its bytes did not fit, until it says whether it stands by them.
      told: our pieces that it was told of. ``wants``: it lacks some.
      heard: it has spoken of the blob. ``asks_left``: how often it is still asked to.
    """

    node: NodeId
    held: int = 0
    unfit: int = 0
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
        return self.held & ~self.unfit

    @property
    def ready(self) -> int:
        """Pieces that it can be asked for and whose hash it told, where it can tell."""
        return self.fit if self.hashes_asks >= HASHES_TRIES else self.fit & self.claimed

    def claim(self, piece: int, hash: bytes, first_hand: bool) -> None:
        """It announces a hash; a later one replaces an earlier (it may have been fooled)."""
        self.claims[piece] = hash
        self.claimed |= 1 << piece
        if first_hand:
            self.first_hand |= 1 << piece


class Partial(Struct, frozen=True):
    """The first bytes of a piece are there, up to ``end``. ``giver``: None if several gave them."""

    end: int
    giver: NodeId | None


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
    told_held: int = -1


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
      recheck: doubted pieces that only the origin may give.
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
        self.partial: dict[int, Partial] = {}
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
        self.corrected = 0
        self.times_damaged = 0
        self.complete_told = False
        self.given_up = False
        self.verified = False
        self.idle_since: float | None = None
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

    def seeds(self) -> list[NodeId]:
        """Neighbours that have the blob whole, and may be asked for all of it."""
        whole = self.pieces.all
        return [n.node for n in self.neighbours.values() if n.heard and n.fit == whole]

    def set_held(self, neighbour: Neighbour, held: int) -> None:
        """A neighbour has these pieces now."""
        self._count(neighbour, held & ~neighbour.unfit)
        neighbour.held = held

    def set_unfit(self, neighbour: Neighbour, pieces: int) -> None:
        """Do not ask a neighbour for these pieces any more."""
        unfit = neighbour.unfit | pieces
        self._count(neighbour, neighbour.held & ~unfit)
        neighbour.unfit = unfit

    def shun(self, neighbour: Neighbour) -> None:
        """A neighbour lied: nothing that it says or has counts."""
        self.set_unfit(neighbour, self.pieces.all)
        neighbour.claims.clear()
        neighbour.claimed = neighbour.first_hand = 0

    def remove(self, node: NodeId) -> Neighbour | None:
        """A neighbour is gone, or not asked any more."""
        neighbour = self.neighbours.pop(node, None)
        if neighbour is not None:
            self._count(neighbour, 0)
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

    def _count(self, neighbour: Neighbour, fit: int) -> None:
        old = neighbour.fit
        for piece in members(fit & ~old):
            self.availability[piece] += 1
        for piece in members(old & ~fit):
            self.availability[piece] -= 1
