"""Limit how fast bytes are sent and received: one token bucket for each direction.

By hand, since the libraries for it do not run on trio: aiolimiter needs asyncio, and pyrate-limiter
blocks its thread. ``http/blob_response.py`` (uploads), the blob path of ``peers`` and ``registry``
(downloads) take from these.
"""

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import trio

BURST_S: Final = 0.25
"""The burst after a pause, in seconds at the full rate; at least ``BURST_BYTES_MIN``. Chosen: a
link is seldom idle within a pull, and a burst fills a switch's buffer."""

BURST_BYTES_MIN: Final = 256 * 1024  # one step of ``sendfile`` (http/body.py)

HELD_BACK_S: Final = 0.2
"""How often a transfer that waits for our own limit reports so: its peer is not to blame."""


class TokenBucket:
    """Lets ``bytes_per_s`` through on average, first come, first served.

    Attributes:
      burst_bytes: the most that go at once after a pause.
    """

    def __init__(self, bytes_per_s: float | None = None, burst_bytes: float | None = None) -> None:
        """Without ``bytes_per_s`` there is no limit."""
        self._given_burst = burst_bytes
        self._queue = trio.StrictFIFOLock()
        self._changed = trio.Event()
        self._set(bytes_per_s)
        self._tokens = self.burst_bytes
        self._counted_at = 0.0  # on trio's clock

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
        """Wait until ``count`` bytes may go.

        More than ``burst_bytes`` go when ``burst_bytes`` may, and the next caller waits longer.
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
async def reporting(held_back: Callable[[], object]) -> AsyncIterator[None]:
    """Call ``held_back`` every ``HELD_BACK_S`` while the block runs."""

    async def report() -> None:
        while True:
            await trio.sleep(HELD_BACK_S)
            held_back()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(report)
        yield
        nursery.cancel_scope.cancel()


class Pace:
    """A bucket, and a callback that runs while ``take`` waits."""

    def __init__(self, bucket: TokenBucket, held_back: Callable[[], object]) -> None:
        self._bucket: Final = bucket
        self._held_back: Final = held_back

    async def take(self, count: int) -> None:
        """Wait until ``count`` bytes may go."""
        if self._bucket.bytes_per_s is not None:
            async with reporting(self._held_back):
                await self._bucket.take(count)
