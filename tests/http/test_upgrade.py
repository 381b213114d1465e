"""WebSockets with trio-websocket's own client, and watch connections."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    wrap_client_stream,
    wrap_server_stream,
)

from beiran.errors import ApiError, NotFound
from beiran.http import server as http_server
from beiran.http import upgrade as http_upgrade
from beiran.http.messages import (
    Request,
    Response,
    Route,
    SendMessage,
    json_response,
    upgrade_required,
)
from tests.http.serving import Raw, Served, eventually, serve

UPGRADE = (
    b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
WATCH = b"GET /watch HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: beiran-watch\r\n\r\n"


async def plain(request: Request) -> Response:
    return json_response("plain")


def streaming(stream: object, pattern: str = "/", **more: object) -> Route:
    options = {"method": "GET", "pattern": pattern, "handler": plain, "stream": stream, **more}
    return Route(**options)  # type: ignore[arg-type]


@asynccontextmanager
async def websocket(served: Served, path: str = "/") -> AsyncIterator[WebSocketConnection]:
    """trio-websocket's client (on a stream of ours, since it does not always close its own)."""
    with trio.fail_after(30):
        async with (
            await trio.open_tcp_stream("127.0.0.1", served.port) as stream,
            trio.open_nursery() as nursery,
        ):
            yield await wrap_client_stream(nursery, stream, "localhost", path)
            nursery.cancel_scope.cancel()


async def refusal(served: Served, path: bytes) -> bytes:
    async with await served.connect() as raw:
        await raw.send(UPGRADE % path)
        return await raw.until(b"}]}")


async def messages(connection: WebSocketConnection) -> tuple[list[str], int, str | None]:
    """All messages, then code and reason of the close."""
    got = []
    with suppress(ConnectionClosed):
        while True:
            got.append(str(await connection.get_message()))
    assert connection.closed is not None
    return got, connection.closed.code, connection.closed.reason


async def test_a_stream_sends_a_message_per_row_and_closes() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        assert request.path_args == {"node": "ü"}
        for number in range(int(request.query["count"][0])):
            await send(b'{"row":%d}' % number)

    async with (
        serve([streaming(stream, "/rows/{node}")]) as served,
        websocket(served, "/rows/%C3%BC?count=300") as connection,
    ):
        got, code, _ = await messages(connection)
        assert got == [f'{{"row":{number}}}' for number in range(300)]
        assert code == 1000


async def test_the_same_path_answers_plain_http_and_unknown_upgrades() -> None:
    async def stream(request: Request, send: SendMessage) -> None: ...

    async with serve([streaming(stream)]) as served:
        for upgrade in (b"", b"Connection: Upgrade\r\nUpgrade: h2c\r\n", b"Upgrade: websocket\r\n"):
            async with await served.connect() as raw:
                await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n" + upgrade + b"\r\n")
                assert b"200 OK" in await raw.until(b'"plain"')
                await raw.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")  # and goes on as HTTP
                await raw.until(b'"plain"')


async def test_a_refusal_by_prepare_is_answered_in_http() -> None:
    def prepare(request: Request) -> None:
        raise NotFound("NODE_UNKNOWN", "no such node")

    async def stream(request: Request, send: SendMessage) -> None:
        raise AssertionError("not to be called")

    async with serve([streaming(stream, prepare=prepare)]) as served:
        answer = await refusal(served, b"/")
        assert answer.startswith(b"HTTP/1.1 404 ")
        assert b'"code":"NODE_UNKNOWN"' in answer


async def test_a_failing_prepare_is_500_in_http(caplog: pytest.LogCaptureFixture) -> None:
    def prepare(request: Request) -> None:
        raise ZeroDivisionError("oh")

    async def stream(request: Request, send: SendMessage) -> None: ...

    async with serve([streaming(stream, prepare=prepare)]) as served:
        assert (await refusal(served, b"/")).startswith(b"HTTP/1.1 500 ")
        assert served.counters.http_failures == 1
    assert "ZeroDivisionError: oh" in caplog.text


async def test_a_path_without_stream_refuses_a_websocket() -> None:
    async with serve([Route(method="GET", pattern="/", handler=plain)]) as served:
        assert (await refusal(served, b"/")).startswith(b"HTTP/1.1 400 ")
        assert (await refusal(served, b"/nothing")).startswith(b"HTTP/1.1 404 ")


async def test_an_api_error_on_the_way_closes_with_1011_and_its_message() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        await send(b"1")
        raise ApiError(503, "STORE_AWAY", "the store is away " + "ü" * 100)

    async with serve([streaming(stream)]) as served, websocket(served) as connection:
        got, code, reason = await messages(connection)
        assert (got, code) == (["1"], 1011)
        assert reason is not None
        assert reason.startswith("the store is away ü")


async def test_a_failing_stream_closes_with_1011_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        raise ZeroDivisionError("oh")

    async with serve([streaming(stream)]) as served:
        async with websocket(served) as connection:
            assert await messages(connection) == ([], 1011, "internal error")
        await eventually(lambda: served.counters.http_failures == 1)
    assert "ZeroDivisionError: oh" in caplog.text


@pytest.mark.parametrize("polite", [True, False])
async def test_a_client_that_leaves_ends_the_stream(polite: bool) -> None:
    ended = trio.Event()

    async def stream(request: Request, send: SendMessage) -> None:
        try:
            await send(b"1")
            await trio.sleep_forever()
        finally:
            ended.set()

    async with serve([streaming(stream)]) as served:
        if polite:
            async with websocket(served) as connection:
                assert await connection.get_message() == "1"
                await connection.aclose()
        else:
            async with await served.connect() as raw:
                await raw.send(UPGRADE % b"/")
                await raw.until(b"\x81\x011")
        with trio.fail_after(20):
            await ended.wait()
        await eventually(lambda: served.counters.http_connections == 0)
        assert served.counters.http_failures == 0


async def test_a_client_that_stops_reading_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_upgrade, "STALL_TIMEOUT_S", 0.2)
    ended = trio.Event()

    async def stream(request: Request, send: SendMessage) -> None:
        try:
            while True:
                await send(b"x" * 100_000)
        finally:
            ended.set()

    async with serve([streaming(stream)]) as served, await served.connect() as raw:
        await raw.send(UPGRADE % b"/")
        with trio.fail_after(20):
            await ended.wait()
        await eventually(lambda: served.counters.http_connections == 0)
        assert served.counters.http_stalled == 1


async def test_pings_are_answered_and_messages_are_read_and_ignored() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        await send(b"1")
        await trio.sleep_forever()

    async with serve([streaming(stream)]) as served, websocket(served) as connection:
        for _ in range(100):
            await connection.send_message("whatever")
        await connection.ping()
        assert await connection.get_message() == "1"
        assert connection.closed is None


async def test_a_message_over_the_limit_ends_the_connection() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        await trio.sleep_forever()

    async with serve([streaming(stream)]) as served, websocket(served) as connection:
        await connection.send_message("x" * (http_upgrade.MESSAGE_BYTES_MAX + 1))
        assert (await messages(connection))[1] == 1009


async def test_a_stopping_server_closes_websockets_with_1001() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        await send(b"1")
        await trio.sleep_forever()

    async with serve([streaming(stream)]) as served:
        raw = await served.connect()
        await raw.send(UPGRADE % b"/")
        await raw.until(b"\x81\x011")
    assert await raw.rest() == b"\x88\x11\x03\xe9the agent stops"
    raw.close()


async def test_bytes_after_the_upgrade_request_are_refused() -> None:
    async def stream(request: Request, send: SendMessage) -> None: ...

    async with serve([streaming(stream)]) as served:
        answer = await served.exchange(UPGRADE % b"/" + b"\x89\x80abcd")
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert served.counters.http_bad_requests == 1


async def test_a_frame_that_races_with_the_101_is_not_lost() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        await trio.sleep_forever()

    gate = trio.Event()

    async def slow(*arguments: object, **more: object) -> object:
        await gate.wait()
        return await wrap_server_stream(*arguments, **more)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(http_upgrade, "wrap_server_stream", slow)
        async with serve([streaming(stream)]) as served, await served.connect() as raw:
            await raw.send(UPGRADE % b"/")
            await eventually(lambda: served.counters.http_requests == 1)
            await trio.testing.wait_all_tasks_blocked()
            await raw.send(b"\x89\x80abcd")
            gate.set()
            await raw.until(b"\r\n\r\n")
            await raw.until(b"\x8a\x00")  # the pong


@pytest.mark.parametrize(
    ("old", "new", "status"),
    [
        (b"Version: 13", b"Version: 8", 426),
        (b"Key: dG", b"Key: !!", 400),
        (b"Key: dGhlIHNhbXBsZSBub25jZQ==", b"Key: dGhl", 400),
        (b"Sec-WebSocket-Key", b"X", 400),
        (b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\nabc", 400),
    ],
)
async def test_a_wrong_handshake_is_refused(old: bytes, new: bytes, status: int) -> None:
    async def stream(request: Request, send: SendMessage) -> None: ...

    async with serve([streaming(stream)]) as served, await served.connect() as raw:
        await raw.send((UPGRADE % b"/").replace(old, new))
        assert (await raw.until(b"}]}")).startswith(f"HTTP/1.1 {status} ".encode())
        assert served.counters.http_bad_requests == 1


async def test_nonsense_instead_of_frames_ends_only_that_connection() -> None:
    async def stream(request: Request, send: SendMessage) -> None:
        await send(b"1")
        await trio.sleep_forever()

    async with serve([streaming(stream)]) as served:
        for nonsense in (
            b"\xff" * 50,
            b"\x81\xfe\xff\xff",
            b"\x81\x82abcd\xff\xff",
            b"\x88\x81abcde",
        ):
            async with await served.connect() as raw:
                await raw.send(UPGRADE % b"/")
                await raw.until(b"\x81\x011")
                await raw.send(nonsense)
                await raw.stream.send_eof()
                await raw.rest()
        async with websocket(served) as connection:
            assert await connection.get_message() == "1"
        assert served.counters.http_failures == 0


WATCHED = Route(method="GET", pattern="/watch", handler=upgrade_required, watch=True)


async def watch(served: Served) -> Raw:
    raw = await served.connect()
    await raw.send(WATCH)
    head = await raw.until(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ")
    assert b"upgrade: beiran-watch" in head.lower()
    return raw


async def test_a_watch_connection_idles_until_it_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_S", 1)
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT_S", 0.01)
    monkeypatch.setattr(http_server, "STALL_TIMEOUT_S", 0.01)
    async with serve([WATCHED]) as served:
        first, second = await watch(served), await watch(served)
        assert served.counters.http_watchers == 2
        with trio.move_on_after(1.5) as scope:
            await first.stream.receive_some(1)
        assert scope.cancelled_caught
        first.close()
        await eventually(lambda: served.counters.http_watchers == 1)
    assert await second.rest() == b""
    second.close()


async def test_watch_connections_beyond_the_limit_get_503(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "WATCHERS_MAX", 2)
    async with serve([WATCHED]) as served:
        watches = [await watch(served) for _ in range(2)]
        async with await served.connect() as raw:
            await raw.send(WATCH)
            assert (await raw.until(b"}]}")).startswith(b"HTTP/1.1 503 ")
        for raw in watches:
            raw.close()


async def test_a_watch_connection_that_sends_bytes_is_closed() -> None:
    async with serve([WATCHED]) as served, await watch(served) as raw:
        await raw.send(b"x")
        assert await raw.rest() == b""
        assert served.counters.http_bad_requests == 1


async def test_a_plain_request_to_a_watch_path_gets_426() -> None:
    async with serve([WATCHED]) as served:
        answer = await served.exchange(b"GET /watch HTTP/1.0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 426 ")
        assert b"upgrade: beiran-watch" in answer.lower()
