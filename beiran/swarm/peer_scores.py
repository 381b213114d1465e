"""How the peers that we fetch from do, whatever the blob."""

from typing import TYPE_CHECKING, Final

from msgspec import Struct

from beiran.ids import NodeId
from beiran.swarm.config import SwarmConfig

if TYPE_CHECKING:
    from random import Random

FAILED_S: Final = 0.25  # after a failure a peer is not asked for so long, doubled with each
FAILED_S_MAX: Final = 8.0
LOST_FAILURES: Final = 5  # in a row: it does not count as a source


class Peer(Struct):
    """One peer. ``outstanding``: fetches that run. Times are those until which it is spared.

    ``load``: uploads that it had when it last spoke, and ours since.
    """

    outstanding: int = 0
    load: int = 0
    resting_until: float = 0.0
    slow_until: float = 0.0
    failures: int = 0
    slows: int = 0


class Peers:
    """All peers that we ever fetched from."""

    def __init__(self, config: SwarmConfig, random: "Random") -> None:
        self._config = config
        self._random = random
        self._peers: dict[NodeId, Peer] = {}

    def get(self, node: NodeId) -> Peer:
        """The peer's record."""
        peer = self._peers.get(node)
        if peer is None:
            peer = self._peers[node] = Peer()
        return peer

    def forget(self, node: NodeId) -> None:
        """It is offline; when it is back it starts anew."""
        self._peers.pop(node, None)

    def served(self, node: NodeId) -> None:
        """It gave a piece."""
        peer = self.get(node)
        peer.failures = 0
        peer.slows = max(0, peer.slows - 1)

    def busy(self, node: NodeId, now: float) -> float:
        """It has no room. Returns when it may be asked again."""
        peer = self.get(node)
        peer.resting_until = now + self._config.busy_s * (0.5 + self._random.random())
        return peer.resting_until

    def failed(self, node: NodeId, now: float) -> float:
        """It did not answer, or broke off. Returns when it may be asked again."""
        peer = self.get(node)
        pause_s = min(FAILED_S_MAX, FAILED_S * 2 ** min(peer.failures, 10))
        peer.failures += 1
        peer.resting_until = now + pause_s
        return peer.resting_until

    def slow(self, node: NodeId, now: float) -> None:
        """It was left for being slow: ask it last for a while."""
        peer = self.get(node)
        peer.slow_until = now + self._config.slow_s * 2 ** min(peer.slows, 3)
        peer.slows += 1

    def crawls(self, node: NodeId, now: float) -> bool:
        """Whether it was left for being slow again and again: once, and it may have been us."""
        peer = self.get(node)
        return peer.slows > 1 and now < peer.slow_until

    def lost(self, node: NodeId) -> bool:
        """Whether it failed so often that it is no source."""
        return self.get(node).failures >= LOST_FAILURES
