"""Running a piece of code on a host of its own: a thread in a network namespace.

A namespace made here has no name: it ends with the last thread and socket in it. Needs root.
"""

import ctypes
import subprocess
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, TypeVar

import psutil
import pytest

CLONE_NEWNET: Final = 0x40000000  # sched.h
T = TypeVar("T")

needs_root = pytest.mark.needs("ip", "tc", "iptables", root=True)
_libc: Final = ctypes.CDLL(None, use_errno=True)


def on_new_host(function: Callable[[], T], *commands: str) -> T:
    """Call ``function`` on a host that has loopback and what ``commands`` (``ip``, ``tc``) make."""

    def enter() -> None:
        _check(_libc.unshare(CLONE_NEWNET))
        run_commands(("ip link set lo up", *commands))

    return _in_thread(enter, function)


def run_commands(commands: Iterable[str]) -> None:
    """Run ``commands`` on the host that this thread is on.

    Not through trio: its worker threads outlive their run, and would take the host elsewhere.
    """
    for command in commands:
        subprocess.run(command.split(), check=True, timeout=30)


def on_host(namespace: str, function: Callable[[], T]) -> T:
    """Call ``function`` in the network namespace of that name."""

    def enter() -> None:
        with (Path("/var/run/netns") / namespace).open("rb") as file:
            _check(_libc.setns(file.fileno(), CLONE_NEWNET))

    return _in_thread(enter, function)


def _check(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "cannot enter a network namespace")


def _in_thread(enter: Callable[[], None], function: Callable[[], T]) -> T:
    # psutil lists interfaces from here; /proc/net is the main thread's.
    psutil.PROCFS_PATH = "/proc/thread-self"
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            enter()
            results.append(function())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    psutil.PROCFS_PATH = "/proc"
    if errors:
        raise errors[0]
    return results[0]
