"""A real server on loopback, and a client that sends exactly the bytes of a test."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

import trio

from beiran.http.listeners import open_tcp_listeners
from beiran.http.messages import Listener, Route
from beiran.http.server import HttpCounters, serve_http

PATIENCE_S = 20.0


class Served(NamedTuple):
    """A server that runs."""

    port: int
    counters: HttpCounters

    async def connect(self) -> "Raw":
        return Raw(await trio.open_tcp_stream("127.0.0.1", self.port))

    async def exchange(self, data: bytes) -> bytes:
        """Send ``data``; everything that comes until the server closes."""
        async with await self.connect() as raw:
            await raw.send(data)
            return await raw.rest()


class Raw:
    """A TCP connection."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._data = b""

    async def __aenter__(self) -> "Raw":
        return self

    async def __aexit__(self, *details: object) -> None:
        self.close()

    def close(self) -> None:
        self.stream.socket.close()

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def until(self, end: bytes) -> bytes:
        """Read up to ``end``, and including it."""
        with trio.fail_after(PATIENCE_S):
            while end not in self._data:
                data = await self.stream.receive_some()
                assert data, f"closed before {end!r}: {self._data!r}"
                self._data += data
        head, _, self._data = self._data.partition(end)
        return head + end

    async def rest(self) -> bytes:
        """Read until the other end closes."""
        chunks = [self._data]
        with trio.fail_after(PATIENCE_S):
            while data := await self.stream.receive_some():
                chunks.append(data)
        self._data = b""
        return b"".join(chunks)


@asynccontextmanager
async def serve(routes: Sequence[Route], *, listener: Listener = "tcp") -> AsyncIterator[Served]:
    counters = HttpCounters()
    listeners = await open_tcp_listeners("127.0.0.1", 0)
    port: int = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_http, listeners, routes, listener=listener, counters=counters)
        )
        yield Served(port, counters)
        nursery.cancel_scope.cancel()


async def eventually(condition: Callable[[], bool]) -> None:
    """Poll for a condition that has no event, for at most ``PATIENCE_S``."""
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


def blob(size: int) -> bytes:
    """``size`` bytes, different everywhere."""
    return b"".join(index.to_bytes(8, "big") for index in range((size + 7) // 8))[:size]


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path
