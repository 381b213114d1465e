"""Who has which piece: told to neighbours at once, and again now and then.

Each message has all pieces that its sender has, so that a lost one is repaired by the next; the
hashes of new pieces come along, and are asked for where they were lost. A neighbour is told only
what it lacks.
"""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from beiran.errors import BadPacket
from beiran.ids import Digest, NodeId
from beiran.swarm.config import HASHES_MAX, NEIGHBOURS_MAX
from beiran.swarm.context import Context
from beiran.swarm.download import HASHES_TRIES, Download, Neighbour
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.messages import HashesWanted, Have, PieceHash
from beiran.swarm.pieces import Pieces, members, pack_bits, unpack_bits_untrusted

HASHES_AGAIN_S: Final = 0.1


class Provision(Struct, frozen=True):
    """A blob that we have whole. ``hashes``: of its pieces, as far as we know them.

    ``first_hand``: those that are known to be right.
    """

    pieces: Pieces
    hashes: dict[int, bytes]
    first_hand: int = 0


class Announcements:
    """Tells others what we have, and learns what they have.

    Args:
      uploads: how many we serve just now.
    """

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        provisions: dict[Digest, Provision],
        checker: Checker,
        *,
        uploads: Callable[[], int],
    ) -> None:
        self._checker = checker
        self._context = context
        self._downloads = downloads
        self._provisions = provisions
        self._uploads = uploads

    def meet(self, download: Download, node: NodeId, seed: bool) -> None:
        """A node is said to take part, or to have all of a blob: ask it, once."""
        known = node in download.neighbours
        if known or not self._context.trusts(node) or download.verified:
            return
        if len(download.neighbours) >= NEIGHBOURS_MAX and not seed:
            return
        neighbour = Neighbour(node, asks_left=self._context.config.ask_tries)
        download.neighbours[node] = neighbour
        self._ask(download, neighbour)

    def piece_accepted(self, download: Download) -> None:
        """Tell the neighbours: at once, or a moment after the last time."""
        gap_s = download.announced_at + self._context.config.announce_gap_s - self._context.now
        self._context.set_timer_by("announce", download.digest, max(0.0, gap_s))

    def on_announce_timer(self, digest: object) -> None:
        """Tell each neighbour what is new to it."""
        download = self._downloads.get(digest)  # type: ignore[call-overload]
        if download is None:
            return
        download.announced_at = self._context.now
        for neighbour in download.neighbours.values():
            new = self._new_to(download, neighbour)
            if new and neighbour.heard and neighbour.wants:
                self._tell(download, neighbour, asks=False)

    def on_repeat_timer(self, digest: object) -> None:
        """Ask and tell again: all that was lost on the way."""
        download = self._downloads.get(digest)  # type: ignore[call-overload]
        if download is None or download.verified:
            return
        context = self._context
        for neighbour in list(download.neighbours.values()):
            if not neighbour.heard:
                continue
            if neighbour.held != download.pieces.all or neighbour.wants:
                neighbour.told = 0
                self._tell(download, neighbour, asks=True)
        context.set_timer("repeat", digest, context.config.repeat_have_s)

    def on_ask_timer(self, about: object) -> None:
        """A node has not told yet what it has."""
        assert isinstance(about, tuple)
        download = self._downloads.get(about[0])
        neighbour = download.neighbours.get(about[1]) if download else None
        if download is None or neighbour is None or neighbour.heard:
            return
        if neighbour.asks_left <= 0:
            download.remove(neighbour.node)
        else:
            self._ask(download, neighbour)

    def on_have(self, message: Have) -> Download | None:
        """A node tells what it has. Returns our download of it, if there is one.

        Raises: BadPacket if it speaks of another size, or of pieces that there are not.
        """
        download = self._downloads.get(message.digest)
        if download is None:
            if message.asks:
                self._answer_as_provider(message.sender, message.digest, message.size_bytes)
            return None
        pieces = download.pieces
        if message.size_bytes != pieces.size_bytes:
            raise BadPacket("another size than the blob has here")
        held = unpack_bits_untrusted(message.held, pieces)
        if any(entry.piece >= pieces.count for entry in message.hashes):
            raise BadPacket("a hash of a piece that there is not")
        neighbour = download.neighbours.get(message.sender)
        if neighbour is None:
            if len(download.neighbours) >= NEIGHBOURS_MAX and not self._make_room(download):
                return None
            neighbour = download.neighbours[message.sender] = Neighbour(message.sender)
        neighbour.heard = True
        neighbour.wants = message.wants
        if message.hashless:
            neighbour.hashes_asks = HASHES_TRIES
        elif held & ~neighbour.held:
            neighbour.hashes_asks = 0
        download.set_held(neighbour, held)
        for piece in [p for p in neighbour.broken if not held >> p & 1]:
            del neighbour.broken[piece]  # it does not stand by that
        if message.sender in self._context.distrusted:
            download.shun(neighbour)
        for entry in message.hashes:
            self._checker.heard(download, neighbour, entry.piece, entry.hash, entry.first_hand)
        self._context.cancel_timer("ask", (download.digest, message.sender))
        if message.asks:
            neighbour.told = 0
            self._tell(download, neighbour, asks=False)
        elif download.held & ~neighbour.told & ~held and neighbour.wants:
            self.piece_accepted(download)
        self._ask_hashes(download, neighbour, answered=bool(message.hashes))
        return download

    def on_hashes_wanted(self, message: HashesWanted) -> None:
        """A node wants hashes. Raises: BadPacket as ``on_have``."""
        download = self._downloads.get(message.digest)
        provision = self._provisions.get(message.digest)
        if download is not None:
            pieces, hashes, held = download.pieces, download.hashes, download.held
            first_hand, wants = download.vouched, not download.complete
        elif provision is not None:
            pieces, hashes, held = provision.pieces, provision.hashes, provision.pieces.all
            first_hand, wants = provision.first_hand, False
        else:
            return
        if message.size_bytes != pieces.size_bytes:
            raise BadPacket("another size than the blob has here")
        wanted = unpack_bits_untrusted(message.pieces, pieces) & held
        told = _hashes(hashes, wanted, first_hand)
        have = self._have(
            message.digest, pieces, held, wants=wants, hashes=told, hashless=not hashes
        )
        self._context.send(message.sender, have)

    def ask_hashes(self, download: Download, node: NodeId) -> None:
        """Something about a neighbour's hashes is to be found out."""
        neighbour = download.neighbours.get(node)
        if neighbour is not None:
            self._ask_hashes(download, neighbour, answered=False)

    def on_hashes_timer(self, about: object) -> bool:
        """Hashes were asked for. Returns whether they are given up now, so that it may be asked."""
        assert isinstance(about, tuple)
        download = self._downloads.get(about[0])
        neighbour = download.neighbours.get(about[1]) if download else None
        if download is None or neighbour is None:
            return False
        self._ask_hashes(download, neighbour, answered=False)
        return neighbour.hashes_asks >= HASHES_TRIES

    def retract(self, download: Download) -> None:
        """Tell the neighbours that we have less than we said, and ask them anew."""
        for neighbour in list(download.neighbours.values()):
            if neighbour.heard:
                self._tell(download, neighbour, asks=True)

    def gone(self, download: Download) -> None:
        """Tell the neighbours that we have nothing of it any more."""
        for node in download.neighbours:
            self._context.send(
                node, self._have(download.digest, download.pieces, 0, wants=False, hashes=())
            )

    # --- one message ------------------------------------------------------------------------

    def _ask(self, download: Download, neighbour: Neighbour) -> None:
        neighbour.asks_left -= 1
        self._tell(download, neighbour, asks=True)
        self._context.set_timer(
            "ask", (download.digest, neighbour.node), self._context.config.ask_retry_s
        )

    def _tell(self, download: Download, neighbour: Neighbour, *, asks: bool) -> None:
        new = self._new_to(download, neighbour)
        hashes = _hashes(download.hashes, new, download.vouched)
        neighbour.told = download.held
        have = self._have(
            download.digest,
            download.pieces,
            download.held,
            asks=asks,
            wants=not download.complete,
            hashes=hashes,
        )
        self._context.send(neighbour.node, have)

    def _new_to(self, download: Download, neighbour: Neighbour) -> int:
        """Pieces of ours that a neighbour lacks, or whose hash it may know wrongly."""
        return download.held & ~neighbour.told & (~neighbour.held | download.corrected)

    def _have(
        self,
        digest: Digest,
        pieces: Pieces,
        held: int,
        *,
        asks: bool = False,
        wants: bool,
        hashes: tuple[PieceHash, ...],
        hashless: bool = False,
    ) -> Have:
        return Have(
            self._context.own,
            digest,
            pieces.size_bytes,
            pack_bits(held),
            asks,
            wants,
            min(self._uploads(), 65535),
            hashes,
            hashless,
        )

    def _answer_as_provider(self, node: NodeId, digest: Digest, size_bytes: int) -> None:
        provision = self._provisions.get(digest)
        if provision is None or provision.pieces.size_bytes != size_bytes:
            nothing = Have(self._context.own, digest, size_bytes, b"", False, False, 0)
            self._context.send(node, nothing)
            return
        held = provision.pieces.all
        self._context.send(
            node,
            self._have(
                digest,
                provision.pieces,
                held,
                wants=False,
                hashes=(),
                hashless=not provision.hashes,
            ),
        )

    def _ask_hashes(self, download: Download, neighbour: Neighbour, *, answered: bool) -> None:
        unknown = neighbour.fit & ~neighbour.claimed & download.missing
        for piece in neighbour.broken:
            unknown |= 1 << piece
        about = (download.digest, neighbour.node)
        if not unknown or neighbour.hashes_asks >= HASHES_TRIES:
            self._context.cancel_timer("hashes", about)
            return
        # As a time, not as a time passed: rounded, that could be too short for ever.
        again_at = neighbour.hashes_asked_at + HASHES_AGAIN_S
        if self._context.now < again_at and not answered:
            self._context.set_timer_by("hashes", about, again_at - self._context.now)
            return
        neighbour.hashes_asked_at = self._context.now
        useful = answered and not neighbour.broken
        neighbour.hashes_asks = 0 if useful else neighbour.hashes_asks + 1
        self._context.set_timer("hashes", about, HASHES_AGAIN_S)
        self._context.send(
            neighbour.node,
            HashesWanted(
                self._context.own,
                download.digest,
                download.pieces.size_bytes,
                pack_bits(unknown),
            ),
        )

    def _make_room(self, download: Download) -> bool:
        """Forget a neighbour that was never heard, if there is one."""
        for neighbour in download.neighbours.values():
            if not neighbour.heard:
                download.remove(neighbour.node)
                return True
        return False


def _hashes(hashes: dict[int, bytes], pieces: int, first_hand: int) -> tuple[PieceHash, ...]:
    told: list[PieceHash] = []
    for piece in members(pieces):
        hash = hashes.get(piece)
        if hash is not None:
            told.append(PieceHash(piece, hash, bool(first_hand >> piece & 1)))
            if len(told) == HASHES_MAX:
                break
    return tuple(told)
