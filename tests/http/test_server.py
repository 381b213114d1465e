"""The server over real sockets: what clients send, and what they get."""

import gzip
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.errors import ApiError, DataError, NotFound
from beiran.http import body as http_body
from beiran.http import server as http_server
from beiran.http.connection import HttpConnection
from beiran.http.messages import (
    FileSlice,
    Request,
    Response,
    Route,
    json_response,
)
from beiran.http.ranges import ranged
from tests.http.serving import Served, blob, eventually, serve, write

GET = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n"
GET_CLOSE = b"GET %s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def hello(request: Request) -> Response:
    return json_response({"hello": request.path})


async def echo(request: Request) -> Response:
    return Response(body=request.body)


async def tell(request: Request) -> Response:
    """Answer with the request as the server parsed it."""
    return json_response(
        {
            "method": request.method,
            "path": request.path,
            "args": request.path_args,
            "query": request.query,
            "accept": request.headers.get("accept"),
            "peer": request.peer,
            "listener": request.listener,
        }
    )


def get(pattern: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(method="GET", pattern=pattern, handler=handler)


ROUTES = [
    get("/hello", hello),
    get("/tell/{one}", tell),
    Route(method="POST", pattern="/tell/named", handler=echo),
    get("/deep/{rest:path}/end", tell),
    Route(method="POST", pattern="/echo", handler=echo, body_bytes_max=100_000),
    Route(method="POST", pattern="/small", handler=echo, body_bytes_max=10),
    Route(method="GET", pattern="/private", handler=hello, listeners=("unix",)),
]


@pytest.fixture
async def server() -> AsyncIterator[Served]:
    async with serve(ROUTES) as served:
        yield served


def body_of(answer: bytes) -> bytes:
    return answer.partition(b"\r\n\r\n")[2]


def status_of(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer
    return int(answer[9:12])


def code_of(answer: bytes) -> str:
    errors = msgspec.json.decode(body_of(answer))["errors"]
    return str(errors[0]["code"])


async def test_a_get_is_answered_with_length_type_and_date(server: Served) -> None:
    answer = await server.exchange(GET_CLOSE % b"/hello")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert body == b'{"hello":"/hello"}'
    assert f"content-length: {len(body)}".encode() in head.lower()
    assert b"content-type: application/json" in head.lower()
    assert b" GMT" in head
    assert server.counters.http_requests == 1


async def test_the_handler_sees_a_decoded_request(server: Served) -> None:
    answer = await server.exchange(
        b"GET /tell/a%2Fb%20%C3%BC?x=1&x=2&empty= HTTP/1.1\r\nHost: x\r\n"
        b"Accept: a\r\nAccept: b\r\nConnection: close\r\n\r\n"
    )
    # An encoded slash is a slash in the decoded path, so it does not fit into one segment.
    assert status_of(answer) == 404
    answer = await server.exchange(
        b"GET /tell/%20%C3%BC?x=1&x=2&empty= HTTP/1.1\r\nHost: x\r\n"
        b"Accept: a\r\nAccept: b\r\nConnection: close\r\n\r\n"
    )
    assert msgspec.json.decode(body_of(answer)) == {
        "method": "GET",
        "path": "/tell/ ü",
        "args": {"one": " ü"},
        "query": {"x": ["1", "2"], "empty": [""]},
        "accept": ["a", "b"],
        "peer": "127.0.0.1",
        "listener": "tcp",
    }


async def test_a_path_pattern_takes_several_segments(server: Served) -> None:
    answer = await server.exchange(GET_CLOSE % b"/deep/a/b/c/end")
    assert msgspec.json.decode(body_of(answer))["args"] == {"rest": "a/b/c"}


async def test_an_absolute_target_is_read_as_its_path(server: Served) -> None:
    answer = await server.exchange(GET_CLOSE % b"http://elsewhere:1/hello?x=1")
    assert body_of(answer) == b'{"hello":"/hello"}'


async def test_head_has_the_head_of_get_and_no_body(server: Served) -> None:
    answer = await server.exchange(b"HEAD /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert status_of(answer) == 200
    assert b"content-length: 18" in answer.lower()
    assert body_of(answer) == b""


async def test_one_connection_carries_many_requests(server: Served) -> None:
    async with await server.connect() as raw:
        for _ in range(20):
            await raw.send(GET % b"/hello")
            assert b"200 OK" in await raw.until(b'{"hello":"/hello"}')
    assert server.counters.http_requests == 20


async def test_pipelined_requests_are_answered_in_order(server: Served) -> None:
    paths = [b"/tell/%d" % index for index in range(50)]
    answer = await server.exchange(b"".join(GET % path for path in paths) + GET_CLOSE % b"/hello")
    places = [answer.index(b'"path":"%s"' % path) for path in paths]
    assert places == sorted(places)
    assert answer.endswith(b'{"hello":"/hello"}')


async def test_a_request_that_comes_byte_by_byte_is_read(server: Served) -> None:
    async with await server.connect() as raw:
        for byte in GET_CLOSE % b"/hello":
            await raw.send(bytes([byte]))
            await trio.lowlevel.checkpoint()
        assert body_of(await raw.rest()) == b'{"hello":"/hello"}'


async def test_http_1_0_is_answered_and_closed(server: Served) -> None:
    answer = await server.exchange(b"GET /hello HTTP/1.0\r\n\r\n")
    assert body_of(answer) == b'{"hello":"/hello"}'


async def test_an_unknown_path_is_404_with_the_error_body(server: Served) -> None:
    answer = await server.exchange(GET_CLOSE % b"/nothing")
    assert status_of(answer) == 404
    assert msgspec.json.decode(body_of(answer)) == {
        "errors": [{"code": "NOT_FOUND", "message": "there is nothing at /nothing", "detail": None}]
    }


async def test_another_method_is_405_and_lists_the_allowed_ones(server: Served) -> None:
    answer = await server.exchange(
        b"DELETE /hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert status_of(answer) == 405
    assert b"allow: get, head, options\r\n" in answer.lower()


async def test_options_lists_the_allowed_methods(server: Served) -> None:
    answer = await server.exchange(
        b"OPTIONS /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert status_of(answer) == 204
    assert b"allow: options, post\r\n" in answer.lower()
    assert body_of(answer) == b""


async def test_a_path_with_a_name_of_its_own_is_none_of_those_that_take_any(server: Served) -> None:
    answer = await server.exchange(GET_CLOSE % b"/tell/named")
    assert answer.startswith(b"HTTP/1.1 405 ")
    assert b"\r\nAllow: OPTIONS, POST\r\n" in answer
    answer = await server.exchange(GET_CLOSE % b"/tell/other")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_route_is_only_found_at_its_listeners(server: Served) -> None:
    assert status_of(await server.exchange(GET_CLOSE % b"/private")) == 404


@pytest.mark.parametrize("size", [0, 1, 1000, 100_000])
async def test_a_body_with_its_length_reaches_the_handler(server: Served, size: int) -> None:
    body = blob(size)
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    assert body_of(await server.exchange(head % size + body)) == body


async def test_a_chunked_body_reaches_the_handler(server: Served) -> None:
    answer = await server.exchange(
        b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;ext=1\r\nde\r\n0\r\n\r\n"
    )
    assert body_of(answer) == b"abcde"


async def test_a_client_that_expects_100_continue_gets_it(server: Served) -> None:
    async with await server.connect() as raw:
        await raw.send(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
            b"Content-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b"HTTP/1.1 100 " in await raw.until(b"\r\n\r\n")
        await raw.send(b"abc")
        assert body_of(await raw.rest()) == b"abc"


@pytest.mark.parametrize("expect", [b"", b"Expect: 100-continue\r\n"])
async def test_a_body_whose_length_is_too_large_is_413(server: Served, expect: bytes) -> None:
    async with await server.connect() as raw:
        await raw.send(
            b"POST /small HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n" + expect + b"\r\n"
        )
        if not expect:
            await raw.send(b"x" * 300_000)  # and what was sent in vain does not lose the answer
        answer = await raw.rest()
    assert status_of(answer) == 413
    assert code_of(answer) == "BODY_TOO_LARGE"
    assert server.counters.http_bad_requests == 1


async def test_a_chunked_body_that_grows_too_large_is_413(server: Served) -> None:
    answer = await server.exchange(
        b"POST /small HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n"
    )
    assert status_of(answer) == 413


async def test_a_request_with_an_unused_body_is_answered_and_closed(server: Served) -> None:
    answer = await server.exchange(
        b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"
        + b"abcd"
        + GET % b"/hello"
    )
    assert status_of(answer) == 404
    assert b"connection: close" in answer.lower()
    assert b"hello" not in answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\r\n\r\n\r\n", 400),
        (b"nonsense\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\n\r\n", 400),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nContent-Length: a\r\n\r\n", 400),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"GET hello HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 400),
        (GET_CLOSE % b"/%ff", 400),
        (GET_CLOSE % b"/%00", 400),
        (GET_CLOSE % b"/hello?x=%ff", 400),
        (GET_CLOSE % (b"/hello?" + b"&".join([b"a=1"] * 40)), 400),
        (GET_CLOSE % (b"/" + b"a" * 3000), 414),
        (b"GET /hello HTTP/1.1\r\nHost: x\r\nLong: " + b"a" * 40_000, 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
)
async def test_bytes_that_are_not_http_are_refused_and_counted(
    server: Served, data: bytes, status: int
) -> None:
    answer = await server.exchange(data)
    assert status_of(answer) == status
    assert code_of(answer)
    assert server.counters.http_bad_requests == 1


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.one_of(
        st.binary(max_size=300),
        st.lists(
            st.sampled_from(
                (
                    b"GET |POST |/hello|/echo| HTTP/1.1| HTTP/1.0|\r\n|: |Host|Content-Length|"
                    b"Transfer-Encoding|chunked|5|Upgrade|websocket|Connection|beiran-watch|"
                    b"\n|\x00|abcde|%|Expect|100-continue"
                ).split(b"|")
            ),
            max_size=40,
        ).map(b"".join),
    )
)
def test_after_any_bytes_the_next_client_is_served(data: bytes) -> None:
    async def main() -> None:
        async with serve(ROUTES) as served:
            async with await served.connect() as raw:
                await raw.send(data)
                await raw.stream.send_eof()
                await raw.rest()
            answer = await served.exchange(GET_CLOSE % b"/hello")
            assert body_of(answer) == b'{"hello":"/hello"}'
            assert served.counters.http_failures == 0
            await eventually(lambda: served.counters.http_connections == 0)

    trio.run(main)


async def test_an_api_error_of_a_handler_is_its_answer() -> None:
    async def refuse(request: Request) -> Response:
        raise NotFound("NODE_UNKNOWN", "no such node")

    async with serve([get("/", refuse), *ROUTES]) as served, await served.connect() as raw:
        await raw.send(GET % b"/")
        head = await raw.until(b"\r\n\r\n")
        assert status_of(head) == 404
        assert b"NODE_UNKNOWN" in await raw.until(b"}]}")
        await raw.send(GET_CLOSE % b"/hello")
        assert status_of(await raw.rest()) == 200


async def test_a_failing_handler_is_500_with_a_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(request: Request) -> Response:
        raise ZeroDivisionError("oh")

    async with serve([get("/", fail), *ROUTES]) as served, await served.connect() as raw:
        await raw.send(GET % b"/")
        assert b"INTERNAL" in await raw.until(b"}]}")
        await raw.send(GET_CLOSE % b"/hello")
        assert status_of(await raw.rest()) == 200
        assert served.counters.http_failures == 1
    assert "GET / failed" in caplog.text
    assert "ZeroDivisionError: oh" in caplog.text


async def test_a_handler_whose_headers_are_none_is_500(caplog: pytest.LogCaptureFixture) -> None:
    async def answer(request: Request) -> Response:
        return Response(headers=[("Bad Name", "x")])

    async with serve([get("/", answer)]) as served:
        assert status_of(await served.exchange(GET_CLOSE % b"/")) == 500
        assert served.counters.http_failures == 1


SIZES = [0, 1, http_body.SEND_BYTES - 1, http_body.SEND_BYTES, 3 * http_body.SEND_BYTES + 7]


def file_route(path: Path) -> Route:
    """A file with Range, as a handler would serve it."""

    async def answer(request: Request) -> Response:
        descriptor = os.open(path, os.O_RDONLY)
        size = os.fstat(descriptor).st_size
        try:
            status, start, end, headers = ranged(request, size, '"file"')
        except ApiError:
            os.close(descriptor)
            raise
        return Response(
            status=status,
            headers=headers,
            body=FileSlice(descriptor=descriptor, start=start, length=end - start),
        )

    return get("/file", answer)


def open_descriptors(path: Path) -> int:
    links = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            links.append(os.readlink(f"/proc/self/fd/{entry}"))
        except FileNotFoundError:
            continue
    return links.count(str(path))


@pytest.mark.parametrize("size", SIZES)
async def test_a_file_arrives_as_it_is(tmp_path: Path, size: int) -> None:
    path = write(tmp_path / "file", blob(size))
    async with serve([file_route(path)]) as served:
        answer = await served.exchange(GET_CLOSE % b"/file")
    assert body_of(answer) == blob(size)
    assert open_descriptors(path) == 0


async def test_a_file_that_is_not_cached_arrives_as_it_is(tmp_path: Path) -> None:
    size = 3 * http_body.WARM_BYTES + 5
    path = write(tmp_path / "file", blob(size))
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    async with serve([file_route(path)]) as served:
        assert body_of(await served.exchange(GET_CLOSE % b"/file")) == blob(size)


@pytest.mark.needs("curl")
async def test_curl_gets_a_range_of_a_file_and_goes_on(tmp_path: Path) -> None:
    data = blob(2_000_000)
    path = write(tmp_path / "file", data)
    async with serve([file_route(path)]) as served:
        url = f"http://127.0.0.1:{served.port}/file"
        command = ["curl", "-sS", "-r", "1000-1299999", url, "-o", str(tmp_path / "part")]
        await trio.run_process([*command, "--next", "-sS", "-I", url], capture_stdout=True)
        assert (tmp_path / "part").read_bytes() == data[1000:1_300_000]
        result = await trio.run_process(
            ["curl", "-sS", "-i", "-r", "3000000-", url], capture_stdout=True
        )
    assert status_of(result.stdout) == 416
    assert b"content-range: bytes */2000000" in result.stdout.lower()
    assert open_descriptors(path) == 0


async def test_a_file_shorter_than_promised_breaks_the_answer_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "file", b"short")

    async def answer(request: Request) -> Response:
        descriptor = os.open(path, os.O_RDONLY)
        return Response(body=FileSlice(descriptor=descriptor, start=0, length=10))

    async with serve([get("/", answer)]) as served:
        reply = await served.exchange(GET % b"/")
        assert body_of(reply) == b"short"
        assert b"content-length: 10" in reply.lower()
        assert served.counters.http_failures == 1
    assert "was cut off" in caplog.text
    assert open_descriptors(path) == 0


async def test_chunks_of_unknown_length_are_sent_chunked() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for index in range(3):
            yield blob(index * http_body.SEND_BYTES)

    async def answer(request: Request) -> Response:
        return Response(body=chunks())

    expected = b"".join(blob(index * http_body.SEND_BYTES) for index in range(3))
    async with serve([get("/", answer)]) as served:
        stream = await trio.open_tcp_stream("127.0.0.1", served.port)
        connection = HttpConnection(stream, "x")
        for _ in range(2):
            head = await connection.ask("GET", "/")
            assert head.headers["transfer-encoding"] == "chunked"
            assert await connection.read(bytes_max=10_000_000) == expected
            assert connection.reusable
        connection.close()
        # HTTP/1.0 knows no chunks: there the end of the connection is the end.
        assert body_of(await served.exchange(b"GET / HTTP/1.0\r\n\r\n")) == expected


async def test_chunks_of_known_length_are_sent_with_it() -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"
        yield b"def"

    async def close() -> None:
        closed.append(True)

    async def answer(request: Request) -> Response:
        return Response(body=chunks(), length=6, close=close)

    async with serve([get("/", answer)]) as served:
        reply = await served.exchange(GET_CLOSE % b"/")
        assert b"content-length: 6" in reply.lower()
        assert body_of(reply) == b"abcdef"
        reply = await served.exchange(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"content-length: 6" in reply.lower()
        assert body_of(reply) == b""
    assert closed == [True, True]


@pytest.mark.parametrize("length", [2, 4, None])
async def test_chunks_that_fail_break_the_answer_off(
    length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    closed = []

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"
        if length is None:
            raise DataError("the layer is damaged")

    async def close() -> None:
        closed.append(True)

    async def answer(request: Request) -> Response:
        return Response(body=chunks(), length=length, close=close)

    async with serve([get("/", answer), *ROUTES]) as served:
        reply = await served.exchange(GET % b"/")
        assert not reply.endswith(b"0\r\n\r\n")
        assert served.counters.http_failures == 1
        assert status_of(await served.exchange(GET_CLOSE % b"/hello")) == 200
    assert closed == [True]
    assert "was cut off" in caplog.text
    assert length is not None or "the layer is damaged" in caplog.text


async def test_chunks_end_when_the_client_goes_while_one_is_awaited() -> None:
    waiting = trio.Event()
    closed = trio.Event()

    async def chunks() -> AsyncIterator[bytes]:
        yield b"abc"
        waiting.set()
        await trio.sleep_forever()

    async def close() -> None:
        closed.set()

    async def answer(request: Request) -> Response:
        return Response(body=chunks(), close=close)

    async with serve([get("/", answer)]) as served:
        async with await served.connect() as raw:
            await raw.send(GET % b"/")
            await waiting.wait()
        with trio.fail_after(20):
            await closed.wait()
        await eventually(lambda: served.counters.http_connections == 0)
        assert served.counters.http_failures == 0


async def test_a_client_that_closes_mid_way_is_no_failure(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "file", blob(30_000_000))
    caplog.set_level(logging.INFO)
    async with serve([file_route(path)]) as served:
        async with await served.connect() as raw:
            await raw.send(GET % b"/file")
            await raw.until(b"\r\n\r\n")
        await eventually(lambda: served.counters.http_connections == 0)
        assert served.counters.http_failures == 0
    assert open_descriptors(path) == 0
    assert caplog.text == ""


async def test_a_large_body_in_bytes_arrives_as_it_is() -> None:
    async def answer(request: Request) -> Response:
        return Response(body=blob(5_000_000))

    async with serve([get("/", answer)]) as served:
        assert body_of(await served.exchange(GET_CLOSE % b"/")) == blob(5_000_000)


@pytest.mark.parametrize("kind", ["file", "bytes", "chunks"])
async def test_a_client_that_stops_reading_is_dropped(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_body, "STALL_TIMEOUT_S", 0.2)
    path = write(tmp_path / "file", blob(30_000_000))

    async def chunks() -> AsyncIterator[bytes]:
        yield path.read_bytes()

    async def answer(request: Request) -> Response:
        return Response(body=path.read_bytes() if kind == "bytes" else chunks())

    routes = [file_route(path), get("/bytes", answer), get("/chunks", answer)]
    async with serve(routes) as served, await served.connect() as raw:
        await raw.send(GET % f"/{kind}".encode())
        await eventually(lambda: served.counters.http_connections == 0)
        assert served.counters.http_stalled == 1
    assert open_descriptors(path) == 0


async def test_a_head_that_does_not_come_to_its_end_times_out(
    monkeypatch: pytest.MonkeyPatch, server: Served
) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_S", 0.5)
    assert await server.exchange(b"") == b""
    assert server.counters.http_bad_requests == 0
    assert status_of(await server.exchange(b"GET /hello HT")) == 408
    assert server.counters.http_bad_requests == 1


async def test_a_slow_head_gets_no_more_time(
    monkeypatch: pytest.MonkeyPatch, server: Served
) -> None:
    monkeypatch.setattr(http_server, "HEAD_TIMEOUT_S", 0.3)
    answer = b""
    async with await server.connect() as raw, trio.open_nursery() as nursery:

        async def drip() -> None:
            await raw.send(b"GET /hello HTTP/1.1\r\nX: ")
            while True:
                await raw.send(b"x")
                await trio.sleep(0.02)

        nursery.start_soon(drip)
        answer = await raw.until(b"}]}")
        nursery.cancel_scope.cancel()
    assert status_of(answer) == 408


async def test_a_body_that_does_not_come_times_out(
    monkeypatch: pytest.MonkeyPatch, server: Served
) -> None:
    monkeypatch.setattr(http_server, "STALL_TIMEOUT_S", 0.1)
    head = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    assert status_of(await server.exchange(head + b"ab")) == 408


async def test_an_idle_connection_is_closed(
    monkeypatch: pytest.MonkeyPatch, server: Served
) -> None:
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT_S", 0.1)
    answer = await server.exchange(GET % b"/hello")
    assert body_of(answer) == b'{"hello":"/hello"}'
    assert server.counters.http_bad_requests == 0


async def test_at_the_limit_an_idle_connection_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(http_server.CONNECTIONS_MAX, "tcp", 2)
    async with serve(ROUTES) as served, await served.connect() as idle, await served.connect():
        await idle.send(GET % b"/hello")
        await idle.until(b'{"hello":"/hello"}')
        assert status_of(await served.exchange(GET_CLOSE % b"/hello")) == 200
        assert await idle.rest() == b""
        assert served.counters.http_refused == 0


async def test_at_the_limit_of_busy_connections_new_ones_get_503(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(http_server.CONNECTIONS_MAX, "tcp", 2)
    async with serve(ROUTES) as served:
        async with await served.connect(), await served.connect():
            await eventually(lambda: served.counters.http_connections == 2)
            answer = await served.exchange(GET % b"/hello")
            assert status_of(answer) == 503
            assert code_of(answer) == "TOO_MANY_CONNECTIONS"
            assert served.counters.http_refused == 1
        await eventually(lambda: served.counters.http_connections == 0)
        assert status_of(await served.exchange(GET_CLOSE % b"/hello")) == 200


async def test_stopping_the_server_closes_its_connections() -> None:
    async with serve(ROUTES) as served:
        raw = await served.connect()
        await raw.send(GET % b"/hello")
        await raw.until(b'{"hello":"/hello"}')
    assert await raw.rest() == b""
    raw.close()


@pytest.mark.needs("curl")
async def test_curl_speaks_with_it(server: Served) -> None:
    body = gzip.compress(b"x" * 50_000) * 300  # curl asks before it sends much: Expect
    command = ["curl", "-sS", "--data-binary", "@-", f"http://127.0.0.1:{server.port}/echo"]
    result = await trio.run_process(command, stdin=body[:100_000], capture_stdout=True)
    assert result.stdout == body[:100_000]
    command = ["curl", "-sS", "--http2", f"http://127.0.0.1:{server.port}/hello"]
    result = await trio.run_process(command, capture_stdout=True)
    assert result.stdout == b'{"hello":"/hello"}'
