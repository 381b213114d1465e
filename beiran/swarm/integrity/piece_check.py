"""Whether a piece's bytes are right, and who lied if they are not.

Nothing here makes a blob right: its SHA-256 does, once it is whole. Until then hashes that peers
announce are hints, and good ones: who sends bytes that do not hash to what it announced itself is
found out at the first piece.

Where announcements differ, those who had the piece from the origin are believed before those who
had it from others, who may have been fooled. But what somebody says of the origin is only known to
be true or false by asking the origin: for each piece that we have from there, we know who lied
(``Checker.from_origin``); and of whom others speak against, we ask it for one (``audits``).

Of a liar nothing is kept that only it vouched for: such hashes are *tainted*, whoever repeats them.
"""

from enum import Enum
from typing import Final

from beiran.ids import NodeId
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.pieces import members

CONTRADICTIONS_MAX: Final = 2  # pieces of a peer without claims that do not fit what others claim
TAINTED_MIN: Final = 8  # so many pieces a liar's word may taint …
TAINTED_SHARES: Final = 4  # … and so many times its share of the blob
OUTVOTED_MAX: Final = 1  # pieces of which others may say otherwise before a peer is suspect


class Verdict(Enum):
    """What to do with a piece that arrived."""

    ACCEPT = "accept"
    REFETCH = "refetch"


class Checker:
    """Judges pieces and words, and keeps the reasons for distrust."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._doubted: set[NodeId] = set()
        """Against whose words somebody spoke, of whatever blob."""

    # --- words ------------------------------------------------------------------------------

    def heard(
        self, download: Download, neighbour: Neighbour, piece: int, hash: bytes, first_hand: bool
    ) -> None:
        """A neighbour tells a piece's hash."""
        self._repeated(download, neighbour, piece, hash)
        if neighbour.node in self._context.distrusted:
            self._heard_from_liar(download, neighbour, piece, hash, first_hand)
            return
        if neighbour.claims.get(piece, hash) != hash:
            download.reform(neighbour, piece)
        neighbour.claim(piece, hash, first_hand)
        if download.first_hand >> piece & 1 and hash != download.hashes.get(piece):
            self._refute(download, neighbour, piece)
        self._note(download, piece, hash)

    def claims(self, download: Download, piece: int) -> list[bytes]:
        """What is announced of a piece by those who should know best, each hash once."""
        found: list[bytes] = []
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is not None and claim not in found and not neighbour.disputed >> piece & 1:
                found.append(claim)
        return found

    # --- pieces -----------------------------------------------------------------------------

    def judge(
        self, download: Download, giver: NodeId | None, piece: int, hash: bytes, *, mixed: bool
    ) -> Verdict:
        """Whether a piece from a peer is accepted.

        Args:
          giver: None if it is no neighbour any more. mixed: several gave parts of the piece.
        """
        neighbour = download.neighbours.get(giver) if giver is not None else None
        own_claim = neighbour.claims.get(piece) if neighbour is not None else None
        claims = self.claims(download, piece)
        if own_claim is not None:
            if own_claim != hash and not mixed and neighbour is not None:
                self._ask_again(download, neighbour, piece, own_claim)
            # A claim that turned out to be doubtful while its bytes came is not among these.
            return Verdict.ACCEPT if own_claim == hash and hash in claims else Verdict.REFETCH
        if hash in claims:
            return Verdict.ACCEPT
        if not claims and not mixed and hash not in download.tainted.get(piece, ()):
            return Verdict.ACCEPT
        if neighbour is not None and not mixed:
            self._contradicted(download, neighbour, piece, hash)
        return Verdict.REFETCH

    def from_origin(self, download: Download, piece: int, hash: bytes) -> None:
        """We have a piece from the origin: whoever says it had another from there lied."""
        for neighbour in list(download.neighbours.values()):
            if neighbour.claims.get(piece, hash) != hash:
                self._refute(download, neighbour, piece)
        self._note(download, piece, hash)

    def doubtful(self, download: Download) -> int:
        """Pieces to be fetched again after the whole was damaged; empty: nothing is left.

        At first those about which others say otherwise or that liars gave, and one for which each
        neighbour vouches; then all for which nobody vouches; then all that we did not have from
        the origin ourselves.
        """
        others = download.held & ~download.first_hand
        if download.times_damaged > 2:
            return others
        bits = download.worthless
        if download.times_damaged == 2:
            for piece in members(others):
                if not self._vouched(download, piece, download.hashes[piece]):
                    bits |= 1 << piece
            return (bits & others) or others
        for piece, hash in download.hashes.items():
            claims = self.claims(download, piece)
            from_liar = download.givers.get(piece) in self._context.distrusted
            if from_liar or any(claim != hash for claim in claims):
                bits |= 1 << piece
        bits &= others
        if download.able:
            for neighbour in download.neighbours.values():
                vouched = neighbour.first_hand & others
                if vouched and not vouched & bits:
                    bits |= vouched & -vouched
        return bits or others

    # --- liars ------------------------------------------------------------------------------

    def taint(self, download: Download, liar: Neighbour) -> None:
        """Somebody is distrusted by now: what it alone vouched for is worth nothing.

        Not so where nobody ever spoke against its words, but only its bytes were not what it had
        announced: what fits its words is right, then, as far as anybody knows.
        """
        if liar.node not in self._doubted:
            return
        for piece, claim in liar.claims.items():
            gave = download.givers.get(piece) == liar.node
            if gave or (liar.first_hand | download.conflicted) >> piece & 1:
                self._taint(download, liar, piece, claim)

    def _heard_from_liar(
        self, download: Download, liar: Neighbour, piece: int, hash: bytes, first_hand: bool
    ) -> None:
        """Its word is good for one thing: whoever repeats it was fooled."""
        if download.first_hand >> piece & 1:
            if hash != download.hashes.get(piece):
                download.tainted.setdefault(piece, set()).add(hash)
        elif first_hand and liar.node in self._doubted:
            self._taint(download, liar, piece, hash)
            self._note(download, piece, hash)

    def _taint(self, download: Download, liar: Neighbour, piece: int, hash: bytes) -> None:
        bit = 1 << piece
        # What a liar says of much more than its share of the leases is not even of use against it.
        share = download.pieces.count // max(1, download.registration.count)
        if liar.tainted >= TAINTED_SHARES * share + TAINTED_MIN:
            return
        if self._vouched(download, piece, hash):
            return
        tainted = download.tainted.setdefault(piece, set())
        if hash not in tainted:
            tainted.add(hash)
            liar.tainted += 1
        download.conflicted |= bit
        if download.held & ~download.first_hand & bit and download.hashes[piece] == hash:
            download.worthless |= bit

    def weigh_again(self, download: Download) -> None:
        """Somebody's word counts for nothing any more."""
        for piece in members(download.conflicted):
            self._weigh(download, piece)

    def _vouched(self, download: Download, piece: int, hash: bytes) -> bool:
        """Whether we, or somebody whom we trust, had just this from the origin."""
        bit = 1 << piece
        if download.first_hand & bit:
            return download.hashes.get(piece) == hash
        return any(
            n.first_hand & bit and n.claims.get(piece) == hash and self._context.trusts(n.node)
            for n in download.neighbours.values()
        )

    # --- conflicts --------------------------------------------------------------------------

    def _note(self, download: Download, piece: int, hash: bytes) -> None:
        bit = 1 << piece
        if download.said.setdefault(piece, hash) != hash:
            download.conflicted |= bit
        if download.conflicted & bit:
            self._weigh(download, piece)

    def _weigh(self, download: Download, piece: int) -> None:
        """Several hashes are announced of a piece: whose word counts?"""
        bit = 1 << piece
        votes: dict[bytes, int] = {}
        best: set[bytes] = set()
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is not None:
                votes[claim] = votes.get(claim, 0) + 1
                if neighbour.first_hand & bit:
                    best.add(claim)
        if download.first_hand & bit:
            best = {download.hashes[piece]}
        tainted = download.tainted.get(piece, set())
        most = max(votes.values(), default=0)
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is None:
                continue
            wrong = claim not in best if best else claim in tainted
            disputed = neighbour.disputed | bit if wrong else neighbour.disputed & ~bit
            if disputed != neighbour.disputed:
                download.set_disputed(neighbour, disputed)
            if wrong:
                self._doubted.add(neighbour.node)
            if votes[claim] < most and claim not in tainted:
                neighbour.outvoted |= bit
                self._doubted.add(neighbour.node)
                if neighbour.outvoted.bit_count() > OUTVOTED_MAX and not neighbour.audited:
                    download.suspects[neighbour.node] = None
            else:
                neighbour.outvoted &= ~bit

    def _refute(self, download: Download, neighbour: Neighbour, piece: int) -> None:
        """A neighbour announces another hash than the origin's bytes have."""
        bit = 1 << piece
        if neighbour.refuted & bit:
            return
        neighbour.refuted |= bit
        self._doubted.add(neighbour.node)
        download.tainted.setdefault(piece, set()).add(neighbour.claims[piece])
        if neighbour.first_hand & bit:
            reason = f"it announced a piece {piece} that the origin did not give"
            self._context.distrust(neighbour.node, reason)
            return
        # It may have been fooled itself: that is only found out by what it had from the origin.
        if neighbour.refuted.bit_count() > OUTVOTED_MAX and not neighbour.audited:
            download.suspects[neighbour.node] = None

    # --- broken words -----------------------------------------------------------------------

    def _repeated(self, download: Download, neighbour: Neighbour, piece: int, claim: bytes) -> None:
        """A neighbour tells the hash of a piece, perhaps one of which it gave other bytes."""
        broken = neighbour.broken.pop(piece, None)
        if broken is not None and broken == claim:
            reason = f"it gave other bytes than it announced for piece {piece}"
            self._context.distrust(neighbour.node, reason)

    def _ask_again(
        self, download: Download, neighbour: Neighbour, piece: int, claim: bytes
    ) -> None:
        """Its bytes are not what it announced: does it stand by its word?

        If it does it lies. But it may have found out meanwhile that it had been fooled, and have
        fetched the piece again; then it announces another hash by now.
        """
        neighbour.broken[piece] = claim
        del neighbour.claims[piece]
        neighbour.claimed &= ~(1 << piece)
        neighbour.hashes_asks = 0
        neighbour.hashes_asked_at = float("-inf")

    def _contradicted(
        self, download: Download, neighbour: Neighbour, piece: int, hash: bytes
    ) -> None:
        """It announced no hash, and its bytes are not what others announced."""
        supporters = sum(1 for n in download.neighbours.values() if piece in n.claims)
        neighbour.claims[piece] = hash  # another with the same bytes shows that it was right
        neighbour.claimed |= 1 << piece
        download.set_unfit(neighbour, 1 << piece)
        self._note(download, piece, hash)
        if supporters > 1:
            neighbour.contradictions += 1
            if neighbour.contradictions > CONTRADICTIONS_MAX:
                reason = f"{neighbour.contradictions} pieces are not what others announced"
                self._context.distrust(neighbour.node, reason)
