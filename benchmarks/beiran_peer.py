"""beiran's agents, found by beacon, each with a layout folder as its engine.

The benchmark reads what they see from their event streams. An event follows the database's commit.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Self

from benchmarks.chronicle import Chronicle, What
from tests.lab.agents import Agents, RunningAgent, program
from tests.lab.event_stream import EventStream
from tests.lab.layouts import add_image
from tests.lab.network import Host, Lan

_MEANS: Final[dict[str, What]] = {
    "node.online": "online",
    "node.suspect": "suspect",
    "node.offline": "offline",
    "node.left": "left",
}


def missing() -> str | None:
    """Why beiran cannot run here, or None."""
    return None if program("beirand").exists() else "beirand is not installed (pip install -e .)"


class Beiran:
    """``beirand`` on each host with no configuration but its folders."""

    name = "beiran"

    def __init__(self, lan: Lan, chronicle: Chronicle) -> None:
        self.lan = lan
        self.chronicle = chronicle
        self.agents: dict[Host, RunningAgent] = {}
        self._started = Agents(lan)
        self._images: dict[str, str] = {}
        self._streams: dict[str, EventStream] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for stream in self._streams.values():
            stream.close()
        self._started.__exit__(kind, error, traceback)

    def start(self, hosts: Sequence[Host]) -> tuple[float, float]:
        for host in hosts:
            self.agents[host] = self._started.prepare(host, engine="oci")
        for host in hosts:
            self.agents[host].launch()
        launched = time.monotonic()
        ready = max(self.agents[host].await_ready() for host in hosts)
        for host in hosts:
            self._follow(self.agents[host])
        return launched, ready

    def restart(self, host: Host) -> None:
        agent = self.agents[host]
        if agent.process is not None:
            self.ended(host)
        self.chronicle.note(host.name, [("restarted", "")])
        agent.start()
        self._follow(agent)

    def kill(self, host: Host) -> None:
        self.agents[host].kill9()

    def leave(self, host: Host) -> float:
        asked = time.monotonic()
        self.agents[host].ask_to_stop()
        return asked

    def ended(self, host: Host) -> None:
        agent = self.agents[host]
        code = agent.await_end()
        if code != 0:
            raise RuntimeError(f"the agent on {host.name} exits with {code}:\n{agent.log_end()}")

    def pause(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            self.agents[host].pause()

    def resume(self, hosts: Sequence[Host]) -> None:
        for host in hosts:
            self.agents[host].resume()

    def tell(self, host: Host, news: str) -> float:
        """Add an image to the host's layout folder, which its agent has yet to notice."""
        layout = self.agents[host].layout
        assert layout is not None
        asked = time.monotonic()
        self._images[news] = add_image(layout, news)
        return asked

    def heard(
        self, news: str, hosts: Sequence[Host], *, since: int, timeout_s: float
    ) -> Mapping[str, float]:
        names = [host.name for host in hosts]
        image = self._images[news]
        return self.chronicle.first("news", image, names, since=since, timeout_s=timeout_s)

    def online(self, host: Host) -> set[str]:
        return self.agents[host].online()

    def pid(self, host: Host) -> int:
        return self.agents[host].pid

    def _follow(self, agent: RunningAgent) -> None:
        if agent.name in self._streams:
            self._streams[agent.name].close()
        stream = self._streams[agent.name] = agent.events()
        said = [event for line in stream.waiting() if (event := _read_event(line))]
        self.chronicle.note(agent.name, said)
        self.chronicle.watch(stream.fileno(), agent.name, _feed(stream))
        # What it knew before the stream began.
        self.chronicle.note(agent.name, [("online", name) for name in sorted(agent.online())])


def _feed(stream: EventStream) -> Any:
    def feed(data: bytes) -> Iterable[tuple[What, str]]:
        return [said for event in stream.feed(data) if (said := _read_event(event))]

    return feed


def _read_event(event: Mapping[str, Any]) -> tuple[What, str] | None:
    if event["event"] == "image.added":
        return "news", event["image"]
    what = _MEANS.get(event["event"])
    return None if what is None else (what, event["name"])
