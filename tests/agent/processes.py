"""An agent as a process on loopback, for tests that need no lab."""

import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from beiran.client.blocking_client import BlockingClient
from beiran.errors import AgentUnreachable

START_S = 60.0  # a deadline; a busy machine takes 20 s
STOP_S = 5.0  # what the documents promise of SIGTERM
PORTS = range(10_000, 20_000)
"""Below the ports that Linux gives to outgoing connections (32,768 up), and the demo's."""


def free_port() -> int:
    """A port that is free for TCP and UDP. Tests in other processes draw from the same range."""
    while True:
        port = random.SystemRandom().choice(PORTS)
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("127.0.0.1", port))
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


class Beirand:
    """``beirand`` with folders of its own below ``folder``."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        self.options = {
            "config-dir": folder / "config",
            "data-dir": folder / "data",
            "socket": folder / "beiran.sock",
            "bind": "127.0.0.1",
            "port": free_port(),
            "engine": "none",
            "mirror-port": 0,
            **{name.replace("_", "-"): value for name, value in options.items()},
        }
        self.process: subprocess.Popen[str] | None = None

    @property
    def port(self) -> int:
        return int(str(self.options["port"]))

    @property
    def words(self) -> list[str]:
        beacon = [] if "beacon-port" in self.options else ["--no-beacon"]
        flags = [f"--{name}={value}" for name, value in self.options.items()]
        return [sys.executable, "-m", "beiran_cli", "agent", *beacon, *flags]

    def run_to_its_end(self) -> subprocess.CompletedProcess[str]:
        """Start it when it is expected to refuse."""
        return subprocess.run(
            self.words, capture_output=True, text=True, timeout=START_S, check=False
        )

    @contextmanager
    def running(self) -> Iterator[BlockingClient]:
        """Start it, wait until it answers, and end it whatever happens."""
        log = self.folder / "log"
        with log.open("a") as output:
            self.process = subprocess.Popen(self.words, stdout=output, stderr=output, text=True)
        try:
            self._wait_until_it_answers(log)
            with BlockingClient(socket=str(self.options["socket"])) as client:
                yield client
        finally:
            if self.process.poll() is None:
                self.process.kill()
            self.process.wait()

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Stop the agent. Returns its exit code."""
        assert self.process is not None
        self.process.send_signal(signal_number)
        return self.process.wait(timeout=STOP_S)

    def send_datagram(self, data: bytes) -> None:
        with socket.socket(type=socket.SOCK_DGRAM) as udp:
            udp.sendto(data, ("127.0.0.1", self.port))

    def _wait_until_it_answers(self, log: Path) -> None:
        assert self.process is not None
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with BlockingClient(socket=str(self.options["socket"])) as client:
                    client.get_info()
                return
            except AgentUnreachable:
                time.sleep(0.02)
        raise AssertionError(f"beirand did not start:\n{log.read_text()}")
