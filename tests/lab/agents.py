"""Real agents on the hosts of a ``Lan``, each a process with folders of its own."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from tests.lab.event_stream import EventStream, connect_events
from tests.lab.layouts import add_image, make_layout
from tests.lab.network import Host, Lan

READY_TIMEOUT_S: Final = 40.0
STOP_TIMEOUT_S: Final = 5.0  # what an agent promises after SIGTERM
ANSWER_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.02
LOG_SHOWN_CHARS: Final = 6_000

_T = TypeVar("_T")


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=ANSWER_TIMEOUT_S)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(ANSWER_TIMEOUT_S)
        self.sock.connect(self._path)


@dataclass
class RunningAgent:
    """An agent on a host: its process, its folders, and ways to ask it.

    Attributes:
      socket_path: of its unix socket, which can be used from any network namespace.
      layout: the layout folder it watches, where its engine is one.
    """

    lan: Lan
    host: Host
    folder: Path
    words: Sequence[str]
    layout: Path | None = None
    process: subprocess.Popen[bytes] | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    _notified: socket.socket | None = None

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def socket_path(self) -> str:
        return str(self.folder / "beiran.sock")

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        """Its standard output and error, over all its starts."""
        return self.folder / "log"

    @property
    def uuid(self) -> str:
        return (self.folder / "config" / "node.uuid").read_text().strip()

    @property
    def pid(self) -> int:
        # nsenter becomes the agent, so it keeps the process ID.
        assert self.process is not None, f"the agent on {self.name} does not run"
        return self.process.pid

    def launch(self) -> None:
        """Start the process and return at once."""
        assert self.process is None
        self.forget_readiness()
        notify_path = self.folder / "notify"
        self._notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._notified.bind(str(notify_path))
        environ = {k: v for k, v in os.environ.items() if not k.startswith("BEIRAN_")}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.lan.command(self.host, *self.words),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**environ, "NOTIFY_SOCKET": str(notify_path), **self.environ},
            )

    def await_ready(self, timeout_s: float = READY_TIMEOUT_S) -> float:
        """Wait until the agent reports readiness to systemd, played here. Returns the time."""
        assert self._notified is not None
        deadline = time.monotonic() + timeout_s
        while True:
            self._notified.settimeout(0.25)
            with contextlib.suppress(TimeoutError):
                if b"READY=1" in self._notified.recv(4096).split(b"\n"):
                    return time.monotonic()
            if self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"the agent on {self.name} ended:\n{self.log_end()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"the agent on {self.name} is not ready:\n{self.log_end()}")

    def forget_readiness(self) -> None:
        """Stop receiving the process's messages to systemd."""
        if self._notified is not None:
            self._notified.close()
            self._notified = None
        (self.folder / "notify").unlink(missing_ok=True)

    def start(self) -> None:
        """Start it (again) and wait until it is ready."""
        self.launch()
        self.await_ready()

    def kill9(self) -> None:
        """SIGKILL, and wait for its end."""
        process = self._take()
        process.kill()
        process.wait()

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """SIGTERM. Returns its exit code. Raises: TimeoutExpired when it takes longer."""
        self.ask_to_stop()
        return self.await_end(timeout_s)

    def ask_to_stop(self) -> None:
        """SIGTERM, without waiting."""
        os.kill(self.pid, signal.SIGTERM)

    def await_end(self, timeout_s: float = STOP_TIMEOUT_S) -> int:
        """Wait until it has ended by itself, and return its exit code. Raises: TimeoutExpired."""
        process = self._take()
        try:
            return process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def _take(self) -> subprocess.Popen[bytes]:
        process, self.process = self.process, None
        assert process is not None, f"the agent on {self.name} does not run"
        return process

    def pause(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def restart(self, *, wipe_database: bool = False) -> None:
        """SIGTERM and start; in between, its database is deleted if so wished."""
        self.stop()
        if wipe_database:
            self.wipe_database()
        self.start()

    def wipe_database(self) -> None:
        """Delete the database of an agent that does not run; the layout folder stays."""
        assert self.process is None
        for path in self.data_dir.iterdir():
            if path.is_file():
                path.unlink()

    def cli(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run ``beiran`` against it."""
        return subprocess.run(
            [str(program("beiran")), "--socket", self.socket_path, *words],
            capture_output=True,
            text=True,
            timeout=60,
            check=check,
        )

    def get(self, path: str) -> Any:
        """Ask its unix socket; the JSON of the answer, which must be 200."""
        with contextlib.closing(_UnixConnection(self.socket_path)) as connection:
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read()
        if answer.status != 200:
            raise AssertionError(f"{self.name} answers {path} with {answer.status}: {body!r}")
        return json.loads(body)

    def online(self) -> set[str]:
        """Names of the nodes it shows as online, itself included."""
        return {node["name"] for node in self.get("/nodes")["nodes"]}

    def add_image(self, tag: str) -> str:
        """Add a small image to its layout folder. Returns the image's ID."""
        assert self.layout is not None
        return add_image(self.layout, tag, layers=2, seed=f"{self.name}-{tag}")

    def states(self) -> dict[str, str]:
        """The state of each node it knows, by name."""
        return {node["name"]: node["state"] for node in self.get("/nodes?all=true")["nodes"]}

    def holders(self) -> dict[str, set[str]]:
        """The holders of each image that it lists: UUIDs by image ID."""
        return {
            image["id"]: {uri.removeprefix("beiran+uuid://") for uri in image["available_at"]}
            for image in self.get("/images?all=true")["images"]
        }

    def holders_of_tag(self, tag: str) -> set[str]:
        """UUIDs of the nodes that it says hold an image by this name."""
        return {
            uri.removeprefix("beiran+uuid://")
            for image in self.get("/images?all=true")["images"]
            if tag in image["tags"]
            for uri in image["available_at"]
        }

    def events(self) -> EventStream:
        """Its events from now on. Close it (``with``)."""
        return connect_events(self.socket_path)

    def log_end(self) -> str:
        """The end of what it wrote, to show with a failure."""
        return self.log.read_text(errors="replace")[-LOG_SHOWN_CHARS:] if self.log.exists() else ""


class Agents:
    """The agents of a test, on the hosts of ``lan``; ended and cleared away on the way out."""

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.running: list[RunningAgent] = []
        # Unix sockets have paths of at most 107 bytes, which a test's folder may exceed.
        self._folder = Path(tempfile.mkdtemp(prefix="beiran-lab-", dir="/tmp"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for agent in self.running:
            if agent.process is not None:
                agent.process.kill()
        for agent in self.running:
            if agent.process is not None:
                agent.process.wait()
            agent.forget_readiness()
        shutil.rmtree(self._folder, ignore_errors=True)

    def print_logs(self) -> None:
        for agent in self.running:
            print(f"--- {agent.name}\n{agent.log_end()}")

    def prepare(
        self,
        host: Host,
        *,
        engine: str = "none",
        environ: Mapping[str, str] | None = None,
        **options: str | bool,
    ) -> RunningAgent:
        """An agent for ``host`` that is not started yet.

        Args:
          engine: as ``--engine`` takes it; ``oci`` alone is a layout folder of its own.
          environ: more variables for its environment.
          options: further options of ``beirand``: ``beacon=False`` is ``--no-beacon``.
        """
        folder = self._folder / f"{len(self.running)}-{host.name}"
        for name in ("config", "data"):
            (folder / name).mkdir(parents=True)
        layout = None
        if engine == "oci":
            layout = folder / "images"
            make_layout(layout)
            engine = f"oci:{layout}"
        given: dict[str, str | bool] = {
            "config_dir": str(folder / "config"),
            "data_dir": str(folder / "data"),
            "socket": str(folder / "beiran.sock"),
            "name": host.name,
            "engine": engine,
            **options,
        }
        agent = RunningAgent(
            lan=self.lan,
            host=host,
            folder=folder,
            words=[str(program("beirand")), *_as_words(given)],
            layout=layout,
            environ=environ or {},
        )
        self.running.append(agent)
        return agent

    def start(self, host: Host, **given: Any) -> RunningAgent:
        """Start one and wait until it is ready. Arguments as for ``prepare``."""
        agent = self.prepare(host, **given)
        agent.start()
        return agent

    def start_all(self, hosts: Iterable[Host], **given: Any) -> list[RunningAgent]:
        """Start one on each host, all at once, and wait until all are ready."""
        agents = [self.prepare(host, **given) for host in hosts]
        for agent in agents:
            agent.launch()
        for agent in agents:
            agent.await_ready()
        return agents


def program(name: str) -> Path:
    """One of this project's programs, as installed beside the interpreter that runs this."""
    return Path(sys.executable).with_name(name)


def _as_words(options: Mapping[str, str | bool]) -> Iterator[str]:
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            yield f"--{flag}" if value else f"--no-{flag}"
        else:
            yield from (f"--{flag}", value)


def eventually(
    value: Callable[[], _T], expected: _T, *, timeout_s: float = 30.0, what: str = ""
) -> None:
    """Ask until ``value()`` is ``expected``. Raises: AssertionError after ``timeout_s``."""
    deadline = time.monotonic() + timeout_s
    while (now := value()) != expected:
        if time.monotonic() > deadline:
            raise AssertionError(f"{what or 'it'} is still {now!r}, not {expected!r}")
        time.sleep(POLL_S)


def await_state(agents: Iterable[RunningAgent], subject: RunningAgent, state: str) -> None:
    """Wait until each of ``agents`` shows ``subject`` in this state."""
    for agent in agents:
        eventually(
            partial(_state, agent, subject.name),
            state,
            what=f"{subject.name} as {agent.name} sees it",
        )


def _state(agent: RunningAgent, name: str) -> str:
    return agent.states().get(name, "unknown")


def await_holders(agents: Iterable[RunningAgent], images: Mapping[str, set[str]]) -> None:
    """Wait until each of ``agents`` shows these images, held by these UUIDs, and no others."""
    for agent in agents:
        eventually(agent.holders, dict(images), what=f"what {agent.name} shows")


def await_one_state(agents: Sequence[RunningAgent], *, timeout_s: float = 30.0) -> None:
    """Wait until each of these agents shows all of them online, and all show the same holders."""
    names = {agent.name for agent in agents}
    for agent in agents:
        eventually(agent.online, names, timeout_s=timeout_s, what=f"what {agent.name} has online")
    deadline = time.monotonic() + timeout_s
    while True:
        states = {agent.name: agent.holders() for agent in agents}
        if all(state == states[agents[0].name] for state in states.values()):
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"the states differ: {states}")
        time.sleep(POLL_S)
