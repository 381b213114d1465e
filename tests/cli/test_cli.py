"""Real ``beiran`` processes against the real server."""

import json
import os
import pty
import signal
import subprocess
import sys
import termios
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import msgspec
import pytest
import trio
from msgspec.structs import replace

from beiran import __version__
from beiran_cli.images import image_table
from beiran_cli.names import NodeNames
from tests.cli.canned_agent import Api, open_canned_agent
from tests.cli.processes import close, open_process, read_all, read_until
from tests.cli.rows import (
    EVENTS,
    IMAGES,
    INFO,
    LAYERS,
    NODES,
    UNTAGGED,
    UUID_A,
    UUID_B,
    UUID_GONE,
    UUID_NEW,
    UUID_UNKNOWN,
    WEB,
    digest,
)

PROCESS_TIMEOUT_S = 120


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with open_canned_agent(tmp_path) as api:
        yield api


async def beiran(
    *arguments: str, environ: Mapping[str, str] | None = None, program: str = "beiran"
) -> subprocess.CompletedProcess[bytes]:
    """Run the CLI; its output in bytes."""
    clean = {name: text for name, text in os.environ.items() if not name.startswith("BEIRAN_")}
    start = [sys.executable, "-c", "from beiran_cli.main import main_agent; main_agent()"]
    if program == "beiran":
        start = [sys.executable, "-m", "beiran_cli"]
    with trio.fail_after(PROCESS_TIMEOUT_S):
        return await trio.run_process(
            [*start, *arguments],
            env={**clean, "TZ": "UTC", **(environ or {})},
            check=False,
            capture_stdout=True,
            capture_stderr=True,
        )


async def ask(api: Api, *arguments: str) -> str:
    """Run the CLI, and return its output. It must succeed."""
    done = await beiran("--socket", api.socket, *arguments)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout.decode()


async def fail(*arguments: str, code: int, environ: Mapping[str, str] | None = None) -> str:
    """Run the CLI, and return its stderr. It must exit with ``code``, without a traceback."""
    done = await beiran(*arguments, environ=environ)
    text = done.stderr.decode()
    assert (done.returncode, done.stdout) == (code, b""), text
    assert text.startswith("beiran: ")
    assert "Traceback" not in text
    return text


def as_api(rows: object) -> object:
    return json.loads(msgspec.json.encode(rows))


async def test_node_list_is_a_table_of_those_online(api: Api) -> None:
    assert await ask(api, "node", "list") == (
        "ID         NAME     ADDRESS          STATE              SEEN   ENGINE\n"
        "aaaaaaaa   host-a   10.0.0.1:8888    online             now    docker 26.1.5 overlay2\n"
        "bbbbbbbb   host-b   [fd00::1]:8888   online (suspect)   N/A"
        "    oci (down)\n"
        "cccccccc   host-c   10.0.0.1:8888    online             now    unknown\n"
    )


async def test_node_list_all_shows_the_offline_ones_too(api: Api) -> None:
    lines = (await ask(api, "node", "list", "--all")).splitlines()
    assert len(lines) == 1 + len(NODES)
    assert "offline (left)" in lines[3]


async def test_image_list_has_a_row_for_each_tag(api: Api) -> None:
    out = await ask(api, "image", "list")
    age = out.splitlines()[1].split("   ")[2]
    assert age.endswith(" years ago")
    assert out.replace(age, "6 years ago") == (
        "IMAGE                 ID             CREATED       SIZE     NODES\n"
        "registry:5000/web:1   111111111111   6 years ago   4.26MB   host-a, host-b\n"
        "web:latest            111111111111   6 years ago   4.26MB   host-a, host-b\n"
    )


async def test_image_list_all_shows_the_holdings_of_all_nodes(api: Api) -> None:
    lines = (await ask(api, "image", "list", "--all")).splitlines()
    assert len(lines) == 5
    assert lines[3].split() == ["web:latest", "3" * 12, "N/A", "N/A", "host-c(cccccccc)"]
    assert lines[4].split() == ["shop:<none>", "2" * 12, "N/A", "1GB", "host-c(cccccccc)"]


def test_images_without_a_tag_come_last_in_the_order_of_the_api() -> None:
    bare = [replace(UNTAGGED, id=digest(letter), digests=()) for letter in "edf"]
    _, rows = image_table([bare[0], WEB, UNTAGGED, *bare[1:]], NodeNames(NODES))
    assert [tuple(row)[:2] for row in rows] == [
        ("registry:5000/web:1", "1" * 12),
        ("web:latest", "1" * 12),
        ("<none>", "e" * 12),
        ("shop:<none>", "2" * 12),
        ("<none>", "d" * 12),
        ("<none>", "f" * 12),
    ]


async def test_a_listing_of_one_node_takes_its_name_or_the_beginning_of_its_uuid(api: Api) -> None:
    by_name = await ask(api, "image", "list", "--node", "host-c")
    by_prefix = await ask(api, "image", "list", "--node", "ccc")
    assert by_name == by_prefix
    assert len(by_name.splitlines()) == 3
    assert len((await ask(api, "layer", "list", "--node", "host-c")).splitlines()) == 2


async def test_layer_list_shows_sizes_and_holders(api: Api) -> None:
    assert await ask(api, "layer", "list") == (
        "LAYER          SIZE     IMAGES   NODES\n"
        "aaaaaaaaaaaa   4.26MB   2        host-a, host-b, host-c(cccccccc)\n"
        "bbbbbbbbbbbb   999B     1        host-a, host-b\n"
    )


async def test_info_shows_the_agent_and_its_problems(api: Api) -> None:
    lines = (await ask(api, "info")).splitlines()
    assert lines[0] == f"Node        host-a ({UUID_A})"
    assert "Engine      docker 26.1.5 overlay2" in lines
    assert "Nodes       3 online, 4 known" in lines
    assert lines[-3:] == [
        "Problems    the disk is nearly full",
        "            the engine is slow",
        "Counters    bad_packets 3",
    ]


async def test_node_show_takes_a_uuid_a_prefix_a_name_or_a_uri(api: Api) -> None:
    for wanted in (UUID_A, UUID_A.upper(), "aaaa", "host-a", f"beiran+uuid://{UUID_A}"):
        assert f"host-a ({UUID_A})" in await ask(api, "node", "show", wanted)


async def test_of_two_nodes_with_one_name_the_online_one_is_meant(api: Api) -> None:
    assert UUID_NEW in await ask(api, "node", "show", "host-c")


async def test_image_show_has_layers_with_sizes_and_holders(api: Api) -> None:
    out = await ask(api, "image", "show", "registry:5000/web:1")
    assert f"Layers     sha256:{'a' * 64}   4.26MB\n           sha256:{'b' * 64}   999B\n" in out
    assert out.endswith("Nodes      host-a\n           host-b\n")
    assert "Platform   linux/amd64\n" in out


@pytest.mark.parametrize("wanted", [UNTAGGED.id, "2" * 64, "222", "sha256:22"])
async def test_image_show_takes_an_id_or_the_beginning_of_one(api: Api, wanted: str) -> None:
    assert UNTAGGED.id in await ask(api, "image", "show", wanted)


async def test_events_are_lines(api: Api) -> None:
    assert await ask(api, "events") == (
        "10:00:00.123  node.online    host-b\n"
        "10:00:01.000  image.added    host-a  111111111111  registry:5000/web:1, web:latest\n"
        "10:00:02.000  engine.down    aaaaaaaa  (it is gone)\n"
    )


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [
        (["info"], INFO),
        (["node", "list"], NODES[:3]),
        (["node", "list", "--all"], NODES),
        (["node", "show", "host-b"], NODES[0]),
        (["image", "list"], IMAGES[:1]),
        (["image", "list", "--all"], IMAGES),
        (["image", "list", "--node", "host-c"], IMAGES[1:]),
        (["image", "show", "222"], UNTAGGED),
        (["layer", "list"], LAYERS),
        (["layer", "list", "--all"], LAYERS),
        (["events"], EVENTS),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
async def test_json_is_what_the_api_says(api: Api, arguments: list[str], rows: object) -> None:
    assert json.loads(await ask(api, *arguments, "--output", "json")) == as_api(rows)


async def test_common_options_are_understood_before_and_after_the_command(api: Api) -> None:
    expected = as_api(NODES[:3])
    for arguments in (
        ["--url", api.url, "--output", "json", "node", "list"],
        [f"--url={api.url}", "node", "list", "--output=json"],
        ["node", "--socket", api.socket, "--output", "json", "list"],
        ["node", "list", "--output", "json", "--socket", api.socket],
    ):
        done = await beiran(*arguments)
        assert json.loads(done.stdout) == expected, done.stderr


async def test_the_environment_sets_common_options_and_the_command_line_wins(api: Api) -> None:
    environ = {"BEIRAN_SOCKET": api.socket, "BEIRAN_OUTPUT": "json"}
    done = await beiran("node", "list", environ=environ)
    assert json.loads(done.stdout) == as_api(NODES[:3])
    done = await beiran("node", "list", "--output", "table", environ=environ)
    assert done.stdout.startswith(b"ID ")
    no_agent = {"BEIRAN_URL": "http://127.0.0.1:1"}
    assert (await beiran("info", environ=no_agent)).returncode == 3
    done = await beiran("info", "--socket", api.socket, environ=no_agent)
    assert done.returncode == 0
    done = await beiran("info", environ={"BEIRAN_URL": api.url, "BEIRAN_SOCKET": "/nowhere"})
    assert done.returncode == 0


COMMANDS = [
    ["info"],
    ["node", "list"],
    ["node", "show", "host-a"],
    ["image", "list"],
    ["image", "show", "web"],
    ["layer", "list"],
    ["events"],
    ["events", "--follow"],
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_without_an_agent_one_line_says_how_to_start_it(
    command: list[str], tmp_path: Path
) -> None:
    socket = str(tmp_path / "missing.sock")
    text = await fail("--socket", socket, *command, code=3)
    assert text.count("\n") == 1
    assert socket in text
    assert text.rstrip().endswith("start one with: beirand")


async def test_a_socket_without_permission_is_not_taken_for_an_agent_that_is_away(
    api: Api,
) -> None:
    os.chmod(api.socket, 0)
    # Root may open every socket, so root becomes another user once all is imported.
    as_another_user = (
        "import os, sys, beiran_cli.main, beiran_cli.info, beiran.client.blocking_client\n"
        "if os.geteuid() == 0: os.seteuid(65534)\n"
        "beiran_cli.main.main()"
    )
    done = await trio.run_process(
        [sys.executable, "-c", as_another_user, "--socket", api.socket, "info"],
        check=False,
        capture_stderr=True,
    )
    assert done.returncode == 1
    assert b"no permission to use" in done.stderr
    assert b"root" in done.stderr


@pytest.mark.parametrize("command", [[], *COMMANDS, ["node"], ["agent"], ["demo"]], ids=" ".join)
async def test_every_command_has_help(command: list[str]) -> None:
    done = await beiran(*command, "--help")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"Usage: beiran")


async def test_beirand_is_the_command_agent() -> None:
    done = await beiran("--help", program="beirand")
    agent = await beiran("agent", "--help")
    assert (done.returncode, agent.returncode) == (0, 0)
    options = [line for line in done.stdout.decode().splitlines() if line.startswith("│ --")]
    of_agent = agent.stdout.decode()
    assert len(options) == 27
    for line in options:
        name = line.split()[1]
        assert name in ("--help", "--version") or name in of_agent


async def test_version_is_the_release() -> None:
    for program in ("beiran", "beirand"):
        done = await beiran("--version", program=program)
        assert (done.returncode, done.stdout) == (0, f"{__version__}\n".encode())


async def test_a_setting_that_cannot_be_used_ends_beirand_with_2(tmp_path: Path) -> None:
    (tmp_path / "beiran.toml").write_text("prot = 1")
    done = await beiran("--config-dir", str(tmp_path), program="beirand")
    assert done.returncode == 2
    assert done.stderr.decode() == (
        f"beirand: {tmp_path}/beiran.toml: unknown key 'prot'; did you mean 'port'?\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nope"], "nope"),
        (["node", "lst"], '"list"'),
        (["node", "list", "--nope"], "--nope"),
        (["node", "show"], "NODE"),
        (["node", "show", "a", "b"], "b"),
        (["--output", "xml", "node", "list"], "xml"),
        (["node", "list", "--output"], "--output"),
        (["image", "list", "--all", "--node", "a"], "not both"),
        (["layer", "list", "--all", "--node", "a"], "not both"),
        (["--socket", "/s", "--url", "http://h", "info"], "not both"),
        (["--url", "https://h", "info"], "https://h"),
        (["--url", "https://h", "events", "--follow"], "https://h"),
        (["agent", "--port", "0"], "--port: 0 is not a port"),
    ],
    ids=str,
)
async def test_wrong_usage_is_one_line_and_2(arguments: list[str], said: str) -> None:
    text = await fail(*arguments, code=2)
    assert said in text
    assert text.count("\n") == 1


async def test_an_output_in_the_environment_that_is_none_is_wrong_usage() -> None:
    assert "BEIRAN_OUTPUT" in await fail("info", code=2, environ={"BEIRAN_OUTPUT": "xml"})


@pytest.mark.parametrize(
    "command",
    [
        ["node", "show", UUID_UNKNOWN],
        ["node", "show", "host-"],
        ["node", "show", ""],
        ["image", "list", "--node", "unknown"],
        ["image", "show", "nothing"],
        ["image", "show", "4" * 64],
    ],
    ids=str,
)
async def test_an_unknown_name_is_one_line_and_1(api: Api, command: list[str]) -> None:
    text = await fail("--socket", api.socket, *command, code=1)
    assert "there is no " in text
    assert text.count("\n") == 1


async def test_what_could_be_several_is_1_with_the_candidates(api: Api) -> None:
    text = await fail("--socket", api.socket, "node", "show", "bbbb", code=1)
    assert f"  {UUID_B}  host-b  online\n" in text
    assert f"  {UUID_GONE}  host-c  offline\n" in text
    text = await fail("--socket", api.socket, "image", "show", "web", code=1)
    assert "  111111111111  registry:5000/web:1  at host-a, host-b\n" in text
    assert "  333333333333  web:latest  at host-c(cccccccc)\n" in text


async def test_a_server_that_is_no_agent_is_1(tmp_path: Path) -> None:
    path = str(tmp_path / "other.sock")

    async def speak_nonsense(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"220 mail.example ESMTP\r\n\r\n")

    with trio.socket.socket(trio.socket.AF_UNIX) as listener:
        await listener.bind(path)
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                trio.serve_listeners, speak_nonsense, [trio.SocketListener(listener)]
            )
            assert "no agent" in await fail("--socket", path, "info", code=1)
            nursery.cancel_scope.cancel()


def open_beiran(api: Api, *arguments: str) -> AbstractAsyncContextManager[trio.Process]:
    command = [sys.executable, "-m", "beiran_cli", "--socket", api.socket, *arguments]
    return open_process(command, {**os.environ, "TZ": "UTC"})


async def test_a_reader_that_has_seen_enough_ends_it_quietly(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "image", "list", "--all") as process:
            await close(process.stdout)
            assert await process.wait() == 0
            assert await read_all(process.stderr) == ""


async def test_events_are_followed_until_ctrl_c(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "events", "--follow") as process:
            out = await read_until(process.stdout, "\n", len(EVENTS))
            assert out.startswith("10:00:00.123  node.online    host-b\n")
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
            assert await read_all(process.stderr) == ""


async def test_followed_events_as_json_are_an_object_on_each_line(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "events", "--follow", "--output", "json") as process:
            out = await read_until(process.stdout, "\n", len(EVENTS))
    assert [json.loads(line) for line in out.splitlines()] == as_api(EVENTS)


async def test_following_ends_quietly_when_its_output_is_closed(api: Api) -> None:
    with trio.fail_after(PROCESS_TIMEOUT_S):
        async with open_beiran(api, "events", "--follow") as process:
            await close(process.stdout)
            assert await process.wait() == 0
            assert await read_all(process.stderr) == ""


async def test_output_that_finds_no_room_is_one_line(api: Api) -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        done = await trio.run_process(
            [sys.executable, "-m", "beiran_cli", "--socket", api.socket, "node", "list"],
            check=False,
            stdout=full,
            capture_stderr=True,
        )
    finally:
        os.close(full)
    assert done.stderr == b"beiran: cannot write the output: No space left on device\n"
    assert done.returncode == 1


async def test_a_closed_standard_output_is_no_failure(api: Api) -> None:
    command = [sys.executable, "-m", "beiran_cli", "--socket", api.socket, "node", "list"]
    done = await trio.run_process(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command], check=False, capture_stderr=True
    )
    assert (done.returncode, done.stderr) == (0, b"")


async def test_on_a_terminal_the_list_of_nodes_is_cut_to_fit(api: Api) -> None:
    main, terminal = pty.openpty()
    try:
        termios.tcsetwinsize(terminal, (24, 50))
        await trio.run_process(
            [sys.executable, "-m", "beiran_cli", "--socket", api.socket, "layer", "list"],
            stdout=terminal,
        )
        lines = os.read(main, 4096).decode().splitlines()
    finally:
        os.close(terminal)
        os.close(main)
    assert lines[1] == "aaaaaaaaaaaa   4.26MB   2        host-a (+2)"
    assert lines[2] == "bbbbbbbbbbbb   999B     1        host-a, host-b"


async def test_a_listing_imports_nothing_heavy(api: Api) -> None:
    program = (
        "import sys\n"
        "from beiran_cli.main import main\n"
        f"sys.argv = ['beiran', '--socket', {api.socket!r}, 'image', 'list', '--all']\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = 'trio rich docker sqlite3 sqlite_utils asyncio http.client ssl requests'\n"
        "print([name for name in heavy.split() if name in sys.modules], file=sys.stderr)\n"
    )
    done = await trio.run_process(
        [sys.executable, "-c", program], capture_stdout=True, capture_stderr=True
    )
    assert done.stderr == b"[]\n"
    assert WEB.tags[0].encode() in done.stdout
