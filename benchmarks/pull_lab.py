"""Hosts, an origin, engines and agents for the pull benchmark, and pulls at the same moment."""

import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from beiran.api.models import PullDone
from beiran.client.blocking_client import BlockingClient
from beiran.errors import BeiranError
from beiran.settings.settings import PORT as PEER_PORT
from benchmarks.published import Published
from tests.lab.agents import Agents, RunningAgent, eventually
from tests.lab.engines import RunningEngine, start_dockerd
from tests.lab.network import Host, Lan
from tests.lab.origin import PORT as ORIGIN_PORT
from tests.lab.origin import start_origin

NAMESPACE_PREFIX: Final = "brnpull"
MIRROR: Final = "http://127.0.0.1:8880"
SETTLE_S: Final = 3.0
TCP_IP_BYTES: Final = 20 + 32  # headers of IPv4 and TCP with timestamps
HEADER_BYTES: Final = 14 + TCP_IP_BYTES  # Ethernet's too
PULL_TIMEOUT_S: Final = 900.0


class Pulled(NamedTuple):
    """One pull: how long after the common start it ended, and why it failed (empty: it did not)."""

    name: str
    took_s: float
    failure: str


class PullLab:
    """An origin (docker-registry) on the first host of a LAN, and hosts that pull.

    Use it in a ``with`` block. Engines and agents are started when they are asked for.
    """

    def __init__(self, hosts: int) -> None:
        self.lan: Final = Lan(NAMESPACE_PREFIX, hosts + 1)
        self.origin: Final = self.lan.hosts[0]
        self.hosts: Final = self.lan.hosts[1:]
        self.engines: dict[Host, RunningEngine] = {}
        self.agents: list[RunningAgent] = []
        self.address = ""
        self._stack: Final = ExitStack()
        self._registry: Final = ExitStack()

    def __enter__(self) -> Self:
        try:
            folder = tempfile.TemporaryDirectory(prefix="beiran-pull-")
            self.folder = Path(self._stack.enter_context(folder))
            self._stack.enter_context(self.lan)
            self._agents = self._stack.enter_context(Agents(self.lan))
            self._stack.callback(self._registry.close)
            self.start_registry()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.close()

    def start_registry(self) -> None:
        """Start the origin (again)."""
        context = start_origin(self.lan, self.origin, self.folder / "registry")
        self.address = self._registry.enter_context(context)

    def stop_registry(self) -> None:
        """``kill -9`` of the origin: its host answers, with a refusal."""
        self._registry.close()

    def publish(self, *images: Published) -> None:
        """Have the origin have these."""
        for image in images:
            image.write_registry(self.folder / "registry")

    def shape(self, rate_mbit: float, hosts: Sequence[Host] | None = None) -> None:
        """Limit links, each way; all of them, the origin's too, where no hosts are named."""
        for host in self.lan.hosts if hosts is None else hosts:
            self.lan.shape(host, f"{round(rate_mbit * 1000)}kbit")

    # --- engines and agents ------------------------------------------------------------------

    def start_engine(self, host: Host) -> RunningEngine:
        """A dockerd (overlay2) that asks the mirror of its host first."""
        folder = self.folder / f"engine-{host.name}"
        folder.mkdir()
        options = [f"--registry-mirror={MIRROR}", f"--insecure-registry={self.address}"]
        engine = start_dockerd(folder, netns=host.namespace, extra_args=options)
        self.engines[host] = self._stack.enter_context(engine)
        return self.engines[host]

    def start_engines(self, hosts: Sequence[Host]) -> None:
        """One on each, one after the other."""
        for host in hosts:
            self.start_engine(host)

    def start_agents(self, hosts: Sequence[Host], **given: Any) -> list[RunningAgent]:
        """An agent on each: beside its engine where there is one, else with a layout folder."""
        started = [self.prepare_agent(host, **given) for host in hosts]
        for agent in started:
            agent.launch()
        for agent in started:
            agent.await_ready()
        self.await_together()
        return started

    def prepare_agent(self, host: Host, **given: Any) -> RunningAgent:
        """An agent that is not started yet."""
        engine = self.engines.get(host)
        given.setdefault("engine", f"docker://{engine.socket_path}" if engine else "oci")
        options = {"log_level": "info", "origin": f"docker.io=http://{self.address}", **given}
        agent = self._agents.prepare(host, **options)
        self.agents.append(agent)
        return agent

    def await_together(self) -> None:
        """Wait until all agents show all online."""
        running = [agent for agent in self.agents if agent.process is not None]
        names = {agent.name for agent in running}
        for agent in running:
            eventually(agent.online, names, what=f"what {agent.name} has online")
        time.sleep(SETTLE_S)

    # --- pulls -------------------------------------------------------------------------------

    def docker(self, host: Host, *words: str, timeout_s: float = PULL_TIMEOUT_S) -> str:
        """Run docker on the engine of ``host``. Raises: RuntimeError with what it said."""
        socket_path = self.engines[host].socket_path
        done = subprocess.run(
            ["docker", "-H", f"unix://{socket_path}", *words],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"docker {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def docker_pull(self, host: Host, reference: str) -> str:
        """``docker pull``. Raises: RuntimeError."""
        return self.docker(host, "pull", "--quiet", reference)

    def agent_pull(self, agent: RunningAgent, reference: str) -> PullDone:
        """Pull as ``beiran image pull`` does, without a process for each. Raises: RuntimeError."""
        try:
            return BlockingClient(socket=agent.socket_path, timeout_s=PULL_TIMEOUT_S).pull(
                reference
            )
        except (BeiranError, OSError) as error:
            raise RuntimeError(str(error)) from error

    def count_received(self) -> None:
        """Begin to count what reaches the agents' hosts, for ``received_bytes``."""
        for agent in self.agents:
            self.lan.count_from(agent.host, ORIGIN_PORT, PEER_PORT)

    def received_bytes(self, port: int) -> int:
        """Bytes received so far from a port of ``count_received``, without IP and TCP headers.

        What TCP sent again because a queue dropped it counts once: it did not reach the host.
        """
        counted = [self.lan.counted_from(agent.host)[port] for agent in self.agents]
        return sum(each.bytes - TCP_IP_BYTES * each.packets for each in counted)

    def link_bytes(self) -> dict[Host, int]:
        """Bytes that each host sent on its link so far, without Ethernet, IP and TCP headers."""
        return {
            host: counted.bytes - HEADER_BYTES * counted.packets
            for host, counted in self.lan.counters().items()
        }


class Together:
    """Pulls that begin in the same moment, each in a thread of its own.

    Args:
      pulls: by the name of who pulls.
    """

    def __init__(self, pulls: Mapping[str, Callable[[], object]]) -> None:
        gate = threading.Event()
        pool = ThreadPoolExecutor(len(pulls))
        self._futures: dict[str, Future[Pulled]] = {
            name: pool.submit(self._run, gate, name, pull) for name, pull in pulls.items()
        }
        pool.shutdown(wait=False)
        self._began_at = time.monotonic()
        gate.set()

    def _run(self, gate: threading.Event, name: str, pull: Callable[[], object]) -> Pulled:
        gate.wait()
        failure = ""
        try:
            pull()
        except Exception as error:  # whatever it is, it is the result of this pull
            failure = str(error) or type(error).__name__
        return Pulled(name, time.monotonic() - self._began_at, failure)

    def sleep_until(self, after_s: float) -> None:
        """Wait until a number of seconds after the start."""
        time.sleep(max(0.0, self._began_at + after_s - time.monotonic()))

    def results(self, *, without: Sequence[str] = ()) -> list[Pulled]:
        """Wait for all but those named."""
        return [future.result() for name, future in self._futures.items() if name not in without]

    def result(self, name: str) -> Pulled:
        """Wait for one."""
        return self._futures[name].result()


def last_s(results: Sequence[Pulled]) -> float:
    """When the last ended. Raises: RuntimeError when one failed."""
    for pulled in results:
        if pulled.failure:
            raise RuntimeError(f"the pull of {pulled.name} failed: {pulled.failure}")
    return max(pulled.took_s for pulled in results)


def bound_s(size_bytes: int, hosts: int, rate_mbit: float) -> float:
    """The least time in which ``hosts`` can have all bytes; all links and the origin's are alike.

    Source: Kumar and Ross 2006: max(F/u_origin, F/d_min, N·F/(u_origin + Σu_peers)).
    """
    rate = rate_mbit * 1e6 / 8
    return max(size_bytes / rate, hosts * size_bytes / (rate * (1 + hosts)))
