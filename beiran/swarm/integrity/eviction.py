"""What follows when somebody is found out, or trusted again."""

from beiran.ids import Digest, NodeId
from beiran.swarm.announcements import Announcements
from beiran.swarm.context import Context
from beiran.swarm.download import Download
from beiran.swarm.fetch_scheduler import Fetching
from beiran.swarm.integrity.piece_check import Checker
from beiran.swarm.integrity.repair import Damage
from beiran.swarm.rendezvous.directory import Rendezvous
from beiran.swarm.rendezvous.registration import Registrar


class Liars:
    """Leaves liars alone, and forgives them."""

    def __init__(
        self,
        context: Context,
        downloads: dict[Digest, Download],
        checker: Checker,
        *,
        announcements: Announcements,
        damage: Damage,
        fetching: Fetching,
        registrar: Registrar,
        rendezvous: Rendezvous,
    ) -> None:
        self._context = context
        self._downloads = downloads
        self._checker = checker
        self._announcements = announcements
        self._damage = damage
        self._fetching = fetching
        self._registrar = registrar
        self._rendezvous = rendezvous

    def heed(self) -> None:
        """Stop asking those whom we distrust since this input; ask those we trust again."""
        context = self._context
        if not context.found_out and not context.forgiven:
            return
        found_out, forgiven = context.found_out, context.forgiven
        context.found_out, context.forgiven = [], []
        for node in found_out:
            self._fetching.cancel_from(node, keep=False)
            self._rendezvous.disregard(node)
            for download in self._downloads.values():
                self._leave_alone(download, node)
        for node in forgiven:
            for download in self._downloads.values():
                if download.remove(node) is not None:
                    self._announcements.meet(download, node, False)
        for download in self._downloads.values():  # now that no liar can be asked any more
            self.discard(download)
        context.reconsider = True
        self._fetching.fill()

    def _leave_alone(self, download: Download, node: NodeId) -> None:
        """It is given what it lacks, but asked for nothing."""
        neighbour = download.neighbours.get(node)
        if neighbour is None:
            return
        self._checker.taint(download, neighbour)
        download.shun(neighbour)
        self._checker.weigh_again(download)

    def discard(self, download: Download) -> None:
        """Fetch again what only liars vouched for. What is complete is verified before."""
        if download.worthless and not download.complete:
            self._damage.drop(download, download.worthless & download.held)
            download.worthless = 0
            self._registrar.register(download)
            self._fetching.fill()
