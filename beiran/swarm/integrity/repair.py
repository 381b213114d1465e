"""Pieces that are fetched again: of a damaged blob, after a ban, and to audit a suspect.

``Repairer`` revokes pieces and sees to it that right ones come, ``Auditor`` asks the origin which
of two peers is wrong, ``Enforcement`` does what follows from bans.
"""

from beiran.ids import Digest, NodeId
from beiran.swarm.announcements import Announcements
from beiran.swarm.config import DAMAGED_MAX
from beiran.swarm.context import Context, WatchDue
from beiran.swarm.counters import Count
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.effects import BlobStuck, PieceRevoked
from beiran.swarm.fetch_scheduler import WATCH_S, FetchScheduler
from beiran.swarm.integrity.bans import BanList
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.pieces import lowest_run, pieces_in
from beiran.swarm.rendezvous.directory import Directory
from beiran.swarm.rendezvous.registration import Registrar


class Repairer:
    """Revokes pieces and fetches them again: from the origin where that is possible.

    The origin's bytes are beyond suspicion. Without an origin other peers than before are asked.
    """

    def __init__(
        self,
        context: Context,
        checker: Checker,
        scheduler: FetchScheduler,
        announcements: Announcements,
    ) -> None:
        self._context = context
        self._checker = checker
        self._scheduler = scheduler
        self._announcements = announcements

    def on_damage(self, download: Download) -> None:
        """The whole has a wrong SHA-256: revoke the suspect pieces, or give the blob up."""
        self._context.count(Count.BLOBS_DAMAGED)
        download.note_damage()
        suspect = self._checker.suspect_pieces(download)
        if not suspect or download.times_damaged > DAMAGED_MAX:
            download.give_up()
            source = "peers give" if suspect else "the origin gives"
            reason = f"the bytes that {source} have another SHA-256 than the digest"
            self._context.emit(BlobStuck(download.digest, reason))
            return
        download.resume()
        self.revoke(download, suspect)
        if download.origin.allowed:
            download.evidence.set_refetch(suspect)
            self.refetch(download)

    def revoke(self, download: Download, pieces: int) -> None:
        """Fetch held pieces again, from other peers than gave them, and announce that."""
        download.revoke(pieces)
        for piece in pieces_in(pieces):
            self._context.count(Count.PIECES_DOUBTED)
            self._context.emit(PieceRevoked(download.digest, piece))
        self._announcements.retract(download)
        self._context.set_timer_no_later(WatchDue(), WATCH_S)

    def refetch(self, download: Download) -> None:
        """Fetch revoked pieces from the origin, without a lease. From peers if it cannot.

        Without a lease, as another participant's copy of the same piece proves nothing here.
        """
        if not download.origin.possible:
            download.evidence.set_refetch(0)
            return
        if self._context.now < download.origin.retry_at:
            return  # wait for it: peers would send the same bytes again
        left = download.evidence.refetch & ~download.in_flight
        while left:
            run = lowest_run(left)
            left &= ~run
            self._scheduler.begin_origin(download, run, None)


class Auditor:
    """Tests suspects' claims at the origin, one suspect at a time.

    A suspect claims to have fetched pieces from the origin. The auditor fetches one of them from
    the origin: one that this node lacks anyway, if there is any. The checker compares the two, and
    either bans the suspect or its accusers. It costs the origin one piece a suspect.
    """

    def __init__(self, context: Context, scheduler: FetchScheduler, repairer: Repairer) -> None:
        self._context = context
        self._scheduler = scheduler
        self._repairer = repairer

    def consider(self, download: Download) -> None:
        """Begin the next audit of a blob, if there is a suspect and no audit runs."""
        evidence, origin = download.evidence, download.origin
        if not evidence.suspects or download.complete or not origin.allowed:
            return
        if evidence.auditing & download.in_flight or self._context.now < origin.retry_at:
            return
        for node in list(evidence.suspects):
            evidence.clear(node)
            neighbour = download.neighbours.get(node)
            if neighbour is not None and self._audit(download, neighbour):
                return

    def _audit(self, download: Download, suspect: Neighbour) -> bool:
        """Returns whether there is a piece to ask the origin for."""
        claimed = suspect.first_hand & ~download.first_hand
        lacking = claimed & download.missing & ~download.in_flight
        chosen = lacking or claimed & download.held
        if not chosen or suspect.audited:
            return False
        suspect.note_audited()
        piece = chosen & -chosen
        if not lacking:
            self._repairer.revoke(download, piece)
        download.evidence.begin_audit(piece)
        self._context.count(Count.AUDITS)
        self._scheduler.begin_origin(download, piece, None)
        return True


class Enforcement:
    """Does what follows from bans that began and bans that ended."""

    def __init__(
        self,
        bans: BanList,
        downloads: dict[Digest, Download],
        checker: Checker,
        *,
        announcements: Announcements,
        repairer: Repairer,
        scheduler: FetchScheduler,
        registrar: Registrar,
        directory: Directory,
    ) -> None:
        self._bans = bans
        self._downloads = downloads
        self._checker = checker
        self._announcements = announcements
        self._repairer = repairer
        self._scheduler = scheduler
        self._registrar = registrar
        self._directory = directory

    def apply(self) -> bool:
        """Apply the bans that changed since the last call. Returns whether any did."""
        changes = self._bans.take_changes()
        if changes is None:
            return False
        for node in changes.banned:
            self._scheduler.cancel_from(node, keep=False)
            self._directory.disregard(node)
            for download in self._downloads.values():
                self._exclude(download, node)
        for node in changes.unbanned:
            for download in self._downloads.values():
                if download.remove(node):
                    self._announcements.meet(download, node, seed=False)
        for download in self._downloads.values():  # now that no banned peer can be asked
            self.revoke_unsupported(download)
        self._scheduler.fill()
        return True

    def revoke_unsupported(self, download: Download) -> None:
        """Fetch again the pieces that only banned peers vouched for.

        Not of a complete blob: its SHA-256 decides about all of them.
        """
        if download.evidence.unsupported and not download.complete:
            self._repairer.revoke(download, download.evidence.take_unsupported() & download.held)
            self._registrar.register(download)
            self._scheduler.fill()

    def _exclude(self, download: Download, node: NodeId) -> None:
        """Ask a banned peer for nothing, and believe none of its claims."""
        neighbour = download.neighbours.get(node)
        if neighbour is not None:
            self._checker.discredit(download, neighbour)
            download.ban(neighbour)
            self._checker.weigh_again(download)
