"""Writes what the core finds out into the store, and then tells those who listen.

One writer; whatever has gathered while it wrote goes into the next transaction, so that a flood of
news costs few of them. Events are told after their rows are written, never before: who hears of an
image finds it in the listing.

A full disk, or a person's shell that holds the file, passes: what is to be written waits for that,
and ``problem`` says so. A file that is damaged does not pass, and ends the agent.
"""

import logging
import sqlite3
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, TypeVar

import trio

from beiran.agent.event_bus import Bus
from beiran.api.models import Info
from beiran.clock import now_text
from beiran.errors import DataError
from beiran.gossip.effects import Effect
from beiran.ids import NodeId
from beiran.store.changes import Applied
from beiran.store.store import Store

PENDING_MAX: Final = 200_000  # effects that wait for the disk; some hundred bytes each
RETRY_MIN_S: Final = 0.5
RETRY_MAX_S: Final = 15.0

_T = TypeVar("_T")
_log: Final = logging.getLogger(__name__)


class Recorder:
    """The only writer of the store.

    Attributes:
      problem: why nothing can be written now, a line; None while all is well.
    """

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store: Final = store
        self._bus: Final = bus
        self._pending: list[Effect] = []
        self._pending_since_event = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._limiter: Final = trio.CapacityLimiter(1)
        self.problem: str | None = None

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
            await self._write_for_sure(batch)
            if not self._pending:
                self._idle.set()

    async def _write_for_sure(self, batch: list[Effect]) -> None:
        wait_s = RETRY_MIN_S
        while not await self._write(partial(self._store.apply, batch, now_text())):
            if len(self._pending) > PENDING_MAX:
                raise DataError(f"{self.problem}, and too much waits for it")
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def flushed(self) -> None:
        """Wait until everything recorded so far is written."""
        await self._idle.wait()

    async def record_info(self, node: NodeId, info: Info) -> bool:
        """Note what a node told of itself. Returns whether that could be written."""
        return await self._write(partial(self._store.record_info, node, info))

    async def record_seen(self, last_seen_at: Mapping[NodeId, str]) -> None:
        """Note when nodes were last heard of, if it can be written."""
        await self._try_in_thread(partial(self._store.seen, last_seen_at))

    async def _write(self, write: Callable[[], Applied]) -> bool:
        """Returns whether it was written; if so, whoever listens is told. Raises: DataError."""
        applied = await self._try_in_thread(write)
        if applied is not None:
            self._bus.announce(applied)
        return applied is not None

    async def _try_in_thread(self, work: Callable[[], _T]) -> _T | None:
        try:
            result = await trio.to_thread.run_sync(work, limiter=self._limiter)
        except DataError as error:
            # SQLITE_FULL, SQLITE_BUSY, SQLITE_IOERR, SQLITE_READONLY; not SQLITE_CORRUPT.
            if not isinstance(error.__cause__, sqlite3.OperationalError):
                raise
            if self.problem is None:
                _log.error("%s; it is tried again", error)
            self.problem = str(error)
            return None
        self.problem = None
        return result
