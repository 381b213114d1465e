"""Pieces that arrive: accepted, or refused and fetched again; and what is complete by them."""

from beiran.ids import NodeId
from beiran.swarm.announcements import Announcements
from beiran.swarm.config import HASH_BYTES
from beiran.swarm.context import Context
from beiran.swarm.download import Download
from beiran.swarm.effects import BlobComplete, PieceAccepted
from beiran.swarm.fetch_scheduler import Fetch, Fetching
from beiran.swarm.integrity.piece_check import Checker, Verdict
from beiran.swarm.peer_scores import Peers


class Arrivals:
    """What came in of all blobs in flight."""

    def __init__(
        self,
        context: Context,
        peers: Peers,
        checker: Checker,
        fetching: Fetching,
        announcements: Announcements,
    ) -> None:
        self._context = context
        self._peers = peers
        self._checker = checker
        self._fetching = fetching
        self._announcements = announcements

    def arrived(self, fetch: Fetch, piece: int, blake3: bytes) -> bool:
        """Accept or refuse a piece whose last byte a fetch has brought.

        Returns: whether this call accepted it. False also if the piece is held already.
        """
        download, hash = fetch.download, blake3[:HASH_BYTES]
        self._fetching.progressed(fetch, download.pieces.end(piece) - fetch.start)
        if fetch.node is None:
            self._accept(fetch, piece, hash)
            self._checker.from_origin(download, piece, hash)
            return True
        if download.held >> piece & 1:
            download.wasted_bytes += download.pieces.length(piece)
            return False
        mixed = fetch.mixed and piece == download.pieces.at(fetch.start)
        verdict = self._checker.judge(download, fetch.node, piece, hash, mixed=mixed)
        if verdict is Verdict.ACCEPT:
            self._accept(fetch, piece, hash)
            return True
        self._refuse(download, piece, fetch.node, mixed=mixed)
        return False

    def check_complete(self, download: Download, *, brought_by: Fetch | None = None) -> None:
        """Tell, once, that all pieces of a blob are there.

        Args:
          brought_by: the fetch that brought the last one, which ends by itself.
        """
        if download.complete and not download.complete_told and not download.verified:
            download.complete_told = True
            for piece in list(download.fetches):
                self._fetching.cancel_piece(download, piece, but=brought_by)
            self._context.emit(BlobComplete(download.digest))
            self._context.reconsider = True

    def _accept(self, fetch: Fetch, piece: int, hash: bytes) -> None:
        download, giver, bit = fetch.download, fetch.node, 1 << piece
        download.held |= bit
        download.hashes[piece] = hash
        download.recheck &= ~bit
        download.partial.pop(piece, None)
        if giver is None:
            download.first_hand |= bit
            download.origin_failures = 0
            download.givers.pop(piece, None)
        else:
            download.givers[piece] = giver
            download.said.setdefault(piece, hash)
            download.alone = False
        self._context.emit(PieceAccepted(download.digest, piece))
        if download.fetches.get(piece, 0) > 1:
            self._fetching.cancel_piece(download, piece, but=fetch)
        self._announcements.piece_accepted(download)

    def _refuse(self, download: Download, piece: int, giver: NodeId, *, mixed: bool) -> None:
        self._context.counters["pieces_refused"] += 1
        download.wasted_bytes += download.pieces.length(piece)
        download.partial.pop(piece, None)
        neighbour = download.neighbours.get(giver)
        self._announcements.ask_hashes(download, giver)
        if mixed and neighbour is not None:
            self._peers.failed(giver, self._context.now)
