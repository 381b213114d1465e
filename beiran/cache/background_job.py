"""Run a job in a thread while the event loop does other things, one at a time, without a task.

``PrefixHash`` hashes and ``PartialBlob`` syncs through it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

import outcome
import trio

T = TypeVar("T")


class BackgroundJob(Generic[T]):
    """Runs jobs in trio's threads.

    ``trio.to_thread.run_sync`` needs a task that waits. Hashing and syncing behind a blob belong to
    no task: the task that brings the next bytes only starts them. A callback on the loop takes each
    job's outcome; if the loop has ended by then, the outcome is dropped.
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
