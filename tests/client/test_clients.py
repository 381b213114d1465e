"""The client library against the real server, which answers from rows written here."""

import hashlib
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    serve_websocket,
)

from beiran import Client
from beiran.api.events import Event
from beiran.api.models import Change, EngineInfo, Image, Info, Layer, Node
from beiran.client import trio_client
from beiran.client.blocking_client import BlockingClient
from beiran.client.protocol import Endpoint, parse_endpoint, read_error, unreachable
from beiran.errors import (
    AgentUnreachable,
    ApiError,
    BadRequest,
    NotFound,
    RemoteProtocolError,
)
from beiran.http import server as http_server
from beiran.http.listeners import open_tcp_listeners, open_unix_listener
from beiran.http.messages import (
    Request,
    Response,
    Route,
    SendMessage,
    json_response,
)
from beiran.http.ranges import content_range, parse_range
from beiran.http.server import HttpCounters, serve_http
from tests.http.serving import blob, eventually

UUID = "aaaaaaaa-0000-4000-8000-000000000001"
ENGINE = EngineInfo(kind="oci", store="/images")
INFO = Info(
    uuid=UUID,
    name="a",
    cluster="default",
    address="10.0.0.1",
    port=8888,
    state="alive",
    generation=1,
    incarnation=0,
    version="0.1.0",
    engine=ENGINE,
    started_at="2020-01-01T00:00:00Z",
    nodes_online=1,
    nodes_known=2,
    images=1,
    layers=1,
)
NODE = Node(
    uuid=UUID,
    name="a",
    address="10.0.0.1",
    port=8888,
    state="alive",
    online=True,
    generation=1,
    incarnation=0,
)
GONE = msgspec.structs.replace(NODE, name="b", state="down", online=False)
TAR = blob(1_000_000)
DIGEST = "sha256:" + hashlib.sha256(TAR).hexdigest()
IMAGE = Image(
    id="sha256:" + "1" * 64,
    tags=("a:1",),
    digests=(),
    size_bytes=5,
    created_at=None,
    os="linux",
    architecture="amd64",
    layers=(DIGEST,),
    available_at=("beiran+uuid://" + UUID,),
)
LAYER = Layer(digest=DIGEST, size_bytes=5, images=(IMAGE.id,), available_at=IMAGE.available_at)
EVENT = Event(event="node.online", at="2020-01-01T00:00:00Z", node=UUID)


def encode(value: object) -> bytes:
    """As a newer agent would say it: with a field that we do not know."""
    return msgspec.json.encode({**msgspec.to_builtins(value), "of a newer version": [1]})


async def answer(value: object, request: Request) -> Response:
    return Response(body=encode(value))


async def nodes(request: Request) -> Response:
    return json_response({"nodes": [NODE, GONE] if request.query.get("all") else [NODE]})


async def node(request: Request) -> Response:
    if request.path_args["uuid"] == "bad":
        raise BadRequest("not a UUID")
    raise NotFound("NODE_UNKNOWN", f"no node {request.path_args['uuid']}")


async def rows(name: str, value: object, request: Request) -> Response:
    if request.query.get("node") == [UUID] or request.query.get("all") == ["true"]:
        return json_response({name: [value, value]})
    assert not request.query
    return json_response({name: [value]})


async def layer(request: Request) -> Response:
    found = parse_range(request.header("range"), len(TAR))
    start, end = found or (0, len(TAR))
    headers = [content_range(start, end, len(TAR))] if found else []
    return Response(status=206 if found else 200, headers=headers, body=TAR[start:end])


async def broken_layer(request: Request) -> Response:
    async def chunks() -> AsyncIterator[bytes]:
        yield TAR[:500_000]
        raise OSError("the disk")

    return Response(body=chunks(), length=len(TAR))


async def events(request: Request) -> Response:
    unknown = {"event": "moon.full", "at": "", "node": ""}
    return json_response({"events": [EVENT, unknown]})


async def follow_events(request: Request, send: SendMessage) -> None:
    await send(encode(EVENT))
    await send(b'{"event":"moon.full"}')
    await send(encode(EVENT))
    await trio.sleep_forever()


async def follow_images(request: Request, send: SendMessage) -> None:
    await send(encode(IMAGE))
    if request.query.get("follow") == ["true"]:
        await send(encode(Change(change="listed")))
        await send(encode(Change(change="added", image=IMAGE)))
        await send(b'{"change":"eclipsed"}')
        await send(encode(Change(change="removed", image=IMAGE)))


async def follow_nodes(request: Request, send: SendMessage) -> None:
    await send(encode(NODE))
    raise ApiError(503, "AWAY", "the store is away")


def refuse_layers(request: Request) -> None:
    raise NotFound("NODE_UNKNOWN", "no such node")


def route(pattern: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
    return Route(method="GET", pattern=pattern, handler=handler)


ROUTES = [
    route("/info", partial(answer, INFO)),
    Route(method="GET", pattern="/nodes", handler=nodes, stream=follow_nodes),
    route("/nodes/{uuid:path}", node),
    Route(
        method="GET",
        pattern="/images",
        handler=partial(rows, "images", IMAGE),
        stream=follow_images,
    ),
    route("/images/{id}", partial(answer, IMAGE)),
    Route(
        method="GET",
        pattern="/layers",
        handler=partial(rows, "layers", LAYER),
        prepare=refuse_layers,
        stream=follow_nodes,
    ),
    route("/layers/broken", broken_layer),
    route("/layers/{digest}", layer),
    Route(method="GET", pattern="/events", handler=events, stream=follow_events),
    route("/prefix/info", partial(answer, INFO)),
]


class Agent:
    """Where the agent of a test answers."""

    def __init__(self, path: Path, port: int, counters: HttpCounters) -> None:
        self.socket = str(path)
        self.url = f"http://127.0.0.1:{port}"
        self.counters = counters


@asynccontextmanager
async def serve_agent(path: Path) -> AsyncIterator[Agent]:
    counters = HttpCounters()
    listeners = await open_tcp_listeners("127.0.0.1", 0)
    async with open_unix_listener(path) as listener, trio.open_nursery() as nursery:
        serve = partial(serve_http, routes=ROUTES, counters=counters)
        await nursery.start(partial(serve, [listener], listener="unix"))
        await nursery.start(partial(serve, listeners, listener="tcp"))
        yield Agent(path, listeners[0].socket.getsockname()[1], counters)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def agent(tmp_path: Path) -> AsyncIterator[Agent]:
    async with serve_agent(tmp_path / "beiran.sock") as served:
        yield served


@pytest.fixture(params=["socket", "url"])
async def client(request: pytest.FixtureRequest, agent: Agent) -> AsyncIterator[Client]:
    where = {request.param: getattr(agent, request.param)}
    async with Client(**where) as made:
        yield made


async def test_everything_that_can_be_asked_is_answered_typed(client: Client) -> None:
    assert await client.get_info() == INFO
    assert await client.get_online_nodes() == [NODE]
    assert await client.get_known_nodes() == [NODE, GONE]
    assert await client.get_images() == [IMAGE]
    assert await client.get_images(all=True) == [IMAGE, IMAGE]
    assert await client.get_images(node=UUID) == [IMAGE, IMAGE]
    assert await client.get_image(IMAGE.id) == IMAGE
    assert await client.get_layers() == [LAYER]
    assert await client.get_layers(all=True) == [LAYER, LAYER]
    assert await client.get_layers(node=UUID) == [LAYER, LAYER]
    assert await client.get_events() == [EVENT]


async def test_the_blocking_client_answers_the_same(agent: Agent) -> None:
    def ask(**where: str) -> None:
        with BlockingClient(**where) as client:  # type: ignore[arg-type]
            assert client.get_info() == INFO
            assert client.get_online_nodes() == [NODE]
            assert client.get_known_nodes() == [NODE, GONE]
            assert client.get_images() == [IMAGE]
            assert client.get_images(all=True) == [IMAGE, IMAGE]
            assert client.get_images(node=UUID) == [IMAGE, IMAGE]
            assert client.get_image(IMAGE.id) == IMAGE
            assert client.get_layers() == [LAYER]
            assert client.get_layers(all=True) == [LAYER, LAYER]
            assert client.get_layers(node=UUID) == [LAYER, LAYER]
            assert client.get_events() == [EVENT]
            with client.get_layer_tar(DIGEST) as chunks:
                assert b"".join(chunks) == TAR
            with client.get_layer_tar(DIGEST, start=10, end=20) as chunks:
                assert b"".join(chunks) == TAR[10:20]
            with client.get_layer_tar(DIGEST) as chunks:
                assert TAR.startswith(next(chunks))
            with pytest.raises(NotFound, match="no node x/y"):
                client.get_node("x/y")
            with pytest.raises(BadRequest, match="not a UUID"):
                client.get_node("bad")
            with pytest.raises(AgentUnreachable), client.get_layer_tar("broken") as chunks:
                list(chunks)
            with pytest.raises(NotFound), client.get_layer_tar("no/where") as chunks:
                pass

    await trio.to_thread.run_sync(partial(ask, socket=agent.socket))
    await trio.to_thread.run_sync(partial(ask, url=agent.url))


async def test_a_url_may_have_a_prefix(agent: Agent) -> None:
    async with Client(url=agent.url + "/prefix/") as client:
        assert await client.get_info() == INFO
    with BlockingClient(url=agent.url + "/prefix") as blocking:
        assert await trio.to_thread.run_sync(blocking.get_info) == INFO


async def test_errors_are_the_agents_own(client: Client) -> None:
    with pytest.raises(NotFound, match="no node x/y") as unknown:
        await client.get_node("x/y")
    assert (unknown.value.status, unknown.value.code) == (404, "NODE_UNKNOWN")
    with pytest.raises(BadRequest, match="not a UUID"):
        await client.get_node("bad")
    with pytest.raises(ApiError):
        await client.get_image("a/b")
    assert await client.get_info() == INFO


async def test_a_layer_comes_whole_or_in_part(client: Client) -> None:
    async with client.get_layer_tar(DIGEST) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == TAR
    async with client.get_layer_tar(DIGEST, start=10, end=20) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == TAR[10:20]
    async with client.get_layer_tar(DIGEST, start=999_990) as chunks:
        assert b"".join([chunk async for chunk in chunks]) == TAR[999_990:]
    with pytest.raises(ApiError) as caught:
        async with client.get_layer_tar(DIGEST, start=1_000_000):
            pass
    assert caught.value.status == 416


async def test_a_layer_that_breaks_off_is_an_error(client: Client) -> None:
    async with client.get_layer_tar("broken") as chunks:
        with pytest.raises(AgentUnreachable):
            assert [chunk async for chunk in chunks]
    assert await client.get_info() == INFO


async def test_a_layer_may_be_left_before_its_end(client: Client) -> None:
    async with client.get_layer_tar(DIGEST) as chunks:
        async for chunk in chunks:
            assert TAR.startswith(chunk)
            break
    assert await client.get_info() == INFO


async def test_many_tasks_ask_through_one_client(client: Client) -> None:
    answers = []

    async def ask() -> None:
        answers.append(await client.get_info())

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(ask)
    assert answers == [INFO] * 20


async def test_what_the_caller_raises_leaves_the_client_unwrapped(agent: Agent) -> None:
    async def fail() -> None:
        async with Client(socket=agent.socket) as client, client.follow_events():
            await client.get_info()
            raise KeyError

    with pytest.raises(KeyError):
        await fail()
    await eventually(lambda: agent.counters.http_connections == 0)


async def test_a_cancelled_block_closes_the_client(agent: Agent) -> None:
    with trio.CancelScope() as scope:
        async with Client(socket=agent.socket) as client, client.follow_events() as events:
            await anext(events)
            scope.cancel()
            await trio.sleep_forever()
    assert scope.cancelled_caught
    await eventually(lambda: agent.counters.http_connections == 0)


async def test_a_client_outside_of_its_block_says_how_to_use_it(agent: Agent) -> None:
    client = Client(socket=agent.socket)
    with pytest.raises(RuntimeError, match="async with"):
        await client.get_info()


async def test_requests_share_a_connection_which_closes_with_the_client(agent: Agent) -> None:
    async with Client(socket=agent.socket) as client:
        for _ in range(5):
            await client.get_info()
        assert agent.counters.http_connections == 1
    await eventually(lambda: agent.counters.http_connections == 0)


async def test_an_agent_that_restarted_is_asked_anew_unnoticed(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    async with Client(socket=str(path)) as client:
        for _ in range(2):
            async with serve_agent(path):
                assert await client.get_info() == INFO
        with pytest.raises(AgentUnreachable):
            await client.get_info()


async def test_a_connection_that_the_agent_closed_is_not_used(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_server, "IDLE_TIMEOUT_S", 0.05)
    async with Client(socket=agent.socket) as client:
        await client.get_info()
        await eventually(lambda: agent.counters.http_connections == 0)
        assert await client.get_info() == INFO


async def test_events_are_followed(client: Client) -> None:
    async with client.follow_events() as stream:
        assert await anext(stream) == EVENT
        assert await anext(stream) == EVENT


async def test_a_listing_is_followed_from_its_rows_to_its_changes(client: Client) -> None:
    changes = [change async for change in client.follow_images(all=True)]
    assert changes == [
        Change(change="listed", image=IMAGE),
        Change(change="listed"),
        Change(change="added", image=IMAGE),
        Change(change="removed", image=IMAGE),
    ]


async def test_following_may_be_left_to_the_end_of_the_client(agent: Agent) -> None:
    async with Client(url=agent.url) as client:
        async for event in client.follow_events():
            assert event == EVENT
            break
        kept = client.follow_events()
        assert await anext(kept) == EVENT
    await eventually(lambda: agent.counters.http_connections == 0)
    with pytest.raises(StopAsyncIteration):
        await anext(kept)


async def test_a_refused_follow_raises_the_reason(client: Client) -> None:
    with pytest.raises(NotFound, match="no such node"):
        async with client.follow_layers(node=UUID):
            pass
    with pytest.raises(NotFound, match="no such node"):
        await anext(client.follow_layers(node=UUID))
    assert await client.get_info() == INFO


async def test_following_ends_with_the_agents_error(client: Client) -> None:
    stream = client.follow_nodes()
    assert await anext(stream) == Change(change="listed", node=NODE)
    with pytest.raises(ApiError, match="the store is away"):
        await anext(stream)
    with pytest.raises(StopAsyncIteration):
        await anext(stream)


async def test_following_raises_when_the_agent_stops(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    async with Client(socket=str(path)) as client:
        async with serve_agent(path):
            stream = client.follow_events()
            await anext(stream)
            await anext(stream)
        with pytest.raises(AgentUnreachable, match="has stopped"):
            await anext(stream)


@asynccontextmanager
async def websockets(
    talk: Callable[[WebSocketConnection], Awaitable[None]],
) -> AsyncIterator[Client]:
    """A WebSocket server that is not ours, and a client of it."""

    async def handle(request: WebSocketRequest) -> None:
        with suppress(ConnectionClosed):
            await talk(await request.accept())

    async with trio.open_nursery() as nursery:
        server = await nursery.start(serve_websocket, handle, "127.0.0.1", 0, None)
        async with Client(url=f"http://127.0.0.1:{server.port}") as client:
            yield client
        nursery.cancel_scope.cancel()


async def test_following_answers_pings() -> None:
    async def talk(connection: WebSocketConnection) -> None:
        await connection.ping()
        await connection.send_message(encode(EVENT).decode())

    async with websockets(talk) as client:
        assert [event async for event in client.follow_events()] == [EVENT]


async def test_a_message_in_bytes_or_in_pieces_is_read() -> None:
    async def talk(connection: WebSocketConnection) -> None:
        await connection.send_message(encode(EVENT) + b" " * 300_000)

    async with websockets(talk) as client:
        assert [event async for event in client.follow_events()] == [EVENT]


@pytest.mark.parametrize("code", [1008, 4000])
async def test_a_close_for_another_reason_is_an_error_with_it(code: int) -> None:
    async def talk(connection: WebSocketConnection) -> None:
        await connection.aclose(code, "too slow")

    async with websockets(talk) as client:
        with pytest.raises(RemoteProtocolError, match="too slow"):
            await anext(client.follow_events())


async def test_a_message_that_is_no_event_is_a_protocol_error() -> None:
    async def talk(connection: WebSocketConnection) -> None:
        await connection.send_message("[]")

    async with websockets(talk) as client:
        with pytest.raises(RemoteProtocolError, match="not what this version expects"):
            await anext(client.follow_events())


async def test_too_long_a_message_is_a_protocol_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trio_client, "MESSAGE_BYTES_MAX", 1000)

    async def talk(connection: WebSocketConnection) -> None:
        await connection.send_message("x" * 1001)

    async with websockets(talk) as client:
        with pytest.raises(RemoteProtocolError, match="over 1000 bytes"):
            await anext(client.follow_events())


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (b"", AgentUnreachable),
        (b"HTTP/1.1 101 X\r\n", AgentUnreachable),
        (b"SSH-2.0\r\n\r\n", RemoteProtocolError),
        (b"HTTP/1.1 503 X\r\nContent-Length: 4\r\n\r\noops", ApiError),
        (b"HTTP/1.1 200 X\r\nContent-Length: 0\r\n\r\n", ApiError),
    ],
)
async def test_following_a_server_without_websocket_is_an_error(
    reply: bytes, error: type[Exception]
) -> None:
    async def serve_one(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            await stream.send_all(reply)

    listeners = await open_tcp_listeners("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve_one, listeners)
        url = f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}"
        async with Client(url=url) as client:
            with pytest.raises(error):
                await anext(client.follow_events())
        nursery.cancel_scope.cancel()


def test_the_error_of_a_socket_without_permission_names_the_group() -> None:
    error = unreachable(Endpoint(socket="/run/x"), PermissionError(13, "Permission denied"))
    assert str(error).startswith("no permission to use /run/x: run this as root")


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"errors":[]}', b"\xff"])
def test_an_error_without_the_error_body_has_its_status(body: bytes) -> None:
    error = read_error(502, body)
    assert (error.status, error.code) == (502, "UNKNOWN")
    assert "502" in error.message


def both_raise(error: type[Exception], match: str, **where: str) -> str:
    """The error of both clients at this address. It must be the same."""

    async def main() -> str:
        with pytest.raises(error, match=match) as caught:
            async with Client(**where) as client:
                await client.get_info()
        return str(caught.value)

    with (
        pytest.raises(error, match=match) as caught,
        BlockingClient(**where) as client,  # type: ignore[arg-type]
    ):
        client.get_info()
    assert trio.run(main) == str(caught.value)
    return str(caught.value)


def test_no_agent_says_where_and_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "beiran.sock"
    text = both_raise(AgentUnreachable, "start one with: beirand", socket=str(path))
    assert str(path) in text
    assert "\n" not in text
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    both_raise(AgentUnreachable, "connection refused", socket=str(path))


def test_a_refused_port_is_named() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
        assert url in both_raise(AgentUnreachable, "connection refused", url=url)


@pytest.mark.parametrize(
    "answer", [b"SSH-2.0\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnothing"]
)
def test_another_program_at_the_port_is_a_protocol_error(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        code = "import socket,sys\ns=socket.socket(fileno=0)\nfor _ in '12':\n c=s.accept()[0]\n"
        code += f" c.recv(4096); c.sendall({answer!r}); c.close()"
        with subprocess.Popen([sys.executable, "-c", code], stdin=server.fileno()):
            with pytest.raises(RemoteProtocolError), BlockingClient(url=url) as client:
                client.get_info()

            async def main() -> None:
                with pytest.raises(RemoteProtocolError):
                    async with Client(url=url) as client:
                        await client.get_info()

            trio.run(main)


def test_a_silent_agent_is_not_waited_for_without_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        with (
            pytest.raises(AgentUnreachable, match="timed out"),
            BlockingClient(url=url, timeout_s=0.1) as client,
        ):
            client.get_info()


@pytest.mark.parametrize(
    ("url", "endpoint", "authority"),
    [
        ("http://host", Endpoint(host="host", port=80), "host"),
        ("http://host:8888/", Endpoint(host="host", port=8888), "host:8888"),
        ("http://[::1]:1/a/", Endpoint(host="::1", port=1, prefix="/a"), "[::1]:1"),
    ],
)
def test_a_url_is_read_into_its_parts(url: str, endpoint: Endpoint, authority: str) -> None:
    assert parse_endpoint(url=url) == endpoint
    assert endpoint.authority == authority


@pytest.mark.parametrize(
    "url", ["host:8888", "https://host", "http://", "http://h:x", "http://h?a"]
)
def test_a_url_that_is_no_agents_is_a_value_error(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Client(url=url)
    with pytest.raises(ValueError, match=r"."):
        BlockingClient(url=url)


def test_a_socket_and_a_url_together_are_a_value_error() -> None:
    with pytest.raises(ValueError, match="not both"):
        Client(socket="/run/x", url="http://x")


def test_by_default_the_socket_of_the_agents_default_is_used() -> None:
    assert Client().endpoint == Endpoint(socket="/run/beiran/beiran.sock")


def test_the_blocking_client_imports_little() -> None:
    code = "import sys; from beiran import BlockingClient; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert not {"trio", "h11", "wsproto", "http.client", "asyncio", "ssl"} & set(
        loaded.stdout.split()
    )
