"""Listening sockets: what is in the way, what is left behind."""

import os
import socket
import stat
from pathlib import Path

import pytest
import trio

from beiran.errors import LocalError
from beiran.http.listeners import open_tcp_listeners, open_unix_listener
from beiran.http.server import HttpCounters, serve_http


def dead_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))


async def test_a_unix_socket_is_made_with_its_folder_and_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "run" / "beiran" / "beiran.sock"
    async with open_unix_listener(path, mode=0o600) as listener:
        assert stat.S_ISSOCK(path.stat().st_mode)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        async with await trio.open_unix_socket(str(path)) as stream:
            accepted = await listener.accept()
            await accepted.send_all(b"hello")
            await accepted.aclose()
            assert await stream.receive_some() == b"hello"
    assert not path.exists()


async def test_the_socket_of_a_dead_agent_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    dead_socket(path)
    async with open_unix_listener(path):
        (await trio.open_unix_socket(str(path))).socket.close()
    assert not path.exists()


async def test_the_socket_of_a_live_agent_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    async with open_unix_listener(path):
        with pytest.raises(LocalError, match=r"an agent answers at .* already"):
            async with open_unix_listener(path):
                pass
        (await trio.open_unix_socket(str(path))).socket.close()


async def test_the_socket_of_a_busy_agent_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))  # the server never accepts, and its backlog is full
        with pytest.raises(LocalError, match="an agent answers"):
            async with open_unix_listener(path):
                pass


async def test_a_file_that_is_no_socket_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    path.write_text("precious")
    with pytest.raises(LocalError, match="is no socket"):
        async with open_unix_listener(path):
            pass
    assert path.read_text() == "precious"


async def test_a_socket_that_another_made_meanwhile_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    async with open_unix_listener(path):
        path.unlink()
        dead_socket(path)
    assert path.exists()


async def test_a_socket_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / ("x" * 120), tmp_path / "file" / "beiran.sock"):
        with pytest.raises(LocalError, match="cannot listen on the socket") as caught:
            async with open_unix_listener(path):
                pass
        assert "\n" not in str(caught.value)


async def test_a_socket_without_permission_is_one_line_that_says_what_to_do() -> None:
    # Linux makes no folder there for any user.
    with pytest.raises(LocalError, match=r"; run beirand as root, or .* with --socket$"):
        async with open_unix_listener("/sys/beiran/beiran.sock"):
            pass


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_a_tcp_port_in_use_is_one_clear_line(host: str) -> None:
    (listener,) = await open_tcp_listeners(host, 0)
    port = listener.socket.getsockname()[1]
    with pytest.raises(LocalError, match=rf"port {port} is in use .*--port"):
        await open_tcp_listeners(host, port)
    await listener.aclose()
    (again,) = await open_tcp_listeners(host, port)  # and it is free at once
    await again.aclose()


async def test_an_address_of_another_host_is_one_clear_line() -> None:
    with pytest.raises(LocalError, match=r"no interface of this host has the address 192\.0\.2\.1"):
        await open_tcp_listeners("192.0.2.1", 0)


async def test_any_ipv6_address_takes_ipv4_as_well() -> None:
    (listener,) = await open_tcp_listeners("::", 0)
    port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        counters = HttpCounters()
        nursery.start_soon(_serve, [listener], counters)
        for host in ("127.0.0.1", "::1"):
            async with await trio.open_tcp_stream(host, port) as stream:
                await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 404")
        nursery.cancel_scope.cancel()


async def _serve(listeners: list[trio.SocketListener], counters: HttpCounters) -> None:
    await serve_http(listeners, [], listener="tcp", counters=counters)


def test_the_umask_is_as_it_was(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:

        async def main() -> None:
            async with open_unix_listener(tmp_path / "s"):
                pass

        trio.run(main)
        assert os.umask(0o022) == 0o022
    finally:
        os.umask(before)
