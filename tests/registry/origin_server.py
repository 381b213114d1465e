"""An HTTP server of the tests' own: answers what a test says, and notes what it was asked."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus

import trio


@dataclass(frozen=True)
class Asked:
    """A request. Header names are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def line(self) -> str:
        return f"{self.method} {self.target}"


@dataclass(frozen=True)
class Reply:
    """An answer; ``raw`` instead of all is sent as it is, and then the connection is closed."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    raw: bytes | None = None

    def encoded(self, method: str) -> bytes:
        if self.raw is not None:
            return self.raw
        headers = {"Content-Length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        return head + (b"" if method == "HEAD" else self.body)


Answering = Callable[[Asked], Reply | Awaitable[Reply]]


@dataclass
class OriginServer:
    """A server at ``127.0.0.1:port``. ``answer`` may be set anew at any time."""

    port: int
    answer: Answering = lambda asked: Reply(404)
    asked: list[Asked] = field(default_factory=list)
    connections: int = 0

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"http://{self.name}"

    @property
    def lines(self) -> list[str]:
        return [asked.line for asked in self.asked]


@asynccontextmanager
async def open_origin_server(
    port: int = 0, *, tls: ssl.SSLContext | None = None
) -> AsyncIterator[OriginServer]:
    """Serve until the block ends."""
    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
        server = OriginServer(listeners[0].socket.getsockname()[1])
        nursery.start_soon(partial(trio.serve_listeners, partial(_serve, server, tls), listeners))
        yield server
        nursery.cancel_scope.cancel()


async def _serve(
    server: OriginServer, tls: ssl.SSLContext | None, socket_stream: trio.SocketStream
) -> None:
    stream: trio.abc.Stream = socket_stream
    if tls is not None:
        stream = trio.SSLStream(socket_stream, tls, server_side=True, https_compatible=True)
    server.connections += 1
    data = b""
    try:
        while True:
            while b"\r\n\r\n" not in data:
                more = await stream.receive_some()
                if not more:
                    return
                data += more
            head, _, data = data.partition(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").split("\r\n")
            method, target, _ = first.split(" ")
            headers = {name.lower(): value.strip() for name, _, value in map(_split, lines)}
            length = int(headers.get("content-length", "0"))
            while len(data) < length:
                data += await stream.receive_some()
            asked = Asked(method, target, headers, data[:length])
            data = data[length:]
            server.asked.append(asked)
            reply = server.answer(asked)
            if not isinstance(reply, Reply):
                reply = await reply
            await stream.send_all(reply.encoded(method))
            if reply.raw is not None:
                return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # the client has heard enough
    finally:
        await trio.aclose_forcefully(stream)


def _split(line: str) -> tuple[str, str, str]:
    return line.partition(":")
