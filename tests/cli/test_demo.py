"""``beiran demo`` as a person runs it: real agents, which are gone afterwards."""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from beiran_cli.demo import docker_answers, free_ports
from tests.cli.processes import close, open_process, read_all, read_until

DEMO_TIMEOUT_S = 90


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the demo puts what it needs; short, since sockets' paths are."""
    path = Path(tempfile.mkdtemp(prefix="beiran-test-"))
    yield path
    shutil.rmtree(path)


def open_demo(folder: Path) -> AbstractAsyncContextManager[trio.Process]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("BEIRAN_")}
    # An agent of this machine may be set up in the environment; the demo's are not it.
    environ |= {"TMPDIR": str(folder), "BEIRAN_ENGINE": "nonsense"}
    return open_process([sys.executable, "-m", "beiran_cli", "demo", "--no-docker"], environ)


def assert_nothing_is_left(folder: Path) -> None:
    assert list(folder.iterdir()) == []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            assert str(folder).encode() not in path.read_bytes()
        except OSError:
            continue  # it has ended


@pytest.mark.slow
async def test_the_demo_shows_an_image_arriving_and_leaves_nothing_behind(folder: Path) -> None:
    with trio.fail_after(DEMO_TIMEOUT_S):
        async with open_demo(folder) as demo:
            out = await read_all(demo.stdout)
            code = await demo.wait()
            assert (code, await read_all(demo.stderr)) == (0, ""), out
    for host in ("host-a", "host-b", "host-c"):
        assert re.search(rf"^ +\d+\.\d\d s  {host} is up at 127\.0\.0\.1:\d+, ", out, re.MULTILINE)
        assert f"{host} sees host-a, host-b, host-c\n" in out
        assert f"{host} knows what all hold\n" in out
    assert re.search(r"demo/web:1\.0 .* host-a, host-b\n", out)
    assert re.search(r"demo/shop:1\.0 .* host-b, host-c\n", out)
    assert re.search(r"host-a knows it after \d+ ms\n", out)
    assert re.search(r"host-b knows it after \d+ ms\n", out)
    moved = re.search(r"host-b has it: (\d+) bytes from host-c, 0 from a registry\n", out)
    assert moved is not None, out
    assert 0 < int(moved[1]) < 60_000  # not the base, which it had
    assert re.search(r"demo/fresh:1\.0 .* host-b, host-c\n", out)
    assert_nothing_is_left(folder)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
async def test_a_demo_that_is_interrupted_leaves_nothing_behind(
    folder: Path, number: signal.Signals
) -> None:
    with trio.fail_after(DEMO_TIMEOUT_S):
        async with open_demo(folder) as demo:
            await read_until(demo.stdout, "starting")
            demo.send_signal(number)
            assert await demo.wait() == 130
            assert await read_all(demo.stderr) == ""
    assert_nothing_is_left(folder)


@pytest.mark.slow
async def test_a_demo_whose_terminal_is_gone_leaves_nothing_behind(folder: Path) -> None:
    with trio.fail_after(DEMO_TIMEOUT_S):
        async with open_demo(folder) as demo:
            await read_until(demo.stdout, "starting")
            await close(demo.stdout)
            assert await demo.wait() == 0
            assert await read_all(demo.stderr) == ""
    assert_nothing_is_left(folder)


@pytest.mark.slow
async def test_an_agent_that_is_killed_fails_the_demo_and_nothing_is_left(folder: Path) -> None:
    with trio.fail_after(DEMO_TIMEOUT_S):
        async with open_demo(folder) as demo:
            await read_until(demo.stdout, "is up at")
            os.kill(agent_of("host-b", folder), signal.SIGKILL)
            assert await demo.wait() == 1
            said = await read_all(demo.stderr)
    assert re.fullmatch(r"beiran: (host-b|an agent) ended .*\n", said)
    assert_nothing_is_left(folder)


def agent_of(host: str, folder: Path) -> int:
    """The process ID of an agent of the demo in ``folder``."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue  # it has ended
        if host.encode() in words and any(str(folder).encode() in word for word in words):
            return int(path.parent.name)
    raise AssertionError(f"{host} does not run")


async def test_an_agent_that_cannot_start_ends_the_demo_with_one_line(folder: Path) -> None:
    deep = folder / ("x" * 80)
    deep.mkdir()
    with trio.fail_after(DEMO_TIMEOUT_S):
        async with open_demo(deep) as demo:
            await read_all(demo.stdout)
            assert await demo.wait() == 1
            said = await read_all(demo.stderr)
    assert re.fullmatch(
        r"beiran: host-[abc] ended by itself: beiran: --socket: .* at most 107\n", said
    )
    assert_nothing_is_left(deep)


def test_the_ports_of_the_demo_are_all_different() -> None:
    assert len(set(free_ports(40))) == 40


async def test_docker_answers_only_where_it_does(tmp_path: Path) -> None:
    path = str(tmp_path / "docker.sock")
    assert not docker_answers(path)
    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen()

        async def answer(stream: trio.SocketStream) -> None:
            assert (await stream.receive_some()).startswith(b"GET /_ping ")
            await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nOK")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, answer, [trio.SocketListener(listener)])
            assert await trio.to_thread.run_sync(docker_answers, path)
            nursery.cancel_scope.cancel()
