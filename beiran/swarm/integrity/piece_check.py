"""Whether a received piece is right, and which peer is to blame if it is not.

Theory. Nothing here proves a blob right: its SHA-256 does, once it is whole. Until then the hashes
that peers announce are hints, of two strengths. A peer has a piece at *first hand* if it fetched
the piece from the origin, or verified the whole blob; at second hand otherwise, and then it may
have been deceived itself. Five rules follow:

1. A peer that sends other bytes than it announced, and confirms the announcement when asked again,
   is banned. That costs one piece. (It may also have found out meanwhile that it was deceived, and
   replaced the piece; then it announces another hash now.)
2. Where announcements differ, first hand outweighs second hand. A claim that loses is *disputed*:
   its peer is not asked for that piece.
3. Each piece that this node has from the origin itself settles who was right about it. A peer that
   claimed another hash at first hand is banned.
4. A claim of "first hand" can only be tested at the origin. A peer that is outvoted or refuted on
   more than ``OUTVOTED_MAX`` pieces is a *suspect*: ``repair.Auditor`` fetches one of its
   first-hand pieces from the origin, and rule 3 decides.
5. Nothing is kept that only a banned peer vouched for, unless all its claims stood uncontradicted:
   its hashes are *discredited*, whichever peer repeats them, and held pieces with such hashes are
   *unsupported* and fetched again.
"""

from enum import Enum
from typing import Final

from beiran.ids import NodeId
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.integrity.bans import BanList
from beiran.swarm.pieces import pieces_in

CONTRADICTIONS_MAX: Final = 2
"""Pieces of a peer without claims that two others contradict, before it is banned. The first ones
may be the others' fault: a piece can be announced wrongly by two peers that were deceived alike."""
OUTVOTED_MAX: Final = 1
"""Pieces on which a peer may be outvoted or refuted before it is a suspect. One can be bad luck, as
a deceived peer passes a wrong piece on; an audit costs the origin a piece."""
DISCREDITED_MIN: Final = 8
DISCREDITED_SHARES: Final = 4
"""A banned peer discredits at most DISCREDITED_MIN hashes and DISCREDITED_SHARES times its share of
the blob. Beyond that its word is not used even against it: it could void the whole blob."""


class Verdict(Enum):
    """What to do with a piece that arrived."""

    ACCEPT = "accept"
    REFETCH = "refetch"


class Checker:
    """Judges pieces and claims, and bans peers."""

    def __init__(self, bans: BanList) -> None:
        self._bans = bans
        self._contradicted: set[NodeId] = set()
        """Peers whose claim about any piece of any blob was contradicted."""

    # --- claims -----------------------------------------------------------------------------

    def on_claim(
        self, download: Download, neighbour: Neighbour, piece: int, hash: bytes, *, first_hand: bool
    ) -> None:
        """A neighbour announces the hash of a piece."""
        if neighbour.confirms_mismatch(piece, hash):
            reason = f"it sent other bytes than it announced for piece {piece}"
            self._bans.ban(neighbour.node, reason)
        if neighbour.node in self._bans.reasons:
            self._on_banned_claim(download, neighbour, piece, hash, first_hand=first_hand)
            return
        if neighbour.claims.get(piece, hash) != hash:
            download.readmit(neighbour, piece)
        neighbour.claim(piece, hash, first_hand=first_hand)
        if download.first_hand >> piece & 1 and hash != download.hashes.get(piece):
            self._refute(download, neighbour, piece)
        self._note(download, piece, hash)

    def claims(self, download: Download, piece: int) -> list[bytes]:
        """The undisputed claims about a piece, each hash once."""
        found: list[bytes] = []
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is not None and claim not in found and not neighbour.disputed >> piece & 1:
                found.append(claim)
        return found

    # --- pieces -----------------------------------------------------------------------------

    def judge(
        self, download: Download, supplier: NodeId, piece: int, hash: bytes, *, mixed: bool
    ) -> Verdict:
        """Judge a piece from a peer.

        Args:
          supplier: may be no neighbour any more. ``mixed``: several peers gave parts of the piece.
        """
        neighbour = download.neighbours.get(supplier)
        own_claim = neighbour.claims.get(piece) if neighbour is not None else None
        claims = self.claims(download, piece)
        if neighbour is not None and own_claim is not None:
            if own_claim != hash and not mixed:
                neighbour.mismatch(piece)
            # ``claims`` lacks a claim that was disputed while its bytes were on their way.
            return Verdict.ACCEPT if own_claim == hash and hash in claims else Verdict.REFETCH
        if hash in claims:
            return Verdict.ACCEPT
        if not claims and not mixed and not download.evidence.is_discredited(piece, hash):
            return Verdict.ACCEPT
        if neighbour is not None and not mixed:
            self._contradict(download, neighbour, piece, hash)
        return Verdict.REFETCH

    def on_origin_piece(self, download: Download, piece: int, hash: bytes) -> None:
        """A piece came from the origin. Claims about it that differ are refuted (rule 3)."""
        for neighbour in list(download.neighbours.values()):
            if neighbour.claims.get(piece, hash) != hash:
                self._refute(download, neighbour, piece)
        self._note(download, piece, hash)

    def suspect_pieces(self, download: Download) -> int:
        """The pieces to fetch again after the whole had a wrong SHA-256. Empty: none is left.

        After the first time: conflicting pieces, those that banned peers gave, and one of each
        neighbour that vouches for any. After the second: those for which no first hand vouches.
        Then all that this node did not fetch from the origin itself.
        """
        others = download.held & ~download.first_hand
        if download.times_damaged > 2:
            return others
        bits = download.evidence.unsupported
        if download.times_damaged == 2:
            for piece in pieces_in(others):
                if not self._vouched_for(download, piece, download.hashes[piece]):
                    bits |= 1 << piece
            return (bits & others) or others
        for piece, hash in download.hashes.items():
            claims = self.claims(download, piece)
            from_banned = download.suppliers.get(piece) in self._bans.reasons
            if from_banned or any(claim != hash for claim in claims):
                bits |= 1 << piece
        bits &= others
        if download.origin.allowed:
            for neighbour in download.neighbours.values():
                vouched = neighbour.first_hand & others
                if vouched and not vouched & bits:
                    bits |= vouched & -vouched
        return bits or others

    # --- banned peers -----------------------------------------------------------------------

    def discredit(self, download: Download, banned: Neighbour) -> None:
        """Discredit the hashes for which only a banned peer vouched (rule 5).

        Not those of a peer that was banned for its bytes alone, and whose claims were never
        contradicted: bytes that match its claims are right, as far as any node knows.
        """
        if banned.node not in self._contradicted:
            return
        for piece, claim in banned.claims.items():
            gave = download.suppliers.get(piece) == banned.node
            if gave or (banned.first_hand | download.evidence.conflicted) >> piece & 1:
                self._discredit(download, banned, piece, claim)

    def weigh_again(self, download: Download) -> None:
        """Decide every conflict of a blob anew: some claims count for nothing any more."""
        for piece in pieces_in(download.evidence.conflicted):
            self._weigh(download, piece)

    def _on_banned_claim(
        self, download: Download, banned: Neighbour, piece: int, hash: bytes, *, first_hand: bool
    ) -> None:
        """Use a banned peer's claim for one thing: peers that repeat it were deceived."""
        if download.first_hand >> piece & 1:
            if hash != download.hashes.get(piece):
                download.evidence.discredit(piece, hash)
        elif first_hand and banned.node in self._contradicted:
            self._discredit(download, banned, piece, hash)
            self._note(download, piece, hash)

    def _discredit(self, download: Download, banned: Neighbour, piece: int, hash: bytes) -> None:
        share = download.pieces.count // max(1, download.registration.count)
        if banned.discredited >= DISCREDITED_SHARES * share + DISCREDITED_MIN:
            return
        if self._vouched_for(download, piece, hash):
            return
        if download.evidence.discredit(piece, hash):
            banned.note_discredited()
        second_hand = download.held & ~download.first_hand
        held_by_it = bool(second_hand >> piece & 1) and download.hashes[piece] == hash
        download.evidence.note_conflict(piece, unsupported=held_by_it)

    def _vouched_for(self, download: Download, piece: int, hash: bytes) -> bool:
        """Whether this node, or a peer that it trusts, has this hash at first hand."""
        bit = 1 << piece
        if download.first_hand & bit:
            return download.hashes.get(piece) == hash
        return any(
            n.first_hand & bit and n.claims.get(piece) == hash and self._bans.trusts(n.node)
            for n in download.neighbours.values()
        )

    # --- conflicts --------------------------------------------------------------------------

    def _note(self, download: Download, piece: int, hash: bytes) -> None:
        if download.evidence.note(piece, hash):
            self._weigh(download, piece)

    def _weigh(self, download: Download, piece: int) -> None:
        """Decide which of several claims about a piece count (rules 2 and 4)."""
        bit = 1 << piece
        votes: dict[bytes, int] = {}
        first_hand: set[bytes] = set()
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is not None:
                votes[claim] = votes.get(claim, 0) + 1
                if neighbour.first_hand & bit:
                    first_hand.add(claim)
        if download.first_hand & bit:
            first_hand = {download.hashes[piece]}
        discredited = download.evidence.discredited.get(piece, set())
        most = max(votes.values(), default=0)
        for neighbour in download.neighbours.values():
            claim = neighbour.claims.get(piece)
            if claim is None:
                continue
            wrong = claim not in first_hand if first_hand else claim in discredited
            download.dispute(neighbour, piece, disputed=wrong)
            outvoted = votes[claim] < most and claim not in discredited
            neighbour.note_outvoted(piece, outvoted=outvoted)
            if wrong or outvoted:
                self._contradicted.add(neighbour.node)
            if outvoted and neighbour.outvoted.bit_count() > OUTVOTED_MAX:
                self._suspect(download, neighbour)

    def _refute(self, download: Download, neighbour: Neighbour, piece: int) -> None:
        """A neighbour's claim differs from the origin's bytes (rule 3)."""
        if not neighbour.refute(piece):
            return
        self._contradicted.add(neighbour.node)
        download.evidence.discredit(piece, neighbour.claims[piece])
        if neighbour.first_hand >> piece & 1:
            reason = f"it announced a hash of piece {piece} that the origin's bytes do not have"
            self._bans.ban(neighbour.node, reason)
        elif neighbour.refuted.bit_count() > OUTVOTED_MAX:
            self._suspect(download, neighbour)

    def _suspect(self, download: Download, neighbour: Neighbour) -> None:
        if not neighbour.audited:
            download.evidence.suspect(neighbour.node)

    def _contradict(
        self, download: Download, neighbour: Neighbour, piece: int, hash: bytes
    ) -> None:
        """A neighbour without a claim sent other bytes than others claim."""
        supporters = sum(1 for n in download.neighbours.values() if piece in n.claims)
        counts = supporters > 1
        neighbour.contradict(piece, hash, counts=counts)
        download.exclude(neighbour, 1 << piece)
        self._note(download, piece, hash)
        if counts and neighbour.contradictions > CONTRADICTIONS_MAX:
            reason = f"{neighbour.contradictions} of its pieces contradict what others announced"
            self._bans.ban(neighbour.node, reason)
