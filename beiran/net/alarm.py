"""Sleep until a sans-IO core is due: the half of its driver's loop that keeps time.

Both drivers, ``agent/gossip_driver.py`` and ``transfer/swarm_driver.py``, call ``look`` after each
input and run one task:

    while True:
        now = await alarm.ring()
        self.do(core.advance(now=now))
"""

import math
from collections.abc import Callable
from typing import Final

import trio


class Alarm:
    """Rings when a core is due.

    Args:
      next_deadline: the core's, in seconds of trio's clock; None when it has none.
    """

    def __init__(self, next_deadline: Callable[[], float | None]) -> None:
        self._next_deadline: Final = next_deadline
        self._rings_at = math.inf
        self._sooner = trio.Event()

    def look(self) -> None:
        """The core has had an input, so its deadline may be sooner."""
        deadline = self._next_deadline()
        if deadline is not None and deadline < self._rings_at:
            self._sooner.set()

    async def ring(self) -> float:
        """Wait until the core is due, or was due before its deadline moved. Returns: the time."""
        while True:
            deadline = self._next_deadline()
            self._rings_at = math.inf if deadline is None else deadline
            self._sooner = trio.Event()
            with trio.move_on_at(self._rings_at):
                await self._sooner.wait()
            now = trio.current_time()
            if now >= self._rings_at:
                return now
