"""Work that goes on in a thread while the loop does other things, one job at a time."""

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class Behind(Generic[T]):
    """Runs jobs in trio's threads without a task that waits for them.

    ``trio.to_thread.run_sync`` needs a task per call. What goes on behind a blob (hashing, syncing)
    belongs to no task: whoever brings the next bytes only sets it going. Each job's outcome is
    handed to a callback on the loop; when the loop is gone by then, it is dropped.
    """

    def __init__(self) -> None:
        self.busy = False

    def start(self, job: Callable[[], T], done: Callable[[outcome.Outcome[T]], None]) -> None:
        """Run ``job`` in a thread, then ``done`` on the loop. One at a time: see ``busy``."""
        assert not self.busy
        self.busy = True
        token = trio.lowlevel.current_trio_token()

        def finish(result: outcome.Outcome[T]) -> None:
            self.busy = False
            done(result)

        def deliver(result: outcome.Outcome[T]) -> None:
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(finish, result)

        trio.lowlevel.start_thread_soon(job, deliver)
