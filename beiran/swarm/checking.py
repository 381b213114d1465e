"""Whether a piece's bytes are right, and who lied if they are not.

Nothing here makes a blob right: its SHA-256 does, once it is whole. Until then hashes that peers
announce are hints, and good ones: who sends bytes that do not hash to what it announced itself is
found out at the first piece. Who announces wrong hashes, too, is found out where somebody has the
piece from the origin, or else at the end, when the whole is damaged: then doubtful pieces are
fetched again.
"""

from enum import Enum
from typing import Final

from beiran.ids import NodeId
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour

CONTRADICTIONS_MAX: Final = 2  # pieces of a peer without claims that do not fit what others claim


class Verdict(Enum):
    """What to do with a piece that arrived."""

    ACCEPT = "accept"
    REFETCH = "refetch"


class Checker:
    """Judges pieces, and keeps the reasons for distrust."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def judge(
        self, download: Download, giver: NodeId | None, piece: int, hash: bytes, *, mixed: bool
    ) -> Verdict:
        """Whether a piece from a peer is accepted.

        Args:
          giver: None if it is no neighbour any more. mixed: several gave parts of the piece.
        """
        neighbour = download.neighbours.get(giver) if giver is not None else None
        own_claim = neighbour.claims.get(piece) if neighbour is not None else None
        if own_claim is not None:
            if own_claim == hash:
                return Verdict.ACCEPT
            if not mixed and neighbour is not None:
                self._ask_again(download, neighbour, piece, own_claim)
            return Verdict.REFETCH
        claims = self.claims(download, piece)
        if not claims or hash in claims:
            return Verdict.ACCEPT
        if neighbour is not None and not mixed:
            self._contradicted(download, neighbour, piece, hash)
        return Verdict.REFETCH

    def from_origin(self, download: Download, piece: int, hash: bytes) -> None:
        """We have a piece from the origin: whoever says it had another from there lied."""
        bit = 1 << piece
        for neighbour in list(download.neighbours.values()):
            claim = neighbour.claims.get(piece)
            if claim is None or claim == hash:
                continue
            if neighbour.first_hand & bit:
                reason = f"it announced a piece {piece} that the origin did not give"
                self._context.distrust(neighbour.node, reason)
            else:  # it may have been fooled itself
                download.set_unfit(neighbour, bit)

    def claims(self, download: Download, piece: int) -> list[bytes]:
        """What is announced of a piece, each once."""
        found: list[bytes] = []
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is not None and claim not in found:
                found.append(claim)
        return found

    def doubtful(self, download: Download) -> int:
        """Pieces to be fetched again after the whole was damaged; empty: nothing is left.

        At first those about which claims differ and those that liars gave; then all that we did
        not have from the origin ourselves.
        """
        bits = 0
        others = download.held & ~download.first_hand
        if download.times_damaged == 1:
            for piece, hash in download.hashes.items():
                giver = download.givers.get(piece)
                claims = self.claims(download, piece)
                if giver in self._context.distrusted or any(c != hash for c in claims):
                    bits |= 1 << piece
        return (bits & others) or others

    def repeated(self, neighbour: Neighbour, piece: int, claim: bytes) -> None:
        """A neighbour tells the hash of a piece, perhaps one of which it gave other bytes."""
        broken = neighbour.broken.pop(piece, None)
        if broken == claim:
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
        if supporters > 1:
            neighbour.contradictions += 1
            if neighbour.contradictions > CONTRADICTIONS_MAX:
                reason = f"{neighbour.contradictions} pieces are not what others announced"
                self._context.distrust(neighbour.node, reason)
