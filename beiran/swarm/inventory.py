"""The blobs that this node wants or has: how they come, are verified, and are forgotten.

One that is wanted is a *download*. When the whole is verified it is provided, and its download
lingers, so that those who know us from it need not ask again.
"""

from collections.abc import Mapping, Sequence
from typing import Final

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.swarm.announcements import Announcements, Provision
from beiran.swarm.config import HASH_BYTES
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Registration
from beiran.swarm.fetch_scheduler import Fetching
from beiran.swarm.pieces import cut
from beiran.swarm.rendezvous.lease_holder import Lessee
from beiran.swarm.rendezvous.registration import Registrar
from beiran.swarm.upload_slots import Uploads

SOURCES_ANSWER_S: Final = 0.4  # the origin is left alone so long, until those said to have it spoke


class BlobWanted(Struct, frozen=True):
    """A blob to be fetched.

    Attributes:
      size_bytes: as its descriptor says.
      from_origin: an origin can give it, so leases are worth asking for.
      rank: lower ones are fetched first; equal ones by digest.
      sources: nodes believed to have it whole.
    """

    digest: Digest
    size_bytes: int
    from_origin: bool
    rank: int = 0
    sources: tuple[NodeId, ...] = ()


class Blobs:
    """All of them. ``downloads`` and ``provisions`` are shared with the other parts."""

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        provisions: dict[Digest, Provision],
        uploads: Uploads,
        *,
        announcements: Announcements,
        fetching: Fetching,
        lessee: Lessee,
        registrar: Registrar,
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._provisions = provisions
        self._uploads = uploads
        self._announcements = announcements
        self._fetching = fetching
        self._lessee = lessee
        self._registrar = registrar

    # --- what is there ----------------------------------------------------------------------

    def holds(self, digest: Digest, start: int, end: int) -> bool:
        """Whether the bytes from ``start`` to before ``end`` may be given to a peer."""
        if end <= start or start < 0:
            return False
        provision = self._provisions.get(digest)
        if provision is not None:
            return end <= provision.pieces.size_bytes
        download = self._downloads.get(digest)
        if download is None or end > download.pieces.size_bytes:
            return False
        return not download.pieces.within(start, end) & ~download.held

    def prefix_from_origin_bytes(self, digest: Digest) -> int:
        """How many bytes from the start we had from the origin ourselves, of a blob in flight."""
        download = self._downloads.get(digest)
        if download is None:
            return 0
        lacking = ~download.first_hand
        piece = (lacking & -lacking).bit_length() - 1
        if piece >= download.pieces.count:
            return download.pieces.size_bytes
        return self._fetching.origin_prefix(download, download.pieces.start(piece))

    # --- wanted -----------------------------------------------------------------------------

    def want(self, blob: BlobWanted, pieces_held: Mapping[int, bytes]) -> Download:
        """As ``SwarmNode.want``. Raises: ValueError."""
        context = self._context
        download = self._downloads.get(blob.digest)
        if download is not None and download.pieces.size_bytes != blob.size_bytes:
            raise ValueError("the blob is wanted already with another size")
        begun = download is None
        if download is None:
            download = self._begin(blob, pieces_held)
        download.rank = min(download.rank, blob.rank)
        if blob.from_origin and (not download.from_origin or download.stuck_told):
            download.from_origin, download.refused = True, False
            download.origin_failures, download.origin_again_at = 0, context.now
        download.stuck_told, download.stuck_since = False, None
        for node in blob.sources:
            self._announcements.meet(download, node, True)
        if blob.sources and begun and download.neighbours:
            download.sources_due_at = context.now + SOURCES_ANSWER_S
            context.set_timer("willing", None, SOURCES_ANSWER_S)
        if begun:
            self._registrar.register(download)
            context.set_timer("repeat", blob.digest, context.config.repeat_have_s)
            context.set_timer_by("watch", None, context.config.stalled_s)
        context.reconsider = True
        self._fetching.fill()
        return download

    def drop(self, digest: Digest) -> None:
        """Nobody here wants it any more."""
        download = self._downloads.get(digest)
        if download is None:
            return
        self._fetching.cancel_all(download)
        self._lessee.dropped(digest)
        if not download.verified:
            self._registrar.leave(download)
            self._announcements.gone(download)
        self._forget(download)
        self._fetching.fill()
        self._context.reconsider = True

    # --- had --------------------------------------------------------------------------------

    def provide(self, digest: Digest, size_bytes: int, hashes: Sequence[bytes]) -> None:
        """We have it whole and verified: tell who asks. ``hashes``: BLAKE3 of all pieces."""
        pieces = cut(size_bytes)
        known = {piece: hash[:HASH_BYTES] for piece, hash in enumerate(hashes)}
        if len(known) != pieces.count:
            known = {}
        if known or digest not in self._provisions:
            self._provisions[digest] = Provision(pieces, known, pieces.all if known else 0)

    def withdraw(self, digest: Digest) -> None:
        """We have it no longer."""
        if self._provisions.pop(digest, None) is not None:
            self._uploads.forget(digest)
        download = self._downloads.get(digest)
        if download is not None and download.verified:
            self._registrar.leave(download)
            self._announcements.gone(download)
            self._forget(download)

    def verified(self, digest: Digest) -> None:
        """The whole has the right SHA-256. From now on it is provided."""
        download = self._downloads.get(digest)
        if download is None or not download.complete or download.verified:
            return
        download.verified = True
        self._provisions[digest] = Provision(
            download.pieces, dict(download.hashes), download.pieces.all
        )
        self._context.cancel_timer("repeat", digest)
        self._announcements.on_announce_timer(digest)
        self._registrar.register(download)
        self._context.set_timer("linger", digest, self._context.config.linger_s)

    def on_linger_timer(self, digest: object) -> None:
        """Nobody should need to be reminded any more of how we got it."""
        download = self._downloads.get(digest)  # type: ignore[call-overload]
        if download is not None and download.verified:
            self._forget(download)

    # --- parts ------------------------------------------------------------------------------

    def _begin(self, blob: BlobWanted, pieces_held: Mapping[int, bytes]) -> Download:
        registration = Registration(self._context.rendezvous(blob.digest))
        pieces = cut(blob.size_bytes)
        download = Download(blob.digest, pieces, blob.rank, registration)
        self._downloads[blob.digest] = download
        for piece, hash in pieces_held.items():
            if 0 <= piece < pieces.count:
                download.held |= 1 << piece
                download.hashes[piece] = hash[:HASH_BYTES]
        return download

    def _forget(self, download: Download) -> None:
        context = self._context
        del self._downloads[download.digest]
        for kind in ("register", "announce", "repeat", "linger"):
            context.cancel_timer(kind, download.digest)
        context.forget_ranking(download.digest)
        self._uploads.forget(download.digest)
