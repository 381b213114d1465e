"""Virtual time, on which worlds and their parts schedule actions, and the clocks of hosts.

Actions of one instant run in the order in which they were scheduled, so a run depends on nothing
but the calls that were made.

A host has two clocks. The core reads the monotonic one (Linux's, which nothing sets but which
drifts). A new process takes its generation and version from the wall clock, which operators and
NTP set in both directions.
"""

import heapq
from collections.abc import Callable
from typing import Any, Final

STORM_STEPS_PER_HOST_S: Final = 2000
"""Far above what a host causes: 5 events a second at rest, some hundred while all hosts start."""
STORM_SLACK_HOSTS: Final = 10  # a world of one or two hosts may burst

WALL_START_S: Final = 1_800_000_000
"""The correct wall clock at virtual time 0, in seconds since 1970: in January 2027."""

Action = Callable[..., None]


class Storm(AssertionError):
    """Events cause events without end, so virtual time stands still."""


class VirtualTime:
    """The clock of a world and its queue of actions.

    Attributes:
      now: virtual time in seconds.
      steps: actions run so far.
    """

    __slots__ = ("_heap", "_sequence", "now", "steps")

    def __init__(self, now: float = 0.0) -> None:
        self.now = now
        self.steps = 0
        self._heap: list[tuple[float, int, Action, tuple[Any, ...]]] = []
        self._sequence = 0

    def schedule(self, at: float, action: Action, *arguments: Any) -> None:
        """Call ``action(*arguments)`` at the virtual time ``at``, or now if that has passed."""
        self._sequence = sequence = self._sequence + 1
        heapq.heappush(self._heap, (at if at > self.now else self.now, sequence, action, arguments))

    def every(self, interval_s: float, action: Callable[[], None]) -> None:
        """Call ``action`` now and every ``interval_s`` seconds."""
        action()
        self.schedule(self.now + interval_s, self.every, interval_s, action)

    def run(self, seconds: float, *, hosts: int) -> None:
        """Let ``seconds`` of virtual time pass.

        Args:
          hosts: in the world; they bound how many events are plausible.

        Raises: Storm if there are more events than ``STORM_STEPS_PER_HOST_S`` allows.
        """
        end = self.now + seconds
        heap, pop = self._heap, heapq.heappop
        steps = 0
        steps_max = STORM_STEPS_PER_HOST_S * (hosts + STORM_SLACK_HOSTS) * (seconds + 1.0)
        while heap and heap[0][0] <= end:
            self.now, _, action, arguments = pop(heap)
            steps += 1
            if steps > steps_max:
                raise Storm(f"{steps} events within {seconds:g} virtual seconds")
            action(*arguments)
        self.now = end
        self.steps += steps

    def step(self) -> bool:
        """Run the next action. Returns False if none is scheduled."""
        if not self._heap:
            return False
        self.now, _, action, arguments = heapq.heappop(self._heap)
        self.steps += 1
        action(*arguments)
        return True


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
