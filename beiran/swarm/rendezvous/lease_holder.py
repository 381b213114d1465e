"""Our part as a holder of leases: fetch what we were told to from the origin, and report."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from beiran.ids import Digest, NodeId
from beiran.swarm.context import Context
from beiran.swarm.download import Download
from beiran.swarm.messages import Grant, LeaseAnswer, LeaseReport, LeaseState
from beiran.swarm.pieces import lowest_run

REPORTS_MAX: Final = 6  # of a lease that is over, unanswered

LeaseKey = tuple[NodeId, Digest, int]


class Held(Struct):
    """A lease that we hold.

    Attributes:
      left: pieces still to be fetched. ``fetch``: the one that runs.
      bytes_done: of the fetches that are over. ``last_reports``: how often its end was told.
      held_back_at: a limit of ours makes it wait, since it had brought so many bytes.
    """

    key: LeaseKey
    size_bytes: int
    left: int
    fetch: int | None = None
    bytes_done: int = 0
    state: LeaseState = LeaseState.RUNNING
    last_reports: int = 0
    held_back_at: int | None = None


class Lessee:
    """All leases that we hold.

    Args:
      start: begin to fetch these pieces (adjoining ones) from the origin; returns the fetch.
      position: bytes that a fetch has brought so far. cancel: stop a fetch.
    """

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        *,
        start: Callable[[Download, int, LeaseKey], int],
        position: Callable[[int], int],
        cancel: Callable[[int], None],
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._start = start
        self._position = position
        self._cancel = cancel
        self._held: dict[LeaseKey, Held] = {}

    def fetching(self, download: Download) -> int:
        """Pieces of a blob that our leases have still to bring."""
        bits = 0
        for held in self._held.values():
            if held.key[1] == download.digest and held.state == LeaseState.RUNNING:
                bits |= held.left
        return bits & ~download.held

    def on_grant(self, message: Grant) -> None:
        """We are given a lease, or told of it again."""
        key = (message.sender, message.digest, message.lease)
        held = self._held.get(key)
        if held is None:
            download = self._downloads.get(message.digest)
            pieces = ((1 << message.count) - 1) << message.first
            held = self._held[key] = Held(key, 0, pieces)
            if download is None or not download.able or pieces & ~download.pieces.all:
                refused = download is not None and download.refused
                held.state = LeaseState.REFUSED if refused else LeaseState.FAILED
            else:
                first, last = message.first, message.first + message.count - 1
                held.size_bytes = download.pieces.end(last) - download.pieces.start(first)
                self._next(held, download)
        self._report(held)

    def on_answer(self, message: LeaseAnswer) -> None:
        """A lease is over: as we reported, or since somebody else has it now."""
        held = self._held.pop((message.sender, message.digest, message.lease), None)
        if held is not None:
            self._context.cancel_timer("report", held.key)
            if held.fetch is not None and held.state == LeaseState.RUNNING:
                self._context.counters["leases_lost"] += 1
                self._cancel(held.fetch)

    def on_timer(self, key: object) -> None:
        """A report is due."""
        held = self._held.get(key)  # type: ignore[call-overload]
        if held is not None:
            self._report(held)

    def fetch_ended(self, key: LeaseKey, bytes_done: int, failed: LeaseState | None) -> None:
        """The fetch of a lease is over."""
        held = self._held.get(key)
        download = self._downloads.get(key[1])
        if held is None or held.state != LeaseState.RUNNING:
            return
        held.fetch = None
        held.bytes_done += bytes_done
        if failed is not None or download is None:
            held.state = failed or LeaseState.FAILED
        else:
            self._next(held, download)
        if held.state != LeaseState.RUNNING:
            self._report(held)

    def held_back(self, key: LeaseKey | None, *, held_back: bool) -> None:
        """Whether a limit of our own makes the fetch of a lease (None: of none) wait."""
        held = self._held.get(key) if key is not None else None
        if held is not None:
            held.held_back_at = self._done(held) if held_back else None

    def dropped(self, digest: Digest) -> None:
        """Nobody here wants a blob any more; its fetches are cancelled already."""
        for held in list(self._held.values()):
            if held.key[1] == digest and held.state == LeaseState.RUNNING:
                held.state, held.fetch = LeaseState.FAILED, None
                self._report(held)

    def members_gone(self) -> None:
        """A lease outlives its rendezvous node: the next one learns of it as we register."""
        for held in list(self._held.values()):
            gone = held.key[0] not in self._context.members and held.key[0] != self._context.own
            if gone and held.state != LeaseState.RUNNING:
                del self._held[held.key]

    def _next(self, held: Held, download: Download) -> None:
        """Fetch the first adjoining pieces of it that we lack, or be done."""
        held.left &= ~download.held
        if not held.left:
            held.state = LeaseState.DONE
            return
        run = lowest_run(held.left)
        held.fetch = self._start(download, run, held.key)

    def _report(self, held: Held) -> None:
        rendezvous, digest, lease = held.key
        done = self._done(held)
        self._context.set_timer("report", held.key, self._context.config.lease_report_s)
        if held.state != LeaseState.RUNNING:
            held.last_reports += 1
            if held.last_reports >= REPORTS_MAX or not self._reachable(rendezvous):
                del self._held[held.key]
                self._context.cancel_timer("report", held.key)
        waits = held.state == LeaseState.RUNNING and held.held_back_at == done
        own, bytes_done = self._context.own, min(done, 2**48)
        report = LeaseReport(own, digest, lease, bytes_done, held.state, held_back=waits)
        self._context.send(rendezvous, report)

    def _done(self, held: Held) -> int:
        if held.state == LeaseState.DONE:
            return held.size_bytes
        return held.bytes_done + (self._position(held.fetch) if held.fetch is not None else 0)

    def _reachable(self, node: NodeId) -> bool:
        return node == self._context.own or node in self._context.members
