"""What time it is on a host: a clock that may run too fast, and a wall clock that may be wrong.

The core is handed the first (Linux's monotonic clock, which nobody sets but which drifts); a new
life's generation and version come from the second, which people and NTP set forwards and back.
"""

from typing import Final

WALL_START_S: Final = 1_800_000_000
"""What the right wall clock shows at virtual time 0: some second of 2027."""


class HostClock:
    """The clocks of one host.

    Attributes:
      rate: seconds that it counts in one second; 1.0 is right.
      wall_error_s: how far its wall clock is ahead.
    """

    def __init__(self) -> None:
        self.rate = 1.0
        self.wall_error_s = 0.0
        self._since = 0.0
        self._reads = 0.0

    def local(self, now: float) -> float:
        """What the monotonic clock reads at the virtual time ``now``."""
        return self._reads + (now - self._since) * self.rate

    def virtual(self, local: float) -> float:
        """When (virtual time) the monotonic clock reads ``local``."""
        return self._since + (local - self._reads) / self.rate

    def drift(self, rate: float, now: float) -> None:
        """Run at another rate from ``now`` on; never back."""
        self._reads = self.local(now)
        self._since = now
        self.rate = rate

    def wall_s(self, now: float) -> float:
        """What the wall clock reads at the virtual time ``now``, in seconds since 1970."""
        return max(0.0, WALL_START_S + now + self.wall_error_s)
