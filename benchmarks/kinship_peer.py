"""kinship (PyPI): SWIM with Lifeguard in Rust for asyncio, joined by address, unencrypted."""

import importlib.util
import queue
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, cast

from benchmarks.chronicle import Chronicle, What, by_line
from benchmarks.gossiper import START_TIMEOUT_S, Processes
from tests.lab.network import Host, Lan

GOSSIP_PORT: Final = 7946
PROGRAM: Final = Path(__file__).with_name("kinship_host.py")


def missing() -> str | None:
    """Why kinship cannot run here, or None."""
    if importlib.util.find_spec("kinship") is None:
        return "kinship is not installed (pip install 'beiran[bench]')"
    return None


class Kinship(Processes):
    """``kinship_host`` on each host, with the settings of ``Config.lan()``."""

    name = "kinship"

    def __init__(self, lan: Lan, chronicle: Chronicle) -> None:
        super().__init__(lan, chronicle)
        self._answers: dict[Host, queue.SimpleQueue[str]] = {}

    def start(self, hosts: Sequence[Host]) -> tuple[float, float]:
        seed, *others = hosts
        self._launch(seed)
        self._await_ready(seed)
        for host in others:
            self._launch(host)
        launched = time.monotonic()
        for host in others:
            self._await_ready(host)
        return launched, time.monotonic()

    def restart(self, host: Host) -> None:
        if self._running[host].poll() is None:
            self.ended(host)
        self.chronicle.note(host.name, [("restarted", "")])
        self._launch(host)
        self._await_ready(host)

    def leave(self, host: Host) -> float:
        return self._command(host, "leave")

    def tell(self, host: Host, news: str) -> float:
        return self._command(host, f"tell {news}")

    def online(self, host: Host) -> set[str]:
        self._command(host, "view")
        return set(self._answer(host).split(","))

    def _launch(self, host: Host) -> None:
        seeds = [other for other in self.lan.hosts[:2] if other != host]
        with open(self.folder / f"{host.name}.log", "ab") as log:
            process = subprocess.Popen(
                self.lan.command(
                    host,
                    sys.executable,
                    str(PROGRAM),
                    host.name,
                    f"{host.address}:{GOSSIP_PORT}",
                    *(f"{seed.address}:{GOSSIP_PORT}" for seed in seeds[:1] if self._running),
                ),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._running[host] = process
        answers = self._answers[host] = queue.SimpleQueue()
        assert process.stdout is not None

        def read_line(line: bytes) -> tuple[What, str] | None:
            word, _, rest = line.decode().partition(" ")
            if word in ("ready", "view"):
                answers.put(rest)
                return None
            return cast(What, word), rest

        self.chronicle.watch(process.stdout.fileno(), host.name, by_line(read_line))

    def _await_ready(self, host: Host) -> None:
        self._answer(host)

    def _answer(self, host: Host) -> str:
        try:
            return self._answers[host].get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            log = (self.folder / f"{host.name}.log").read_text()
            raise TimeoutError(f"kinship on {host.name} does not answer: {log}") from None

    def _command(self, host: Host, command: str) -> float:
        pipe = self._running[host].stdin
        assert pipe is not None
        asked = time.monotonic()
        pipe.write(f"{command}\n".encode())
        pipe.flush()
        return asked
