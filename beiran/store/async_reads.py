"""Reads of the store from trio, in a worker thread so that the event loop never waits."""

from collections.abc import Callable
from typing import TypeVar

import trio

from beiran.store.reads import Queries
from beiran.store.store import Store

T = TypeVar("T")


class Reads:
    """Reads the store in a thread, one read at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, ask: Callable[[Queries], T]) -> T:
        """The result of ``ask`` in one read transaction. Raises what ``ask`` raises; DataError."""

        def run() -> T:
            with self._store.reading() as queries:
                return ask(queries)

        return await trio.to_thread.run_sync(run, limiter=self._limiter)
