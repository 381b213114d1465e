"""Fetches and uploads of a crowd: what an agent's swarm driver does around its core.

Bytes flow piece by piece. Each piece carries marks that name the hosts which spoiled it on its way
(``Host.file``), so a wrong byte is known wherever it is passed on. If two transfers bring one
piece, neither writes into what the other has brought, as in ``beiran/cache/range_writer.py``.
"""

import hashlib
from collections.abc import Callable
from typing import Final

from beiran.ids import Digest
from beiran.swarm.effects import FetchFailure, FetchFromOrigin, FetchFromPeer
from beiran.swarm.pieces import cut
from simulations.kernel.fluid import Flow, Flows, Pipe
from simulations.kernel.world import World
from simulations.swarm.blobs import true_hash
from simulations.swarm.host import Host, Origin, Transfer

REQUEST_S: Final = 0.003  # to the first byte from a peer: a round trip, and work on both sides
ORIGIN_REQUEST_S: Final = 0.01  # to the first byte from the origin
PROGRESS_S: Final = 0.2  # how often a driver reports progress to its core
HANG_S: Final = 10.0  # after which a driver gives up a fetch from a silent peer


class Transfers:
    """All fetches of a world."""

    def __init__(self, world: World[Host], flows: Flows, origin: Origin) -> None:
        self._world: Final = world
        self._flows: Final = flows
        self._origin: Final = origin

    def from_peer(self, host: Host, effect: FetchFromPeer) -> None:
        """Fetch bytes from a peer, as a core asks."""
        giver = self._world.machines.at(effect.address)
        assert giver is not None
        assert giver.id == effect.node
        transfer = Transfer(
            effect.fetch, effect.digest, effect.start, effect.end, giver, effect.active
        )
        host.transfers[effect.fetch] = transfer
        self._later(REQUEST_S, host, transfer, self._ask_peer)

    def from_origin(self, host: Host, effect: FetchFromOrigin) -> None:
        """Fetch bytes from the origin, as a core asks."""
        transfer = Transfer(effect.fetch, effect.digest, effect.start, effect.end, None)
        host.transfers[effect.fetch] = transfer
        self._later(ORIGIN_REQUEST_S, host, transfer, self._ask_origin)

    def cancel(self, host: Host, fetch: int) -> None:
        """End a fetch that a core no longer wants."""
        transfer = host.transfers.get(fetch)
        if transfer is not None:
            self._end(host, transfer)

    def admitted(self, giver: Host, upload: int) -> None:
        """Begin an upload that waited for its turn."""
        taker, transfer = giver.uploads[upload]
        if taker.up:
            self._begin(taker, transfer, giver.up_pipe)

    def break_all(self, host: Host) -> None:
        """End what a host that is gone fetched, and break what others fetch from it."""
        for transfer in list(host.transfers.values()):
            self._end(host, transfer)
        for other in self._world.hosts:
            for transfer in list(other.transfers.values()):
                if transfer.giver is host:
                    self._fail(other, transfer, FetchFailure.BROKEN)

    # --- the request ------------------------------------------------------------------------

    def _later(
        self,
        delay_s: float,
        host: Host,
        transfer: Transfer,
        call: Callable[[Host, Transfer], None],
    ) -> None:
        at = self._world.now + delay_s
        self._world.schedule(at, self._unless_over, host, transfer, call)

    @staticmethod
    def _unless_over(
        host: Host, transfer: Transfer, call: Callable[[Host, Transfer], None]
    ) -> None:
        if not transfer.over:
            call(host, transfer)

    def _ask_peer(self, host: Host, transfer: Transfer) -> None:
        giver = transfer.giver
        assert giver is not None
        if not giver.up or not host.up:
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
            self._begin(host, transfer, giver.up_pipe)

    def _hang_up(self, host: Host, transfer: Transfer) -> None:
        self._fail(host, transfer, FetchFailure.UNREACHABLE)

    def _ask_origin(self, host: Host, transfer: Transfer) -> None:
        origin = self._origin
        if host.id in origin.refused or transfer.digest not in origin.blobs:
            self._fail(host, transfer, FetchFailure.ORIGIN_REFUSED)
        elif not origin.up:
            self._fail(host, transfer, FetchFailure.ORIGIN_UNAVAILABLE)
        else:
            self._begin(host, transfer, origin.pipe)

    def _begin(self, host: Host, transfer: Transfer, up: Pipe) -> None:
        self._next_piece(host, transfer, up)
        world = self._world
        world.do(host, host.node.fetch_answered(transfer.fetch, now=world.now))
        self._later(PROGRESS_S, host, transfer, self._progress)

    # --- the bytes --------------------------------------------------------------------------

    def _next_piece(self, host: Host, transfer: Transfer, up: Pipe) -> None:
        """Let the bytes up to the end of the next piece flow."""
        pieces = cut(host.sizes[transfer.digest])
        piece = pieces.at(transfer.start) + transfer.pieces_reported
        start = max(transfer.start, pieces.start(piece))
        size = min(pieces.end(piece), transfer.end) - start

        def arrived(_: Flow) -> None:
            self._piece_arrived(host, transfer, piece, up)

        transfer.flow = self._flows.start(up, host.down_pipe, size, arrived)

    def _piece_arrived(self, host: Host, transfer: Transfer, piece: int, up: Pipe) -> None:
        world, digest = self._world, transfer.digest
        pieces = cut(host.sizes[digest])
        transfer.flow = None
        transfer.pieces_reported += 1
        if transfer.giver is None:
            start = max(transfer.start, pieces.start(piece))
            self._count_origin(host, min(pieces.end(piece), transfer.end) - start)
        marks = self._write(host, transfer, piece)
        more = pieces.end(piece) < transfer.end
        if more:
            self._next_piece(host, transfer, up)
        hash = self.hash_of(host, digest, piece, marks)
        _, effects = host.node.piece_arrived(transfer.fetch, piece, hash, now=world.now)
        world.do(host, effects)
        if not more and not transfer.over:
            self._end(host, transfer)
            world.do(host, host.node.fetch_done(transfer.fetch, now=world.now))

    def _count_origin(self, host: Host, size_bytes: int) -> None:
        self._origin.sent_bytes += size_bytes
        host.from_origin_bytes += size_bytes

    def _write(self, host: Host, transfer: Transfer, piece: int) -> tuple[str, ...]:
        """Write what arrived into the file, unless the piece is held. Returns its marks.

        A transfer that brings a piece from its start replaces what was there; others append.
        """
        key, giver = (transfer.digest, piece), transfer.giver
        pieces = cut(host.sizes[transfer.digest])
        start, end = pieces.start(piece), pieces.end(piece)
        marks = () if transfer.start <= start else host.file.get(key, ())
        if giver is not None:
            if giver.spoils:
                marks = (*marks, giver.name)
            marks = (*marks, *giver.file.get(key, ()))
        elif self._origin.spoils:
            marks = ("origin",)
        if not host.node.holds(transfer.digest, start, end):
            host.file[key] = marks
        return marks

    def hash_of(self, host: Host, digest: Digest, piece: int, marks: tuple[str, ...]) -> bytes:
        """Return the hash that the host reports for a piece with such marks."""
        if host.lies:
            marks = (*marks, host.name)
        truth = true_hash(digest, piece)
        return hashlib.blake2b(truth + repr(marks).encode()).digest()[:32] if marks else truth

    def _progress(self, host: Host, transfer: Transfer) -> None:
        world, done_bytes = self._world, self._done_bytes(host, transfer)
        world.do(host, host.node.fetch_progressed(transfer.fetch, done_bytes, now=world.now))
        self._later(PROGRESS_S, host, transfer, self._progress)

    def _done_bytes(self, host: Host, transfer: Transfer) -> int:
        """Return how many bytes a transfer has brought."""
        done = 0
        pieces = cut(host.sizes[transfer.digest])
        if transfer.pieces_reported:
            last = pieces.at(transfer.start) + transfer.pieces_reported - 1
            done = pieces.end(last) - transfer.start
        if transfer.flow is not None:
            done += self._flows.moved(transfer.flow)
        return done

    # --- the end ----------------------------------------------------------------------------

    def _fail(self, host: Host, transfer: Transfer, failure: FetchFailure) -> None:
        world, done_bytes = self._world, self._done_bytes(host, transfer)
        self._end(host, transfer)
        if done_bytes:
            world.do(host, host.node.fetch_progressed(transfer.fetch, done_bytes, now=world.now))
        world.do(host, host.node.fetch_failed(transfer.fetch, failure, now=world.now))

    def _end(self, host: Host, transfer: Transfer) -> None:
        if transfer.over:
            return
        world = self._world
        transfer.over = True
        sent = self._done_bytes(host, transfer)
        host.transfers.pop(transfer.fetch, None)
        if transfer.flow is not None:
            self._flows.stop(transfer.flow)
            moved = self._flows.moved(transfer.flow)
            if transfer.giver is None:
                self._count_origin(host, moved)
            elif moved:
                pieces = cut(host.sizes[transfer.digest])
                self._write(host, transfer, pieces.at(transfer.start) + transfer.pieces_reported)
            transfer.flow = None
        if transfer.upload is not None and transfer.giver is not None:
            giver = transfer.giver
            giver.uploads.pop(transfer.upload, None)
            if giver.running:
                world.do(giver, giver.node.end_upload(transfer.upload, sent, now=world.now))
