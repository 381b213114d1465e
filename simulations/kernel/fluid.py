"""Links as fluids: what flows at once over one link shares it fairly, end to end (max-min).

Each link has a *level*: the rate that its flows may have at most. A flow's rate is the lower of
its two links' levels, and a link's level is what remains for those that its other flows' other
ends do not hold back. A change travels from link to link until it is small.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

CHANGE_MIN: Final = 0.002
UPDATES_MAX: Final = 24  # links per change; the rest is settled at the next one


@dataclass(eq=False)
class Link:
    """One direction of a host's or an origin's connection."""

    bytes_per_s: float
    flows: dict["Flow", None] = field(default_factory=dict)
    level: float = 0.0
    carried_bytes: float = 0.0

    def find_level(self) -> float:
        """The fair level, given how the flows' other ends hold them back."""
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
    """Bytes under way from one link to another."""

    up: Link
    down: Link
    size_bytes: float
    at: float
    done: Callable[["Flow"], None]
    moved_bytes: float = 0.0
    rate: float = 0.0
    version: int = 0
    running: bool = True

    def other(self, link: Link) -> Link:
        """The end that ``link`` is not."""
        return self.down if link is self.up else self.up


class Network:
    """All flows; ``schedule(at, call)`` is the world's heap of virtual time."""

    def __init__(
        self,
        now: Callable[[], float],
        schedule: Callable[[float, Callable[[], None]], None],
        *,
        updates_max: int = UPDATES_MAX,
    ) -> None:
        self._now = now
        self._schedule = schedule
        self._updates_max = updates_max

    def start(self, up: Link, down: Link, size_bytes: int, done: Callable[[Flow], None]) -> Flow:
        """``size_bytes`` begin to flow; ``done`` is called when all have come."""
        flow = Flow(up, down, float(size_bytes), self._now(), done)
        up.flows[flow] = down.flows[flow] = None
        self._relax(up, down)
        return flow

    def stop(self, flow: Flow) -> None:
        """No more of it flows."""
        if flow.running:
            self._settle(flow)
            flow.running = False
            del flow.up.flows[flow], flow.down.flows[flow]
            self._relax(flow.up, flow.down)

    def set_rate(self, link: Link, bytes_per_s: float) -> None:
        """A link has another rate from now on; 0 is a cable that is out."""
        link.bytes_per_s = bytes_per_s
        self._relax(link)

    def moved(self, flow: Flow) -> int:
        """Bytes that have come through by now."""
        if flow.running:
            self._settle(flow)
        return int(min(flow.moved_bytes, flow.size_bytes))

    def _relax(self, *changed: Link) -> None:
        queue = deque(changed)
        queued = dict.fromkeys(changed)
        touched: dict[Flow, None] = {}
        updates = 0
        while queue:
            link = queue.popleft()
            queued.pop(link, None)
            level = link.find_level()
            updates += 1
            forced = updates <= len(changed)
            if not forced and abs(level - link.level) <= CHANGE_MIN * max(level, 1.0):
                continue
            link.level = level
            for flow in link.flows:
                touched[flow] = None
                other = flow.other(link)
                if updates + len(queue) < self._updates_max and other not in queued:
                    queued[other] = None
                    queue.append(other)
        for flow in touched:
            self._set_flow(flow)

    def _set_flow(self, flow: Flow) -> None:
        rate = min(flow.up.level, flow.down.level)
        if flow.version and abs(rate - flow.rate) <= 0.001 * flow.rate:
            return
        self._settle(flow)
        flow.rate = rate
        flow.version += 1
        if rate > 0:
            version = flow.version
            at = self._now() + (flow.size_bytes - flow.moved_bytes) / rate
            self._schedule(at, lambda: self._finish(flow, version))

    def _settle(self, flow: Flow) -> None:
        more = flow.rate * (self._now() - flow.at)
        flow.moved_bytes += more
        flow.up.carried_bytes += more
        flow.down.carried_bytes += more
        flow.at = self._now()

    def _finish(self, flow: Flow, version: int) -> None:
        if flow.running and flow.version == version:
            self.stop(flow)
            flow.moved_bytes = flow.size_bytes
            flow.done(flow)
