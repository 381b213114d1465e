"""When a core next has something to do: its driver sleeps until then, or until that is sooner."""

import math
from collections.abc import Callable
from typing import Final

import trio


class Alarm:
    """Rings whenever a core is due.

    Args:
      next_deadline: of the core, in seconds of trio's clock; None when nothing is due.
    """

    def __init__(self, next_deadline: Callable[[], float | None]) -> None:
        self._next_deadline: Final = next_deadline
        self._rings_at = math.inf
        self._sooner = trio.Event()

    def look(self) -> None:
        """The core has had an input: it may be due sooner now."""
        deadline = self._next_deadline()
        if deadline is not None and deadline < self._rings_at:
            self._sooner.set()

    async def ring(self) -> float:
        """Wait until the core is due. Returns: the time."""
        while True:
            deadline = self._next_deadline()
            self._rings_at = math.inf if deadline is None else deadline
            self._sooner = trio.Event()
            with trio.move_on_at(self._rings_at):
                await self._sooner.wait()
            now = trio.current_time()
            if now >= self._rings_at:
                return now
