"""The HTTP/1.1 server: h11 on trio, ``sendfile`` for files, WebSockets by trio-websocket.

Why by hand: a 2 GiB blob over loopback on 2 cores, medians of five runs, in CPU-seconds per GB:
this server 0.26 (3.4 GB/s), nginx 0.41, hypercorn's raw ASGI 0.73, hypercorn with Starlette's
FileResponse 7.4, which is 28 times as much. ``python -m benchmarks.serving`` measures it.

One task per connection reads the head of a request, finds its route, reads its body, calls the
handler and sends the answer, then reads the next head. An upgrade request hands the connection to
``http/upgrade.py`` for the rest of its life. Bytes from the network end at most their own
connection. An exception of a handler is a 500 and a traceback in the log.
"""

import email.utils
import logging
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from http import HTTPStatus
from typing import Annotated, Any, Final

import h11
import trio
from msgspec import Meta, Struct
from msgspec.structs import replace

from beiran import __version__
from beiran.errors import ApiError, BeiranError
from beiran.http.body import (
    STALL_TIMEOUT_S,
    BodyFailed,
    ClientStalled,
    send_bytes,
    send_chunks,
    send_file,
)
from beiran.http.messages import (
    WATCH_PROTOCOL,
    FileSlice,
    HttpError,
    Listener,
    Request,
    Response,
    Route,
    error_response,
)
from beiran.http.routing import Match, RouteTable
from beiran.http.upgrade import (
    Upgrade,
    WebSocketEnd,
    check_websocket,
    serve_websocket,
    wanted_upgrade,
)

# The limits below are chosen, not measured: generous to slow clients, and small enough that
# CONNECTIONS_MAX of the worst of them hold no more than some 100 MB and free their places.
HEAD_TIMEOUT_S: Final = 10.0
"""From a request's first byte (on a new connection: from its opening) to the end of its head."""

IDLE_TIMEOUT_S: Final = 60.0
BODY_TIMEOUT_S: Final = 120.0
"""For a whole request body. Each wait for the next part has ``STALL_TIMEOUT_S``."""

HEAD_BYTES_MAX: Final = 16 * 1024
RECEIVE_BYTES: Final = 16 * 1024
CONNECTIONS_MAX: Final[dict[Listener, int]] = {"unix": 256, "tcp": 1024, "mirror": 256}
REFUSALS_MAX: Final = 64
"""Connections beyond the limit that are answered with 503; further ones are closed unanswered."""

WATCHERS_MAX: Final = 64
JOIN_BYTES_MAX: Final = 64 * 1024
"""A body up to this size is sent together with its head, in one packet where it fits."""

LINGER_TIMEOUT_S: Final = 1.0
LINGER_BYTES_MAX: Final = 1024 * 1024
CLEANUP_TIMEOUT_S: Final = 5.0

_UNREADABLE: Final = (400, 413, 414, 426)
_SERVER: Final = f"beiran/{__version__}"
_NO_BODY: Final = (204, 304)
_PHRASES: Final = {status.value: status.phrase.encode() for status in HTTPStatus}

_log: Final = logging.getLogger(__name__)


class HttpCounters(Struct):
    """Requests and connections of all listeners since the start."""

    http_requests: Annotated[int, Meta(description="Requests.")] = 0
    http_bad_requests: Annotated[
        int, Meta(description="Requests, or other bytes, that could not be read in time or at all.")
    ] = 0
    http_failures: Annotated[
        int, Meta(description="Requests answered with 500, and answers that this agent broke off.")
    ] = 0
    http_refused: Annotated[int, Meta(description="Connections beyond the limit, closed.")] = 0
    http_stalled: Annotated[
        int, Meta(description="Answers and WebSocket messages that the client stopped reading.")
    ] = 0
    http_connections: Annotated[int, Meta(description="Connections that are open now.")] = 0
    http_watchers: Annotated[
        int, Meta(description="Connections that are open now and watched by other agents.")
    ] = 0


async def serve_http(
    sockets: Sequence[trio.SocketListener],
    routes: Sequence[Route],
    *,
    listener: Listener,
    counters: HttpCounters,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve ``routes`` at ``sockets`` until cancelled, which closes everything at once.

    Args:
      listener: which listener the sockets are; its routes are served, no others.
      counters: kept up to date; several listeners may share one.
    """
    server = _Server(RouteTable(routes, listener), CONNECTIONS_MAX[listener], counters)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, server.serve_connection, list(sockets))
        task_status.started()


class _Server:
    """The state that the connections of one listener share."""

    def __init__(self, routes: RouteTable, connections_max: int, counters: HttpCounters) -> None:
        self.routes: Final = routes
        self.counters: Final = counters
        self._connections_max: Final = connections_max
        self._connections = 0
        self._refusals = 0
        self._idle: dict[object, trio.CancelScope] = {}

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        """Serve one connection to its end. Raises nothing but Cancelled."""
        with stream.socket:
            if self._connections >= self._connections_max and not self._close_an_idle_one():
                await self._refuse(stream)
                return
            self._connections += 1
            self.counters.http_connections += 1
            try:
                await _Connection(self, stream).run()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client has gone
            except ClientStalled:
                self.counters.http_stalled += 1
            except Exception:
                self.counters.http_failures += 1
                _log.exception("the agent failed while it served a connection")
            finally:
                self._connections -= 1
                self.counters.http_connections -= 1

    @contextmanager
    def idling(self, timeout_s: float) -> Iterator[trio.CancelScope]:
        """A wait that ends after ``timeout_s``, or when another connection needs the place."""
        key = object()
        with trio.move_on_after(timeout_s) as scope:
            self._idle[key] = scope
            try:
                yield scope
            finally:
                del self._idle[key]

    def _close_an_idle_one(self) -> bool:
        for scope in self._idle.values():
            if not scope.cancel_called:
                scope.cancel()
                return True
        return False

    async def _refuse(self, stream: trio.SocketStream) -> None:
        self.counters.http_refused += 1
        if self._refusals >= REFUSALS_MAX:
            return
        self._refusals += 1
        try:
            with suppress(trio.BrokenResourceError):
                await stream.send_all(_refusal())
                await _linger(stream)
        finally:
            self._refusals -= 1


class _Connection:
    """One HTTP connection."""

    def __init__(self, server: _Server, stream: trio.SocketStream) -> None:
        self._server: Final = server
        self._counters: Final = server.counters
        self._stream: Final = stream
        self._http: Final = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._peer: Final = _peer_host(stream)
        self._fresh = True

    async def run(self) -> None:
        """Answer requests until either side closes."""
        head_only = False
        try:
            while True:
                head_only = False
                head = await self._receive_head()
                if head is None:
                    return
                head_only = head.method == b"HEAD"
                self._counters.http_requests += 1
                response = await self._respond(head)
                if response is None:
                    return
                await self._send(response, head_only=head_only)
                if self._http.our_state is not h11.DONE:
                    break
                if self._http.their_state is not h11.DONE:
                    break
                self._http.start_next_cycle()
        except h11.RemoteProtocolError as error:
            self._counters.http_bad_requests += 1
            message = f"the request is not HTTP: {error}"
            reply = error_response(ApiError(error.error_status_hint, "BAD_REQUEST", message))
            await self._send(reply, head_only=head_only)
        if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
            await _linger(self._stream)

    async def _receive_head(self) -> h11.Request | None:
        """The head of the next request; None when the connection ends instead."""
        if not self._fresh and not self._http.trailing_data[0]:
            with self._server.idling(IDLE_TIMEOUT_S) as scope:
                await self._receive()
            if scope.cancelled_caught:
                return None
        self._fresh = False
        with trio.move_on_after(HEAD_TIMEOUT_S):
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.Request):
                    if not _has_body(event):
                        self._http.next_event()  # the end of the message
                    return event
                if isinstance(event, h11.ConnectionClosed):
                    return None
                await self._receive()
        if self._http.trailing_data[0]:
            late = f"no whole head within {HEAD_TIMEOUT_S:g} s"
            raise h11.RemoteProtocolError(late, error_status_hint=408)
        return None

    async def _receive(self) -> None:
        self._http.receive_data(await self._stream.receive_some(RECEIVE_BYTES))

    async def _respond(self, head: h11.Request) -> Response | None:
        """The answer; None when the connection was upgraded, and has ended."""
        try:
            match = self._server.routes.match(head, self._peer)
            upgrade = wanted_upgrade(head.http_version, match.request)
            if upgrade is not None and await self._upgrade(upgrade, match):
                return None
            body = await self._receive_body(match)
        except ApiError as error:
            self._counters.http_bad_requests += error.status in _UNREADABLE
            return error_response(error)
        request = replace(match.request, body=body) if body else match.request
        try:
            return await match.route.handler(request)
        except ApiError as error:
            return error_response(error)
        except Exception:
            return error_response(self._failure(request))

    def _failure(self, request: Request) -> ApiError:
        """Count and log the current exception. Returns: the error for the client."""
        self._counters.http_failures += 1
        _log.exception("%s %s failed", request.method, request.path)
        return ApiError(500, "INTERNAL", "the agent failed; see its log")

    def _prepare(self, match: Match) -> None:
        """Raises: ApiError when the route refuses the upgrade."""
        if match.route.prepare is None:
            return
        try:
            match.route.prepare(match.request)
        except ApiError:
            raise
        except Exception:
            raise self._failure(match.request) from None

    async def _upgrade(self, upgrade: Upgrade, match: Match) -> bool:
        """Upgrade the connection. Returns: False for an upgrade that the route ignores.

        Raises: ApiError when it is refused.
        """
        request, route = match.request, match.route
        if upgrade == "watch" and not route.watch:
            return False
        if self._http.their_state is h11.SEND_BODY or self._http.trailing_data[0]:
            message = "the client sent more bytes before the answer to its upgrade request"
            raise HttpError(400, "BAD_REQUEST", message, [("Connection", "close")])
        if upgrade == "websocket":
            key = check_websocket(request, route)
            self._prepare(match)
            end = await serve_websocket(self._stream, request, route, key)
            self._counters.http_stalled += end is WebSocketEnd.STALLED
            self._counters.http_failures += end is WebSocketEnd.FAILED
            return True
        if self._counters.http_watchers >= WATCHERS_MAX:
            raise ApiError(
                503, "TOO_MANY_WATCHERS", f"{WATCHERS_MAX} others watch this agent already"
            )
        self._prepare(match)
        await self._watch()
        return True

    async def _watch(self) -> None:
        headers = [("Upgrade", WATCH_PROTOCOL), ("Connection", "Upgrade")]
        switching = h11.InformationalResponse(
            status_code=101, headers=headers, reason=b"Switching Protocols"
        )
        self._counters.http_watchers += 1
        try:
            await self._stream.send_all(self._http.send(switching))
            if await self._stream.receive_some(1):  # no byte has a meaning here
                self._counters.http_bad_requests += 1
        finally:
            self._counters.http_watchers -= 1

    async def _receive_body(self, match: Match) -> bytes:
        if self._http.their_state is not h11.SEND_BODY:
            return b""
        bytes_max = match.route.body_bytes_max
        if int(match.request.header("content-length") or 0) > bytes_max:
            raise _body_too_large(bytes_max)  # instead of 100 Continue
        body = bytearray()
        with trio.move_on_after(BODY_TIMEOUT_S):
            while True:
                event = self._http.next_event()
                if isinstance(event, h11.EndOfMessage):
                    return bytes(body)
                if isinstance(event, h11.Data):
                    body += event.data
                    if len(body) > bytes_max:
                        raise _body_too_large(bytes_max)
                    continue
                if self._http.they_are_waiting_for_100_continue:
                    go_on = h11.InformationalResponse(status_code=100, headers=[])
                    await self._stream.send_all(self._http.send(go_on))
                with trio.move_on_after(STALL_TIMEOUT_S) as stall:
                    await self._receive()
                if stall.cancelled_caught:
                    break
        late = f"no whole body within {BODY_TIMEOUT_S:g} s, or nothing for {STALL_TIMEOUT_S:g} s"
        raise h11.RemoteProtocolError(late, error_status_hint=408)

    async def _send(self, response: Response, *, head_only: bool = False) -> None:
        try:
            try:
                head = self._head_of(response)
            except h11.LocalProtocolError:
                self._counters.http_failures += 1
                _log.exception("a handler returned headers that HTTP does not allow")
                head = self._head_of(Response(status=500))
                head_only = True
            data = self._http.send(head)
            if head_only or response.status in _NO_BODY:
                await self._stream.send_all(data + self._http.send(h11.EndOfMessage()))
            else:
                await self._send_body(data, response.body)
        except BodyFailed as error:
            self._counters.http_failures += 1
            _log.error(
                "an answer was cut off and its connection closed: %s",
                error,
                exc_info=_unexpected(error.__cause__),
            )
        finally:
            await _dispose(response)

    async def _send_body(self, head: bytes, body: bytes | FileSlice | AsyncIterable[bytes]) -> None:
        if isinstance(body, bytes) and len(body) <= JOIN_BYTES_MAX:
            whole = head + self._http.send(h11.Data(data=body)) + self._end()
            await self._stream.send_all(whole)
            return
        await self._stream.send_all(head)
        if isinstance(body, bytes):
            self._http.send_with_data_passthrough(h11.Data(data=body))
            await send_bytes(self._stream, body)
        elif isinstance(body, FileSlice):
            # h11 only counts the bytes: see "sendfile" in its manual.
            placeholder: Any = range(body.length)
            self._http.send_with_data_passthrough(h11.Data(data=placeholder))
            await send_file(self._stream, body)
        else:
            await send_chunks(self._stream, body, self._frame)
        await self._stream.send_all(self._end())

    def _frame(self, data: memoryview) -> Sequence[bytes]:
        chunk: Any = data
        return self._http.send_with_data_passthrough(h11.Data(data=chunk)) or []

    def _end(self) -> bytes:
        try:
            return self._http.send(h11.EndOfMessage())
        except h11.LocalProtocolError as error:
            raise BodyFailed(str(error)) from error

    def _head_of(self, response: Response) -> h11.Response:
        """Raises: h11.LocalProtocolError for headers that HTTP does not allow."""
        headers = [*response.headers, ("Date", _date()), ("Server", _SERVER)]
        length = _length(response)
        if length is not None and all(name.lower() != "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(length)))
        if self._http.their_state in (h11.SEND_BODY, h11.ERROR):
            # The unread rest of the request would be taken for the next one.
            headers.append(("Connection", "close"))
        return h11.Response(
            status_code=response.status,
            headers=headers,
            reason=_PHRASES.get(response.status, b""),
        )


def _length(response: Response) -> int | None:
    """The ``Content-Length`` to send, where it is known and allowed."""
    if response.status in _NO_BODY:
        return None
    if isinstance(response.body, bytes):
        return len(response.body)
    if isinstance(response.body, FileSlice):
        return response.body.length
    return response.length


async def _dispose(response: Response) -> None:
    """Free the resources of an answer, sent or not."""
    body = response.body
    if isinstance(body, bytes) and response.close is None:
        return
    with trio.move_on_after(CLEANUP_TIMEOUT_S, shield=True):
        try:
            if isinstance(body, FileSlice):
                os.close(body.descriptor)
            elif isinstance(body, AsyncGenerator):
                await body.aclose()
            if response.close is not None:
                await response.close()
        except Exception:
            _log.exception("closing the resources of an answer failed")


async def _linger(stream: trio.SocketStream) -> None:
    """Wait for the client to close first: ours would reset an unread answer (RFC 9112 §9.6)."""
    with trio.move_on_after(LINGER_TIMEOUT_S):
        await stream.send_eof()
        left = LINGER_BYTES_MAX
        while left > 0:
            data = await stream.receive_some(RECEIVE_BYTES)
            if not data:
                return
            left -= len(data)


def _has_body(head: h11.Request) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in head.headers
    )


def _body_too_large(bytes_max: int) -> ApiError:
    return ApiError(413, "BODY_TOO_LARGE", f"a body of over {bytes_max} bytes is not taken here")


def _unexpected(cause: BaseException | None) -> BaseException | None:
    """``cause`` for the log, unless beiran raises it on purpose (no traceback is needed)."""
    return None if isinstance(cause, BeiranError | OSError) else cause


def _peer_host(stream: trio.SocketStream) -> str:
    try:
        name = stream.socket.getpeername()
    except OSError:  # the client has gone
        return ""
    if not isinstance(name, tuple):
        return ""
    return str(name[0]).removeprefix("::ffff:")


def _refusal() -> bytes:
    error = ApiError(503, "TOO_MANY_CONNECTIONS", "too many connections to this agent; try again")
    body = error_response(error).body
    assert isinstance(body, bytes)
    head = (
        "HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nRetry-After: 1\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode("ascii") + body


@lru_cache(maxsize=1)
def _date_at(second: int) -> str:
    return email.utils.formatdate(second, usegmt=True)


def _date() -> str:
    return _date_at(int(time.time()))
