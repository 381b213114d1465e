"""A Docker Engine that answers what a test scripts, on a real unix socket."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio


def answer(status: int, body: str, *, close: bool = False) -> bytes:
    connection = "Connection: close\r\n" if close else ""
    head = f"HTTP/1.1 {status} Any\r\n{connection}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


class StubEngine:
    """Answers each path, without its version, with its script; the last answer again and again.

    An answer that is empty or has ``Connection: close`` is followed by the end of the connection.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.script: dict[str, list[bytes]] = {}
        self.asked: list[str] = []
        self.requests: list[bytes] = []
        self.uploads: list[bytes] = []
        self.connections = 0
        self._open: list[trio.SocketStream] = []
        self._closed = trio.Event()
        self.says("/version", answer(200, '{"ApiVersion": "1.41", "Version": "20.10"}'))

    def says(self, path: str, *answers: bytes) -> None:
        self.script[path] = list(answers)

    async def hang_up(self) -> None:
        """Close all connections, as an engine does with those that lie idle."""
        for stream in self._open:
            await stream.aclose()

    async def await_closed(self) -> None:
        """Until a client closes a connection, from now or since the last request."""
        await self._closed.wait()

    async def handle(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self._open.append(stream)
        try:
            async with stream:
                while request := await stream.receive_some(65536):
                    self._closed = trio.Event()
                    path = request.split()[1].decode().partition("?")[0]
                    self.asked.append(path)
                    self.requests.append(request)
                    path = re.sub("^/v[0-9.]+", "", path)
                    answers = self.script.get(path, [answer(404, '{"message": "no such thing"}')])
                    reply = answers.pop(0) if len(answers) > 1 else answers[0]
                    ends = b"Connection: close" in reply or reply == b""
                    if b"chunked" in request and not ends:
                        await self._take_upload(stream, request)
                    await stream.send_all(reply)
                    if ends:
                        return
                self._closed.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._closed.set()

    async def _take_upload(self, stream: trio.SocketStream, request: bytes) -> None:
        body = request.partition(b"\r\n\r\n")[2]
        while not body.endswith(b"0\r\n\r\n"):
            data = await stream.receive_some(65536)
            if not data:
                raise trio.BrokenResourceError
            body += data
        whole = b""
        while size := int(body.partition(b"\r\n")[0], 16):
            start = body.index(b"\r\n") + 2
            whole += body[start : start + size]
            body = body[start + size + 2 :]
        self.uploads.append(whole)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[StubEngine]:
    server = StubEngine(str(folder / "docker.sock"))
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(server.path)
    socket.listen()
    listener = trio.SocketListener(socket)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, server.handle, [listener])
        yield server
        nursery.cancel_scope.cancel()
