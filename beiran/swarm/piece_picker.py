"""Which piece to fetch next, and from whom.

Blob after blob, for an engine unpacks them in order. Within one, the peer that has least to do for
us comes first, so that no uplink idles while another is crowded; of what it has, the rarest piece,
so that pieces spread before their holders go; of those equally rare any one, so that not all want
the same. A peer that is slow is asked only for what nobody else has.
"""

from msgspec import Struct

from beiran.ids import NodeId
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.peer_scores import Peers
from beiran.swarm.pieces import members


class Choice(Struct, frozen=True):
    """Fetch ``piece`` of ``download`` from ``neighbour``."""

    download: Download
    neighbour: Neighbour
    piece: int


class Picker:
    """Chooses; changes nothing."""

    def __init__(self, context: Context, peers: Peers) -> None:
        self._context = context
        self._peers = peers

    def next(self, in_order: list[Download], room: int) -> Choice | None:
        """The best next fetch, or None if nobody can be asked. ``room``: so many may run in all."""
        for download in in_order:
            needed = download.missing & ~download.in_flight & ~download.recheck
            if needed:
                choice = self.among(download, needed, room)
                if choice is not None:
                    return choice
        return None

    def among(
        self, download: Download, needed: int, room: int, *, but: tuple[NodeId, ...] = ()
    ) -> Choice | None:
        """The best fetch of any of these pieces, not from the nodes ``but``."""
        now, random = self._context.now, self._context.random
        fair = -(-room // max(1, len(download.neighbours)))  # more only where few can be asked
        each_max = min(fair, self._context.config.fetches_per_peer)
        best: Neighbour | None = None
        best_key: tuple[bool, int, int, float] | None = None
        for neighbour in download.neighbours.values():
            if not neighbour.ready & needed or neighbour.node in but:
                continue
            peer = self._peers.get(neighbour.node)
            if peer.outstanding >= each_max:
                continue
            if now < peer.resting_until:
                continue
            slow = now < peer.slow_until
            if slow and peer.outstanding:
                continue
            key = (slow, peer.load, peer.outstanding, random.random())
            if best_key is None or key < best_key:
                best, best_key = neighbour, key
        if best is None:
            return None
        return Choice(download, best, self._rarest(download, best.ready & needed))

    def _rarest(self, download: Download, pieces: int) -> int:
        fewest, chosen, ties = -1, -1, 0
        random, availability = self._context.random, download.availability
        for piece in members(pieces):
            count = availability[piece]
            if chosen < 0 or count < fewest:
                fewest, chosen, ties = count, piece, 1
            elif count == fewest:
                ties += 1
                if random.random() * ties < 1:
                    chosen = piece
        return chosen
