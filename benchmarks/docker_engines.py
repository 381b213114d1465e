"""beiran on real Docker Engines: an image event there until every listing shows it.

Docker's own event carries its time by the clock of this machine, which all agents share here.
"""

import io
import select
import statistics
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

import docker

from benchmarks.cluster import NAMESPACE_PREFIX
from benchmarks.process_cost import measure_cost
from benchmarks.report import MISSED, Report
from tests.lab.agents import Agents, RunningAgent
from tests.lab.engines import RunningEngine, start_dockerd
from tests.lab.event_stream import EventStream, connect_events
from tests.lab.network import Lan
from tests.lab.origin import start_origin

HOSTS: Final = 3
SHOWN_TIMEOUT_S: Final = 20.0
BETWEEN_S: Final = 0.3
IDLE_SETTLE_S: Final = 20.0
REPOSITORY: Final = "127.0.0.1:5000/bench"


class Listing:
    """``/images?all=true`` of one agent, followed: the rows as it shows them now."""

    def __init__(self, agent: RunningAgent) -> None:
        self._stream: EventStream = connect_events(
            agent.socket_path, "/images?all=true&follow=true"
        )
        self._rows: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stream.close()

    def fileno(self) -> int:
        return self._stream.fileno()

    def read(self) -> None:
        """Take in what has come."""
        for message in self._stream.waiting():
            change = message.get("change", "row")
            row = message if change == "row" else message.get("image")
            if row is None:
                continue
            if change == "removed":
                self._rows.pop(row["id"], None)
            else:
                self._rows[row["id"]] = row

    def tags(self) -> set[str]:
        """All names that it shows."""
        return {tag for row in self._rows.values() for tag in row["tags"]}


class Bench(NamedTuple):
    """Three hosts, each with a Docker Engine and an agent."""

    engines: Sequence[RunningEngine]
    clients: Sequence[docker.APIClient]
    agents: Sequence[RunningAgent]
    listings: Sequence[Listing]


@contextmanager
def _open_bench() -> Iterator[Bench]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="beiran-bench-")))
        lan = stack.enter_context(Lan(NAMESPACE_PREFIX, HOSTS))
        engines = [
            stack.enter_context(start_dockerd(_made(folder / host.name), netns=host.namespace))
            for host in lan.hosts
        ]
        for host in lan.hosts:
            stack.enter_context(start_origin(lan, host, folder / f"registry-{host.name}"))
        clients = [docker.APIClient(base_url=f"unix://{e.socket_path}") for e in engines]
        for client in clients:
            stack.callback(client.close)
        started = stack.enter_context(Agents(lan))
        agents = [
            started.start(host, engine=f"docker://{engine.socket_path}")
            for host, engine in zip(lan.hosts, engines, strict=True)
        ]
        listings = [stack.enter_context(Listing(agent)) for agent in agents]
        deadline = time.monotonic() + SHOWN_TIMEOUT_S
        while not all(len(agent.online()) == HOSTS for agent in agents):
            if time.monotonic() > deadline:
                raise TimeoutError("the agents do not find each other")
            time.sleep(0.05)
        yield Bench(engines, clients, agents, listings)


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def image_events(report: Report, *, runs: int) -> None:
    """build, tag, untag, push and pull, rmi, in turn, at each of the engines in turn."""
    times: list[float] = []
    with _open_bench() as bench:
        for run in range(-(-runs // 5)):
            times += _one_round(bench, run)
        report.record_times("docker", "beiran", times[:runs])
        _engine_restarts(bench, report)
        _footprint(bench, report)


def _one_round(bench: Bench, run: int) -> list[float]:
    client = bench.clients[run % HOSTS]
    image = f"{REPOSITORY}:{run}"
    alias = f"alias:{run}"
    context = _build_context(run)

    def build() -> None:
        for line in client.build(fileobj=context, custom_context=True, tag=image, decode=True):
            if "error" in line:
                raise RuntimeError(line["error"])

    def pull() -> None:
        for line in client.pull(image, stream=True, decode=True):
            if "error" in line:
                raise RuntimeError(line["error"])

    name, _, tag = alias.partition(":")
    times = [
        _measure(bench, client, build, "tag", appears=image),
        _measure(bench, client, lambda: client.tag(image, name, tag), "tag", appears=alias),
        _measure(bench, client, lambda: client.remove_image(alias), "untag", vanishes=alias),
    ]
    for line in client.push(image, stream=True, decode=True):
        if "error" in line:
            raise RuntimeError(line["error"])
    times.append(
        _measure(bench, client, lambda: client.remove_image(image), "delete", vanishes=image)
    )
    times.append(_measure(bench, client, pull, "pull", appears=image))
    return times


def _build_context(run: int) -> io.BytesIO:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, text in (
            ("Dockerfile", "FROM scratch\nCOPY file /file\n"),
            ("file", f"run {run}\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    made.seek(0)
    return made


def _measure(
    bench: Bench,
    client: docker.APIClient,
    act: Callable[[], object],
    action: str,
    *,
    appears: str = "",
    vanishes: str = "",
) -> float:
    """Seconds from Docker's event ``action`` until the name is in (or out of) all listings."""
    since = time.time()
    acting = threading.Thread(target=act)
    acting.start()
    shown_at: dict[int, float] = {}
    deadline = time.monotonic() + SHOWN_TIMEOUT_S
    while len(shown_at) < HOSTS and time.monotonic() < deadline:
        readable, _, _ = select.select(bench.listings, [], [], 0.1)
        now = time.time()
        for number, listing in enumerate(bench.listings):
            if listing in readable:
                listing.read()
            tags = listing.tags()
            if number not in shown_at and (appears in tags if appears else vanishes not in tags):
                shown_at[number] = now
    acting.join()
    time.sleep(BETWEEN_S)
    events = list(
        client.events(
            since=int(since), until=int(time.time()) + 1, filters={"type": "image"}, decode=True
        )
    )
    origins: list[float] = [
        event["timeNano"] / 1e9
        for event in events
        if event["Action"] == action and event["timeNano"] / 1e9 >= since
    ]
    if len(shown_at) < HOSTS or not origins:
        return MISSED
    return max(shown_at.values()) - origins[-1]


def _engine_restarts(bench: Bench, report: Report) -> None:
    """Each engine stopped and started: until its agent says it is up and all listings agree."""
    times = []
    for number, engine in enumerate(bench.engines):
        before = bench.agents[0].holders()
        engine.stop()
        engine.start()
        answers = time.monotonic()
        deadline = answers + SHOWN_TIMEOUT_S
        while not (
            bench.agents[number].get("/info")["engine"]["up"]
            and all(agent.holders() == before for agent in bench.agents)
        ):
            if time.monotonic() > deadline:
                answers = -MISSED
                break
            time.sleep(0.02)
        times.append(time.monotonic() - answers)
    report.record("restart.engine", "beiran", max(times), times)


def _footprint(bench: Bench, report: Report, *, seconds: float = 60.0) -> None:
    """Idle agents beside their Docker Engines, without a follower; and ``beiran node list``."""
    for listing in bench.listings:
        listing.__exit__(None, None, None)
    time.sleep(IDLE_SETTLE_S)
    before = [measure_cost(agent.pid) for agent in bench.agents]
    time.sleep(seconds)
    after = [measure_cost(agent.pid) for agent in bench.agents]
    used = [b.cpu_s - a.cpu_s for a, b in zip(before, after, strict=True)]
    report.record("rss", "beiran", statistics.median(cost.rss_bytes for cost in after) / 1e6)
    report.record("cpu", "beiran", statistics.median(used) / seconds * 100)
    times = []
    for _ in range(20):
        began = time.monotonic()
        bench.agents[0].cli("node", "list")
        times.append((time.monotonic() - began) * 1000)
    report.record("node_list", "beiran", statistics.median(times), times)
