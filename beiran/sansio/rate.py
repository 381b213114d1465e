"""Measure a rate: bytes per second over the last half second."""

from typing import Final

WINDOW_S: Final = 0.5  # some pieces arrive in it; a change shows within a second; chosen
KEEP: Final = 0.5  # of the last windows' rate, when one ends


class Rate:
    """A rate, averaged over windows of half a second, the older the less."""

    def __init__(self) -> None:
        self.bytes_per_s = 0.0
        self._since: float | None = None
        self._bytes = 0

    def add(self, count: int, now: float) -> None:
        """``count`` bytes more, at the time ``now``."""
        if self._since is None or now - self._since > 4 * WINDOW_S:  # idle: that is no rate
            self._since, self._bytes = now, 0
        self._bytes += count
        passed_s = now - self._since
        if passed_s >= WINDOW_S:
            latest = self._bytes / passed_s
            old = self.bytes_per_s or latest
            self.bytes_per_s = KEEP * old + (1 - KEEP) * latest
            self._since, self._bytes = now, 0

    def at(self, now: float) -> float:
        """The rate at the time ``now``; 0.0 once nothing was added for four windows."""
        if self._since is None or now - self._since > 4 * WINDOW_S:
            return 0.0
        return self.bytes_per_s
