"""Bulk transfers as fluids: flows over one pipe share it fairly, end to end (max-min fairness).

Packets of a large transfer are too many to simulate. A *pipe* is one direction of a host's
connection, a *flow* goes through the pipe of its sender and that of its receiver. Each pipe has a
*level*, the rate that its flows may have at most. A flow's rate is the lower of the levels of its
two pipes; a pipe's level is the fair share for those of its flows that their other pipe does not
hold back. A change travels from pipe to pipe until it is small.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from simulations.kernel.time import VirtualTime

CHANGE_MIN: Final = 0.002  # of a level: smaller changes do not travel on
RATE_CHANGE_MIN: Final = 0.001  # of a rate: smaller changes leave a flow's end as planned
UPDATES_MAX: Final = 24  # pipes per change; the rest is corrected at the next one


@dataclass(eq=False)
class Pipe:
    """One direction of the connection of a host or an origin."""

    bytes_per_s: float
    flows: dict["Flow", None] = field(default_factory=dict)
    level: float = 0.0
    carried_bytes: float = 0.0

    def __post_init__(self) -> None:
        self.level = self.bytes_per_s

    def find_level(self) -> float:
        """Return the fair level, given how the flows' other pipes hold them back."""
        left, count = self.bytes_per_s, len(self.flows)
        if not count:
            return left
        for limit in sorted(flow.other(self).level for flow in self.flows):
            if limit * count >= left:
                break
            left -= limit
            count -= 1
        return left / count if count else self.bytes_per_s


@dataclass(eq=False)
class Flow:
    """Bytes on their way from one pipe to another.

    Attributes:
      at: when ``moved_bytes`` was computed.
      done: called when all bytes have arrived.
      version: counts changes of the rate; an end that was planned before is void.
    """

    up: Pipe
    down: Pipe
    size_bytes: float
    at: float
    done: Callable[["Flow"], None]
    moved_bytes: float = 0.0
    rate: float = 0.0
    version: int = 0
    running: bool = True

    def other(self, pipe: Pipe) -> Pipe:
        """Return the end that ``pipe`` is not."""
        return self.down if pipe is self.up else self.up


class Flows:
    """All flows of a world."""

    def __init__(self, time: VirtualTime, *, updates_max: int = UPDATES_MAX) -> None:
        self._time: Final = time
        self._updates_max: Final = updates_max

    def start(self, up: Pipe, down: Pipe, size_bytes: int, done: Callable[[Flow], None]) -> Flow:
        """Let ``size_bytes`` flow; ``done`` is called when all have arrived."""
        flow = Flow(up, down, float(size_bytes), self._time.now, done)
        up.flows[flow] = down.flows[flow] = None
        self._relax(up, down)
        return flow

    def stop(self, flow: Flow) -> None:
        """End a flow where it is."""
        if flow.running:
            self._settle(flow)
            flow.running = False
            del flow.up.flows[flow], flow.down.flows[flow]
            self._relax(flow.up, flow.down)

    def set_rate(self, pipe: Pipe, bytes_per_s: float) -> None:
        """Give a pipe another rate; 0 is a cable that is out."""
        pipe.bytes_per_s = bytes_per_s
        self._relax(pipe)

    def moved(self, flow: Flow) -> int:
        """Return how many bytes have arrived so far."""
        if flow.running:
            self._settle(flow)
        return int(min(flow.moved_bytes, flow.size_bytes))

    def _relax(self, *changed: Pipe) -> None:
        queue = deque(changed)
        queued = dict.fromkeys(changed)
        touched: dict[Flow, None] = {}
        updates = 0
        while queue:
            pipe = queue.popleft()
            queued.pop(pipe, None)
            level = pipe.find_level()
            updates += 1
            forced = updates <= len(changed)
            if not forced and abs(level - pipe.level) <= CHANGE_MIN * max(level, 1.0):
                continue
            pipe.level = level
            for flow in pipe.flows:
                touched[flow] = None
                other = flow.other(pipe)
                if updates + len(queue) < self._updates_max and other not in queued:
                    queued[other] = None
                    queue.append(other)
        for flow in touched:
            self._set_rate_of(flow)

    def _set_rate_of(self, flow: Flow) -> None:
        rate = min(flow.up.level, flow.down.level)
        if flow.version and abs(rate - flow.rate) <= RATE_CHANGE_MIN * flow.rate:
            return
        self._settle(flow)
        flow.rate = rate
        flow.version += 1
        if rate > 0:
            at = self._time.now + (flow.size_bytes - flow.moved_bytes) / rate
            self._time.schedule(at, self._finish, flow, flow.version)

    def _settle(self, flow: Flow) -> None:
        more = flow.rate * (self._time.now - flow.at)
        flow.moved_bytes += more
        flow.up.carried_bytes += more
        flow.down.carried_bytes += more
        flow.at = self._time.now

    def _finish(self, flow: Flow, version: int) -> None:
        if flow.running and flow.version == version:
            self.stop(flow)
            flow.moved_bytes = flow.size_bytes
            flow.done(flow)
