"""``beiran demo``: three agents on this machine find each other and share an image.

The agents are real: each is a process with its own folders, ports and socket, on loopback. One
reads this machine's Docker Engine where there is one; the others watch folders of small images. The
demo ends its processes and removes its folders, also when it fails.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import trio
from cyclopts import App, Parameter

from beiran.api.models import Change, Image, Node
from beiran.client.trio_client import Client
from beiran.errors import AgentUnreachable, BeiranError
from beiran.settings.settings import DOCKER_SOCKET
from beiran_cli.demo_images import DemoImage, add_image, demo_layer, make_layout
from beiran_cli.images import image_table
from beiran_cli.names import NodeNames
from beiran_cli.nodes import node_table
from beiran_cli.table import Columns, Rows, table_lines, terminal_columns

LOOPBACK: Final = "127.0.0.1"
PORTS: Final = range(20_000, 32_000)  # below those that Linux hands out by itself
PORT_TRIES: Final = 1000  # of 12,000: enough on a machine whose ports are half taken
TIMEOUT_S: Final = 50.0  # for all but stopping; 1.3 s on an idle machine
INTRODUCTION_S: Final = 2.0  # a node without its engine in the table is no failure
STOP_TIMEOUT_S: Final = 5.0  # an agent leaves and ends within this; then it is killed
ASK_AGAIN_S: Final = 0.02  # below what the printed milliseconds would hide
DOCKER_TIMEOUT_S: Final = 1.0  # a local engine answers in milliseconds
ROWS_MAX: Final = 12  # of a table; a Docker Engine may hold hundreds of images
LOG_CHARS_MAX: Final = 300  # of the last line of an agent's log, which an error shows
INDENT: Final = "    "

BASE: Final = demo_layer("base", 400_000)
"""The first layer of every image of the demo."""

app = App(name="demo")


class DemoFailed(BeiranError):
    """The demo could not finish. One line."""


@dataclass(frozen=True)
class DemoHost:
    """One agent of the demo: its name, folder, port, engine and images."""

    name: str
    folder: Path
    port: int
    engine: str
    images: tuple[DemoImage, ...] = ()

    @property
    def layout(self) -> Path:
        """Its OCI layout folder; absent if it watches Docker."""
        return self.folder / "images"

    @property
    def socket(self) -> Path:
        """Its unix socket."""
        return self.folder / "sock"

    @property
    def log(self) -> Path:
        """The file of its output."""
        return self.folder / "log"


@dataclass(frozen=True)
class DemoAgent:
    """A running agent of the demo."""

    host: DemoHost
    process: trio.Process
    client: Client


@app.default
def demo(
    *,
    docker: Annotated[bool, Parameter(negative="--no-docker", show_default=False)] = True,
) -> None:
    """Run three agents on this machine that find each other and share an image (a few seconds).

    Needs neither root nor Docker, changes nothing, and leaves nothing behind.

    Parameters
    ----------
    docker
        Let one agent watch this machine's Docker Engine, if there is one (read only).
    """
    try:
        trio.run(_run, docker and docker_answers(DOCKER_SOCKET))
    except* AgentUnreachable as lost:
        raise DemoFailed("an agent ended in the middle of the demo") from lost


def docker_answers(path: str) -> bool:
    """Whether a Docker Engine answers this user at a unix socket."""
    with socket.socket(socket.AF_UNIX) as connection, suppress(OSError):
        connection.settimeout(DOCKER_TIMEOUT_S)
        connection.connect(path)
        connection.sendall(b"GET /_ping HTTP/1.0\r\nHost: docker\r\n\r\n")
        return b" 200 " in connection.recv(64)
    return False


class Narrator:
    """Prints lines with the seconds since the demo began, and keeps what it still waits for."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.missing: dict[str, None] = {}
        """Failures to report if the time runs out, the oldest first."""

    @contextmanager
    def expecting(self, failure: str) -> Iterator[None]:
        """Count ``failure`` as missing until the block ends without an exception."""
        self.missing[failure] = None
        yield
        del self.missing[failure]

    def say(self, text: str) -> None:
        """Print one line."""
        print(f"{time.monotonic() - self._began:6.2f} s  {text}", flush=True)

    def show(self, columns: Columns, rows: Rows) -> None:
        """Print a table, set off from the lines around it."""
        width = terminal_columns()
        room = None if width is None else width - len(INDENT)
        lines = table_lines(columns, rows, room=room)
        shown = lines[: ROWS_MAX + 1]
        if len(lines) > len(shown):
            shown.append(f"… and {len(lines) - len(shown)} more\n")
        print("\n" + "".join(INDENT + line for line in shown), flush=True)


async def _run(with_docker: bool) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(_end_on_signal)
        folder = Path(tempfile.mkdtemp(prefix="beiran-demo-"))
        try:
            await _show(folder, with_docker)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        nursery.cancel_scope.cancel()


async def _end_on_signal(*, task_status: trio.TaskStatus[None]) -> None:
    """End on SIGTERM and SIGHUP as on Ctrl-C."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            raise KeyboardInterrupt


async def _show(folder: Path, with_docker: bool) -> None:
    narrator = Narrator()
    *ports, beacon_port = free_ports(4)
    hosts = demo_hosts(folder, ports, with_docker=with_docker)
    narrator.say(f"starting {len(hosts)} agents on {LOOPBACK}, beacon port {beacon_port}")
    async with running(hosts, beacon_port, cluster=folder.name) as agents:
        with trio.move_on_after(TIMEOUT_S) as patience:
            await _start(agents, narrator)
            await _meet(agents, narrator)
            await _agree(agents, narrator)
            image = await _add(agents, narrator)
            await _pull(agents, image, narrator)
        if patience.cancelled_caught:
            raise DemoFailed(f"after {TIMEOUT_S:.0f} s {', '.join(narrator.missing)}")
        narrator.say("stopping the agents")
    narrator.say("done; nothing is left behind")


async def _start(agents: Sequence[DemoAgent], narrator: Narrator) -> None:
    async def say_when_up(agent: DemoAgent) -> None:
        async def up() -> bool:
            with suppress(AgentUnreachable):
                await agent.client.get_info()
                return True
            return False

        with narrator.expecting(f"{agent.host.name} has not started"):
            await _until(agents, up)
        whose = "a folder of images" if agent.host.images else "Docker's images"
        narrator.say(f"{agent.host.name} is up at {LOOPBACK}:{agent.host.port}, with {whose}")

    await _each(agents, say_when_up)


async def _meet(agents: Sequence[DemoAgent], narrator: Narrator) -> None:
    names = sorted(agent.host.name for agent in agents)

    async def say_when_all_are_known(agent: DemoAgent) -> None:
        async def all_known() -> bool:
            nodes = await agent.client.get_online_nodes()
            return sorted(node.name for node in nodes) == names

        with narrator.expecting(f"{agent.host.name} does not see all {len(names)} nodes"):
            await _until(agents, all_known)
        narrator.say(f"{agent.host.name} sees {', '.join(names)}")

        async def all_introduced() -> bool:
            nodes = await agent.client.get_online_nodes()
            return all(node.engine is not None for node in nodes)

        with trio.move_on_after(INTRODUCTION_S):  # the table has a gap otherwise, that is all
            await _until(agents, all_introduced)

    await _each(agents, say_when_all_are_known)
    nodes = await agents[0].client.get_online_nodes()
    narrator.show(*node_table(nodes))


async def _agree(agents: Sequence[DemoAgent], narrator: Narrator) -> None:
    owners = {node.name: node for node in await agents[0].client.get_online_nodes()}

    async def held_by(agent: DemoAgent) -> set[str]:
        """The images of an agent: those of its folder, or those that its Docker lists."""
        if agent.host.images:
            return {image.id for image in agent.host.images}
        return {image.id for image in await agent.client.get_images()}

    async def say_when_it_knows(agent: DemoAgent) -> None:
        async def knows_all() -> bool:
            for other in agents:
                uuid = owners[other.host.name].uuid
                images = await agent.client.get_images(node=uuid)
                if {image.id for image in images} != await held_by(other):
                    return False
                if any(image.size_bytes is None for image in images):
                    return False
            return (await agent.client.get_info()).engine.up

        with narrator.expecting(f"{agent.host.name} does not know what all hold"):
            await _until(agents, knows_all)
        narrator.say(f"{agent.host.name} knows what all hold")

    await _each(agents, say_when_it_knows)
    last = agents[-1]
    narrator.say(f"who holds what, asked of {last.host.name}:")
    images = await last.client.get_images(all=True)
    columns, rows = image_table(images, NodeNames(owners.values()))
    narrator.show(columns, sorted(rows, key=lambda row: not str(row[0]).startswith("demo/")))


async def _add(agents: Sequence[DemoAgent], narrator: Narrator) -> DemoImage:
    """Put a new image into the last agent's folder, and wait until the others list it."""
    image = DemoImage("demo/fresh:1.0", (BASE, demo_layer("fresh", 30_000)))
    owner, others = agents[-1], agents[:-1]
    uuid = (await owner.client.get_info()).uuid
    added_at = 0.0

    async def wait_for(agent: DemoAgent, *, task_status: trio.TaskStatus[None]) -> None:
        with narrator.expecting(f"{agent.host.name} does not know {image.tag}"):
            async with agent.client.follow_images(all=True) as changes:
                async for change in changes:
                    if _is_end_of_list(change):
                        task_status.started()
                    elif change.image and change.image.id == image.id and _held(change.image, uuid):
                        break
        took_ms = 1000 * (time.monotonic() - added_at)
        narrator.say(f"{agent.host.name} knows it after {took_ms:.0f} ms")

    async with trio.open_nursery() as nursery:
        for agent in others:
            await nursery.start(wait_for, agent)
        narrator.say(f"putting {image.tag} into the folder of {owner.host.name}")
        added_at = time.monotonic()
        await trio.to_thread.run_sync(add_image, owner.host.layout, image)
    return image


async def _pull(agents: Sequence[DemoAgent], image: DemoImage, narrator: Narrator) -> None:
    """Let the last agent but one pull the image from the last: only missing layers move."""
    puller, owner = agents[-2], agents[-1]
    nodes = await puller.client.get_online_nodes()
    own, other = (_uuid_of(nodes, agent) for agent in (puller, owner))
    narrator.say(f"{puller.host.name}: beiran image pull {image.tag} --from {owner.host.name}")
    with narrator.expecting(f"{puller.host.name} has not pulled {image.tag}"):
        done = await puller.client.pull(image.tag, node=other)

        async def listed() -> bool:
            images = await owner.client.get_images(node=own)
            return image.id in {one.id for one in images}

        await _until(agents, listed)
    narrator.say(
        f"{puller.host.name} has it: {done.bytes_from_peers} bytes from {owner.host.name}, "
        f"{done.bytes_from_origin} from a registry"
    )
    images = [one for one in await owner.client.get_images(all=True) if one.id == image.id]
    narrator.show(*image_table(images, NodeNames(nodes)))


def _uuid_of(nodes: Sequence[Node], agent: DemoAgent) -> str:
    (uuid,) = (node.uuid for node in nodes if node.name == agent.host.name)
    return uuid


def demo_hosts(folder: Path, ports: Sequence[int], *, with_docker: bool) -> list[DemoHost]:
    """Make three hosts in ``folder``, and write the images of their layouts."""
    web = DemoImage("demo/web:1.0", (BASE, demo_layer("web", 60_000)))
    shop = DemoImage("demo/shop:1.0", (*web.layers, demo_layer("shop", 90_000)))
    queue = DemoImage("demo/queue:1.0", (BASE, demo_layer("queue", 20_000)))
    given = {"host-a": (web,), "host-b": (web, shop), "host-c": (shop, queue)}
    hosts = []
    for (name, images), port in zip(given.items(), ports, strict=True):
        home = folder / name
        home.mkdir()
        if with_docker and name == "host-a":
            hosts.append(DemoHost(name, home, port, f"docker://{DOCKER_SOCKET}"))
            continue
        host = DemoHost(name, home, port, f"oci:{home / 'images'}", images)
        make_layout(host.layout)
        for image in images:
            add_image(host.layout, image)
        hosts.append(host)
    return hosts


def free_ports(count: int) -> list[int]:
    """Find ports of this machine that are free on TCP and UDP."""
    found: list[int] = []
    for port in random.sample(PORTS, PORT_TRIES):
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            try:
                tcp.bind(("", port))
                udp.bind(("", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise DemoFailed(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


@asynccontextmanager
async def running(
    hosts: Sequence[DemoHost], beacon_port: int, *, cluster: str
) -> AsyncIterator[list[DemoAgent]]:
    """Run an agent for each host, and end all of them on the way out."""
    agents: list[DemoAgent] = []
    async with AsyncExitStack() as clients:
        try:
            for host in hosts:
                client = await clients.enter_async_context(Client(socket=str(host.socket)))
                process = await _start_process(host, beacon_port, cluster)
                agents.append(DemoAgent(host, process, client))
            yield agents
        finally:
            with trio.CancelScope(shield=True):
                await _stop([agent.process for agent in agents])


async def _start_process(host: DemoHost, beacon_port: int, cluster: str) -> trio.Process:
    command = [sys.executable, "-m", "beiran_cli", "agent", "--name", host.name]
    command += ["--config-dir", str(host.folder / "config"), "--socket", str(host.socket)]
    command += ["--data-dir", str(host.folder / "data"), "--engine", host.engine]
    command += ["--cluster", cluster, "--bind", LOOPBACK, "--port", str(host.port)]
    command += ["--beacon-port", str(beacon_port), "--mirror-port", "0"]
    # The settings of this machine's own agent must not reach the demo's.
    environ = {name: text for name, text in os.environ.items() if not name.startswith("BEIRAN_")}
    with host.log.open("wb") as log:
        return await trio.lowlevel.open_process(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environ,
            start_new_session=True,  # Ctrl-C reaches the demo alone, which ends them in order
        )


async def _stop(processes: Sequence[trio.Process]) -> None:
    for process in processes:
        process.terminate()
    with trio.move_on_after(STOP_TIMEOUT_S):
        for process in processes:
            await process.wait()
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _each(agents: Iterable[DemoAgent], act: Callable[[DemoAgent], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        for agent in agents:
            nursery.start_soon(act, agent)


async def _until(agents: Iterable[DemoAgent], is_so: Callable[[], Awaitable[bool]]) -> None:
    """Poll until a condition holds. Raises: DemoFailed when an agent has ended."""
    while not await is_so():
        for agent in agents:
            if agent.process.poll() is not None:
                raise DemoFailed(f"{agent.host.name} ended by itself: {_last_words(agent)}")
        await trio.sleep(ASK_AGAIN_S)


def _last_words(agent: DemoAgent) -> str:
    """The last line of an agent's log that has words in it."""
    lines = agent.host.log.read_text(errors="replace").splitlines()
    worded = [line.strip(" |") for line in lines if any(char.isalpha() for char in line)]
    return worded[-1][:LOG_CHARS_MAX] if worded else f"exit code {agent.process.returncode}"


def _is_end_of_list(change: Change) -> bool:
    return change.change == "listed" and change.image is None


def _held(image: Image, uuid: str) -> bool:
    return any(uri.endswith(uuid) for uri in image.available_at)
