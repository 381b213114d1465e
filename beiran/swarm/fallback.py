"""What is done for a blob that nobody gives: fetched without a lease, or called stuck."""

from beiran.ids import Digest
from beiran.swarm.config import LEASE_PIECES_MAX
from beiran.swarm.context import Context
from beiran.swarm.download import Download
from beiran.swarm.effects import BlobStuck
from beiran.swarm.fetch_scheduler import Fetching, in_download_order
from beiran.swarm.peer_scores import Peers
from beiran.swarm.pieces import lowest_run
from beiran.swarm.rendezvous.registration import Registrar


class LastResorts:
    """Looks after blobs that do not come on."""

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        peers: Peers,
        fetching: Fetching,
        registrar: Registrar,
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._peers = peers
        self._fetching = fetching
        self._registrar = registrar

    def help_ourselves(self) -> None:
        """Fetch from the origin without a lease, where peers and leases fail us for long.

        So a node that others have reason to leave alone, or whose rendezvous node is of no use,
        gets its image all the same.
        """
        context = self._context
        for download in in_download_order(self._downloads):
            idle_since = download.idle_since
            if idle_since is None or not self._registrar.able(download) or download.in_flight:
                continue
            if context.now < max(download.origin_again_at, download.sources_due_at):
                continue
            registration = download.registration
            # A later blob is nobody's for long, until the origin's turn comes to it.
            waited = context.now - max(idle_since, download.leased_at) > context.config.alone_s
            served = registration.answered and (registration.leasable or registration.leased)
            if download.alone or (waited and not served):
                run = lowest_run(self._registrar.starved(download) & ~download.recheck)
                if run:
                    download.alone = True
                    context.counters["runs_without_lease"] += 1
                    run &= (run & -run) * ((1 << LEASE_PIECES_MAX) - 1)
                    self._fetching.begin_origin(download, run, None)
                return

    def look_for_stuck(self) -> None:
        """Tell, once, of blobs that have had no source for long."""
        for download in in_download_order(self._downloads):
            if download.stuck_told or not self._sourceless(download):
                download.stuck_since = None
            elif download.stuck_since is None:
                download.stuck_since = self._context.now
            elif self._context.now - download.stuck_since >= self._context.config.stuck_s:
                download.stuck_told = True
                self._context.emit(BlobStuck(download.digest, _reason(download)))

    def _sourceless(self, download: Download) -> bool:
        if self._registrar.able(download) or self._fetching.from_peers(download):
            return False
        registration = download.registration
        if registration.hopeful and registration.count > 1:
            return False
        needed = download.missing
        return not any(
            n.fit & needed and not self._peers.lost(n.node) for n in download.neighbours.values()
        )


def _reason(download: Download) -> str:
    if download.refused:
        return "no peer has all of it, and the origin refused it"
    if download.origin_failures:
        return "no peer has all of it, and the origin is unavailable"
    return "no peer has all of it, and no origin gives it"
