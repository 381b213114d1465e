"""Reads of the store from trio: in a thread, one at a time."""

from collections.abc import Callable
from typing import TypeVar

import trio

from beiran.store.reads import Queries
from beiran.store.store import Store

T = TypeVar("T")


class Reads:
    """Asks the store in a thread, one question at a time."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._limiter = trio.CapacityLimiter(1)

    async def __call__(self, ask: Callable[[Queries], T]) -> T:
        """What ``ask`` answers, all of it from one moment. Raises what ``ask`` does; DataError."""

        def run() -> T:
            with self._store.reading() as queries:
                return ask(queries)

        return await trio.to_thread.run_sync(run, limiter=self._limiter)
