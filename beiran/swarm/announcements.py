"""Which node has which piece: announced to neighbours at once, and repeated every 2 s.

Each ``Have`` carries the sender's whole piece set (BitTorrent's *bitfield*, not its *have*), so the
next one repairs a lost one. It also carries the hashes of pieces that are new to the receiver;
hashes that were lost are asked for. A neighbour gets announcements only while it lacks pieces that
they are about.
"""

from typing import Final

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.ids import Digest, NodeId
from beiran.swarm.config import HASHES_MAX, NEIGHBOURS_MAX
from beiran.swarm.context import AnnounceDue, Context, HashesDue, QueryDue, RepeatDue
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.integrity.bans import BanList
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.messages import HashesWanted, Have, PieceHash
from beiran.swarm.pieces import Pieces, pack_bits, pieces_in, unpack_bits_untrusted
from beiran.swarm.upload_slots import UploadSlots

HASHES_RETRY_S: Final = 0.1
"""Between two requests for hashes: many round trips of a LAN, less than a piece takes."""
UPLOADS_FIELD_MAX: Final = 65535  # as the message's field allows


class CompleteBlob(Struct, frozen=True):
    """A blob that this node has whole and serves.

    Attributes:
      hashes: of its pieces, as far as known. ``first_hand``: pieces whose hash is surely right.
    """

    pieces: Pieces
    hashes: dict[int, bytes]
    first_hand: int = 0


class Announcements:
    """Sends what this node has of each blob, and receives what others have."""

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        complete_blobs: dict[Digest, CompleteBlob],
        *,
        bans: BanList,
        checker: Checker,
        uploads: UploadSlots,
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._complete_blobs = complete_blobs
        self._bans = bans
        self._checker = checker
        self._uploads = uploads

    def meet(self, download: Download, node: NodeId, *, seed: bool) -> None:
        """Make a node a neighbour, and ask what it has. ``seed``: it should have the whole blob."""
        known = node in download.neighbours
        if known or not self._bans.trusts(node) or download.verified:
            return
        if len(download.neighbours) >= NEIGHBOURS_MAX and not seed:
            return
        neighbour = Neighbour(node, queries_left=self._context.config.query_tries)
        self._query(download, download.add(neighbour))

    def announce_soon(self, download: Download) -> None:
        """New pieces are held: announce them now, or ``announce_gap_s`` after the last time."""
        gap_s = download.announced_at + self._context.config.announce_gap_s - self._context.now
        self._context.set_timer_no_later(AnnounceDue(download.digest), max(0.0, gap_s))

    def announce(self, digest: Digest) -> None:
        """Announce to each neighbour what is new to it."""
        download = self._downloads.get(digest)
        if download is None:
            return
        download.note_announced(self._context.now)
        for neighbour in download.neighbours.values():
            new = self._new_to(download, neighbour)
            if new and neighbour.heard_from and neighbour.interested:
                self._send(download, neighbour, reply_wanted=False)

    def repeat(self, digest: Digest) -> None:
        """Send the whole piece set again, and ask for the neighbours': repairs what was lost."""
        download = self._downloads.get(digest)
        if download is None or download.verified:
            return
        context = self._context
        for neighbour in list(download.neighbours.values()):
            if not neighbour.heard_from:
                continue
            if neighbour.held != download.pieces.all or neighbour.interested:
                neighbour.forget_announced()
                self._send(download, neighbour, reply_wanted=True)
        context.set_timer(RepeatDue(digest), context.config.repeat_have_s)

    def retract(self, download: Download) -> None:
        """Announce fewer pieces than before to the neighbours, and ask for theirs anew."""
        for neighbour in list(download.neighbours.values()):
            if neighbour.heard_from:
                self._send(download, neighbour, reply_wanted=True)

    def withdraw(self, download: Download) -> None:
        """Announce to the neighbours that this node has no piece any more."""
        nothing = self._have(download.digest, download.pieces, 0, interested=False, hashes=())
        for node in download.neighbours:
            self._context.send(node, nothing)

    # --- receiving --------------------------------------------------------------------------

    def on_query_timer(self, digest: Digest, node: NodeId) -> None:
        """A node has not answered what it has: ask again, or drop it as a neighbour."""
        download = self._downloads.get(digest)
        neighbour = download.neighbours.get(node) if download else None
        if download is None or neighbour is None or neighbour.heard_from:
            return
        if neighbour.queries_left <= 0:
            download.remove(neighbour.node)
        else:
            self._query(download, neighbour)

    def on_have(self, message: Have) -> Download | None:
        """Note what a node has. Returns the download of this blob, if the node is its neighbour.

        Raises: BadPacket if the blob has another size here, or the message names pieces that the
          blob does not have.
        """
        download = self._downloads.get(message.digest)
        if download is None:
            if message.reply_wanted:
                self._answer_as_server(message.sender, message.digest, message.size_bytes)
            return None
        pieces = download.pieces
        held = _unpack_untrusted(message.held, message.size_bytes, pieces)
        if any(entry.piece >= pieces.count for entry in message.hashes):
            raise BadPacket("a hash of a piece that the blob does not have")
        neighbour = download.neighbours.get(message.sender)
        if neighbour is None:
            if len(download.neighbours) >= NEIGHBOURS_MAX and not self._make_room(download):
                return None
            neighbour = download.add(Neighbour(message.sender))
        neighbour.hear(
            held=held, interested=message.interested, hashes_unknown=message.hashes_unknown
        )
        download.set_held(neighbour, held)
        if message.sender in self._bans.reasons:
            download.ban(neighbour)
        for entry in message.hashes:
            self._checker.on_claim(
                download, neighbour, entry.piece, entry.hash, first_hand=entry.first_hand
            )
        self._context.cancel_timer(QueryDue(download.digest, message.sender))
        if message.reply_wanted:
            neighbour.forget_announced()
            self._send(download, neighbour, reply_wanted=False)
        elif download.held & ~neighbour.announced & ~held and neighbour.interested:
            self.announce_soon(download)
        self._request_hashes(download, neighbour, answered=bool(message.hashes))
        return download

    def on_hashes_wanted(self, message: HashesWanted) -> None:
        """Answer which hashes pieces have. Raises: BadPacket as ``on_have``."""
        download = self._downloads.get(message.digest)
        blob = self._complete_blobs.get(message.digest)
        if download is not None:
            pieces, hashes, held = download.pieces, download.hashes, download.held
            first_hand, interested = download.attested, not download.complete
        elif blob is not None:
            pieces, hashes, held = blob.pieces, blob.hashes, blob.pieces.all
            first_hand, interested = blob.first_hand, False
        else:
            return
        wanted = _unpack_untrusted(message.pieces, message.size_bytes, pieces) & held
        have = self._have(
            message.digest,
            pieces,
            held,
            interested=interested,
            hashes=_piece_hashes(hashes, wanted, first_hand),
            hashes_unknown=not hashes,
        )
        self._context.send(message.sender, have)

    # --- hashes of neighbours' pieces -------------------------------------------------------

    def request_hashes(self, download: Download, node: NodeId) -> None:
        """Ask a neighbour for the hashes that it has not announced, or has to confirm."""
        neighbour = download.neighbours.get(node)
        if neighbour is not None:
            self._request_hashes(download, neighbour, answered=False)

    def on_hashes_timer(self, digest: Digest, node: NodeId) -> bool:
        """Ask again for hashes. Returns whether the neighbour turns out to know none.

        Its pieces can then be requested without their hashes.
        """
        download = self._downloads.get(digest)
        neighbour = download.neighbours.get(node) if download else None
        if download is None or neighbour is None:
            return False
        self._request_hashes(download, neighbour, answered=False)
        return neighbour.knows_no_hashes

    def _request_hashes(self, download: Download, neighbour: Neighbour, *, answered: bool) -> None:
        """``answered``: the neighbour has just sent some."""
        context = self._context
        unknown = neighbour.usable & ~neighbour.claimed & download.missing
        for piece in neighbour.mismatched:
            unknown |= 1 << piece
        timer = HashesDue(download.digest, neighbour.node)
        if not unknown or neighbour.knows_no_hashes:
            context.cancel_timer(timer)
            return
        # A point in time, as the difference of two could be rounded to a timer that never fits.
        again_at = neighbour.hashes_asked_at + HASHES_RETRY_S
        if context.now < again_at and not answered:
            context.set_timer_no_later(timer, again_at - context.now)
            return
        neighbour.note_hash_request(
            context.now, last_was_useful=answered and not neighbour.mismatched
        )
        context.set_timer(timer, HASHES_RETRY_S)
        size_bytes, bits = download.pieces.size_bytes, pack_bits(unknown)
        context.send(neighbour.node, HashesWanted(context.own, download.digest, size_bytes, bits))

    # --- one message ------------------------------------------------------------------------

    def _query(self, download: Download, neighbour: Neighbour) -> None:
        neighbour.note_query()
        self._send(download, neighbour, reply_wanted=True)
        timer = QueryDue(download.digest, neighbour.node)
        self._context.set_timer(timer, self._context.config.query_retry_s)

    def _send(self, download: Download, neighbour: Neighbour, *, reply_wanted: bool) -> None:
        new = self._new_to(download, neighbour)
        hashes = _piece_hashes(download.hashes, new, download.attested)
        neighbour.note_announced(download.held)
        have = self._have(
            download.digest,
            download.pieces,
            download.held,
            reply_wanted=reply_wanted,
            interested=not download.complete,
            hashes=hashes,
        )
        self._context.send(neighbour.node, have)

    def _new_to(self, download: Download, neighbour: Neighbour) -> int:
        """Held pieces that a neighbour lacks, or whose hash it may know wrongly."""
        lacking = ~neighbour.held | download.reannounce
        return download.held & ~neighbour.announced & lacking

    def _have(
        self,
        digest: Digest,
        pieces: Pieces,
        held: int,
        *,
        reply_wanted: bool = False,
        interested: bool,
        hashes: tuple[PieceHash, ...],
        hashes_unknown: bool = False,
    ) -> Have:
        return Have(
            self._context.own,
            digest,
            pieces.size_bytes,
            pack_bits(held),
            reply_wanted,
            interested,
            min(len(self._uploads), UPLOADS_FIELD_MAX),
            hashes,
            hashes_unknown,
        )

    def _answer_as_server(self, node: NodeId, digest: Digest, size_bytes: int) -> None:
        """Answer a query about a blob that this node does not fetch."""
        blob = self._complete_blobs.get(digest)
        if blob is None or blob.pieces.size_bytes != size_bytes:
            have = Have(self._context.own, digest, size_bytes, b"", False, False, 0)
        else:
            have = self._have(
                digest,
                blob.pieces,
                blob.pieces.all,
                interested=False,
                hashes=(),
                hashes_unknown=not blob.hashes,
            )
        self._context.send(node, have)

    def _make_room(self, download: Download) -> bool:
        """Drop a neighbour that never sent a ``Have``, if there is one."""
        for neighbour in download.neighbours.values():
            if not neighbour.heard_from:
                return download.remove(neighbour.node)
        return False


def _unpack_untrusted(bits: bytes, size_bytes: int, pieces: Pieces) -> int:
    """Read a piece set. Raises: BadPacket if it is not one of this blob."""
    if size_bytes != pieces.size_bytes:
        raise BadPacket("another size than the blob has here")
    return unpack_bits_untrusted(bits, pieces)


def _piece_hashes(hashes: dict[int, bytes], pieces: int, first_hand: int) -> tuple[PieceHash, ...]:
    """The known hashes of a set of pieces, as many as fit in a datagram."""
    known: list[PieceHash] = []
    for piece in pieces_in(pieces):
        hash = hashes.get(piece)
        if hash is not None:
            known.append(PieceHash(piece, hash, bool(first_hand >> piece & 1)))
            if len(known) == HASHES_MAX:
                break
    return tuple(known)
