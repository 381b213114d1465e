"""The agent's TCP listener with its routes, store and gossip core, in a thread, for fuzzing.

`OneListener.connect` turns its bytes into what a client sends on one connection: the bytes
themselves, or requests that reach the routes, the bodies and the WebSockets. After each connection
it checks the invariants that hold for any client.
"""

import logging
import socket
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Final

import trio

from beiran.agent.api.routes import api_routes
from beiran.agent.event_bus import EventBus
from beiran.agent.gossip_driver import GOSSIP_PATH, REQUEST_BODY_BYTES_MAX, WATCH_PATH
from beiran.errors import BadRequest
from beiran.gossip.messages import Stream
from beiran.http.listeners import open_tcp_listeners
from beiran.http.messages import Request, Response, Route, upgrade_required
from beiran.http.server import HttpCounters, serve_http
from tests.agent.api.api_server import TAR_DIGEST, SmallAgent
from tests.fuzz.choices import Choices, any_of
from tests.fuzz.one_node import CODEC, OneNode
from tests.store.samples import open_store

ANSWER_TIMEOUT_S: Final = 30.0
CHECK_EVERY: Final = 100  # connections between two checks of the state
REQUESTS_MAX: Final = 4

METHODS: Final = (b"GET", b"HEAD", b"POST", b"OPTIONS", b"PUT", b"get", b"", b"CONNECT")
PATHS: Final = (
    b"/info",
    b"/nodes",
    b"/nodes/00000000-0000-4000-8000-000000000001",
    b"/images",
    b"/images/busybox:latest",
    b"/layers",
    b"/layers/sha256:" + TAR_DIGEST.hex().encode(),
    b"/layers/sha256:" + b"0" * 64,
    b"/events",
    b"/metrics",
    b"/healthz",
    b"/openapi.json",
    GOSSIP_PATH.encode(),
    WATCH_PATH.encode(),
    b"/",
    b"/%2e%2e/%00/%ff",
    b"*",
    b"http://other/info",
)
QUERIES: Final = (
    b"",
    b"?all=true",
    b"?all=maybe",
    b"?follow=true",
    b"?node=00000000-0000-4000-8000-000000000001",
    b"?node=%ff",
    b"?all=true&all=false&x",
    b"?" + b"a&" * 200,
)
HEADERS: Final = (
    b"Host: x",
    b"Connection: close",
    b"Range: bytes=0-9",
    b"Range: bytes=-5",
    b"Range: bytes=5-1,0-,x",
    b"Range: bytes=99999999999999999999-",
    b"If-Range: x",
    b"If-None-Match: *",
    b"Expect: 100-continue",
    b"Transfer-Encoding: chunked",
    b"Content-Length: 1",
    b"Content-Length: 18446744073709551616",
    b"Upgrade: websocket",
    b"Accept: \xff",
    b"X: " + b"y" * 4000,
    b" folded",
)
WEBSOCKET: Final = (
    b"Host: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
)
HOLD: Final = b"Host: x\r\nConnection: Upgrade\r\nUpgrade: beiran-hold"


class OneListener:
    """A running TCP listener. Made by `open_one_listener`."""

    def __init__(self, folder: Path) -> None:
        self.port = 0
        self.errors: list[str] = []
        self._store = open_store(folder)
        self._bus = EventBus()
        self._core = OneNode().core
        self._counters = HttpCounters()
        self._connections = 0
        self._nodes = b""

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Serve until cancelled."""
        listeners = await open_tcp_listeners("127.0.0.1", 0)
        self.port = listeners[0].socket.getsockname()[1]
        agent = SmallAgent()
        routes = [
            *api_routes(
                agent,
                self._store,
                self._bus,
                metrics=agent.metrics,
                open_layer=agent.open_layer,
            ),
            Route(
                method="POST",
                pattern=GOSSIP_PATH,
                handler=self._gossip,
                body_bytes_max=REQUEST_BODY_BYTES_MAX,
            ),
            Route(method="GET", pattern=WATCH_PATH, handler=upgrade_required, watch=True),
        ]
        async with trio.open_nursery() as nursery:
            serve = partial(serve_http, listeners, routes, listener="tcp", counters=self._counters)
            await nursery.start(serve)
            task_status.started()
        self._store.close()

    async def _gossip(self, request: Request) -> Response:
        # As the agent's driver answers; the effects would send packets to invented addresses.
        reply, _ = self._core.receive_request(request.body, now=trio.current_time())
        if reply is None:
            raise BadRequest("not a gossip request")
        return Response(headers=[("Content-Type", "application/x-msgpack")], body=reply)

    def connect(self, data: bytes) -> None:
        """Open one connection, send what ``data`` chooses, and close it. Raises: AssertionError."""
        choices = Choices(data)
        if choices.below(2):
            self.say([data[1:]])
        else:
            requests = [_request(choices) for _ in range(1 + choices.below(REQUESTS_MAX))]
            upgrade = choices.below(4)
            if upgrade == 3:
                hello = b"GET " + choices.one(PATHS) + choices.one(QUERIES) + b" HTTP/1.1\r\n"
                hello += choices.one((WEBSOCKET, HOLD)) + b"\r\n\r\n"
                self.say([hello, choices.chunk(), choices.chunk()])
            else:
                self.say([b"".join(requests)])
        assert self._counters.http_failures == 0, "an answer was a 500"
        assert not self.errors, self.errors[0]
        self._connections += 1
        if self._connections % CHECK_EVERY == 1:
            self._check()

    def say(self, parts: list[bytes]) -> bytes:
        """Send the parts, waiting for an answer's head after the first. Returns what came back."""
        with socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT_S) as sock:
            answer = b""
            with suppress(ConnectionError):  # it may hang up on us at any time
                for number, part in enumerate(parts):
                    sock.sendall(part)
                    while number == 0 and len(parts) > 1 and b"\r\n\r\n" not in answer:
                        received = sock.recv(65_536)
                        if not received:
                            break
                        answer += received
                with suppress(OSError):  # the server closed the connection first
                    sock.shutdown(socket.SHUT_WR)
                while received := sock.recv(65_536):
                    answer += received
            assert answer[:9] in (b"", b"HTTP/1.1 ")
            return answer

    def _check(self) -> None:
        """Check that the listener serves, the state is unchanged, and no connection is left."""
        nodes = self._ask(b"/nodes?all=true")
        assert self._nodes in (b"", nodes)
        self._nodes = nodes
        assert self._counters.http_connections <= REQUESTS_MAX

    def _ask(self, path: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", self.port), ANSWER_TIMEOUT_S) as sock:
            sock.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = b""
            while received := sock.recv(65_536):
                answer += received
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        return body


@contextmanager
def open_one_listener() -> Iterator[OneListener]:
    """Run a listener in its own thread, with a store in its own folder."""
    started: SimpleQueue[tuple[OneListener, trio.CancelScope, trio.lowlevel.TrioToken]] = (
        SimpleQueue()
    )

    async def run(folder: Path) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                served = OneListener(folder)
                await nursery.start(served.serve)
                started.put((served, scope, trio.lowlevel.current_trio_token()))

    with tempfile.TemporaryDirectory(prefix="beiran-fuzz-") as name:
        thread = threading.Thread(target=trio.run, args=(run, Path(name)))
        thread.start()
        served, scope, token = started.get(timeout=30)
        handler = _ErrorHandler(served.errors)
        logging.getLogger("beiran").addHandler(handler)
        try:
            yield served
        finally:
            logging.getLogger("beiran").removeHandler(handler)
            trio.from_thread.run_sync(scope.cancel, trio_token=token)
            thread.join(30)


class _ErrorHandler(logging.Handler):
    """Collects what the agent logs at level ERROR: faults of its own."""

    def __init__(self, errors: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._errors = errors

    def emit(self, record: logging.LogRecord) -> None:
        self._errors.append(self.format(record))


def _request(choices: Choices) -> bytes:
    method, path = choices.one(METHODS), choices.one(PATHS)
    if choices.below(8) == 7:
        path += b"/" + choices.chunk()
    version = choices.one((b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/9"))
    lines = [b" ".join((method, path + choices.one(QUERIES), version)), b"Host: x"]
    lines += [choices.one(HEADERS) for _ in range(choices.below(4))]
    body = b""
    match choices.below(8):
        case 0:
            body = choices.chunk()
        case 1:
            body = CODEC.encode_stream(any_of(Stream, choices))
            lines[0] = b"POST " + GOSSIP_PATH.encode() + b" HTTP/1.1"
            lines.append(b"Content-Length: %d" % len(body))
        case 2:
            chunk = choices.chunk()
            lines.append(b"Transfer-Encoding: chunked")
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(chunk), chunk)
    return b"\r\n".join(lines) + b"\r\n\r\n" + body
