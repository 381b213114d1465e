"""A gossip program on every host of a LAN, whichever it is: what the experiments ask of it."""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from benchmarks.chronicle import Chronicle
from tests.lab.network import Host, Lan

START_TIMEOUT_S: Final = 60.0
STOP_TIMEOUT_S: Final = 20.0


class Gossiper(Protocol):
    """One program, an instance of it on each host. Hosts are named in its sightings."""

    name: str
    chronicle: Chronicle
    lan: Lan

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End whatever runs and clear its files away."""
        ...

    def start(self, hosts: Sequence[Host]) -> tuple[float, float]:
        """Start it on these hosts at once.

        Returns: when the last was launched, and when the last could be asked.
        """
        ...

    def restart(self, host: Host) -> None:
        """Start it again where it was killed or has left, as the same node."""
        ...

    def kill(self, host: Host) -> None:
        """SIGKILL."""
        ...

    def leave(self, host: Host) -> float:
        """Have it leave the cluster in good order. Returns when that was asked."""
        ...

    def ended(self, host: Host) -> None:
        """Wait until the leaving process has ended."""
        ...

    def pause(self, hosts: Sequence[Host]) -> None:
        """SIGSTOP."""
        ...

    def resume(self, hosts: Sequence[Host]) -> None:
        """SIGCONT."""
        ...

    def tell(self, host: Host, news: str) -> float:
        """Make ``news`` known at one host. Returns when."""
        ...

    def heard(
        self, news: str, hosts: Sequence[Host], *, since: int, timeout_s: float
    ) -> Mapping[str, float]:
        """When each of these hosts had the news, by name; fewer when ``timeout_s`` has passed."""
        ...

    def online(self, host: Host) -> set[str]:
        """Names of the hosts that this one holds for online now, itself included."""
        ...

    def pid(self, host: Host) -> int:
        """Its process there."""
        ...


class Processes:
    """The processes of a gossiper, their logs, and their end."""

    name = ""

    def __init__(self, lan: Lan, chronicle: Chronicle) -> None:
        self.lan = lan
        self.chronicle = chronicle
        self._running: dict[Host, subprocess.Popen[bytes]] = {}
        self._folder = tempfile.TemporaryDirectory(prefix=f"beiran-bench-{self.name}-")
        self.folder = Path(self._folder.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(BrokenPipeError):
                        pipe.close()
        self._running.clear()
        self._folder.cleanup()

    def kill(self, host: Host) -> None:
        process = self._running[host]
        process.kill()
        process.wait()

    def ended(self, host: Host) -> None:
        self._running[host].wait(STOP_TIMEOUT_S)

    def pause(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            os.kill(self.pid(host), signal.SIGSTOP)

    def resume(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            os.kill(self.pid(host), signal.SIGCONT)

    def pid(self, host: Host) -> int:
        # nsenter becomes the program, so it keeps the process ID.
        return self._running[host].pid

    def heard(
        self, news: str, hosts: Sequence[Host], *, since: int, timeout_s: float
    ) -> Mapping[str, float]:
        return self.chronicle.first(
            "news", news, [host.name for host in hosts], since=since, timeout_s=timeout_s
        )
