"""This node as a leaseholder: it fetches leased pieces from the origin, and reports its progress.

A lease is fetched in runs of adjacent pieces that this node still lacks. Every 0.2 s, and when it
ends, its holder sends a ``LeaseReport``; the end is repeated until ``LeaseAnswer`` confirms it. A
``LeaseAnswer`` to a running lease takes the lease away: the fetch is cancelled.
"""

from typing import Final

from msgspec import Struct

from beiran.ids import Digest
from beiran.swarm.context import Context, LeaseKey, ReportDue
from beiran.swarm.counters import Count
from beiran.swarm.download import Download
from beiran.swarm.fetch_scheduler import Fetch, FetchScheduler
from beiran.swarm.messages import Grant, LeaseAnswer, LeaseReport, LeaseState
from beiran.swarm.pieces import lowest_run

REPORTS_MAX: Final = 6
"""Reports of a lease's end without an answer: 1.2 s, after which the rendezvous node has granted
it to another (``lease_stalled_s``)."""
REPORTED_BYTES_MAX: Final = 2**48  # as the message's field allows


class HeldLease(Struct):
    """A lease that this node holds.

    Attributes:
      left: pieces still to be fetched. ``fetch``: the number of the fetch that runs.
      bytes_done: of the fetches that are over. ``end_reports``: how often its end was reported.
      throttled_at: the bytes that it had brought when a rate limit of this node stopped it.
    """

    key: LeaseKey
    size_bytes: int
    left: int
    fetch: int | None = None
    bytes_done: int = 0
    state: LeaseState = LeaseState.RUNNING
    end_reports: int = 0
    throttled_at: int | None = None


class Leaseholder:
    """All leases that this node holds."""

    def __init__(
        self, context: Context, downloads: dict[Digest, Download], scheduler: FetchScheduler
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._scheduler = scheduler
        self._held: dict[LeaseKey, HeldLease] = {}

    def fetching(self, download: Download) -> int:
        """Pieces of a blob that this node's leases have still to bring."""
        bits = 0
        for lease in self._held.values():
            if lease.key[1] == download.digest and lease.state == LeaseState.RUNNING:
                bits |= lease.left
        return bits & ~download.held

    # --- the rendezvous node ----------------------------------------------------------------

    def on_grant(self, message: Grant) -> None:
        """A lease is granted to this node, or granted once more as its report was lost."""
        key = (message.sender, message.digest, message.lease)
        lease = self._held.get(key)
        if lease is None:
            lease = self._held[key] = self._begin(key, message.first, message.count)
        self._report(lease)

    def on_answer(self, message: LeaseAnswer) -> None:
        """A lease is over: this node reported so, or another node has it now."""
        lease = self._held.pop((message.sender, message.digest, message.lease), None)
        if lease is not None:
            self._context.cancel_timer(ReportDue(lease.key))
            if lease.fetch is not None and lease.state == LeaseState.RUNNING:
                self._context.count(Count.LEASES_LOST)
                self._scheduler.cancel_number(lease.fetch)

    def on_timer(self, key: LeaseKey) -> None:
        """A report is due."""
        lease = self._held.get(key)
        if lease is not None:
            self._report(lease)

    def members_gone(self) -> None:
        """Drop the ended leases of rendezvous nodes that are gone.

        A running one goes on: the next rendezvous node learns of it by this node's registration.
        """
        for lease in list(self._held.values()):
            if lease.state != LeaseState.RUNNING and not self._context.reaches(lease.key[0]):
                del self._held[lease.key]

    # --- its fetches ------------------------------------------------------------------------

    def fetch_ended(self, fetch: Fetch, failed: LeaseState | None = None) -> None:
        """A fetch is over; perhaps it was of a lease. ``failed``: how, if it did not bring all."""
        lease = self._held.get(fetch.lease) if fetch.lease is not None else None
        if lease is None or lease.state != LeaseState.RUNNING:
            return
        download = self._downloads.get(lease.key[1])
        lease.fetch = None
        lease.bytes_done += fetch.received_bytes
        if failed is not None or download is None:
            lease.state = failed or LeaseState.FAILED
        else:
            self._fetch_next(lease, download)
        if lease.state != LeaseState.RUNNING:
            self._report(lease)

    def throttle(self, fetch: Fetch, *, throttled: bool) -> None:
        """Whether a rate limit of this node makes a fetch wait; perhaps it is of a lease."""
        lease = self._held.get(fetch.lease) if fetch.lease is not None else None
        if lease is not None:
            lease.throttled_at = self._bytes_done(lease) if throttled else None

    def dropped(self, digest: Digest) -> None:
        """A blob is not wanted any more, and its fetches are cancelled: end its leases."""
        for lease in list(self._held.values()):
            if lease.key[1] == digest and lease.state == LeaseState.RUNNING:
                lease.state, lease.fetch = LeaseState.FAILED, None
                self._report(lease)

    def _begin(self, key: LeaseKey, first: int, count: int) -> HeldLease:
        download = self._downloads.get(key[1])
        lease = HeldLease(key, 0, ((1 << count) - 1) << first)
        unusable = download is None or lease.left & ~download.pieces.all
        if download is None or unusable or not download.origin.allowed:
            refused = download is not None and download.origin.refused
            lease.state = LeaseState.REFUSED if refused else LeaseState.FAILED
        else:
            pieces = download.pieces
            lease.size_bytes = pieces.end(first + count - 1) - pieces.start(first)
            self._fetch_next(lease, download)
        return lease

    def _fetch_next(self, lease: HeldLease, download: Download) -> None:
        """Fetch the first run of its pieces that this node lacks, or be done."""
        lease.left &= ~download.held
        if not lease.left:
            lease.state = LeaseState.DONE
            return
        lease.fetch = self._scheduler.begin_origin(download, lowest_run(lease.left), lease.key)

    # --- reports ----------------------------------------------------------------------------

    def _report(self, lease: HeldLease) -> None:
        context = self._context
        rendezvous, digest, number = lease.key
        done = self._bytes_done(lease)
        context.set_timer(ReportDue(lease.key), context.config.lease_report_s)
        if lease.state != LeaseState.RUNNING:
            lease.end_reports += 1
            if lease.end_reports >= REPORTS_MAX or not context.reaches(rendezvous):
                del self._held[lease.key]
                context.cancel_timer(ReportDue(lease.key))
        throttled = lease.state == LeaseState.RUNNING and lease.throttled_at == done
        bytes_done = min(done, REPORTED_BYTES_MAX)
        context.send(
            rendezvous,
            LeaseReport(context.own, digest, number, bytes_done, lease.state, throttled=throttled),
        )

    def _bytes_done(self, lease: HeldLease) -> int:
        if lease.state == LeaseState.DONE:
            return lease.size_bytes
        running = self._scheduler.received_bytes(lease.fetch) if lease.fetch is not None else 0
        return lease.bytes_done + running
