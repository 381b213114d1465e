"""Work spread over processes, on this machine or elsewhere.

``Mapper`` is the seam: whatever takes a function and its arguments and gives results as they come.
``in_processes`` is this machine's, ``on_dask`` that of a cluster which runs already.
"""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, TypeVar

from beiran.errors import SettingsError

DASK_TIMEOUT_S: Final = 10.0

A = TypeVar("A")
R = TypeVar("R")


class Mapper(Protocol):
    """Calls a function for each argument somewhere, and gives the results in any order."""

    def __call__(self, work: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
        """``work`` must be a module's function, arguments and results picklable."""
        ...


def in_processes(jobs: int) -> Mapper:
    """``jobs`` processes on this machine; 1 is this very process."""

    def run(work: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
        if jobs <= 1:
            yield from map(work, arguments)
            return
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            yield from pool.imap_unordered(work, arguments)

    return run


def on_dask(address: str) -> Mapper:
    """The workers of an existing Dask cluster, whose scheduler is at ``address``.

    They must run the same Python, with the same checkout on their path. Needs ``distributed``.
    """

    def run(work: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
        try:
            from distributed import Client, as_completed
        except ImportError:
            raise SettingsError(
                "--scheduler needs distributed: pip install 'beiran[simulations]'"
            ) from None
        try:
            client = Client(  # type: ignore[no-untyped-call]
                address, timeout=DASK_TIMEOUT_S, set_as_default=False
            )
        except (OSError, TimeoutError, ValueError) as error:
            raise SettingsError(f"no Dask scheduler at {address}: {error}") from None
        with client:
            # Not pure: the same arguments run again in the next sweep, on changed code perhaps.
            futures = client.map(work, list(arguments), pure=False)
            done = as_completed(futures, loop=client.loop)  # type: ignore[no-untyped-call]
            for future in done:
                yield future.result()
                future.release()

    return run
