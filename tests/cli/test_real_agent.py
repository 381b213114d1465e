"""The CLI against an agent as an operator runs it."""

import json
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from beiran.client.blocking_client import BlockingClient
from beiran.errors import AgentUnreachable
from beiran_cli.demo import LOOPBACK, free_ports
from beiran_cli.demo_images import DemoImage, add_image, demo_layer, make_layout
from tests.cli.processes import open_process, read_all
from tests.cli.test_cli import beiran

TIMEOUT_S = 120
IMAGE = DemoImage("demo/web:1.0", (demo_layer("base", 2000), demo_layer("web", 1000)))


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, since sockets' paths are."""
    path = Path(tempfile.mkdtemp(prefix="beiran-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def settings(folder: Path) -> dict[str, str]:
    """An agent with one image, all by itself, set up in the environment."""
    make_layout(folder / "images")
    add_image(folder / "images", IMAGE)
    (port,) = free_ports(1)
    return {
        "BEIRAN_CONFIG_DIR": str(folder / "config"),
        "BEIRAN_DATA_DIR": str(folder / "data"),
        "BEIRAN_SOCKET": str(folder / "sock"),
        "BEIRAN_NAME": "host-a",
        "BEIRAN_BIND": LOOPBACK,
        "BEIRAN_PORT": str(port),
        "BEIRAN_BEACON": "false",
        "BEIRAN_MIRROR_PORT": "0",
        "BEIRAN_ENGINE": f"oci:{folder / 'images'}",
    }


@asynccontextmanager
async def open_agent(settings: Mapping[str, str]) -> AsyncIterator[trio.Process]:
    command = [sys.executable, "-c", "from beiran_cli.main import main_agent; main_agent()"]
    with trio.fail_after(TIMEOUT_S):
        async with open_process(command, {**os.environ, **settings}) as process:
            yield process


async def await_image(process: trio.Process, settings: Mapping[str, str]) -> BlockingClient:
    """A client of the agent, once it answers and knows its image."""
    client = BlockingClient(socket=settings["BEIRAN_SOCKET"])
    while True:
        assert process.poll() is None, await read_all(process.stderr)
        try:
            if await trio.to_thread.run_sync(client.get_images):
                return client
        except AgentUnreachable:
            pass
        await trio.sleep(0.05)


async def get_json(client: BlockingClient, path: str) -> object:
    """The bytes of the API's answer."""
    stream = await trio.open_unix_socket(client.endpoint.socket)
    async with stream:
        await stream.send_all(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        data = b"".join([chunk async for chunk in stream])
    return json.loads(data.partition(b"\r\n\r\n")[2])


async def test_every_command_says_what_the_api_says(settings: dict[str, str]) -> None:
    async with open_agent(settings) as process:
        client = await await_image(process, settings)
        uuid = client.get_info().uuid
        for command, path, key in (
            ("node list", "/nodes", "nodes"),
            ("node list --all", "/nodes?all=true", "nodes"),
            ("node show host-a", f"/nodes/{uuid}", None),
            ("image list", "/images", "images"),
            ("image list --all", "/images?all=true", "images"),
            (f"image list --node {uuid[:8]}", f"/images?node={uuid}", "images"),
            ("image show demo/web:1.0", f"/images/{IMAGE.id}", None),
            ("layer list", "/layers", "layers"),
            ("layer list --all", "/layers?all=true", "layers"),
            ("events", "/events", "events"),
        ):
            done = await beiran(*command.split(), "--output", "json", environ=settings)
            assert done.returncode == 0, done.stderr
            answer = await get_json(client, path)
            expected = answer[key] if key and isinstance(answer, dict) else answer
            assert json.loads(done.stdout) == expected, command


async def test_tables_show_the_agent_and_its_image(settings: dict[str, str]) -> None:
    async with open_agent(settings) as process:
        await await_image(process, settings)
        nodes = (await beiran("node", "list", environ=settings)).stdout.decode()
        assert f"host-a   {LOOPBACK}:{settings['BEIRAN_PORT']}   online" in nodes
        url = f"http://{LOOPBACK}:{settings['BEIRAN_PORT']}"
        images = (await beiran("--url", url, "image", "list")).stdout.decode().splitlines()
        assert images[1].startswith("demo/web:1.0   ")
        assert images[1].endswith("   3.01kB   host-a")
        info = (await beiran("info", environ=settings)).stdout.decode()
        assert "Problems    none\n" in info


async def test_an_agent_exits_with_0_when_it_is_stopped(settings: dict[str, str]) -> None:
    async with open_agent(settings) as process:
        await await_image(process, settings)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
        assert (await beiran("info", environ=settings)).returncode == 3


async def test_a_second_agent_on_the_same_port_ends_with_1_and_one_line(
    settings: dict[str, str], folder: Path
) -> None:
    async with open_agent(settings) as process:
        await await_image(process, settings)
        other = {
            name: str(folder / f"other-{name}")
            for name in ("BEIRAN_CONFIG_DIR", "BEIRAN_DATA_DIR", "BEIRAN_SOCKET")
        }
        assert settings["BEIRAN_PORT"] in await refusal({**settings, **other})


async def test_a_uuid_file_that_is_none_ends_it_with_1_and_one_line(
    settings: dict[str, str], folder: Path
) -> None:
    path = folder / "config" / "node.uuid"
    path.parent.mkdir()
    path.write_text("nonsense")
    assert str(path) in await refusal(settings)
    assert path.read_text() == "nonsense"


async def test_a_data_dir_that_is_none_ends_it_with_1_and_one_line(
    settings: dict[str, str], folder: Path
) -> None:
    (folder / "data").write_text("")
    assert str(folder / "data") in await refusal(settings)


async def refusal(settings: Mapping[str, str]) -> str:
    """The one line with which an agent does not start."""
    async with open_agent(settings) as process:
        assert await process.wait() == 1
        text = await read_all(process.stderr)
    assert text.startswith("beirand: ")
    assert text.count("\n") == 1, text
    return text
