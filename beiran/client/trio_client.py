"""The client library: ask an agent, over its unix socket or over TCP, from trio.

>>> async with Client() as client:
...     for image in await client.get_images(all=True):
...         print(image.tags, image.available_at)
...     async with client.follow_events() as events:
...         async for event in events:
...             print(event.event, event.node)
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from types import TracebackType
from typing import Any, Final, Generic, Literal, Self, TypeVar

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.connection import ConnectionState
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    TextMessage,
)
from wsproto.events import Event as WebSocketEvent
from wsproto.events import Request as UpgradeRequest
from wsproto.utilities import RemoteProtocolError as WebSocketError

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
    read_answer,
    read_error,
    read_event,
    read_events,
    read_pull,
    unreachable,
)
from beiran.errors import AgentUnreachable, ApiError, RemoteProtocolError
from beiran.http.connection import RECEIVE_BYTES, Answer, ConnectionLost, HttpConnection

CONNECT_TIMEOUT_S: Final = 10.0  # a host that is away; a unix socket answers at once
IDLE_CONNECTIONS_MAX: Final = 4
ERROR_BYTES_MAX: Final = 64 * 1024
MESSAGE_BYTES_MAX: Final = 16 * 1024 * 1024
CLOSE_TIMEOUT_S: Final = 0.5

T = TypeVar("T")
Method = Literal["GET", "POST"]


class Client:
    """Asks one agent. Use it as ``async with Client(...) as client``, from any number of tasks.

    Args:
      socket: path of the agent's unix socket; ``/run/beiran/beiran.sock`` when neither is given.
      url: ``http://HOST:PORT`` of an agent, instead of ``socket``.

    Every method raises ``AgentUnreachable`` when nobody answers there or the connection is lost,
    ``ApiError`` (``NotFound``, ``BadRequest``) when the agent says no, ``RemoteProtocolError``
    when what answers is no agent. Timeouts are the caller's (``trio.fail_after``), except that
    connecting takes ``CONNECT_TIMEOUT_S`` at most. Fields that this version does not know are
    ignored, so newer agents are understood.

    The ``follow_…`` methods return a ``Follow``: iterate it, and close it (``async with``) unless
    the client is closed soon. ``follow_nodes``, ``follow_images`` and ``follow_layers`` begin
    with the rows as they are now, each a ``Change`` of kind ``listed``; then comes one ``listed``
    without a row, which says that those were all; then ``added``, ``changed`` and ``removed`` as
    they happen, ``removed`` with the row as it was last known.

    Raises: ValueError for a socket and a URL together, or a URL that is not ``http://``.
    """

    def __init__(self, *, socket: str | None = None, url: str | None = None) -> None:
        self.endpoint = parse_endpoint(socket=socket, url=url)
        self._idle: list[HttpConnection] = []
        self._follows: set[Follow[Any]] = set()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        for follow in list(self._follows):
            await follow.aclose()

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
        """One image, by ``sha256:`` and its digest. Raises: NotFound when nobody holds it."""
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
        headers = {}
        if start or end is not None:
            headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
        connection, answer = await self._ask(item_path("/layers", digest), headers)
        try:
            if answer.status not in (200, 206):
                raise read_error(answer.status, await connection.read(bytes_max=ERROR_BYTES_MAX))
            if headers and answer.status != 206:
                raise RemoteProtocolError("the agent ignored the range it was asked for")
            async with aclosing(self._chunks(connection)) as chunks:
                yield chunks
        finally:
            self._give_back(connection)

    async def get_transfers(self) -> list[Transfer]:
        """The blobs that are on their way to that node or from it, now."""
        return list((await self._get("/transfers", Transfers)).transfers)

    async def pull(
        self, reference: str, *, node: str | None = None, platform: str | None = None
    ) -> PullDone:
        """Have the agent's engine pull an image through the agent; returns when it is there.

        Only over the unix socket. To be cancelled is to wait no longer, and a pull for which
        nobody waits ends.

        Args:
          node: UUID of the node to take it from, where several have different images under
            that name.
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

        Returns: what each of them said; it goes on without us.
        """
        body = prefetch_body(reference, nodes, platform)
        return list((await self._get("/prefetch", Prefetchings, "POST", body)).nodes)

    def follow_pull(
        self, reference: str, *, node: str | None = None, platform: str | None = None
    ) -> "Follow[PullProgress | PullDone]":
        """As ``pull``, and tells how far each layer is; the last row is the ``PullDone``.

        Iterating raises ApiError when the pull fails. Closing it is to wait no longer.
        """
        follow: Follow[PullProgress | PullDone] = Follow(
            self.endpoint,
            pull_path("/pulls/run", reference, node, platform),
            read_pull,
            self._follows.discard,
        )
        self._follows.add(follow)
        return follow

    def follow_transfers(self) -> "Follow[Change]":
        """The transfers as they are now, then every change."""
        return self._follow("/transfers", change_reader("transfer"))

    def follow_events(self) -> "Follow[Event]":
        """Events as they happen, from now on. Kinds this version does not know are left out."""
        return self._follow("/events", read_event)

    def follow_nodes(self, *, all: bool = False) -> "Follow[Change]":
        """The nodes that are online (or all that are known), then every change."""
        return self._follow("/nodes", change_reader("node"), all=all)

    def follow_images(self, *, all: bool = False, node: str | None = None) -> "Follow[Change]":
        """The images of ``get_images`` with the same arguments, then every change."""
        return self._follow("/images", change_reader("image"), all=all, node=node)

    def follow_layers(self, *, all: bool = False, node: str | None = None) -> "Follow[Change]":
        """The layers of ``get_layers`` with the same arguments, then every change."""
        return self._follow("/layers", change_reader("layer"), all=all, node=node)

    def _follow(
        self,
        path: str,
        read: "Callable[[bytes], T | None]",
        *,
        all: bool = False,
        node: str | None = None,
    ) -> "Follow[T]":
        target = listing_path(path, all=all, node=node, follow=True)
        follow = Follow(self.endpoint, target, read, self._follows.discard)
        self._follows.add(follow)
        return follow

    async def _get(self, path: str, type: type[T], method: Method = "GET", body: bytes = b"") -> T:
        connection, answer = await self._ask(path, method=method, body=body)
        try:
            try:
                body = await connection.read(bytes_max=RESPONSE_BYTES_MAX)
            except ConnectionLost as error:
                raise unreachable(self.endpoint, str(error)) from None
            if answer.status != 200:
                raise read_error(answer.status, body)
            return read_answer(body, type)
        finally:
            self._give_back(connection)

    async def _ask(
        self,
        path: str,
        headers: Mapping[str, str] | None = None,
        *,
        method: Method = "GET",
        body: bytes = b"",
    ) -> tuple[HttpConnection, Answer]:
        """Ask, on an idle connection if there is one; if the agent had closed it, on a new one.

        What does something (POST) is asked on a new one, so that it is never asked twice.
        """
        target = self.endpoint.prefix + path
        all_headers = list((headers or {}).items())
        while True:
            reused = bool(self._idle) and method == "GET"
            connection = self._idle.pop() if reused else await _connect(self.endpoint)
            try:
                return connection, await connection.ask(
                    method, target, headers=all_headers, body=body
                )
            except ConnectionLost as error:
                connection.close()
                if not reused or error.answered:
                    raise unreachable(self.endpoint, str(error)) from None
            except BaseException:
                connection.close()
                raise

    def _give_back(self, connection: HttpConnection) -> None:
        if connection.reusable and not self._closed and len(self._idle) < IDLE_CONNECTIONS_MAX:
            self._idle.append(connection)
        else:
            connection.close()

    async def _chunks(self, connection: HttpConnection) -> AsyncGenerator[bytes]:
        try:
            while chunk := await connection.receive():
                yield chunk
        except ConnectionLost as error:
            raise AgentUnreachable(f"{self.endpoint}: {error}") from None


class Follow(AsyncIterator[T], Generic[T]):
    """What an agent tells by WebSocket, one item after the other, as it comes.

    Connects when first asked for an item. Iterating ends when the agent has told all there is;
    it raises AgentUnreachable when the agent stops or the connection is lost, ApiError when the
    agent says no. Read steadily: an agent gives up on who does not for half a minute.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        target: str,
        read: Callable[[bytes], T | None],
        on_close: "Callable[[Follow[T]], None]",
    ) -> None:
        self._endpoint = endpoint
        self._target = target
        self._read = read
        self._on_close = on_close
        self._stream: trio.SocketStream | None = None
        self._websocket = WSConnection(ConnectionType.CLIENT)
        self._ended = False
        self._message = bytearray()
        self._rejection: RejectConnection | None = None

    async def __aenter__(self) -> Self:
        """Connect now, so that nothing from now on is missed."""
        try:
            await self._open()
        except BaseException:
            await self.aclose()
            raise
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
        if self._ended:
            raise StopAsyncIteration
        try:
            await self._open()
            while True:
                message = await self._next_message()
                if message is None:
                    await self.aclose()
                    raise StopAsyncIteration
                item = self._read(message)
                if item is not None:
                    return item
        except (AgentUnreachable, ApiError, RemoteProtocolError):
            await self.aclose()
            raise

    async def aclose(self) -> None:
        """Close the connection. Closing twice does nothing."""
        self._ended = True
        self._on_close(self)
        stream, self._stream = self._stream, None
        if stream is None:
            return
        with trio.move_on_after(CLOSE_TIMEOUT_S, shield=True), suppress(trio.BrokenResourceError):
            if self._websocket.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                await stream.send_all(self._websocket.send(CloseConnection(code=1000)))
        stream.socket.close()

    async def _open(self) -> None:
        if self._stream is not None or self._ended:
            return
        self._stream = (await _connect(self._endpoint)).stream
        target = self._endpoint.prefix + self._target
        await self._send(UpgradeRequest(host=self._endpoint.authority, target=target))
        while self._websocket.state is not ConnectionState.OPEN:
            for event in self._websocket.events():
                self._handle_answer(event)
                if isinstance(event, AcceptConnection):
                    return
            await self._receive()

    def _handle_answer(self, event: WebSocketEvent) -> None:
        """The agent answered in HTTP: no WebSocket, and why."""
        if isinstance(event, RejectConnection):
            self._rejection = event
            if not event.has_body:
                raise read_error(event.status_code, b"")
        elif isinstance(event, RejectData):
            self._message += event.data
            if self._rejection and (event.body_finished or len(self._message) > ERROR_BYTES_MAX):
                raise read_error(self._rejection.status_code, bytes(self._message))

    async def _next_message(self) -> bytes | None:
        while True:
            for event in self._websocket.events():
                if isinstance(event, TextMessage | BytesMessage):
                    data = event.data
                    self._message += data.encode() if isinstance(data, str) else data
                    if len(self._message) > MESSAGE_BYTES_MAX:
                        raise RemoteProtocolError(f"a message over {MESSAGE_BYTES_MAX} bytes")
                    if event.message_finished:
                        message = bytes(self._message)
                        self._message.clear()
                        return message
                elif isinstance(event, Ping):
                    await self._send(event.response())
                elif isinstance(event, CloseConnection):
                    self._raise_close(event)
                    return None
            await self._receive()

    def _raise_close(self, event: CloseConnection) -> None:
        if event.code == 1000:
            return
        if event.code == 1001:
            raise AgentUnreachable(f"the agent at {self._endpoint} has stopped")
        reason = event.reason or f"WebSocket code {event.code}"
        if event.code == 1011:
            raise ApiError(500, "STREAM_FAILED", reason)
        raise RemoteProtocolError(f"the agent at {self._endpoint} closed the stream: {reason}")

    async def _receive(self) -> None:
        assert self._stream is not None
        try:
            data = await self._stream.receive_some(RECEIVE_BYTES)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise AgentUnreachable(f"the connection to the agent at {self._endpoint} was lost")
        try:
            self._websocket.receive_data(data)
        except WebSocketError as error:
            raise RemoteProtocolError(f"{self._endpoint} is no agent: {error}") from None

    async def _send(self, event: WebSocketEvent) -> None:
        assert self._stream is not None
        with suppress(trio.BrokenResourceError):  # receiving tells of it, after what still came
            await self._stream.send_all(self._websocket.send(event))


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
    """What went wrong, where trio tells only that all addresses failed."""
    group = error.__cause__
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group if isinstance(group, OSError) else error
