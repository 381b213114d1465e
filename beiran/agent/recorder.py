"""Writes what the core finds out into the store, and then tells those who listen.

One writer; whatever has gathered while it wrote goes into the next transaction, so that a flood of
news costs few of them. Events are told after their rows are written, never before: who hears of an
image finds it in the listing.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

import trio

from beiran.agent.bus import Bus
from beiran.agent.clock import now_text
from beiran.gossip.effects import Effect
from beiran.ids import NodeId
from beiran.models import Info
from beiran.store.changes import Applied
from beiran.store.store import Store

_T = TypeVar("_T")


class Recorder:
    """The only writer of the store."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store: Final = store
        self._bus: Final = bus
        self._pending: list[Effect] = []
        self._pending_since_event = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._limiter: Final = trio.CapacityLimiter(1)

    def record(self, effects: list[Effect]) -> None:
        """Have these written, after all that came before."""
        self._pending.extend(effects)
        self._pending_since_event.set()
        if self._idle.is_set():
            self._idle = trio.Event()

    async def serve(self) -> None:
        """Write for ever. Raises: DataError when the file cannot be written any more."""
        while True:
            await self._pending_since_event.wait()
            self._pending_since_event = trio.Event()
            batch, self._pending = self._pending, []
            await self._write(partial(self._store.apply, batch, now_text()))
            if not self._pending:
                self._idle.set()

    async def flushed(self) -> None:
        """Wait until everything recorded so far is written."""
        await self._idle.wait()

    async def record_info(self, node: NodeId, info: Info) -> None:
        """Note what a node told of itself."""
        await self._write(partial(self._store.record_info, node, info))

    async def record_seen(self, last_seen_at: Mapping[NodeId, str]) -> None:
        """Note when nodes were last heard of."""
        await self._in_thread(partial(self._store.seen, last_seen_at))

    async def _write(self, write: Callable[[], Applied]) -> None:
        self._bus.announce(await self._in_thread(write))

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(work, limiter=self._limiter)
