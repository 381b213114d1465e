"""The life of a blob: wanted, fetched piece by piece, complete, verified, served, forgotten.

This module takes what the driver and the fetches report about a blob, and does what follows: it
accepts and refuses pieces (the checker judges them), sees when a blob is complete, and makes a
verified one a blob that this node serves. A verified download lingers for ``linger_s``, so that
participants that know this node by it need not look for a seed. A blob that no source is left for
is reported as stuck; one that neither peers nor leases bring is fetched from the origin without a
lease.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.swarm.announcements import Announcements, CompleteBlob
from beiran.swarm.config import HASH_BYTES, LEASE_PIECES_MAX
from beiran.swarm.context import (
    AnnounceDue,
    Context,
    LeasingChanged,
    LingerEnds,
    RepeatDue,
    WatchDue,
)
from beiran.swarm.counters import Count
from beiran.swarm.download import Download, in_download_order
from beiran.swarm.effects import BlobComplete, BlobStuck, PieceAccepted
from beiran.swarm.fetch_scheduler import Fetch, FetchScheduler
from beiran.swarm.integrity.piece_check import Checker, Verdict
from beiran.swarm.pieces import cut, lowest_run
from beiran.swarm.rendezvous.leaseholder import Leaseholder
from beiran.swarm.rendezvous.registration import Ranking, Registrar
from beiran.swarm.selection import Peers
from beiran.swarm.upload_slots import UploadSlots

SOURCES_ANSWER_S: Final = 0.4
"""How long nodes that should have a blob may take to say so, before the origin is asked: a query
and its first repetition (``query_retry_s``)."""


class BlobWanted(Struct, frozen=True):
    """A blob to be fetched.

    Attributes:
      size_bytes: as its descriptor says.
      from_origin: an origin can give it, so leases are of use.
      rank: lower ranks are fetched first; equal ones in the order of their digests.
      sources: nodes that should have it whole.
    """

    digest: Digest
    size_bytes: int
    from_origin: bool
    rank: int = 0
    sources: tuple[NodeId, ...] = ()


class Lifecycle:
    """All blobs of this node.

    ``downloads`` and ``complete_blobs`` are shared with the other parts. Only this one adds to them
    and removes from them.
    """

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        complete_blobs: dict[Digest, CompleteBlob],
        *,
        announcements: Announcements,
        checker: Checker,
        leaseholder: Leaseholder,
        peers: Peers,
        ranking: Ranking,
        registrar: Registrar,
        scheduler: FetchScheduler,
        uploads: UploadSlots,
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._complete_blobs = complete_blobs
        self._announcements = announcements
        self._checker = checker
        self._leaseholder = leaseholder
        self._peers = peers
        self._ranking = ranking
        self._registrar = registrar
        self._scheduler = scheduler
        self._uploads = uploads

    # --- what is held -----------------------------------------------------------------------

    def holds(self, digest: Digest, start: int, end: int) -> bool:
        """Whether the bytes from ``start`` to before ``end`` may be sent to a peer."""
        if end <= start or start < 0:
            return False
        blob = self._complete_blobs.get(digest)
        if blob is not None:
            return end <= blob.pieces.size_bytes
        download = self._downloads.get(digest)
        if download is None or end > download.pieces.size_bytes:
            return False
        return not download.pieces.within(start, end) & ~download.held

    def prefix_from_origin_bytes(self, digest: Digest) -> int:
        """How many bytes from the start of a blob this node fetched from the origin itself."""
        download = self._downloads.get(digest)
        if download is None:
            return 0
        others = ~download.first_hand
        piece = (others & -others).bit_length() - 1
        if piece >= download.pieces.count:
            return download.pieces.size_bytes
        return self._scheduler.origin_prefix(download, download.pieces.start(piece))

    # --- wanted -----------------------------------------------------------------------------

    def want(self, blob: BlobWanted, hashes_held: Mapping[int, bytes]) -> Download:
        """As ``SwarmNode.want``. Raises: ValueError."""
        context = self._context
        download = self._downloads.get(blob.digest)
        if download is not None and download.pieces.size_bytes != blob.size_bytes:
            raise ValueError("the blob is wanted already with another size")
        begun = download is None
        if download is None:
            rendezvous = self._ranking.first(blob.digest)
            download = Download(blob.digest, cut(blob.size_bytes), blob.rank, rendezvous)
            self._downloads[blob.digest] = download
            download.restore(hashes_held)
        if blob.from_origin and (not download.origin.known or download.stuck):
            download.origin.offer(context.now)
        download.want(blob.rank)
        for node in blob.sources:
            self._announcements.meet(download, node, seed=True)
        if blob.sources and begun and download.neighbours:
            download.await_sources(context.now + SOURCES_ANSWER_S)
            context.set_timer(LeasingChanged(), SOURCES_ANSWER_S)
        if begun:
            self._registrar.register(download)
            context.set_timer(RepeatDue(blob.digest), context.config.repeat_have_s)
            context.set_timer_no_later(WatchDue(), context.config.stalled_s)
        self._scheduler.fill()
        return download

    def drop(self, digest: Digest) -> None:
        """A blob is not wanted any more."""
        download = self._downloads.get(digest)
        if download is None:
            return
        self._scheduler.cancel_all(download)
        self._leaseholder.dropped(digest)
        if not download.verified:
            self._leave(download)
        self._forget(download)
        self._scheduler.fill()

    # --- arriving ---------------------------------------------------------------------------

    def piece_arrived(self, fetch: Fetch, piece: int, blake3: bytes) -> bool:
        """Accept or refuse a piece whose last byte a fetch has brought.

        Returns: whether this call accepted it. False also if the piece is held already.
        """
        download, hash = fetch.download, blake3[:HASH_BYTES]
        self._scheduler.progressed(fetch, download.pieces.end(piece) - fetch.start)
        if fetch.node is None:
            self._accept(fetch, piece, hash)
            self._checker.on_origin_piece(download, piece, hash)
            return True
        if download.held >> piece & 1:
            download.refuse(piece)
            return False
        mixed = fetch.mixed and piece == download.pieces.at(fetch.start)
        verdict = self._checker.judge(download, fetch.node, piece, hash, mixed=mixed)
        if verdict is Verdict.ACCEPT:
            self._accept(fetch, piece, hash)
            return True
        self._context.count(Count.PIECES_REFUSED)
        download.refuse(piece)
        self._announcements.request_hashes(download, fetch.node)
        if mixed and fetch.node in download.neighbours:
            self._peers.failed(fetch.node, self._context.now)
        return False

    def check_complete(self, download: Download, *, brought_by: Fetch | None = None) -> bool:
        """Have a blob verified once all its pieces are held. Returns whether that begins now.

        Args:
          brought_by: the fetch that brought the last piece, which ends by itself.
        """
        if not download.begin_verifying():
            return False
        for piece in list(download.fetches):
            self._scheduler.cancel_piece(download, piece, but=brought_by)
        self._context.emit(BlobComplete(download.digest))
        return True

    def _accept(self, fetch: Fetch, piece: int, hash: bytes) -> None:
        download = fetch.download
        download.accept(piece, hash, fetch.node)
        self._context.emit(PieceAccepted(download.digest, piece))
        if download.fetches.get(piece, 0) > 1:
            self._scheduler.cancel_piece(download, piece, but=fetch)
        self._announcements.announce_soon(download)

    # --- served -----------------------------------------------------------------------------

    def verified(self, digest: Digest) -> None:
        """The whole has the right SHA-256: serve it from now on."""
        download = self._downloads.get(digest)
        if download is None or not download.complete or download.verified:
            return
        download.verify()
        pieces = download.pieces
        self._complete_blobs[digest] = CompleteBlob(pieces, dict(download.hashes), pieces.all)
        self._context.cancel_timer(RepeatDue(digest))
        self._announcements.announce(digest)
        self._registrar.register(download)
        self._context.set_timer(LingerEnds(digest), self._context.config.linger_s)

    def provide(self, digest: Digest, size_bytes: int, hashes: Sequence[bytes]) -> None:
        """Serve a blob. ``hashes``: the BLAKE3 of all its pieces, or none."""
        pieces = cut(size_bytes)
        known = {piece: hash[:HASH_BYTES] for piece, hash in enumerate(hashes)}
        if len(known) != pieces.count:
            known = {}
        if known or digest not in self._complete_blobs:
            first_hand = pieces.all if known else 0
            self._complete_blobs[digest] = CompleteBlob(pieces, known, first_hand)

    def withdraw(self, digest: Digest) -> None:
        """Serve a blob no longer."""
        if self._complete_blobs.pop(digest, None) is not None:
            self._uploads.forget(digest)
        download = self._downloads.get(digest)
        if download is not None and download.verified:
            self._leave(download)
            self._forget(download)

    def on_linger_timer(self, digest: Digest) -> None:
        """A verified download was announced for long enough. The blob is still served."""
        download = self._downloads.get(digest)
        if download is not None and download.verified:
            self._forget(download)

    def _leave(self, download: Download) -> None:
        self._registrar.leave(download)
        self._announcements.withdraw(download)

    def _forget(self, download: Download) -> None:
        digest = download.digest
        del self._downloads[digest]
        for timer in (AnnounceDue(digest), RepeatDue(digest), LingerEnds(digest)):
            self._context.cancel_timer(timer)
        self._registrar.forget(download)
        self._uploads.forget(digest)

    # --- without a source -------------------------------------------------------------------

    def fetch_without_lease(self) -> None:
        """Fetch the first blob that needs it from the origin, without a lease.

        It needs it if neither a peer nor a lease brought anything for ``without_lease_s``. So a
        node gets its image even if others banned it, or its rendezvous node does not work.
        """
        context = self._context
        for download in in_download_order(self._downloads):
            idle_since, registration = download.idle_since, download.registration
            if idle_since is None or not download.origin.possible or download.in_flight:
                continue
            if context.now < max(download.origin.retry_at, download.sources_due_at):
                continue
            # Later blobs have no holders until the origin's turn comes to them: their time counts
            # from when their rendezvous node last leased something.
            waited_s = context.now - max(idle_since, registration.origin_active_at)
            leasing = registration.leasable or registration.leased
            unserved = not (registration.answered and leasing)
            if download.without_lease or (waited_s > context.config.without_lease_s and unserved):
                lacking = self._registrar.lacking(download) & ~download.evidence.refetch
                run = lowest_run(lacking)
                if run:
                    download.begin_without_lease()
                    context.count(Count.RUNS_WITHOUT_LEASE)
                    run &= (run & -run) * ((1 << LEASE_PIECES_MAX) - 1)
                    self._scheduler.begin_origin(download, run, None)
                return

    def report_stuck(self) -> None:
        """Report, once each, the blobs that have had no source for ``stuck_s``."""
        context = self._context
        for download in in_download_order(self._downloads):
            any_left = download.stuck or self._has_source(download)
            if download.note_sources(
                context.now, any_left=any_left, patience_s=context.config.stuck_s
            ):
                context.emit(BlobStuck(download.digest, _reason(download)))

    def _has_source(self, download: Download) -> bool:
        if download.origin.possible or self._scheduler.fetches_from_peers(download):
            return True
        registration = download.registration
        if registration.origin_possible and registration.count > 1:
            return True
        return any(
            n.usable & download.missing and not self._peers.is_unreachable(n.node)
            for n in download.neighbours.values()
        )


def _reason(download: Download) -> str:
    if download.origin.refused:
        return "no peer has all of it, and the origin refused it"
    if download.origin.failures:
        return "no peer has all of it, and the origin is unavailable"
    return "no peer has all of it, and no origin is known"
