"""Who lied to us, and for how long it is left alone.

A disk that breaks makes a liar of an honest host, and a disk can be mended. So distrust ends: when
its agent was started again, for that is what an operator does after mending it; or after a time,
twice as long with each lie.
"""

from collections.abc import Collection, Mapping
from typing import Final

from msgspec import Struct

from beiran.ids import NodeId
from beiran.swarm.config import SwarmConfig

DOUBLED_MAX: Final = 8


class _Past(Struct):
    lies: int = 0
    generation: int | None = None


class Distrust:
    """What is remembered of liars.

    Attributes:
      reasons: who is left alone now, and why.
    """

    def __init__(self, config: SwarmConfig) -> None:
        self.reasons: Final[dict[NodeId, str]] = {}
        self._config = config
        self._pasts: dict[NodeId, _Past] = {}

    def begin(self, node: NodeId, reason: str, generation: int | None) -> float:
        """A node was found out, in this generation of its agent if that is known.

        Returns: for how many seconds it is left alone.
        """
        past = self._pasts.setdefault(node, _Past())
        self.reasons[node] = reason
        past.generation = generation
        past.lies += 1
        return self._config.distrust_s * 2.0 ** min(past.lies - 1, DOUBLED_MAX)

    def end(self, node: NodeId) -> bool:
        """It is asked again. Returns whether it was distrusted."""
        return self.reasons.pop(node, None) is not None

    def restarted(self, generations: Mapping[NodeId, int]) -> list[NodeId]:
        """Those of the distrusted whose agents were started since."""
        found: list[NodeId] = []
        for node in self.reasons:
            then, now = self._pasts[node].generation, generations.get(node)
            if then is not None and now is not None and now > then:
                found.append(node)
        return found

    def forget(self, but: Collection[NodeId]) -> None:
        """Remember nothing of those who are trusted and not among these."""
        for node in [n for n in self._pasts if n not in but and n not in self.reasons]:
            del self._pasts[node]
