"""Real Docker Engines on two hosts: what one of them has is known at the other."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.lab.agents import RunningAgent, await_one_state, eventually
from tests.lab.conftest import OpenAgents
from tests.lab.engines import RunningEngine, start_dockerd
from tests.lab.origin import start_origin

pytestmark = pytest.mark.lab


class DockerHost(NamedTuple):
    """A host with an engine and an agent."""

    engine: RunningEngine
    agent: RunningAgent

    def docker(self, *words: str) -> str:
        command = ["docker", "-H", f"unix://{self.engine.socket_path}", *words]
        # The classic builder: Debian's engine has no buildx.
        return subprocess.run(
            command,
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DOCKER_BUILDKIT": "0", "HOME": "/root"},
        ).stdout

    def build(self, folder: Path, tag: str) -> None:
        folder.mkdir()
        (folder / "Dockerfile").write_text("FROM scratch\nCOPY file /file\n")
        (folder / "file").write_text(f"of {tag}\n")
        self.docker("build", "--quiet", "--tag", tag, str(folder))


@pytest.fixture
def pair(
    open_agents: OpenAgents, real_engines: None, tmp_path: Path
) -> Iterator[tuple[DockerHost, DockerHost]]:
    agents = open_agents(2)
    here, there = agents.lan.hosts
    for host in (here, there):
        (tmp_path / host.name).mkdir()
    with (
        start_dockerd(tmp_path / here.name, netns=here.namespace) as engine_here,
        start_dockerd(tmp_path / there.name, netns=there.namespace) as engine_there,
        start_origin(agents.lan, there, tmp_path / "registry"),
    ):
        running = [
            agents.start(host, engine=f"docker://{engine.socket_path}")
            for host, engine in ((here, engine_here), (there, engine_there))
        ]
        await_one_state(running)
        yield DockerHost(engine_here, running[0]), DockerHost(engine_there, running[1])


def await_holders_of(agent: RunningAgent, tag: str, holders: set[str]) -> None:
    eventually(lambda: agent.holders_of_tag(tag), holders, what=f"who holds {tag}")


def test_images_built_tagged_pulled_and_removed_on_one_host_are_right_on_the_other(
    pair: tuple[DockerHost, DockerHost], tmp_path: Path
) -> None:
    here, there = pair
    here.build(tmp_path / "context", "one:1")
    await_holders_of(there.agent, "one:1", {here.agent.uuid})
    assert "one:1" in there.agent.cli("image", "list", "--all").stdout
    here.docker("tag", "one:1", "other:2")
    await_holders_of(there.agent, "other:2", {here.agent.uuid})
    here.docker("rmi", "one:1")
    await_holders_of(there.agent, "one:1", set())
    await_holders_of(there.agent, "other:2", {here.agent.uuid})
    here.docker("rmi", "other:2")
    await_holders_of(there.agent, "other:2", set())
    assert there.agent.holders() == {}

    there.build(tmp_path / "other-context", "127.0.0.1:5000/pushed:1")
    there.docker("push", "--quiet", "127.0.0.1:5000/pushed:1")
    there.docker("rmi", "127.0.0.1:5000/pushed:1")
    await_holders_of(here.agent, "127.0.0.1:5000/pushed:1", set())
    there.docker("pull", "--quiet", "127.0.0.1:5000/pushed:1")
    await_holders_of(here.agent, "127.0.0.1:5000/pushed:1", {there.agent.uuid})


def test_an_engine_that_stops_is_reported_and_comes_back(
    pair: tuple[DockerHost, DockerHost], tmp_path: Path
) -> None:
    here, there = pair
    here.build(tmp_path / "context", "one:1")
    await_holders_of(there.agent, "one:1", {here.agent.uuid})
    with here.agent.events() as events:
        here.engine.stop()
        events.await_event(event="engine.down")
        eventually(lambda: here.agent.get("/info")["engine"]["up"], False)
        here.engine.start()
        events.await_event(event="engine.up")
    eventually(lambda: here.agent.get("/info")["engine"]["up"], True)
    await_holders_of(here.agent, "one:1", {here.agent.uuid})
    await_holders_of(there.agent, "one:1", {here.agent.uuid})
    # Its events are heard again.
    here.docker("tag", "one:1", "again:1")
    await_holders_of(there.agent, "again:1", {here.agent.uuid})
