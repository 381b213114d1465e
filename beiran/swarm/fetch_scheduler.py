"""The fetches that run: begun while there is room, watched, cancelled for better ones, ended.

- *Room*: as many fetches from peers as bring what arrives in ``in_flight_s``. One of them at least
  waits for an upload slot, so that the next one begins as soon as one ends.
- *Watch*: every 0.1 s, fetches that stand still or are much slower than others are cancelled, if
  another peer can be asked. The bytes that came are kept, and the next peer continues after them.
- *Endgame* (BitTorrent, Cohen 2003): once each missing piece is in flight, the ones that will take
  longest are requested from a second peer, too. The first to bring a piece cancels the other.
"""

from typing import Final

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.sansio.rate import Rate
from beiran.swarm.context import Context, FetchesDue, LeaseKey, LeasingChanged, WatchDue
from beiran.swarm.counters import FAILED, Count
from beiran.swarm.download import Download, in_download_order
from beiran.swarm.effects import CancelFetch, FetchFailure, FetchFromOrigin, FetchFromPeer
from beiran.swarm.pieces import pieces_in
from beiran.swarm.selection import Peers, Picker

WATCH_S: Final = 0.1  # a tenth of the shortest patience (``stalled_s``)
RATE_OVER_S: Final = 0.5
"""A fetch's rate is measured over this time, which evens out TCP's bursts. A piece takes 0.08 s on
a link of 50 Mbit/s, so only slow fetches get a rate, and only these may be cancelled for it."""
RESUME_BYTES_MIN: Final = 64 * 1024
"""Fewer bytes of a piece are thrown away when its fetch is cancelled. A piece from two peers costs
evidence: if its hash is wrong, neither can be blamed."""
ENDGAME_LEFT_S: Final = 0.4
"""A fetch that needs longer than this, and than two typical ones, is duplicated in the endgame. A
shorter one is done before the second request would bring bytes."""
ENDGAME_MAX: Final = 2
"""Pieces requested twice at once. Each costs up to a piece of waste."""
SLOW_FACTOR: Final = 2
"""A fetch is slow if it needs ``slower_s`` longer than this many typical fetches. Chosen: with one,
fetches from peers that merely have one upload more than others would be cancelled."""
STALLED_LAST_RESORT: Final = 8
"""A stalled fetch is kept for this many times ``stalled_s`` if no other peer has its piece, as
cancelling it gains nothing then. Chosen: 8 s are below the driver's own limit of 10 s."""
FEW_PEERS: Final = 5
"""Up to this many neighbours are each kept busy with two fetches. One that waits for the next
request leaves its uplink idle, which weighs most where few peers serve."""
TYPICAL_NEW: Final = 0.2
"""Weight of a fetch that ends in the typical time: an average over the last five or so."""


class Fetch(Struct, eq=False):
    """One fetch that runs.

    Attributes:
      node: the peer; None for the origin. ``lease``: for which it asks the origin, if any.
      position: offset of the next byte.
      mixed: other fetches wrote, or may write, bytes of its first piece.
      receiving: bytes have come, or are about to.
      rate_bytes_per_s: of late, or 0 if it is too early to say.
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
    receiving: bool = False
    rate_bytes_per_s: float = 0.0

    @property
    def received_bytes(self) -> int:
        """Bytes that came so far."""
        return self.position - self.start

    @property
    def left_bytes(self) -> int:
        """Bytes that are still to come."""
        return self.end - self.position

    @property
    def wasted_bytes(self) -> int:
        """Bytes of the unfinished piece, which are of no use without the rest of it."""
        if self.position >= self.end:
            return 0
        pieces = self.download.pieces
        piece_start = pieces.start(pieces.at(self.position))
        return self.position - max(self.start, piece_start)


class FetchScheduler:
    """All fetches of this node. Leases and audits begin theirs by ``begin_origin``."""

    def __init__(self, context: Context, peers: Peers, downloads: dict[Digest, Download]) -> None:
        self._context = context
        self._peers = peers
        self._downloads = downloads
        self._picker = Picker(context, peers)
        self._running: dict[int, Fetch] = {}
        self._number = 0
        self._from_peers = 0
        self._rate = Rate()
        self._typical_s: float | None = None

    # --- beginning --------------------------------------------------------------------------

    def fill(self) -> None:
        """Begin fetches from peers while there is room."""
        in_order = in_download_order(self._downloads)
        room = self._room(in_order)
        while self._from_peers < room:
            if self._receiving() >= room - 1:
                break
            choice = self._picker.next(in_order, room)
            if choice is None:
                self._endgame(in_order, room)
                break
            self._begin_peer(choice.download, choice.neighbour.node, choice.piece)
        self._note_idle(in_order, room)
        if self._running:
            self._context.set_timer_no_later(WatchDue(), WATCH_S)

    def begin_origin(self, download: Download, run: int, lease: LeaseKey | None) -> int:
        """Fetch a run of adjacent pieces from the origin. Returns the fetch's number."""
        first = (run & -run).bit_length() - 1
        last = run.bit_length() - 1
        pieces = download.pieces
        for piece in pieces_in(run):
            # No peer may write where the origin's bytes are to be believed.
            self.cancel_piece(download, piece)
            download.take_partial(piece)
        fetch = self._add(download, None, pieces.start(first), pieces.end(last), lease)
        self._context.emit(
            FetchFromOrigin(fetch.number, download.digest, fetch.start, fetch.end, first)
        )
        return fetch.number

    def _begin_peer(self, download: Download, node: NodeId, piece: int) -> None:
        start = download.pieces.start(piece)
        partial = download.take_partial(piece)
        if partial is not None and piece not in download.fetches:
            start = partial
        fetch = self._add(download, node, start, download.pieces.end(piece), None)
        fetch.mixed = partial is not None
        self._peers.begin_fetch(node)
        self._from_peers += 1
        self._context.emit(
            FetchFromPeer(
                fetch.number,
                node,
                self._context.members[node],
                download.digest,
                fetch.start,
                fetch.end,
                piece,
                self._receiving(),
            )
        )

    def _endgame(self, in_order: list[Download], room: int) -> None:
        """Request from a second peer what will take long, once all is in flight."""
        if any(d.missing & ~d.in_flight for d in in_order):
            return
        duplicated = sum(1 for d in in_order for count in d.fetches.values() if count > 1)
        for fetch in list(self._running.values()):
            if duplicated >= ENDGAME_MAX or self._from_peers >= room:
                return
            piece = fetch.pieces.bit_length() - 1
            if fetch.node is None or fetch.download.fetches.get(piece, 0) > 1:
                continue
            if self._left_s(fetch) < max(ENDGAME_LEFT_S, 2 * (self._typical_s or 0.0)):
                continue
            choice = self._picker.among(fetch.download, fetch.pieces, 1, but=fetch.node)
            if choice is not None:
                duplicated += 1
                self._context.count(Count.ASKED_TWICE)
                self._begin_peer(fetch.download, choice.neighbour.node, piece)
                for other in self._running.values():  # both write the piece from now on
                    if other.pieces == fetch.pieces and other.download is fetch.download:
                        other.mixed = True

    def _add(
        self, download: Download, node: NodeId | None, start: int, end: int, lease: LeaseKey | None
    ) -> Fetch:
        now = self._context.now
        self._number += 1
        fetch = self._running[self._number] = Fetch(
            number=self._number,
            download=download,
            node=node,
            lease=lease,
            start=start,
            end=end,
            pieces=download.pieces.within(start, end),
            started_at=now,
            position=start,
            moved_at=now,
            window_at=now,
            window_position=start,
        )
        download.begin_fetch(fetch.pieces)
        self._context.set_timer_no_later(WatchDue(), WATCH_S)
        return fetch

    # --- what is known ----------------------------------------------------------------------

    def get(self, number: int) -> Fetch | None:
        """A fetch that runs."""
        return self._running.get(number)

    def fetches_from_peers(self, download: Download) -> bool:
        """Whether any piece of a blob is being fetched from a peer."""
        return any(f.node and f.download is download for f in self._running.values())

    def received_bytes(self, number: int) -> int:
        """Bytes that a fetch has brought so far; 0 if it runs no longer."""
        fetch = self._running.get(number)
        return fetch.received_bytes if fetch else 0

    def origin_prefix(self, download: Download, offset: int) -> int:
        """The offset up to which a fetch from the origin brought the bytes from ``offset`` on."""
        for fetch in self._running.values():
            from_origin = fetch.download is download and fetch.node is None
            if from_origin and fetch.start <= offset < fetch.position:
                return fetch.position
        return offset

    def _receiving(self) -> int:
        """How many fetches receive bytes now; the others wait to be answered."""
        return sum(fetch.receiving for fetch in self._running.values())

    def _room(self, in_order: list[Download]) -> int:
        """How many fetches from peers may run."""
        config = self._context.config
        if not in_order:
            return 0
        first = in_order[0]
        pieces = round(self._rate.bytes_per_s * config.in_flight_s / first.pieces.piece_bytes)
        neighbours = len(first.neighbours)
        least = config.fetches_min
        if neighbours <= FEW_PEERS:
            least = max(least, 2 * neighbours)
        return max(least, min(config.fetches_max, pieces))

    def _note_idle(self, in_order: list[Download], room: int) -> None:
        """Note which blobs only slow peers bring, though there is room for more fetches."""
        now = self._context.now
        full = self._from_peers >= room
        busy = (
            set()
            if full
            else {
                fetch.download.digest
                for fetch in self._running.values()
                if fetch.node is None or not self._peers.is_slow(fetch.node, now)
            }
        )
        for download in in_order:
            download.note_idle(now, idle=not full and download.digest not in busy)

    # --- progress ---------------------------------------------------------------------------

    def answered(self, fetch: Fetch) -> None:
        """The first bytes are about to come."""
        fetch.receiving = True
        fetch.moved_at = self._context.now

    def progressed(self, fetch: Fetch, bytes_done: int) -> None:
        """A fetch has brought ``bytes_done`` bytes in all."""
        now = self._context.now
        position = min(fetch.end, fetch.start + bytes_done)
        more = position - fetch.position
        if more > 0:
            fetch.position = position
            fetch.moved_at = now
            fetch.receiving = True
            self._rate.add(more, now)
            fetch.download.count_received(fetch.node, more)
        passed_s = now - fetch.window_at
        if passed_s >= RATE_OVER_S:
            fetch.rate_bytes_per_s = (fetch.position - fetch.window_position) / passed_s
            fetch.window_at, fetch.window_position = now, fetch.position

    def done(self, fetch: Fetch) -> None:
        """A fetch has brought all its bytes."""
        self.progressed(fetch, fetch.end - fetch.start)
        took_s = self._context.now - fetch.started_at
        if fetch.node is not None and not fetch.mixed:
            if self._typical_s is None:
                self._typical_s = took_s
            else:
                self._typical_s = (1 - TYPICAL_NEW) * self._typical_s + TYPICAL_NEW * took_s
            self._peers.served(fetch.node)
        self._remove(fetch)

    def failed(self, fetch: Fetch, failure: FetchFailure) -> None:
        """A fetch ended early."""
        self._context.count(FAILED[failure])
        self._keep_partial(fetch)
        self._remove(fetch)
        if fetch.node is not None:
            self._peer_failed(fetch, fetch.node, failure)
        elif failure is FetchFailure.ORIGIN_REFUSED:
            fetch.download.origin.refuse()
        else:
            pause_s = fetch.download.origin.fail(self._context.now)
            self._context.set_timer(LeasingChanged(), pause_s)

    def _peer_failed(self, fetch: Fetch, node: NodeId, failure: FetchFailure) -> None:
        now, download = self._context.now, fetch.download
        if failure is FetchFailure.BUSY:
            again_at = self._peers.busy(node, now)
        elif failure is FetchFailure.MISSING:
            again_at = now
            neighbour = download.neighbours.get(node)
            if neighbour is not None:  # until it announces the piece again
                download.set_held(neighbour, neighbour.held & ~fetch.pieces)
        else:
            again_at = self._peers.failed(node, now)
        # Not at once, or a peer that lacks what it announced would be asked in an endless loop.
        self._context.set_timer_no_later(FetchesDue(), max(0.001, again_at - now))

    # --- cancelling -------------------------------------------------------------------------

    def cancel_number(self, number: int) -> None:
        """Cancel a fetch if it runs. Its unfinished piece is of no use."""
        fetch = self._running.get(number)
        if fetch is not None:
            self._cancel(fetch, keep=False)

    def cancel_piece(self, download: Download, piece: int, *, but: Fetch | None = None) -> None:
        """Cancel the peers' fetches of just this piece, except ``but``, which brought it."""
        if piece not in download.fetches:
            return
        bit = 1 << piece
        for fetch in list(self._running.values()):
            if fetch is but or fetch.download is not download:
                continue
            if fetch.pieces == bit and fetch.node is not None:
                self._cancel(fetch, keep=False)

    def cancel_all(self, download: Download) -> None:
        """Cancel all fetches of a blob that is not wanted any more."""
        for fetch in list(self._running.values()):
            if fetch.download is download:
                self._cancel(fetch, keep=False)

    def cancel_from(self, node: NodeId, *, keep: bool) -> None:
        """Cancel all fetches from a node. ``keep``: the bytes that came are of use."""
        for fetch in list(self._running.values()):
            if fetch.node == node:
                self._cancel(fetch, keep=keep)

    def watch(self) -> None:
        """Cancel fetches that stand still or are much slower than others."""
        now, config = self._context.now, self._context.config
        for fetch in list(self._running.values()):
            if fetch.node is None:
                continue
            still_s = now - fetch.moved_at
            stalled = still_s > config.stalled_s
            if not stalled and not self._too_slow(fetch):
                continue
            if not self._others_have(fetch) and still_s < STALLED_LAST_RESORT * config.stalled_s:
                if not self._peers.is_slow(fetch.node, now):
                    self._peers.slow(fetch.node, now)
                continue
            self._context.count(Count.FETCHES_STALLED if stalled else Count.FETCHES_SLOW)
            self._peers.slow(fetch.node, now)
            if stalled:
                self._peers.failed(fetch.node, now)
            self._cancel(fetch, keep=True)
        if self._running or in_download_order(self._downloads):
            self._context.set_timer(WatchDue(), WATCH_S)

    def _cancel(self, fetch: Fetch, *, keep: bool) -> None:
        if keep:
            self._keep_partial(fetch)
        else:
            fetch.download.count_wasted(fetch.wasted_bytes)
        self._remove(fetch)
        self._context.emit(CancelFetch(fetch.number))

    def _keep_partial(self, fetch: Fetch) -> None:
        """Note what came of the unfinished piece, if the next fetch can continue after it."""
        if not fetch.left_bytes:
            return
        download, position = fetch.download, fetch.position
        piece = download.pieces.at(position)
        if fetch.node is None:
            download.count_wasted(fetch.wasted_bytes)
        elif position > download.pieces.start(piece) and not download.held >> piece & 1:
            if fetch.wasted_bytes < RESUME_BYTES_MIN and not fetch.mixed:
                download.count_wasted(fetch.wasted_bytes)
            else:
                download.keep_partial(piece, position)

    def _remove(self, fetch: Fetch) -> None:
        del self._running[fetch.number]
        fetch.download.end_fetch(fetch.pieces)
        if fetch.node is not None:
            self._from_peers -= 1
            self._peers.end_fetch(fetch.node)

    # --- slowness ---------------------------------------------------------------------------

    def _left_s(self, fetch: Fetch) -> float:
        """How long a fetch will still take at its present rate; 0 if that is not known."""
        rate = fetch.rate_bytes_per_s
        if not rate:
            age_s = self._context.now - fetch.started_at
            rate = fetch.received_bytes / age_s if age_s > RATE_OVER_S else 0.0
        return fetch.left_bytes / rate if rate else 0.0

    def _too_slow(self, fetch: Fetch) -> bool:
        if self._typical_s is None or not fetch.rate_bytes_per_s:
            return False
        limit_s = self._context.config.slower_s + SLOW_FACTOR * self._typical_s
        return self._left_s(fetch) > limit_s

    def _others_have(self, fetch: Fetch) -> bool:
        """Whether another peer, and not a slow one, has what a fetch is still to bring."""
        now = self._context.now
        left = fetch.pieces & fetch.download.missing
        return not left or any(
            n.node != fetch.node and n.usable & left and not self._peers.is_slow(n.node, now)
            for n in fetch.download.neighbours.values()
        )
