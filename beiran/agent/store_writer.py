"""Write the effects of the gossip core into the store, then announce what changed.

This is the only writer of the store. Effects that gather during one transaction go into the next,
so that a burst of updates costs few transactions. The bus announces events after their rows are
written, never before: a client that receives ``image.added`` finds the image in the listing.

A full disk, or a shell that locks the file, is temporary: the effects wait, and ``problem`` names
the reason. A damaged file is permanent, and ends the agent.
"""

import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, TypeVar

import trio

from beiran.agent.event_bus import EventBus
from beiran.api.models import Info
from beiran.clock import now_text
from beiran.errors import DataError
from beiran.gossip.effects import Effect
from beiran.ids import NodeId
from beiran.store.changes import Applied
from beiran.store.store import Store

PENDING_MAX: Final = 200_000  # effects that wait for the disk; at about 300 bytes each, 60 MB
RETRY_MIN_S: Final = 0.5  # a shell's lock is often shorter
RETRY_MAX_S: Final = 15.0  # how stale the listings may be once the disk has room again

_T = TypeVar("_T")
_log: Final = logging.getLogger(__name__)


class StoreWriter:
    """The only writer of the store.

    Attributes:
      problem: one line on why nothing can be written now; None while writes succeed.
    """

    def __init__(self, store: Store, bus: EventBus) -> None:
        self._store: Final = store
        self._bus: Final = bus
        self._pending: list[Effect] = []
        self._has_pending = trio.Event()
        self._idle = trio.Event()
        self._idle.set()
        self._limiter: Final = trio.CapacityLimiter(1)
        self.problem: str | None = None

    def on_effects(self, effects: Sequence[Effect]) -> None:
        """Queue effects, to be written in the order in which they came."""
        self._pending.extend(effects)
        self._has_pending.set()
        if self._idle.is_set():
            self._idle = trio.Event()

    async def serve(self) -> None:
        """Write until cancelled. Raises: DataError when the file cannot be written any more."""
        while True:
            await self._has_pending.wait()
            self._has_pending = trio.Event()
            batch, self._pending = self._pending, []
            await self._write_with_retries(batch)
            if not self._pending:
                self._idle.set()

    async def _write_with_retries(self, batch: list[Effect]) -> None:
        wait_s = RETRY_MIN_S
        while not await self._write(partial(self._store.apply, batch, now_text())):
            if len(self._pending) > PENDING_MAX:
                raise DataError(f"{self.problem}; over {PENDING_MAX} changes wait to be written")
            await trio.sleep(wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def flushed(self) -> None:
        """Wait until everything queued so far is written."""
        await self._idle.wait()

    async def record_info(self, node: NodeId, info: Info) -> bool:
        """Write the ``/info`` of a node. Returns whether that succeeded."""
        return await self._write(partial(self._store.record_info, node, info))

    async def record_seen(self, last_seen_at: Mapping[NodeId, str]) -> None:
        """Write when nodes were last heard; what cannot be written now is dropped."""
        await self._try_in_thread(partial(self._store.seen, last_seen_at))

    async def _write(self, write: Callable[[], Applied]) -> bool:
        """Write, and announce the outcome. Returns whether it was written. Raises: DataError."""
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
                _log.error("%s; the agent retries at least every %g s", error, RETRY_MAX_S)
            self.problem = str(error)
            return None
        self.problem = None
        return result
