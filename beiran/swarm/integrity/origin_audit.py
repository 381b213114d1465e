"""Asking the origin who lies, where others speak against somebody.

Of a suspect that says it had pieces from the origin, we fetch one of these from there ourselves; if
we can, one that we lack anyway. It costs one piece of the origin's for each suspect, and ends with
a proof, whichever way.
"""

from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.fetch_scheduler import Fetching
from beiran.swarm.integrity.repair import Damage


class Audits:
    """Finds liars out, one after the other."""

    def __init__(self, context: Context, fetching: Fetching, damage: Damage) -> None:
        self._context = context
        self._fetching = fetching
        self._damage = damage

    def consider(self, download: Download) -> None:
        """Begin the next audit of a blob, if there is a suspect and none is under way."""
        if not download.suspects or download.complete or not download.able:
            return
        if download.auditing & download.in_flight:
            return
        if self._context.now < download.origin_again_at:
            return
        for node in list(download.suspects):
            del download.suspects[node]
            neighbour = download.neighbours.get(node)
            if neighbour is not None and self._audit(download, neighbour):
                return

    def _audit(self, download: Download, suspect: Neighbour) -> bool:
        """Returns whether there is anything to be asked of the origin."""
        vouched = suspect.first_hand & ~download.first_hand
        lacking = vouched & download.missing & ~download.in_flight
        chosen = lacking or vouched & download.held
        if not chosen or suspect.audited:
            return False
        suspect.audited = True
        piece = chosen & -chosen
        if not lacking:
            self._damage.drop(download, piece)
        download.auditing = piece
        self._context.counters["audits"] += 1
        self._fetching.begin_origin(download, piece, None)
        return True
