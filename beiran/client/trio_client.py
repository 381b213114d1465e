"""The client library: ask an agent, over its unix socket or over TCP, from trio.

>>> async with Client() as client:
...     for image in await client.get_images(all=True):
...         print(image.tags, image.available_at)
...     async with client.follow_events() as events:
...         async for event in events:
...             print(event.event, event.node)
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from types import TracebackType
from typing import Final, Generic, Literal, NamedTuple, Self, TypeVar, cast

import h11
import trio
import trio.abc
from trio_websocket import (
    CloseReason,
    ConnectionClosed,
    ConnectionRejected,
    WebSocketConnection,
    wrap_client_stream,
)
from wsproto.utilities import ProtocolError

from beiran.api.events import Event
from beiran.api.models import (
    Change,
    Image,
    Info,
    Layer,
    Node,
    Prefetching,
    PullDone,
    PullProgress,
    Transfer,
)
from beiran.client.protocol import (
    RESPONSE_BYTES_MAX,
    Endpoint,
    Images,
    Layers,
    Nodes,
    Prefetchings,
    RawEvents,
    Transfers,
    change_reader,
    item_path,
    listing_path,
    parse_endpoint,
    prefetch_body,
    pull_path,
    range_header,
    read_answer,
    read_error,
    read_event,
    read_events,
    read_pull,
    unreachable,
)
from beiran.errors import AgentUnreachable, ApiError, RemoteProtocolError
from beiran.http.connection import Answer, ConnectionLost, HttpConnection
from beiran.http.pool import HttpPool

CONNECT_TIMEOUT_S: Final = 10.0  # for a host that is away; a unix socket answers at once
IDLE_CONNECTIONS_MAX: Final = 4  # chosen; more tasks at once than these pay a new connection
IDLE_TIMEOUT_S: Final = 30.0  # below the server's IDLE_TIMEOUT_S, so that it seldom closes first
ERROR_BYTES_MAX: Final = 64 * 1024  # one JSON object with a message of a line
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024  # a row with 10,000 holders has 0.5 MB
CLOSE_TIMEOUT_S: Final = 0.5  # for the agent's half of the close, which nothing depends on

T = TypeVar("T")
E = TypeVar("E", bound=Exception)
Method = Literal["GET", "POST"]


class Client:
    """Asks one agent. Use it as ``async with Client(...) as client``, from any number of tasks.

    Args:
      socket: path of the agent's unix socket; ``/run/beiran/beiran.sock`` when neither is given.
      url: ``http://HOST:PORT`` of an agent, instead of ``socket``.

    Every method raises ``AgentUnreachable`` when no agent answers or the connection is lost,
    ``ApiError`` (``NotFound``, ``BadRequest``) when the agent refuses, ``RemoteProtocolError``
    when the other end is no agent. Timeouts are the caller's (``trio.fail_after``), except that
    connecting takes ``CONNECT_TIMEOUT_S`` at most. Fields that this version does not know are
    ignored, so that it understands newer agents.

    The ``follow_…`` methods return a ``Follow``: iterate it, and close it (``async with``) unless
    the client is closed soon. ``follow_nodes``, ``follow_images`` and ``follow_layers`` begin
    with the present rows, each a ``Change`` of kind ``listed``; one ``listed`` without a row ends
    them; then come ``added``, ``changed`` and ``removed`` as they happen, ``removed`` with the
    row's last state.

    Raises: ValueError for a socket and a URL together, or a URL that is not ``http://``.
    """

    def __init__(self, *, socket: str | None = None, url: str | None = None) -> None:
        self.endpoint = parse_endpoint(socket=socket, url=url)
        self._entered: _Entered | None = None

    async def __aenter__(self) -> Self:
        stack = AsyncExitStack()
        nursery = await stack.enter_async_context(trio.open_nursery())
        pool = HttpPool[Endpoint](
            nursery,
            _connect,
            per_place_max=IDLE_CONNECTIONS_MAX,
            idle_max=IDLE_CONNECTIONS_MAX,
            idle_timeout_s=IDLE_TIMEOUT_S,
        )
        self._entered = _Entered(stack, nursery, pool)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        entered, self._entered = self._inside, None
        entered.nursery.cancel_scope.cancel()
        # What the caller raised does not pass through the nursery, which would wrap it in a group.
        await entered.stack.aclose()

    @property
    def _inside(self) -> "_Entered":
        if self._entered is None:
            raise RuntimeError("use the client inside of: async with Client() as client")
        return self._entered

    async def get_info(self) -> Info:
        """The agent's own node, and how it is doing."""
        return await self._get("/info", Info)

    async def get_online_nodes(self) -> list[Node]:
        """The nodes that are online as the agent sees it, its own included."""
        return list((await self._get("/nodes", Nodes)).nodes)

    async def get_known_nodes(self) -> list[Node]:
        """Every node the agent knows, the offline ones included."""
        return list((await self._get(listing_path("/nodes", all=True), Nodes)).nodes)

    async def get_node(self, uuid: str) -> Node:
        """One node. Raises: NotFound when the agent does not know it."""
        return await self._get(item_path("/nodes", uuid), Node)

    async def get_images(self, *, all: bool = False, node: str | None = None) -> list[Image]:
        """The images of the agent's engine; of all nodes; or of the node with UUID ``node``."""
        path = listing_path("/images", all=all, node=node)
        return list((await self._get(path, Images)).images)

    async def get_image(self, id: str) -> Image:
        """One image, by ``sha256:`` and its digest. Raises: NotFound when no node holds it."""
        return await self._get(item_path("/images", id), Image)

    async def get_layers(self, *, all: bool = False, node: str | None = None) -> list[Layer]:
        """The layers of the agent's engine; of all nodes; or of the node with UUID ``node``."""
        path = listing_path("/layers", all=all, node=node)
        return list((await self._get(path, Layers)).layers)

    async def get_events(self) -> list[Event]:
        """The latest events the agent remembers, oldest first."""
        return read_events(await self._get("/events", RawEvents))

    @asynccontextmanager
    async def get_layer_tar(
        self, digest: str, *, start: int = 0, end: int | None = None
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The uncompressed tar of the layer with this diff ID, in chunks.

        Args:
          digest: ``sha256:…``, as ``Layer.digest`` has it.
          start, end: the bytes wanted, ``end`` excluded; all of them by default.

        Raises: NotFound when that node's engine does not hold it; while iterating,
        AgentUnreachable when it ends too early, so a complete iteration is a complete answer.
        """
        headers = range_header(start, end)
        async with self._ask(item_path("/layers", digest), headers) as (connection, answer):
            if answer.status not in (200, 206):
                raise read_error(answer.status, await connection.read(bytes_max=ERROR_BYTES_MAX))
            if headers and answer.status != 206:
                raise RemoteProtocolError("the agent ignored the range it was asked for")
            async with aclosing(self._chunks(connection)) as chunks:
                yield chunks

    async def get_transfers(self) -> list[Transfer]:
        """The blobs that the agent receives or sends now."""
        return list((await self._get("/transfers", Transfers)).transfers)

    async def pull(
        self, reference: str, *, node: str | None = None, platform: str | None = None
    ) -> PullDone:
        """Have the agent's engine pull an image through the agent; returns when it is there.

        Only over the unix socket. A cancelled call stops waiting, and the agent ends a pull that
        no client waits for.

        Args:
          node: UUID of the node to pull from, where nodes have different images of that name.
          platform: ``linux/arm64``; the host's own by default.
        """
        return await self._get(pull_path("/pulls", reference, node, platform), PullDone, "POST")

    async def prefetch(
        self,
        reference: str,
        *,
        nodes: Sequence[str] | Literal["all"],
        platform: str | None = None,
    ) -> list[Prefetching]:
        """Have other nodes pull an image into their engines. Only over the unix socket.

        Args:
          nodes: UUIDs, or all that are online.

        Returns: the answer of each node. The pulls go on after this returns.
        """
        body = prefetch_body(reference, nodes, platform)
        return list((await self._get("/prefetch", Prefetchings, "POST", body)).nodes)

    def follow_pull(
        self, reference: str, *, node: str | None = None, platform: str | None = None
    ) -> "Follow[PullProgress | PullDone]":
        """As ``pull``, with the progress of each layer; the last row is the ``PullDone``.

        Iterating raises ApiError when the pull fails. Closing it stops waiting for the pull.
        """
        return self.follow(pull_path("/pulls/run", reference, node, platform), read_pull)

    def follow_transfers(self) -> "Follow[Change]":
        """The transfers of now, then every change."""
        return self.follow(listing_path("/transfers", follow=True), change_reader("transfer"))

    def follow_events(self) -> "Follow[Event]":
        """Events as they happen, from now on, without kinds that this version does not know."""
        return self.follow(listing_path("/events", follow=True), read_event)

    def follow_nodes(self, *, all: bool = False) -> "Follow[Change]":
        """The nodes that are online (or all that are known), then every change."""
        return self.follow(listing_path("/nodes", all=all, follow=True), change_reader("node"))

    def follow_images(self, *, all: bool = False, node: str | None = None) -> "Follow[Change]":
        """The images of ``get_images`` with the same arguments, then every change."""
        path = listing_path("/images", all=all, node=node, follow=True)
        return self.follow(path, change_reader("image"))

    def follow_layers(self, *, all: bool = False, node: str | None = None) -> "Follow[Change]":
        """The layers of ``get_layers`` with the same arguments, then every change."""
        path = listing_path("/layers", all=all, node=node, follow=True)
        return self.follow(path, change_reader("layer"))

    def follow(self, path: str, read: Callable[[bytes], T | None]) -> "Follow[T]":
        """Any path of the API by WebSocket.

        Args:
          read: turns a message into an item, or into None to leave it out.
        """
        return Follow(self.endpoint, path, read, self._inside.nursery)

    async def _get(self, path: str, type: type[T], method: Method = "GET", body: bytes = b"") -> T:
        try:
            async with self._ask(path, method=method, body=body) as (connection, answer):
                body = await connection.read(bytes_max=RESPONSE_BYTES_MAX)
        except ConnectionLost as error:
            raise unreachable(self.endpoint, str(error)) from None
        if answer.status != 200:
            raise read_error(answer.status, body)
        return read_answer(body, type)

    @asynccontextmanager
    async def _ask(
        self,
        path: str,
        headers: Sequence[tuple[str, str]] = (),
        *,
        method: Method = "GET",
        body: bytes = b"",
    ) -> AsyncIterator[tuple[HttpConnection, Answer]]:
        """Send a request. A POST goes on a new connection, so that it is never sent twice."""
        asking = self._inside.pool.ask(
            self.endpoint,
            method,
            self.endpoint.prefix + path,
            headers=headers,
            body=body,
            repeatable=method == "GET",
        )
        async with AsyncExitStack() as stack:
            try:
                asked = await stack.enter_async_context(asking)
            except ConnectionLost as error:
                raise unreachable(self.endpoint, str(error)) from None
            yield asked

    async def _chunks(self, connection: HttpConnection) -> AsyncGenerator[bytes]:
        try:
            while chunk := await connection.receive():
                yield chunk
        except ConnectionLost as error:
            raise AgentUnreachable(f"{self.endpoint}: {error}") from None


class _Entered(NamedTuple):
    """What a client has while it is entered. ``stack`` holds the nursery."""

    stack: AsyncExitStack
    nursery: trio.Nursery
    pool: HttpPool[Endpoint]


class Follow(AsyncIterator[T], Generic[T]):
    """The messages of one WebSocket, as items. Made by the ``follow`` methods of ``Client``.

    It connects when first asked for an item. Iterating ends when the agent has sent all there is.
    It raises AgentUnreachable when the agent stops or the connection is lost, ApiError when the
    agent refuses. Read steadily: the agent drops a connection that takes nothing for 30 s.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        path: str,
        read: Callable[[bytes], T | None],
        nursery: trio.Nursery,
    ) -> None:
        """``nursery`` runs the task that reads the WebSocket."""
        self._endpoint: Final = endpoint
        self._path: Final = path
        self._read: Final = read
        self._nursery: Final = nursery
        self._websocket: WebSocketConnection | None = None
        self._reading: Final = trio.CancelScope()
        self._ended = False

    async def __aenter__(self) -> Self:
        """Connect now, so that nothing from now on is missed."""
        await self._open()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next item."""
        try:
            while not self._ended:
                message = await (await self._open()).get_message()
                data = message.encode() if isinstance(message, str) else message
                item = self._read(data)
                if item is not None:
                    return item
        except ConnectionClosed as closed:
            await self.aclose()
            self._raise_close(closed.reason)
        except (AgentUnreachable, ApiError, RemoteProtocolError):
            await self.aclose()
            raise
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Close the connection. Closing twice does nothing."""
        self._ended = True
        websocket, self._websocket = self._websocket, None
        if websocket is not None:
            with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True):
                await websocket.aclose()
        self._reading.cancel()

    async def _open(self) -> WebSocketConnection:
        if self._websocket is None:
            opened = await self._nursery.start(self._serve)
            if isinstance(opened, Exception):
                self._ended = True
                raise opened
            self._websocket = opened
        return self._websocket

    async def _serve(
        self, *, task_status: trio.TaskStatus[WebSocketConnection | Exception]
    ) -> None:
        """Connect, and read until the connection ends or ``aclose`` was called.

        Reports the open connection, or why there is none. trio-websocket's reader raises in the
        nursery that it gets, which is one of its own here: the client goes on.
        """
        try:
            stream = _HandshakeStream((await _connect(self._endpoint)).stream, self._endpoint)
        except AgentUnreachable as error:
            task_status.started(error)
            return
        failure: Exception | None = None
        try:
            with self._reading:
                async with trio.open_nursery() as nursery:
                    websocket = await wrap_client_stream(
                        nursery,
                        cast("trio.SocketStream", stream),  # any stream will do
                        self._endpoint.authority,
                        self._endpoint.prefix + self._path,
                        max_message_size=MESSAGE_BYTES_MAX,
                    )
                    stream.open = True
                    task_status.started(websocket)
                    await trio.sleep_forever()
        except* ConnectionRejected as rejections:
            rejected = _first(rejections)
            failure = read_error(rejected.status_code, rejected.body or b"")
        except* (AgentUnreachable, RemoteProtocolError) as failures:
            failure = _first(failures)
        except* (ProtocolError, h11.ProtocolError):
            failure = RemoteProtocolError(f"{self._endpoint} is no agent: it does not speak HTTP")
        finally:
            self._ended = True
            stream.close()
        if failure is not None and not stream.open:
            task_status.started(failure)

    def _raise_close(self, reason: CloseReason | None) -> None:
        """Raise what a close code other than 1000 means. Source: RFC 6455 §7.4.1."""
        code = 1006 if reason is None else reason.code
        text = (reason and reason.reason) or f"WebSocket code {code}"
        match code:
            case 1000:
                return
            case 1001:
                raise AgentUnreachable(f"the agent at {self._endpoint} has stopped")
            case 1006:
                lost = f"the connection to the agent at {self._endpoint} was lost"
                raise AgentUnreachable(lost) from None
            case 1009:
                too_long = f"{self._endpoint} sends a message of over {MESSAGE_BYTES_MAX} bytes"
                raise RemoteProtocolError(too_long) from None
            case 1011:
                raise ApiError(500, "STREAM_FAILED", text) from None
            case _:
                said = f"the agent at {self._endpoint} closed the stream: {text}"
                raise RemoteProtocolError(said) from None


class _HandshakeStream(trio.abc.Stream):
    """A socket that raises where trio-websocket's handshake would wait for ever.

    Its client waits for the end of the handshake also after the connection has ended
    (AgentUnreachable here), or when it has closed it because of bytes that are not HTTP
    (RemoteProtocolError here). Once ``open``, this does nothing but pass bytes.
    """

    def __init__(self, stream: trio.SocketStream, endpoint: Endpoint) -> None:
        self._stream: Final = stream
        self._endpoint: Final = endpoint
        self._received = 0
        self.open = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        data = bytes(await self._stream.receive_some(max_bytes))
        self._received += len(data)
        if not self.open and not data:
            raise unreachable(self._endpoint, "it closed the connection")
        if not self.open and self._received > ERROR_BYTES_MAX:
            raise RemoteProtocolError(f"{self._endpoint} is no agent: its answer has no end")
        return data

    async def aclose(self) -> None:
        if not self.open:
            raise RemoteProtocolError(f"{self._endpoint} is no agent: it does not speak HTTP")
        await self._stream.aclose()

    def close(self) -> None:
        """Close it at once."""
        self._stream.socket.close()


def _first(group: BaseExceptionGroup[E]) -> E:
    inner = group.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _connect(endpoint: Endpoint) -> HttpConnection:
    try:
        with trio.fail_after(CONNECT_TIMEOUT_S):
            if endpoint.socket:
                stream = await trio.open_unix_socket(endpoint.socket)
            else:
                stream = await trio.open_tcp_stream(endpoint.host, endpoint.port)
    except trio.TooSlowError:
        raise unreachable(endpoint, f"no answer within {CONNECT_TIMEOUT_S:g} s") from None
    except OSError as error:
        raise unreachable(endpoint, _cause(error)) from None
    return HttpConnection(stream, endpoint.authority)


def _cause(error: OSError) -> OSError:
    """The first cause: trio itself says only that all addresses failed."""
    group = error.__cause__
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group if isinstance(group, OSError) else error
