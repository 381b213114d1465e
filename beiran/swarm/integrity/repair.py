"""A blob whose pieces all seemed right, and whose whole is wrong: doubtful ones are fetched again.

From the origin if it can give them, for that is beyond doubt; else from others than before.
"""

from beiran.swarm.announcements import Announcements
from beiran.swarm.config import DAMAGED_MAX
from beiran.swarm.context import Context
from beiran.swarm.download import Download
from beiran.swarm.effects import BlobStuck, PieceDoubted
from beiran.swarm.fetch_scheduler import WATCH_S, Fetching
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.pieces import lowest_run, members
from beiran.swarm.rendezvous.registration import ABLE_FAILURES


class Damage:
    """Mends blobs."""

    def __init__(
        self,
        context: Context,
        checker: Checker,
        fetching: Fetching,
        announcements: Announcements,
    ) -> None:
        self._context = context
        self._checker = checker
        self._fetching = fetching
        self._announcements = announcements

    def doubt(self, download: Download) -> None:
        """Find the wrong pieces: fetch doubtful ones again, from the origin or from others."""
        self._context.counters["blobs_damaged"] += 1
        download.times_damaged += 1
        doubtful = self._checker.doubtful(download)
        if not doubtful or download.times_damaged > DAMAGED_MAX:
            download.given_up = True
            download.stuck_told = True
            who = "peers give" if doubtful else "the origin gives"
            self._context.emit(BlobStuck(download.digest, f"what {who} has another SHA-256"))
            return
        download.complete_told = False
        self.drop(download, doubtful)
        if download.able:
            download.recheck = doubtful
            self.recheck(download)

    def drop(self, download: Download, pieces: int) -> None:
        """Pieces that we held are to be fetched again; who gave them is not asked for them."""
        download.corrected |= pieces
        download.worthless &= ~pieces
        for each in download.neighbours.values():
            each.told &= ~pieces
        for piece in members(pieces):
            self._drop(download, piece)
        self._announcements.retract(download)
        self._context.set_timer_by("watch", None, WATCH_S)

    def recheck(self, download: Download) -> None:
        """Fetch doubted pieces from the origin ourselves; from peers if it does not give them."""
        if not download.able or download.origin_failures >= ABLE_FAILURES:
            download.recheck = 0
            return
        if self._context.now < download.origin_again_at:
            return  # peers would give what they gave before
        left = download.recheck & ~download.in_flight
        while left:
            run = lowest_run(left)
            left &= ~run
            self._fetching.begin_origin(download, run, None)

    def _drop(self, download: Download, piece: int) -> None:
        bit = 1 << piece
        giver = download.givers.pop(piece, None)
        neighbour = download.neighbours.get(giver) if giver is not None else None
        download.held &= ~bit
        if neighbour is not None:
            download.set_unfit(neighbour, bit)
        del download.hashes[piece]
        self._context.counters["pieces_doubted"] += 1
        self._context.emit(PieceDoubted(download.digest, piece))
