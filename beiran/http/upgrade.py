"""Read which upgrade a request wants, and serve WebSockets.

``server.py`` calls it after it has read the head of the request and found its route. It serves
watch connections itself: they carry no bytes.
"""

import base64
import logging
from contextlib import suppress
from enum import Enum
from typing import Final, Literal

import trio
import trio.abc
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import ProtocolError

from beiran.errors import ApiError, BadRequest
from beiran.http.body import STALL_TIMEOUT_S
from beiran.http.messages import WATCH_PROTOCOL, HttpError, Request, Route

MESSAGE_BYTES_MAX: Final = 64 * 1024
"""Of a WebSocket message that a client sends. They are read and dropped."""

CLOSE_TIMEOUT_S: Final = 5.0  # chosen: the client's half of the close
GOING_AWAY_TIMEOUT_S: Final = 0.2  # chosen: the agent stops within STOP_S

_WEBSOCKET_VERSION: Final = "13"  # RFC 6455 §4.1
_WEBSOCKET_KEY_BYTES: Final = 16

_log: Final = logging.getLogger(__name__)

Upgrade = Literal["websocket", "watch"]


def wanted_upgrade(http_version: bytes, request: Request) -> Upgrade | None:
    """The protocol that a request wants to upgrade to; None for none that this server has.

    Source: RFC 9110 §7.8.
    """
    if request.method != "GET" or http_version < b"1.1":
        return None
    if "upgrade" not in _tokens(request, "connection"):
        return None
    protocols = _tokens(request, "upgrade")
    if "websocket" in protocols:
        return "websocket"
    return "watch" if WATCH_PROTOCOL in protocols else None


def check_websocket(request: Request, route: Route) -> str:
    """Check the handshake of an upgrade to WebSocket.

    Returns: the value of ``Sec-WebSocket-Key``.
    Raises: ApiError to refuse it.
    Source: RFC 6455 §4.2.1.
    """
    if route.stream is None:
        raise BadRequest(f"{request.path} answers no WebSocket", code="NO_WEBSOCKET")
    if request.header("sec-websocket-version") != _WEBSOCKET_VERSION:
        raise HttpError(
            426,
            "WEBSOCKET_VERSION",
            f"this agent speaks version {_WEBSOCKET_VERSION} of the WebSocket protocol only",
            [("Sec-WebSocket-Version", _WEBSOCKET_VERSION), ("Upgrade", "websocket")],
        )
    key = request.header("sec-websocket-key") or ""
    try:
        nonce = base64.b64decode(key, validate=True)
    except ValueError:
        nonce = b""
    if len(nonce) != _WEBSOCKET_KEY_BYTES:
        raise BadRequest("Sec-WebSocket-Key is not the base64 of 16 bytes")
    return key


class WebSocketEnd(Enum):
    """How a WebSocket ended.

    ``STALLED``: the client stopped reading. ``FAILED``: the route's ``stream`` raised. ``DONE``:
    all else, such as a client that leaves or breaks the protocol.
    """

    DONE = "done"
    STALLED = "stalled"
    FAILED = "failed"


async def serve_websocket(
    stream: trio.SocketStream, request: Request, route: Route, key: str
) -> WebSocketEnd:
    """Accept a WebSocket, run the route's ``stream``, close it."""
    upgraded = _UpgradedStream(stream, key)
    failed = False
    try:
        async with trio.open_nursery() as nursery:
            proposal = await wrap_server_stream(
                nursery, upgraded, max_message_size=MESSAGE_BYTES_MAX
            )
            websocket = await proposal.accept()
            failed = await _talk(websocket, request, route)
            nursery.cancel_scope.cancel()
    except* (ProtocolError, ConnectionClosed, trio.BrokenResourceError) as errors:
        # Such as a ping after our close, to which wsproto refuses a pong.
        _log.debug("websocket %s of %s ended: %r", request.path, request.peer, errors.exceptions)
    if failed:
        return WebSocketEnd.FAILED
    return WebSocketEnd.STALLED if upgraded.stalled else WebSocketEnd.DONE


async def _talk(websocket: WebSocketConnection, request: Request, route: Route) -> bool:
    """Run the route's ``stream``, then close. Returns: whether the stream failed."""
    code, reason, failed, finished = 1000, None, False, False
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_discard_messages, websocket, nursery.cancel_scope)
            scope = nursery.cancel_scope
            code, reason, failed = await _run_stream(websocket, request, route, scope)
            scope.cancel()
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await websocket.aclose(code, reason)
        finished = True
    finally:
        if not finished:
            # The agent stops: send the close, and do not wait for the client's.
            with trio.move_on_after(GOING_AWAY_TIMEOUT_S, shield=True):
                await websocket.aclose(1001, "the agent stops")
    return failed


async def _run_stream(
    websocket: WebSocketConnection, request: Request, route: Route, scope: trio.CancelScope
) -> tuple[int, str | None, bool]:
    """The code and the reason to close with, and whether the stream failed."""
    assert route.stream is not None

    async def send(message: bytes) -> None:
        try:
            await websocket.send_message(message.decode())
        except ConnectionClosed:
            scope.cancel()  # an error would look like one of the stream's own
            await trio.lowlevel.checkpoint()

    try:
        await route.stream(request, send)
    except ApiError as error:
        return 1011, error.message, False
    except Exception:
        _log.exception("%s failed by WebSocket", request.path)
        return 1011, "internal error", True
    return 1000, None, False


async def _discard_messages(websocket: WebSocketConnection, scope: trio.CancelScope) -> None:
    """Read and drop messages, so that pings are answered and the end is noticed."""
    with suppress(ConnectionClosed):
        while True:
            await websocket.get_message()
    scope.cancel()


def _tokens(request: Request, name: str) -> set[str]:
    values = request.headers.get(name, [])
    return {token.strip().lower() for value in values for token in value.split(",")}


class _UpgradedStream(trio.abc.Stream):
    """The stream that trio-websocket gets: the head of an upgrade request, then the connection.

    The head is a new one, in which only the key is the client's. Nothing more is received until
    the 101 was sent: the library would lose a frame that arrives before it.
    """

    def __init__(self, stream: trio.SocketStream, key: str) -> None:
        self._stream = stream
        self._head = (
            "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            f"Sec-WebSocket-Version: {_WEBSOCKET_VERSION}\r\nSec-WebSocket-Key: {key}\r\n\r\n"
        ).encode("ascii")
        self._switched = trio.Event()
        self.stalled = False
        """Whether the client took no byte for ``STALL_TIMEOUT_S``."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(STALL_TIMEOUT_S) as scope:
            await self._stream.send_all(data)
        if scope.cancelled_caught:
            # Half a message was sent, which no close frame can follow.
            self.stalled = True
            raise trio.BrokenResourceError("the client does not read")
        self._switched.set()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._head:
            head, self._head = self._head, b""
            return head
        await self._switched.wait()
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()
