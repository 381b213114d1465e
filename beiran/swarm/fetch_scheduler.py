"""The fetches that run: begun while there is room, watched, left for better ones, and ended."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.sansio.rate import Rate
from beiran.swarm.context import Context
from beiran.swarm.download import Download
from beiran.swarm.effects import CancelFetch, FetchFailure, FetchFromOrigin, FetchFromPeer
from beiran.swarm.messages import LeaseState
from beiran.swarm.peer_scores import Peers
from beiran.swarm.piece_picker import Picker
from beiran.swarm.pieces import members
from beiran.swarm.rendezvous.lease_holder import LeaseKey

WATCH_S: Final = 0.1
RATE_OVER_S: Final = 0.5
RESUME_BYTES_MIN: Final = 64 * 1024  # less is not worth remembering that two gave a piece
ENDGAME_LEFT_S: Final = 0.4  # at the end, a fetch that needs longer is asked for twice
FEW_PEERS: Final = 5
TWICE_MAX: Final = 2  # at once


class Fetch(Struct, eq=False):
    """One fetch that runs.

    Attributes:
      node: None: the origin. lease: why the origin.
      position: offset of the next byte.
      mixed: others gave bytes of its first piece, or some are missing in the file.
      rate_bytes_per_s: lately, or 0 if it is too early to say.
    """

    number: int
    download: Download
    node: NodeId | None
    lease: LeaseKey | None
    start: int
    end: int
    pieces: int
    started_at: float
    position: int
    moved_at: float
    window_at: float
    window_position: int
    mixed: bool = False
    moving: bool = False
    rate_bytes_per_s: float = 0.0


class Fetching:
    """All fetches.

    Args:
      in_order: the blobs that are wanted, the first ones first.
      lease_ended: the fetch of a lease is over.
    """

    def __init__(
        self,
        context: Context,
        peers: Peers,
        *,
        in_order: Callable[[], list[Download]],
        lease_ended: Callable[[LeaseKey, int, LeaseState | None], None],
    ) -> None:
        self._context = context
        self._peers = peers
        self._picker = Picker(context, peers)
        self._in_order = in_order
        self._lease_ended = lease_ended
        self._running: dict[int, Fetch] = {}
        self._number = 0
        self._from_peers = 0
        self._rate = Rate()
        self._typical_s: float | None = None

    # --- beginning --------------------------------------------------------------------------

    def fill(self) -> None:
        """Begin what there is room for."""
        in_order = self._in_order()
        room = self.room(in_order)
        while self._from_peers < room:
            if self.active() >= room - 1:
                break
            choice = self._picker.next(in_order, room)
            if choice is None:
                self._begin_twice(in_order, room)
                break
            self._begin_peer(choice.download, choice.neighbour.node, choice.piece)
        self._note_idle(in_order, room)
        if self._running:
            self._context.set_timer_by("watch", None, WATCH_S)

    def _note_idle(self, in_order: list[Download], room: int) -> None:
        """Blobs for which there is room, and nobody to ask but the slow."""
        if self._from_peers >= room:
            for download in in_order:
                download.idle_since = None
            return
        busy = {f.download.digest for f in self._running.values() if not self._is_slow(f)}
        for download in in_order:
            if download.digest in busy:
                download.idle_since = None
            elif download.idle_since is None:
                download.idle_since = self._context.now

    def _is_slow(self, fetch: Fetch) -> bool:
        return fetch.node is not None and self._context.now < self._peers.get(fetch.node).slow_until

    def active(self) -> int:
        """How many bring bytes now; the others wait to be answered."""
        return sum(fetch.moving for fetch in self._running.values())

    def room(self, in_order: list[Download]) -> int:
        """So many fetches from peers may run: what comes in ``in_flight_s``, and a few at least."""
        config = self._context.config
        if not in_order:
            return 0
        first = in_order[0]
        pieces = round(self._rate.bytes_per_s * config.in_flight_s / first.pieces.piece_bytes)
        peers = len(first.neighbours)
        # Who gives alone, or with few others, must not idle between one request and the next.
        least = config.fetches_min if peers > FEW_PEERS else max(config.fetches_min, 2 * peers)
        return max(least, min(config.fetches_max, pieces))

    def begin_origin(self, download: Download, run: int, lease: LeaseKey | None) -> int:
        """Fetch adjoining pieces from the origin. Returns the fetch."""
        first = (run & -run).bit_length() - 1
        last = run.bit_length() - 1
        pieces = download.pieces
        for piece in members(run):
            # Two must not write where what comes from the origin is to be believed.
            self.cancel_piece(download, piece)
            download.partial.pop(piece, None)
        fetch = self._add(download, None, pieces.start(first), pieces.end(last), lease)
        self._context.emit(
            FetchFromOrigin(fetch.number, download.digest, fetch.start, fetch.end, first)
        )
        return fetch.number

    def _begin_peer(self, download: Download, node: NodeId, piece: int) -> None:
        start = download.pieces.start(piece)
        partial = download.partial.pop(piece, None)
        if partial is not None and piece not in download.fetches:
            start = partial
        fetch = self._add(download, node, start, download.pieces.end(piece), None)
        fetch.mixed = partial is not None
        peer = self._peers.get(node)
        peer.outstanding += 1
        peer.load += 1
        self._from_peers += 1
        address = self._context.members[node]
        self._context.emit(
            FetchFromPeer(
                fetch.number,
                node,
                address,
                download.digest,
                fetch.start,
                fetch.end,
                piece,
                self.active(),
            )
        )

    def _begin_twice(self, in_order: list[Download], room: int) -> None:
        """At the very end, ask another for what will take long yet."""
        if any(d.missing & ~d.in_flight for d in in_order):
            return
        twice = sum(1 for d in in_order for count in d.fetches.values() if count > 1)
        for fetch in list(self._running.values()):
            if twice >= TWICE_MAX or self._from_peers >= room:
                return
            if fetch.node is None:
                continue
            piece = fetch.pieces.bit_length() - 1
            if fetch.download.fetches.get(piece, 0) > 1:
                continue
            if self._left_s(fetch) < max(ENDGAME_LEFT_S, 2 * (self._typical_s or 0.0)):
                continue
            choice = self._picker.among(fetch.download, fetch.pieces, 1, but=(fetch.node,))
            if choice is not None:
                twice += 1
                self._context.counters["asked_twice"] += 1
                self._begin_peer(fetch.download, choice.neighbour.node, piece)
                for other in self._running.values():  # whose bytes are whose is not known now
                    if other.pieces == fetch.pieces and other.download is fetch.download:
                        other.mixed = True

    def _add(
        self, download: Download, node: NodeId | None, start: int, end: int, lease: LeaseKey | None
    ) -> Fetch:
        now = self._context.now
        self._number += 1
        fetch = Fetch(
            self._number,
            download,
            node,
            lease,
            start,
            end,
            download.pieces.within(start, end),
            now,
            start,
            now,
            now,
            start,
        )
        self._running[fetch.number] = fetch
        download.begin(fetch.pieces)
        self._context.set_timer_by("watch", None, WATCH_S)
        return fetch

    # --- what happens to them ---------------------------------------------------------------

    def get(self, number: int) -> Fetch | None:
        """A fetch that runs."""
        return self._running.get(number)

    def from_peers(self, download: Download) -> bool:
        """Whether any peer is asked for a part of a blob."""
        return any(f.node and f.download is download for f in self._running.values())

    def position_bytes(self, number: int) -> int:
        """Bytes that a fetch has brought so far."""
        fetch = self._running.get(number)
        return fetch.position - fetch.start if fetch else 0

    def answered(self, fetch: Fetch) -> None:
        """The first bytes are about to come."""
        fetch.moving = True
        fetch.moved_at = self._context.now

    def progressed(self, fetch: Fetch, bytes_done: int) -> None:
        """It has brought so many bytes in all."""
        now = self._context.now
        position = min(fetch.end, fetch.start + bytes_done)
        more = position - fetch.position
        if more > 0:
            fetch.position = position
            fetch.moved_at = now
            fetch.moving = True
            self._count(fetch, more)
        passed_s = now - fetch.window_at
        if passed_s >= RATE_OVER_S:
            fetch.rate_bytes_per_s = (fetch.position - fetch.window_position) / passed_s
            fetch.window_at, fetch.window_position = now, fetch.position

    def ended(self, fetch: Fetch) -> None:
        """It has brought all it was asked for."""
        self.progressed(fetch, fetch.end - fetch.start)
        took_s = self._context.now - fetch.started_at
        if fetch.node is not None and not fetch.mixed:
            old = self._typical_s
            self._typical_s = took_s if old is None else 0.8 * old + 0.2 * took_s
            self._peers.served(fetch.node)
        self._remove(fetch)
        if fetch.lease is not None:
            self._lease_ended(fetch.lease, fetch.end - fetch.start, None)

    def failed(self, fetch: Fetch, failure: FetchFailure) -> None:
        """It ended early."""
        context, download = self._context, fetch.download
        context.counters[f"fetches_failed_{failure.name.lower()}"] += 1
        self._keep_partial(fetch)
        self._remove(fetch)
        if fetch.node is not None:
            self._peer_failed(fetch, failure)
            return
        state = LeaseState.FAILED
        if failure is FetchFailure.ORIGIN_REFUSED:
            download.refused = True
            state = LeaseState.REFUSED
        else:
            pause_s = min(5.0, 0.5 * 2 ** min(download.origin_failures, 8))
            download.origin_failures += 1
            download.origin_again_at = context.now + pause_s
            context.set_timer("willing", None, pause_s)
        if fetch.lease is not None:
            self._lease_ended(fetch.lease, fetch.position - fetch.start, state)

    def cancel(self, fetch: Fetch, *, keep: bool) -> None:
        """Stop it. ``keep``: the bytes that it brought are of use."""
        if keep:
            self._keep_partial(fetch)
        self._remove(fetch)
        self._context.emit(CancelFetch(fetch.number))

    def cancel_number(self, number: int) -> None:
        """Stop a fetch, if it runs, and forget what it brought of an unfinished piece."""
        fetch = self._running.get(number)
        if fetch is not None:
            self._waste(fetch)
            self.cancel(fetch, keep=False)

    def cancel_piece(self, download: Download, piece: int, *, but: Fetch | None = None) -> None:
        """Whoever is asked for this piece alone may stop, ``but`` for who brought it."""
        if piece not in download.fetches:
            return
        bit = 1 << piece
        for fetch in list(self._running.values()):
            if fetch is but or fetch.download is not download:
                continue
            if fetch.pieces == bit and fetch.node is not None:
                self._waste(fetch)
                self.cancel(fetch, keep=False)

    def cancel_all(self, download: Download) -> None:
        """Nobody wants the blob any more."""
        for fetch in list(self._running.values()):
            if fetch.download is download:
                self.cancel(fetch, keep=False)

    def cancel_from(self, node: NodeId, *, keep: bool) -> None:
        """A node is gone, or not trusted any more."""
        for fetch in list(self._running.values()):
            if fetch.node == node:
                if not keep:
                    self._waste(fetch)
                self.cancel(fetch, keep=keep)

    def origin_prefix(self, download: Download, offset: int) -> int:
        """The offset up to which a fetch from the origin has brought what begins at ``offset``."""
        for fetch in self._running.values():
            from_origin = fetch.download is download and fetch.node is None
            if from_origin and fetch.start <= offset < fetch.position:
                return fetch.position
        return offset

    def watch(self) -> None:
        """Leave peers that stand still or are much slower than others."""
        now, config = self._context.now, self._context.config
        for fetch in list(self._running.values()):
            if fetch.node is None:
                continue
            stalled = now - fetch.moved_at > config.stalled_s
            if not stalled and not self._too_slow(fetch):
                continue
            if not self._others_have(fetch) and now - fetch.moved_at < 8 * config.stalled_s:
                if not self._is_slow(fetch):
                    self._peers.slow(fetch.node, now)
                continue
            self._context.counters["fetches_stalled" if stalled else "fetches_slow"] += 1
            self._peers.slow(fetch.node, now)
            if stalled:
                self._peers.failed(fetch.node, now)
            self.cancel(fetch, keep=True)
        if self._running or any(not d.complete for d in self._in_order()):
            self._context.set_timer("watch", None, WATCH_S)

    # --- parts ------------------------------------------------------------------------------

    def _count(self, fetch: Fetch, count: int) -> None:
        download = fetch.download
        self._rate.add(count, self._context.now)
        if fetch.node is None:
            download.from_origin_bytes += count
            return
        download.from_peers_bytes += count
        per_peer = download.per_peer_bytes
        per_peer[fetch.node] = per_peer.get(fetch.node, 0) + count

    def _peer_failed(self, fetch: Fetch, failure: FetchFailure) -> None:
        node, now, download = fetch.node, self._context.now, fetch.download
        assert node is not None
        if failure is FetchFailure.BUSY:
            again_at = self._peers.busy(node, now)
        elif failure is FetchFailure.MISSING:
            again_at = now
            neighbour = download.neighbours.get(node)
            if neighbour is not None:  # until it says again that it has it
                download.set_held(neighbour, neighbour.held & ~fetch.pieces)
        else:
            again_at = self._peers.failed(node, now)
        self._context.set_timer_by("fill", None, max(0.001, again_at - now))

    def _keep_partial(self, fetch: Fetch) -> None:
        """Remember what came of the piece that it was at."""
        download = fetch.download
        if fetch.position >= fetch.end:
            return
        piece = download.pieces.at(fetch.position)
        piece_start = download.pieces.start(piece)
        got = fetch.position - max(fetch.start, piece_start)
        if fetch.node is None or fetch.position == piece_start or download.held >> piece & 1:
            if fetch.node is None:
                self._waste(fetch)
            return
        if got < RESUME_BYTES_MIN and not fetch.mixed:
            download.wasted_bytes += got
            return
        download.partial[piece] = fetch.position

    def _waste(self, fetch: Fetch) -> None:
        if fetch.position < fetch.end:
            piece_start = fetch.download.pieces.start(fetch.download.pieces.at(fetch.position))
            fetch.download.wasted_bytes += fetch.position - max(fetch.start, piece_start)

    def _remove(self, fetch: Fetch) -> None:
        if self._running.pop(fetch.number, None) is None:
            return
        fetch.download.end(fetch.pieces)
        if fetch.node is not None:
            self._from_peers -= 1
            peer = self._peers.get(fetch.node)
            peer.outstanding -= 1
            peer.load = max(0, peer.load - 1)

    def _left_s(self, fetch: Fetch) -> float:
        """How long it will still take, at its latest rate."""
        rate = fetch.rate_bytes_per_s
        if not rate:
            age_s = self._context.now - fetch.started_at
            rate = (fetch.position - fetch.start) / age_s if age_s > RATE_OVER_S else 0.0
        left = fetch.end - fetch.position
        return left / rate if rate else 0.0

    def _too_slow(self, fetch: Fetch) -> bool:
        if self._typical_s is None or not fetch.rate_bytes_per_s:
            return False
        return self._left_s(fetch) > self._context.config.slower_s + 2 * self._typical_s

    def _others_have(self, fetch: Fetch) -> bool:
        node, now = fetch.node, self._context.now
        left = fetch.pieces & fetch.download.missing
        if not left:
            return True
        return any(
            n.node != node and n.fit & left and now >= self._peers.get(n.node).slow_until
            for n in fetch.download.neighbours.values()
        )


def in_download_order(downloads: dict[Digest, Download]) -> list[Download]:
    """Blobs that still lack pieces, the first ones first."""
    wanted = [d for d in downloads.values() if not d.complete and not d.given_up]
    return sorted(wanted, key=lambda d: (d.rank, d.digest))
