"""The clocks of one host: a monotonic clock that may drift, and a wall clock that may be wrong.

The core reads the monotonic clock (Linux's, which nothing sets but which drifts). A new process
takes its generation and version from the wall clock, which operators and NTP set in both
directions.
"""

from typing import Final

WALL_START_S: Final = 1_800_000_000
"""The correct wall clock at virtual time 0, in seconds since 1970: in January 2027."""


class HostClock:
    """The clocks of one host.

    Attributes:
      rate: seconds that the monotonic clock counts in one second; 1.0 is correct.
      wall_error_s: seconds by which the wall clock is ahead.
    """

    __slots__ = ("_reads", "_since", "rate", "wall_error_s")

    def __init__(self) -> None:
        self.rate = 1.0
        self.wall_error_s = 0.0
        self._since = 0.0
        self._reads = 0.0

    def local(self, now: float) -> float:
        """Return the reading of the monotonic clock at the virtual time ``now``."""
        return self._reads + (now - self._since) * self.rate

    def virtual(self, local: float) -> float:
        """Return the virtual time at which the monotonic clock reads ``local``."""
        return self._since + (local - self._reads) / self.rate

    def drift(self, rate: float, now: float) -> None:
        """Run at ``rate`` from ``now`` on; the reading does not jump."""
        self._reads = self.local(now)
        self._since = now
        self.rate = rate

    def wall_s(self, now: float) -> float:
        """Return the wall clock at the virtual time ``now``, in seconds since 1970."""
        return max(0.0, WALL_START_S + now + self.wall_error_s)
