"""Agents that ask agents: a real client and a real server, or whatever else may listen there."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
from msgspec import Struct

from beiran.errors import ApiError, RemoteProtocolError
from beiran.gossip.membership.member import Address
from beiran.http import server as http_server
from beiran.http.listeners import open_tcp_listeners
from beiran.http.messages import Request, Response, Route, json_response, upgrade_required
from beiran.peers import peer_client
from beiran.peers.peer_client import (
    PeerClient,
    PeerDeclined,
    PeerRefused,
    PeerUnreachable,
    WatchOutcome,
    open_peer_client,
)
from tests.http.serving import Served, blob, eventually, serve


class Greeting(Struct):
    hello: str


async def echo(request: Request) -> Response:
    return Response(body=request.body)


async def greet(request: Request) -> Response:
    return json_response({"hello": "you", "of a newer version": True})


async def refuse(request: Request) -> Response:
    raise ApiError(503, "BUSY", "not now")


async def hang(request: Request) -> Response:
    await trio.sleep_forever()
    raise AssertionError


async def bad_json(request: Request) -> Response:
    return Response(body=b'{"hello": \xff')


ROUTES = [
    Route(method="POST", pattern="/echo", handler=echo, body_bytes_max=1_000_000),
    Route(method="GET", pattern="/greet", handler=greet),
    Route(method="GET", pattern="/bad", handler=bad_json),
    Route(method="POST", pattern="/refuse", handler=refuse),
    Route(method="POST", pattern="/hang", handler=hang),
    Route(method="GET", pattern="/watch", handler=upgrade_required, watch=True),
]


@pytest.fixture
async def peers() -> AsyncIterator[PeerClient]:
    async with open_peer_client() as client:
        yield client


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with serve(ROUTES) as server:
        yield server


def at(served: Served) -> Address:
    return Address("127.0.0.1", served.port)


async def post(peers: PeerClient, address: Address, body: bytes, path: str = "/echo") -> bytes:
    return await peers.post(address, path, body, timeout_s=20, response_bytes_max=1_000_000)


@asynccontextmanager
async def listening(
    handler: Callable[[trio.SocketStream], Awaitable[None]], port: int = 0
) -> AsyncIterator[Address]:
    """Something on a port that is no agent."""
    listeners = await open_tcp_listeners("127.0.0.1", port)

    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            with suppress(trio.BrokenResourceError):
                await handler(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_one, listeners)
        yield Address("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def refusing_address() -> Address:
    (listener,) = await open_tcp_listeners("127.0.0.1", 0)
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    return Address("127.0.0.1", port)


@pytest.mark.parametrize("size", [0, 1, 500_000])
async def test_a_post_brings_its_answer(peers: PeerClient, served: Served, size: int) -> None:
    assert await post(peers, at(served), blob(size)) == blob(size)


async def test_requests_share_one_connection(peers: PeerClient, served: Served) -> None:
    for _ in range(10):
        await post(peers, at(served), b"x")
    assert served.counters.http_requests == 10
    assert served.counters.http_connections == 1


async def test_many_at_once_use_few_connections(peers: PeerClient, served: Served) -> None:
    done = []

    async def one(number: int) -> None:
        done.append(await post(peers, at(served), b"%d" % number))
        assert served.counters.http_connections <= peer_client.CONNECTIONS_PER_PEER_MAX

    async with trio.open_nursery() as nursery:
        for number in range(50):
            nursery.start_soon(one, number)
    assert sorted(done) == sorted(b"%d" % number for number in range(50))


async def test_a_connection_that_idles_is_closed(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_client, "IDLE_TIMEOUT_S", 0.1)
    async with open_peer_client() as peers:
        await post(peers, at(served), b"x")
        await eventually(lambda: served.counters.http_connections == 0)
        assert await post(peers, at(served), b"y") == b"y"


async def test_no_more_connections_idle_than_the_limit(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_client, "IDLE_CONNECTIONS_MAX", 1)
    async with open_peer_client() as peers, serve(ROUTES) as other:
        await post(peers, at(served), b"x")
        await post(peers, at(other), b"x")
        await eventually(lambda: served.counters.http_connections == 0)
        assert other.counters.http_connections == 1
        assert await post(peers, at(served), b"y") == b"y"


async def test_leaving_the_client_closes_its_connections(served: Served) -> None:
    async with open_peer_client() as client:
        assert await post(client, at(served), b"x") == b"x"
        assert served.counters.http_connections == 1
    await eventually(lambda: served.counters.http_connections == 0)


async def test_a_restarted_peer_is_asked_anew_unnoticed(peers: PeerClient) -> None:
    async def once(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none")
        await stream.receive_some()  # the second request, which gets no answer

    async with listening(once) as address:
        assert await post(peers, address, b"x") == b"one"
        assert await post(peers, address, b"x") == b"one"
    async with serve(ROUTES) as served:
        assert await post(peers, at(served), b"x") == b"x"


async def test_an_answer_that_breaks_off_is_not_asked_for_again(peers: PeerClient) -> None:
    connections = 0

    async def break_off(stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\no")

    async with listening(break_off) as address:
        with pytest.raises(PeerUnreachable):
            await post(peers, address, b"x")
    assert connections == 1


async def test_a_refused_connection_differs_from_no_answer(
    peers: PeerClient, served: Served
) -> None:
    with pytest.raises(PeerRefused):
        await post(peers, await refusing_address(), b"x")
    with pytest.raises(PeerUnreachable, match=r"did not answer within 0\.1 s"):
        await peers.post(at(served), "/hang", b"", timeout_s=0.1, response_bytes_max=10)
    with pytest.raises(PeerUnreachable):
        await post(peers, Address("255.255.255.255", 1), b"x")


async def test_a_peer_that_is_gone_meanwhile_is_refused(peers: PeerClient) -> None:
    async with serve(ROUTES) as served:
        await post(peers, at(served), b"x")
    with pytest.raises(PeerRefused):
        await post(peers, at(served), b"x")


async def test_an_error_status_is_declined(peers: PeerClient, served: Served) -> None:
    for path, status in (("/refuse", 503), ("/nothing", 404)):
        with pytest.raises(PeerDeclined) as caught:
            await post(peers, at(served), b"", path)
        assert caught.value.status == status
    assert await post(peers, at(served), b"x") == b"x"
    assert served.counters.http_connections == 1


async def test_too_long_an_answer_is_a_protocol_error(peers: PeerClient, served: Served) -> None:
    with pytest.raises(RemoteProtocolError, match="more than 9 bytes"):
        await peers.post(at(served), "/echo", b"x" * 10, timeout_s=20, response_bytes_max=9)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 999999 X\r\n\r\n", b"\x00" * 100_000]
)
async def test_an_answer_that_is_not_http_is_a_protocol_error(
    peers: PeerClient, answer: bytes
) -> None:
    async def talk(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(answer)
        await stream.receive_some()

    async with listening(talk) as address:
        with pytest.raises(RemoteProtocolError):
            await post(peers, address, b"x")
        assert await peers.watch_connection(address, "/watch") is WatchOutcome.DECLINED


async def test_json_is_read_into_its_type(peers: PeerClient, served: Served) -> None:
    assert await peers.get_json(at(served), "/greet", Greeting, timeout_s=20) == Greeting("you")
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        await peers.get_json(at(served), "/greet", list[int], timeout_s=20)
    with pytest.raises(RemoteProtocolError, match="cannot be read"):
        await peers.get_json(at(served), "/bad", Greeting, timeout_s=20)


async def test_a_watch_connection_ends_when_the_peer_ends(peers: PeerClient) -> None:
    outcomes = []
    async with trio.open_nursery() as nursery, serve(ROUTES) as served:

        async def watch() -> None:
            outcomes.append(await peers.watch_connection(at(served), "/watch"))

        nursery.start_soon(watch)
        await eventually(lambda: served.counters.http_watchers == 1)
        assert not outcomes
    assert outcomes == [WatchOutcome.CLOSED]
    assert await peers.watch_connection(at(served), "/watch") is WatchOutcome.REFUSED


async def test_a_watch_connection_ends_when_it_is_cancelled(
    peers: PeerClient, served: Served
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peers.watch_connection, at(served), "/watch")
        await eventually(lambda: served.counters.http_watchers == 1)
        nursery.cancel_scope.cancel()
    await eventually(lambda: served.counters.http_watchers == 0)


async def test_a_connection_that_is_reset_ends_as_closed(peers: PeerClient) -> None:
    async def reset(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(
            b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: beiran-watch\r\n\r\n"
        )
        stream.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    async with listening(reset) as address:
        assert await peers.watch_connection(address, "/watch") is WatchOutcome.CLOSED


async def test_a_watch_beyond_the_limit_or_of_another_path_is_declined(
    peers: PeerClient, served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "WATCHERS_MAX", 0)
    assert await peers.watch_connection(at(served), "/watch") is WatchOutcome.DECLINED
    assert await peers.watch_connection(at(served), "/greet") is WatchOutcome.DECLINED


async def test_a_peer_that_does_not_answer_is_unreachable_for_a_watch(
    peers: PeerClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_client, "WATCH_OPEN_TIMEOUT_S", 0.1)

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with listening(silent) as address:
        assert await peers.watch_connection(address, "/watch") is WatchOutcome.UNREACHABLE
