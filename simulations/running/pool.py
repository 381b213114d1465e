"""Work spread over processes: on this machine (``in_processes``) or on Dask (``on_dask``)."""

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol, TypeVar

from beiran.errors import SettingsError

DASK_TIMEOUT_S: Final = 10.0  # to reach the scheduler

A = TypeVar("A")
R = TypeVar("R")


class Mapper(Protocol):
    """Calls a function for each argument, and yields the results in any order."""

    def __call__(self, work: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
        """Run it. ``work``, its arguments and results must be picklable."""
        ...


def in_processes(jobs: int) -> Mapper:
    """Return a mapper over ``jobs`` processes of this machine; 1 is this process itself."""

    def run(work: Callable[[A], R], arguments: Iterable[A]) -> Iterator[R]:
        if jobs <= 1:
            yield from map(work, arguments)
            return
        with multiprocessing.get_context("spawn").Pool(jobs) as pool:
            yield from pool.imap_unordered(work, arguments)

    return run


def on_dask(address: str) -> Mapper:
    """Return a mapper over the workers of the Dask cluster with its scheduler at ``address``.

    Scheduler and workers must run the same Python with this checkout on their path. Needs
    ``distributed``.
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
            # Not pure: a later sweep may run the same arguments on changed code.
            futures = client.map(work, list(arguments), pure=False)
            done = as_completed(futures, loop=client.loop)  # type: ignore[no-untyped-call]
            for future in done:
                yield future.result()
                future.release()

    return run
