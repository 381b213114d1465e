"""What an agent's driver does around its core: fetches, uploads and the partial file.

Bytes flow piece by piece; each piece's marks tell who spoiled it on its way (``Host.file``), so
that a wrong byte is known wherever it is passed on. Of two that bring one piece none writes into
what the other has brought, as in ``beiran/cache/range_writer.py``.
"""

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from beiran.ids import Digest
from beiran.swarm.effects import FetchFailure, FetchFromOrigin, FetchFromPeer
from beiran.swarm.pieces import cut
from simulations.kernel.fluid import Flow, Link
from simulations.swarm.blobs import true_hash
from simulations.swarm.host import Host, Transfer

if TYPE_CHECKING:
    from simulations.swarm.world import World

REQUEST_S: Final = 0.003  # until a fetch's first byte: a round trip, and the work on both sides
ORIGIN_REQUEST_S: Final = 0.01
PROGRESS_S: Final = 0.2
HANG_S: Final = 10.0  # after so long the executor gives up a fetch from a silent peer


class Transfers:
    """All fetches of a world."""

    def __init__(self, world: "World") -> None:
        self._world = world

    def from_peer(self, host: Host, effect: FetchFromPeer) -> None:
        """A core wants bytes of a peer."""
        giver = self._world.hosts[effect.address]
        assert giver.id == effect.node
        transfer = Transfer(
            effect.fetch, effect.digest, effect.start, effect.end, giver, effect.active
        )
        host.transfers[effect.fetch] = transfer
        self._later(REQUEST_S, host, transfer, self._ask_peer)

    def from_origin(self, host: Host, effect: FetchFromOrigin) -> None:
        """A core wants bytes of the origin."""
        transfer = Transfer(effect.fetch, effect.digest, effect.start, effect.end, None)
        host.transfers[effect.fetch] = transfer
        self._later(ORIGIN_REQUEST_S, host, transfer, self._ask_origin)

    def cancel(self, host: Host, fetch: int) -> None:
        """A core wants no more of a fetch."""
        transfer = host.transfers.get(fetch)
        if transfer is not None:
            self._end(host, transfer)

    def admitted(self, giver: Host, upload: int) -> None:
        """An upload that waited may begin."""
        taker, transfer = giver.uploads[upload]
        if not taker.silent:
            self._begin(taker, transfer, giver.up)

    def break_all(self, host: Host) -> None:
        """The host's process is gone: what it fetched ends, what others fetch from it breaks."""
        for transfer in list(host.transfers.values()):
            self._end(host, transfer)
        for other in list(self._world.hosts.values()):
            for transfer in list(other.transfers.values()):
                if transfer.giver is host:
                    self._fail(other, transfer, FetchFailure.BROKEN)

    # --- the beginning ----------------------------------------------------------------------

    def _later(
        self,
        delay_s: float,
        host: Host,
        transfer: Transfer,
        call: Callable[[Host, Transfer], None],
    ) -> None:
        heap = self._world.heap
        heap.at(heap.now + delay_s, lambda: None if transfer.over else call(host, transfer))

    def _ask_peer(self, host: Host, transfer: Transfer) -> None:
        giver = transfer.giver
        assert giver is not None
        if giver.silent or host.silent:
            self._later(HANG_S, host, transfer, self._hang_up)
            return
        if not giver.running:
            self._fail(host, transfer, FetchFailure.UNREACHABLE)
            return
        digest, start, end = transfer.digest, transfer.start, transfer.end
        if not giver.node.holds(digest, start, end):
            self._fail(host, transfer, FetchFailure.MISSING)
            return
        upload = giver.node.begin_upload(
            digest, start, host.id, active=transfer.active, now=self._world.now
        )
        if upload is None:
            self._fail(host, transfer, FetchFailure.BUSY)
            return
        transfer.upload = upload.number
        giver.uploads[upload.number] = (host, transfer)
        if upload.admitted:
            self._begin(host, transfer, giver.up)

    def _hang_up(self, host: Host, transfer: Transfer) -> None:
        self._fail(host, transfer, FetchFailure.UNREACHABLE)

    def _ask_origin(self, host: Host, transfer: Transfer) -> None:
        origin = self._world.origin
        if host.id in origin.refused or transfer.digest not in origin.blobs:
            self._fail(host, transfer, FetchFailure.ORIGIN_REFUSED)
        elif not origin.up:
            self._fail(host, transfer, FetchFailure.ORIGIN_UNAVAILABLE)
        else:
            self._begin(host, transfer, origin.link)

    def _begin(self, host: Host, transfer: Transfer, up: Link) -> None:
        self._next_piece(host, transfer, up)
        world = self._world
        world.do(host, host.node.fetch_answered(transfer.fetch, now=world.now))
        self._later(PROGRESS_S, host, transfer, self._progress)

    # --- while it runs ----------------------------------------------------------------------

    def _next_piece(self, host: Host, transfer: Transfer, up: Link) -> None:
        """The bytes up to the end of the next piece begin to flow."""
        pieces = cut(host.sizes[transfer.digest])
        piece = pieces.at(transfer.start) + transfer.pieces_told
        start = max(transfer.start, pieces.start(piece))
        size = min(pieces.end(piece), transfer.end) - start

        def arrived(_: Flow) -> None:
            self._piece_came(host, transfer, piece, up)

        transfer.flow = self._world.network.start(up, host.down, size, arrived)

    def _piece_came(self, host: Host, transfer: Transfer, piece: int, up: Link) -> None:
        world, digest = self._world, transfer.digest
        pieces = cut(host.sizes[digest])
        transfer.flow = None
        transfer.pieces_told += 1
        if transfer.giver is None:
            start = max(transfer.start, pieces.start(piece))
            self._given_by_origin(host, min(pieces.end(piece), transfer.end) - start)
        marks = self._write(host, transfer, piece)
        more = pieces.end(piece) < transfer.end
        if more:
            self._next_piece(host, transfer, up)
        hash = self.hash_of(host, digest, piece, marks)
        world.do(host, host.node.piece_arrived(transfer.fetch, piece, hash, now=world.now))
        if not more and not transfer.over:
            self._end(host, transfer)
            world.do(host, host.node.fetch_done(transfer.fetch, now=world.now))

    def _given_by_origin(self, host: Host, count: int) -> None:
        self._world.origin.sent_bytes += count
        host.from_origin_bytes += count

    def _write(self, host: Host, transfer: Transfer, piece: int) -> tuple[str, ...]:
        """What came is in the file, unless the piece is held. Returns its marks.

        Who brings a piece from its start replaces what was there; others go on after it.
        """
        key, giver = (transfer.digest, piece), transfer.giver
        pieces = cut(host.sizes[transfer.digest])
        start, end = pieces.start(piece), pieces.end(piece)
        marks = () if transfer.start <= start else host.file.get(key, ())
        if giver is not None:
            if giver.spoils:
                marks = (*marks, giver.name)
            marks = (*marks, *giver.file.get(key, ()))
        elif self._world.origin.spoils:
            marks = ("origin",)
        if not host.node.holds(transfer.digest, start, end):
            host.file[key] = marks
        return marks

    def hash_of(self, host: Host, digest: Digest, piece: int, marks: tuple[str, ...]) -> bytes:
        """What the host finds that a piece with such marks hashes to, or says so if it lies."""
        if host.lies:
            marks = (*marks, host.name)
        truth = true_hash(digest, piece)
        return hashlib.blake2b(truth + repr(marks).encode()).digest()[:32] if marks else truth

    def _progress(self, host: Host, transfer: Transfer) -> None:
        world, done = self._world, self._done(host, transfer)
        world.do(host, host.node.fetch_progressed(transfer.fetch, done, now=world.now))
        self._later(PROGRESS_S, host, transfer, self._progress)

    def _done(self, host: Host, transfer: Transfer) -> int:
        """Bytes that it has brought."""
        done = 0
        pieces = cut(host.sizes[transfer.digest])
        if transfer.pieces_told:
            last = pieces.at(transfer.start) + transfer.pieces_told - 1
            done = pieces.end(last) - transfer.start
        if transfer.flow is not None:
            done += self._world.network.moved(transfer.flow)
        return done

    # --- the end ----------------------------------------------------------------------------

    def _fail(self, host: Host, transfer: Transfer, failure: FetchFailure) -> None:
        world, done = self._world, self._done(host, transfer)
        self._end(host, transfer)
        if done:
            world.do(host, host.node.fetch_progressed(transfer.fetch, done, now=world.now))
        world.do(host, host.node.fetch_failed(transfer.fetch, failure, now=world.now))

    def _end(self, host: Host, transfer: Transfer) -> None:
        if transfer.over:
            return
        world = self._world
        transfer.over = True
        sent = self._done(host, transfer)
        host.transfers.pop(transfer.fetch, None)
        if transfer.flow is not None:
            world.network.stop(transfer.flow)
            moved = world.network.moved(transfer.flow)
            if transfer.giver is None:
                self._given_by_origin(host, moved)
            elif moved:
                pieces = cut(host.sizes[transfer.digest])
                self._write(host, transfer, pieces.at(transfer.start) + transfer.pieces_told)
            transfer.flow = None
        if transfer.upload is not None and transfer.giver is not None:
            giver = transfer.giver
            giver.uploads.pop(transfer.upload, None)
            if giver.running:
                world.do(giver, giver.node.end_upload(transfer.upload, sent, now=world.now))
