"""How fast bytes may go: a token bucket for each direction, shared by all that go there."""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

BURST_S: Final = 0.25
"""What may go at once after a rest, in seconds at the full rate; at least ``BURST_BYTES_MIN``."""

BURST_BYTES_MIN: Final = 256 * 1024

HELD_BACK_S: Final = 0.2
"""How often it is told that a limit of our own holds something back: others must not be blamed."""


class TokenBucket:
    """Lets ``bytes_per_s`` through on average, first come, first served.

    Attributes:
      burst_bytes: at most so many go at once after a rest.
    """

    def __init__(self, bytes_per_s: float | None = None, burst_bytes: float | None = None) -> None:
        """Without ``bytes_per_s`` nothing is held back."""
        self._given_burst = burst_bytes
        self._queue = trio.StrictFIFOLock()
        self._changed = trio.Event()
        self._set(bytes_per_s)
        self._tokens = self.burst_bytes
        self._counted_at = 0.0  # of trio's clock; long ago, so that it starts full

    @property
    def bytes_per_s(self) -> float | None:
        """The rate; None is no limit. May be set while others wait."""
        return self._bytes_per_s

    @bytes_per_s.setter
    def bytes_per_s(self, value: float | None) -> None:
        self._count()
        self._set(value)
        self._changed.set()
        self._changed = trio.Event()

    async def take(self, count: int) -> None:
        """Wait until so many bytes may go.

        More than ``burst_bytes`` go when as many as these may, and the next then waits longer.
        """
        if self._bytes_per_s is None:
            return
        async with self._queue:
            while (wait_s := self._wait_s(count)) > 0:
                with trio.move_on_after(wait_s):
                    await self._changed.wait()
            self._tokens -= count

    def _wait_s(self, count: int) -> float:
        self._count()
        if self._bytes_per_s is None:
            return 0.0
        return (min(count, self.burst_bytes) - self._tokens) / self._bytes_per_s

    def _count(self) -> None:
        now = trio.current_time()
        if self._bytes_per_s is not None:
            more = max(0.0, now - self._counted_at) * self._bytes_per_s
            self._tokens = min(self.burst_bytes, self._tokens + more)
        self._counted_at = now

    def _set(self, bytes_per_s: float | None) -> None:
        if bytes_per_s is not None and not 0 < bytes_per_s < math.inf:
            raise ValueError(f"not a rate: {bytes_per_s} bytes per second")
        self._bytes_per_s = bytes_per_s
        usual = max(BURST_BYTES_MIN, BURST_S * (bytes_per_s or 0))
        self.burst_bytes = usual if self._given_burst is None else self._given_burst


@asynccontextmanager
async def telling(held_back: Callable[[], object]) -> AsyncIterator[None]:
    """Tell every ``HELD_BACK_S`` that we wait for a limit of our own, as long as this lasts."""

    async def tell() -> None:
        while True:
            await trio.sleep(HELD_BACK_S)
            held_back()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(tell)
        yield
        nursery.cancel_scope.cancel()


class Pace:
    """A bucket, and who is told while it makes us wait."""

    def __init__(self, bucket: TokenBucket, held_back: Callable[[], object]) -> None:
        self._bucket: Final = bucket
        self._held_back: Final = held_back

    async def take(self, count: int) -> None:
        """Wait until so many bytes may go."""
        if self._bucket.bytes_per_s is not None:
            async with telling(self._held_back):
                await self._bucket.take(count)
