"""Peer selection and piece selection: whom to ask for which piece next.

Downloads go one after another, as an engine unpacks layers in order. Within a download:

- *Least loaded peer first* (peer selection): the peer with the fewest uploads and the fewest
  fetches of ours, so that no uplink idles while another is crowded. Slow peers come last, and are
  asked for one piece at a time.
- *Rarest piece first* (piece selection; BitTorrent, Cohen 2003; kraken's ``rarestFirstPolicy``):
  of the pieces that this peer has, the one that the fewest neighbours have. So pieces spread
  before their holders leave. Ties are broken at random, so that nodes want different pieces.

``Peers`` keeps how each peer served this node, whatever the blob. ``Picker`` chooses and changes
nothing; ``fetch_scheduler`` calls it.
"""

from collections import defaultdict
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from beiran.ids import NodeId
from beiran.swarm.config import SwarmConfig
from beiran.swarm.context import Context
from beiran.swarm.download import Download, Neighbour
from beiran.swarm.pieces import pieces_in

if TYPE_CHECKING:
    from random import Random

FAILURE_PAUSE_S: Final = 0.25  # after a failure, doubled with each further one in a row
FAILURE_PAUSE_MAX_S: Final = 8.0  # a peer that is back is asked within this time; chosen
UNREACHABLE_FAILURES: Final = 5
"""After this many failures in a row (7.75 s of pauses) a peer does not count as a source."""
SLOW_DOUBLINGS_MAX: Final = 3  # a slow peer is asked last for 8 * slow_s at most; chosen


class Peer(Struct):
    """How one peer serves this node.

    Attributes:
      outstanding: fetches from it that run.
      load: uploads that it had by its last ``Have``, and fetches of ours begun since.
      paused_until: it is not asked before this time. ``slow_until``: it is asked last until then.
      failures: in a row. ``slow_times``: fetches cancelled for slowness, less those that were done.
    """

    outstanding: int = 0
    load: int = 0
    paused_until: float = 0.0
    slow_until: float = 0.0
    failures: int = 0
    slow_times: int = 0


class Peers:
    """All peers that this node fetched from."""

    def __init__(self, config: SwarmConfig, random: "Random") -> None:
        self._config = config
        self._random = random
        self._peers: defaultdict[NodeId, Peer] = defaultdict(Peer)

    def get(self, node: NodeId) -> Peer:
        """The record of a peer. To be read only."""
        return self._peers[node]

    def forget(self, node: NodeId) -> None:
        """A peer is offline. It begins anew when it is back."""
        self._peers.pop(node, None)

    def note_load(self, node: NodeId, uploads: int) -> None:
        """A peer reports how many uploads it has."""
        self.get(node).load = uploads

    def begin_fetch(self, node: NodeId) -> None:
        """A fetch from a peer begins."""
        peer = self.get(node)
        peer.outstanding += 1
        peer.load += 1

    def end_fetch(self, node: NodeId) -> None:
        """A fetch from a peer is over, however it ended."""
        peer = self.get(node)
        peer.outstanding -= 1
        peer.load = max(0, peer.load - 1)

    def served(self, node: NodeId) -> None:
        """A peer gave all of a fetch."""
        peer = self.get(node)
        peer.failures = 0
        peer.slow_times = max(0, peer.slow_times - 1)

    def busy(self, node: NodeId, now: float) -> float:
        """A peer has no upload slot. Returns when it may be asked again."""
        peer = self.get(node)
        # At random, or requesters that were refused together would come back together.
        peer.paused_until = now + self._config.busy_s * (0.5 + self._random.random())
        return peer.paused_until

    def failed(self, node: NodeId, now: float) -> float:
        """A peer did not answer, or broke off. Returns when it may be asked again."""
        peer = self.get(node)
        pause_s = min(FAILURE_PAUSE_MAX_S, FAILURE_PAUSE_S * 2 ** min(peer.failures, 10))
        peer.failures += 1
        peer.paused_until = now + pause_s
        return peer.paused_until

    def slow(self, node: NodeId, now: float) -> None:
        """A fetch from a peer was too slow: ask it last for a while."""
        peer = self.get(node)
        peer.slow_until = now + self._config.slow_s * 2 ** min(peer.slow_times, SLOW_DOUBLINGS_MAX)
        peer.slow_times += 1

    def is_slow(self, node: NodeId, now: float) -> bool:
        """Whether a peer is asked last now."""
        return now < self.get(node).slow_until

    def is_unreachable(self, node: NodeId) -> bool:
        """Whether a peer failed so often in a row that it is no source."""
        return self.get(node).failures >= UNREACHABLE_FAILURES

    def is_good(self, node: NodeId, now: float) -> bool:
        """Whether a peer counts as a source: it answers, and was not slow twice of late.

        Once does not count: this node's own link may have been the slow one.
        """
        peer = self.get(node)
        slow_again = peer.slow_times > 1 and now < peer.slow_until
        return not slow_again and peer.failures < UNREACHABLE_FAILURES


class Choice(Struct, frozen=True):
    """Fetch ``piece`` of ``download`` from ``neighbour``."""

    download: Download
    neighbour: Neighbour
    piece: int


class Picker:
    """Chooses fetches, and changes nothing."""

    def __init__(self, context: Context, peers: Peers) -> None:
        self._context = context
        self._peers = peers

    def next(self, in_order: list[Download], fetches_max: int) -> Choice | None:
        """The next fetch, or None if no peer can be asked.

        Args:
          in_order: downloads that lack pieces, the first one first.
          fetches_max: how many fetches from peers may run at once.
        """
        for download in in_order:
            needed = download.missing & ~download.in_flight & ~download.evidence.refetch
            if needed:
                choice = self.among(download, needed, fetches_max)
                if choice is not None:
                    return choice
        return None

    def among(
        self, download: Download, needed: int, fetches_max: int, *, but: NodeId | None = None
    ) -> Choice | None:
        """The best fetch of any of the ``needed`` pieces, not from the node ``but``."""
        now, random = self._context.now, self._context.random
        # More than one at a time from each only where there are few to ask.
        fair_share = -(-fetches_max // max(1, len(download.neighbours)))
        each_max = min(fair_share, self._context.config.fetches_per_peer)
        best: Neighbour | None = None
        best_key: tuple[bool, int, int, float] | None = None
        for neighbour in download.neighbours.values():
            if not neighbour.held & needed or neighbour.node == but:
                continue
            peer = self._peers.get(neighbour.node)
            if peer.outstanding >= each_max or now < peer.paused_until:
                continue
            if not neighbour.requestable & needed:
                continue
            slow = now < peer.slow_until
            if slow and peer.outstanding:
                continue
            key = (slow, peer.load, peer.outstanding, random.random())
            if best_key is None or key < best_key:
                best, best_key = neighbour, key
        if best is None:
            return None
        return Choice(download, best, self._rarest(download, best.requestable & needed))

    def _rarest(self, download: Download, pieces: int) -> int:
        fewest, chosen, ties = -1, -1, 0
        random, availability = self._context.random, download.availability
        for piece in pieces_in(pieces):
            count = availability[piece]
            if chosen < 0 or count < fewest:
                fewest, chosen, ties = count, piece, 1
            elif count == fewest:
                ties += 1
                if random.random() * ties < 1:  # reservoir sampling: each of the ties alike
                    chosen = piece
        return chosen
