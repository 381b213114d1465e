"""Connections that are kept for the next request, over a real server."""

from collections.abc import AsyncIterator

import pytest
import trio

from beiran.http.connection import HttpConnection
from beiran.http.messages import Request, Response, Route
from beiran.http.pool import HttpPool
from tests.http.serving import Served, eventually, serve


async def hello(request: Request) -> Response:
    return Response(body=b"hello")


ROUTES = [
    Route(method="GET", pattern="/", handler=hello),
    Route(method="POST", pattern="/", handler=hello),
]


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve(ROUTES) as server:
        yield server


async def connect(port: int) -> HttpConnection:
    return HttpConnection(await trio.open_tcp_stream("127.0.0.1", port), "x")


def pool_in(nursery: trio.Nursery, **limits: float) -> HttpPool[int]:
    usual = {"per_place_max": 2, "idle_max": 2, "idle_timeout_s": 20.0}
    return HttpPool(nursery, connect, **{**usual, **limits})  # type: ignore[arg-type]


async def ask(pool: HttpPool[int], port: int, *, repeatable: bool = True) -> HttpConnection:
    async with pool.ask(port, "GET", "/", repeatable=repeatable) as (connection, answer):
        assert answer.status == 200
        assert await connection.read(bytes_max=10) == b"hello"
        return connection


async def test_a_repeatable_request_uses_the_idle_connection(
    served: Served, nursery: trio.Nursery
) -> None:
    pool = pool_in(nursery)
    first = await ask(pool, served.port)
    assert await ask(pool, served.port) is first
    assert await ask(pool, served.port, repeatable=False) is not first


async def test_a_connection_whose_answer_was_not_read_is_closed(
    served: Served, nursery: trio.Nursery
) -> None:
    pool = pool_in(nursery)
    async with pool.ask(served.port, "GET", "/", repeatable=True):
        pass
    await eventually(lambda: served.counters.http_connections == 0)


async def test_an_idle_connection_is_closed_when_the_server_closes_it(
    nursery: trio.Nursery,
) -> None:
    pool = pool_in(nursery)
    async with serve(ROUTES) as server:
        await ask(pool, server.port)
    await eventually(lambda: pool.take(server.port) is None)


async def test_no_more_connections_to_one_place_are_in_use_than_the_limit(
    served: Served, nursery: trio.Nursery
) -> None:
    pool = pool_in(nursery, per_place_max=1)
    async with trio.open_nursery() as asking:

        async def ask_in_turn() -> None:
            async with pool.turn(served.port):
                assert served.counters.http_connections <= 1
                await ask(pool, served.port)

        for _ in range(5):
            asking.start_soon(ask_in_turn)
    assert served.counters.http_requests == 5


async def test_a_pool_that_closes_keeps_nothing(served: Served) -> None:
    async with trio.open_nursery() as nursery:
        pool = pool_in(nursery)
        async with pool.ask(served.port, "GET", "/", repeatable=True) as (connection, _):
            await connection.read(bytes_max=10)
            nursery.cancel_scope.cancel()
    assert pool.take(served.port) is None
    await eventually(lambda: served.counters.http_connections == 0)
