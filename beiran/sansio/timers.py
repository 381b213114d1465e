"""Timers of a sans-IO core, on the clock of its driver."""

import heapq
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
STALE_MIN: Final = 64  # rebuilding the heap for fewer moved or cancelled entries is not worth it


class Timers(Generic[Key]):
    """Deadlines by key, one each; setting a key again moves it.

    A heap in which moved and cancelled entries stay until they come up, or are more than half:
    setting and cancelling are O(log n) and O(1), and of equal deadlines the one set first is due
    first.
    """

    def __init__(self) -> None:
        self._at: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._at)

    def set(self, key: Key, at: float) -> None:
        """Make ``key`` due at the time ``at`` (seconds)."""
        self._sequence += 1
        self._at[key] = (at, self._sequence)
        heapq.heappush(self._heap, (at, self._sequence, key))
        if len(self._heap) > STALE_MIN + 2 * len(self._at):
            self._rebuild()

    def cancel(self, key: Key) -> None:
        """Forget ``key``, if it is there."""
        self._at.pop(key, None)

    def deadline(self, key: Key) -> float | None:
        """When ``key`` is due, or None."""
        entry = self._at.get(key)
        return entry[0] if entry else None

    def next_deadline(self) -> float | None:
        """When the first key is due, or None if there is none."""
        while self._heap:
            at, sequence, key = self._heap[0]
            if self._at.get(key) == (at, sequence):
                return at
            heapq.heappop(self._heap)
        return None

    def pop_due(self, now: float) -> Key | None:
        """Take out the first key that is due at ``now``, or None."""
        at = self.next_deadline()
        if at is None or at > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._at[key]
        return key

    def shift(self, seconds: float) -> None:
        """Put everything off by ``seconds``."""
        self._at = {key: (at + seconds, order) for key, (at, order) in self._at.items()}
        self._rebuild()

    def _rebuild(self) -> None:
        """Leave nothing in the heap that was moved or cancelled."""
        self._heap = [(at, order, key) for key, (at, order) in self._at.items()]
        heapq.heapify(self._heap)
