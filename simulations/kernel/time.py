"""Virtual time of a crowd."""

import heapq
from collections.abc import Callable


class Heap:
    """Virtual time: calls at times, those of one time in the order in which they were set."""

    def __init__(self, now: float) -> None:
        self.now = now
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._sequence = 0

    def at(self, time: float, call: Callable[[], None]) -> None:
        """Call ``call`` at ``time``, or now if that is past."""
        self._sequence += 1
        heapq.heappush(self._calls, (max(time, self.now), self._sequence, call))

    def step(self, until: float) -> bool:
        """Do the next call that is due by ``until``; False, at ``until``, if there is none."""
        if not self._calls or self._calls[0][0] > until:
            self.now = until
            return False
        self.now, _, call = heapq.heappop(self._calls)
        call()
        return True
