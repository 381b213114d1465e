"""``beiran image pull``, ``image prefetch`` and ``transfer list``, and the library below them."""

import json
import os
import pty
import re
import signal
import sys
import termios
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio

from beiran.api.models import Change, Prefetch
from beiran.client.blocking_client import BlockingClient
from beiran.client.trio_client import Client
from beiran.errors import AgentUnreachable, ApiError, BadRequest, NotFound
from beiran_cli.transfers import change_line
from tests.cli.canned_agent import Api, open_canned_agent, prefetches, pulls
from tests.cli.processes import read_all, read_until
from tests.cli.rows import (
    PULL,
    PULLED,
    TRANSFERS,
    UUID_A,
    UUID_B,
    UUID_NEW,
)
from tests.cli.test_cli import PROCESS_TIMEOUT_S, as_api, ask, beiran, fail, open_beiran


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    pulls.clear()
    prefetches.clear()
    async with open_canned_agent(tmp_path) as api:
        yield api


async def test_pull_prints_each_layer_once_with_the_sources_of_its_bytes(api: Api) -> None:
    assert await ask(api, "image", "pull", "web") == (
        "bbbbbbbbbbbb  already there  999B\n"
        "aaaaaaaaaaaa  done  3MB, 2MB peers, 1MB registry\n"
        "docker.io/library/web:latest is image 111111111111: "
        "2MB from peers, 1MB from the registry, in 2.1 s\n"
    )
    assert pulls == [{"reference": ["web"]}]


async def test_pull_as_json_is_every_row_on_a_line(api: Api) -> None:
    lines = (await ask(api, "image", "pull", "web", "--output", "json")).splitlines()
    assert [json.loads(line) for line in lines] == as_api([*PULL, PULLED])
    assert json.loads(lines[-1])["pull"] == "done"


async def test_pull_passes_on_the_node_and_the_platform(api: Api) -> None:
    await ask(api, "image", "pull", "web:1", "--from", "host-b", "--platform", "linux/arm64")
    assert pulls == [{"reference": ["web:1"], "from": [UUID_B], "platform": ["linux/arm64"]}]


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("missing", "there is no missing"),
        ("NOT A NAME", "no name of an image"),
    ],
)
async def test_a_pull_that_cannot_be_is_one_line_and_1(api: Api, reference: str, said: str) -> None:
    text = await fail("--socket", api.socket, "image", "pull", reference, code=1)
    assert said in text
    assert text.count("\n") == 1


async def test_a_pull_that_just_ends_has_failed(api: Api) -> None:
    done = await beiran("--socket", api.socket, "image", "pull", "torn")
    assert done.returncode == 3
    assert b"before the pull had ended" in done.stderr


async def test_an_agent_over_tcp_pulls_nothing(api: Api) -> None:
    text = await fail("--url", api.url, "image", "pull", "web", code=1)
    assert "there is nothing at /pulls/run" in text


async def test_ctrl_c_ends_the_waiting(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "image", "pull", "endless") as process:
            await read_until(process.stdout, "done")
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert await read_all(process.stderr) == ""
        while pulls[-1] != {"ended": ["endless"]}:  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_on_a_terminal_there_are_bars(api: Api) -> None:
    main, terminal = pty.openpty()
    try:
        termios.tcsetwinsize(terminal, (24, 100))
        await trio.run_process(
            [sys.executable, "-m", "beiran_cli", "--socket", api.socket, "image", "pull", "web"],
            stdout=terminal,
        )
        text = os.read(main, 65536).decode()
    finally:
        os.close(terminal)
        os.close(main)
    plain = re.sub(r"\x1b\[[0-9;?]*[B-Za-z]|\r", "", re.sub(r"\x1b\[[0-9]*A", "\n", text))
    lines = [re.sub(r" ━+ ", "|", line).strip() for line in plain.splitlines()]
    assert lines[-4:] == [
        "layers      |2 of 2 done",
        "aaaaaaaaaaaa|done  3MB, 2MB peers, 1MB registry",
        "bbbbbbbbbbbb|already there  999B",
        "docker.io/library/web:latest is image 111111111111: "
        "2MB from peers, 1MB from the registry, in 2.1 s",
    ]


async def test_prefetch_names_nodes_and_says_what_they_said(api: Api) -> None:
    asked = ("image", "prefetch", "web", "--to", "host-a", "--to", UUID_B)
    assert await ask(api, *asked) == (
        "NODE     STATE     WHY\nhost-a   started\nhost-b   started\n"
    )
    assert prefetches == [Prefetch(reference="web", nodes=(UUID_A, UUID_B))]
    out = json.loads(await ask(api, *asked, "--platform", "linux/arm64", "--output", "json"))
    assert [row["node"] for row in out] == [UUID_A, UUID_B]
    assert prefetches[1].platform == "linux/arm64"


async def test_prefetch_that_a_node_refuses_is_1(api: Api) -> None:
    done = await beiran("--socket", api.socket, "image", "prefetch", "web", "--to", "all")
    assert done.returncode == 1
    assert b"host-c   refused   its disk is full\n" in done.stdout
    assert prefetches == [Prefetch(reference="web", nodes="all")]


async def test_prefetch_without_a_node_is_wrong_usage(api: Api) -> None:
    assert "--to" in await fail("--socket", api.socket, "image", "prefetch", "web", code=2)
    text = await fail("--socket", api.socket, "image", "prefetch", "a", "--to", "unknown", code=1)
    assert "there is no" in text


async def test_transfers_are_a_table(api: Api) -> None:
    assert await ask(api, "transfer", "list") == (
        "BLOB           NODE          DONE        RATE     IMAGE\n"
        "aaaaaaaaaaaa   from host-b   1.5MB/3MB   35MB/s   docker.io/library/web:latest\n"
        "bbbbbbbbbbbb   to host-c     0B/N/A      0B/s     N/A\n"
    )
    assert json.loads(await ask(api, "transfer", "list", "--output", "json")) == as_api(TRANSFERS)


async def test_followed_transfers_are_lines_until_ctrl_c(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "transfer", "list", "--follow") as process:
            lines = (await read_until(process.stdout, "\n", 4)).splitlines()
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert await read_all(process.stderr) == ""
    assert lines[0].split("  ")[1:] == [
        "aaaaaaaaaaaa", "from host-b", "1.5MB/3MB", "35MB/s", "docker.io/library/web:latest",
    ]  # fmt: skip
    assert lines[1].split("  ")[1:] == ["bbbbbbbbbbbb", "to host-c", "0B/N/A", "0B/s"]
    assert "ended" in lines[3]
    assert change_line(Change(change="listed"), datetime.now(UTC)) == ""


async def test_followed_transfers_as_json_are_an_object_on_each_line(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "transfer", "list", "--follow", "--output", "json") as process:
            lines = (await read_until(process.stdout, "\n", 5)).splitlines()
    changes = [json.loads(line)["change"] for line in lines]
    assert changes == ["listed", "listed", "listed", "changed", "removed"]


@pytest.mark.parametrize(
    "command",
    [
        ["image", "pull", "web"],
        ["image", "pull", "web", "--from", "host-a"],
        ["image", "prefetch", "web", "--to", "all"],
        ["transfer", "list"],
        ["transfer", "list", "--follow"],
    ],
    ids=" ".join,
)
async def test_without_an_agent_one_line_says_how_to_start_it(
    command: list[str], tmp_path: Path
) -> None:
    text = await fail("--socket", str(tmp_path / "missing.sock"), *command, code=3)
    assert text.count("\n") == 1
    assert text.rstrip().endswith("start one with: beirand")


@pytest.mark.parametrize(
    "command", [["image", "pull"], ["image", "prefetch"], ["transfer"], ["transfer", "list"]]
)
async def test_every_command_has_help(command: list[str]) -> None:
    done = await beiran(*command, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Usage: beiran")


async def test_the_library_pulls_and_reports_progress(api: Api) -> None:
    async with Client(socket=api.socket) as client:
        async with client.follow_pull("web", node=UUID_A, platform="linux/amd64") as rows:
            assert [row async for row in rows] == [*PULL, PULLED]
        assert await client.pull("web", node=UUID_A, platform="linux/amd64") == PULLED
        assert pulls == [{"reference": ["web"], "from": [UUID_A], "platform": ["linux/amd64"]}] * 2
        with pytest.raises(NotFound, match="no missing"):
            async for _ in client.follow_pull("missing"):
                pass
        with pytest.raises(BadRequest, match="no name"):
            async with client.follow_pull("NOT A NAME"):
                pass
        assert await client.get_transfers() == list(TRANSFERS)
        async with client.follow_transfers() as changes:
            kinds = [(await anext(changes)).change for _ in range(5)]
        assert kinds == ["listed", "listed", "listed", "changed", "removed"]
        (first, second) = await client.prefetch("web", nodes=[UUID_A, UUID_NEW])
        assert (first.state, second.message) == ("started", "its disk is full")


async def test_the_blocking_library_pulls(api: Api) -> None:
    def blocking() -> None:
        with BlockingClient(socket=api.socket) as client:
            assert client.pull("web", platform="linux/amd64") == PULLED
            assert client.get_transfers() == list(TRANSFERS)
            assert len(client.prefetch("web", nodes="all")) == 4
        with (
            BlockingClient(url=api.url) as client,
            pytest.raises(ApiError, match="there is nothing at /pulls"),
        ):
            client.pull("web")

    await trio.to_thread.run_sync(blocking)
    assert pulls == [{"reference": ["web"], "platform": ["linux/amd64"]}]


async def test_a_pull_is_never_asked_for_twice(api: Api) -> None:
    """A connection that the agent had closed meanwhile may be tried again, but not for that."""
    asked = 0

    async def answer_once(stream: trio.SocketStream) -> None:
        nonlocal asked
        async with stream:
            await stream.receive_some()
            asked += 1

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, answer_once, listeners)
        async with Client(url=f"http://127.0.0.1:{port}") as client:
            with pytest.raises(AgentUnreachable):
                await client.pull("web")
        nursery.cancel_scope.cancel()
    assert asked == 1
