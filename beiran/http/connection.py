"""One HTTP/1.1 client connection: h11 on a trio stream.

``http/pool.py`` keeps these for the client library and for requests to other agents. Blobs from
agents do not pass here (``peers/blob_fetch.py``), nor do registries (``registry/transport.py``).
"""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import h11
import trio
from msgspec import Struct

from beiran.errors import BeiranError, RemoteProtocolError

RECEIVE_BYTES: Final = 64 * 1024  # trio's own default for a SocketStream
HEAD_BYTES_MAX: Final = 64 * 1024  # four times what our server takes: others' heads are longer


class ConnectionLost(BeiranError):
    """The connection ended before the whole answer arrived.

    Attributes:
      answered: whether any byte of the answer arrived. If none did on a connection that was used
        before, the other end had closed it before it read the request.
    """

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class Answer(Struct, frozen=True):
    """The head of an answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]


class HttpConnection:
    """A connection that carries one request at a time. Owns ``stream``.

    Send with ``ask``, then read the body with ``read`` or ``receive``. After the end of the body
    the connection is ``reusable``, unless the other end said that it closes.
    """

    def __init__(self, stream: trio.SocketStream, authority: str) -> None:
        self.stream = stream
        self._authority = authority
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES_MAX)
        self._answered = False
        self._ended = False

    async def ask(
        self,
        method: str,
        target: str,
        *,
        headers: Iterable[tuple[str, str]] = (),
        body: bytes = b"",
    ) -> Answer:
        """Send a request and receive the head of its answer, which may be a 101.

        Raises: ConnectionLost; RemoteProtocolError when the answer is not HTTP.
        """
        if self._http.our_state is h11.DONE:
            self._http.start_next_cycle()
        self._answered = False
        all_headers = [("Host", self._authority), *headers]
        if body or method == "POST":
            all_headers.append(("Content-Length", str(len(body))))
        request = h11.Request(method=method, target=target, headers=all_headers)
        data = self._http.send(request) or b""
        if body:
            data += self._http.send(h11.Data(data=body)) or b""
        data += self._http.send(h11.EndOfMessage()) or b""
        with suppress(trio.BrokenResourceError):  # the answer to read may say why it closed
            await self.stream.send_all(data)
        while True:
            event = await self._next_event()
            if isinstance(event, h11.Response) or (
                isinstance(event, h11.InformationalResponse) and event.status_code == 101
            ):
                names = {name.decode(): value.decode("latin-1") for name, value in event.headers}
                return Answer(event.status_code, names)

    async def read(self, *, bytes_max: int) -> bytes:
        """The whole body.

        Raises: ConnectionLost; RemoteProtocolError, also for a body of over ``bytes_max``.
        """
        body = bytearray()
        while chunk := await self.receive():
            body += chunk
            if len(body) > bytes_max:
                raise RemoteProtocolError(f"an answer of more than {bytes_max} bytes")
        return bytes(body)

    async def receive(self) -> bytes:
        """The next part of the body; empty at its end.

        Raises: ConnectionLost, RemoteProtocolError.
        """
        while True:
            event = await self._next_event()
            if isinstance(event, h11.EndOfMessage):
                return b""
            if isinstance(event, h11.Data) and event.data:
                return bytes(event.data)

    @property
    def reusable(self) -> bool:
        """Whether the last answer was read to its end and another request may follow."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    @property
    def plain_socket(self) -> trio.socket.SocketType:
        """Readable while no answer is due: the other end has closed it."""
        return self.stream.socket

    def close(self) -> None:
        """Close it at once, also while a task reads from it."""
        self.stream.socket.close()

    async def _next_event(self) -> h11.Event:
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                if self._ended:
                    raise self._lost() from None
                raise RemoteProtocolError(f"the answer is not HTTP: {error}") from None
            if isinstance(event, h11.ConnectionClosed):
                raise self._lost()
            if isinstance(event, h11.Event):
                return event
            try:
                data = await self.stream.receive_some(RECEIVE_BYTES)
            except trio.BrokenResourceError as error:
                raise ConnectionLost(str(error), answered=self._answered) from None
            self._answered = self._answered or bool(data)
            self._ended = not data
            self._http.receive_data(data)

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(
            "the connection ended before the answer was whole", answered=self._answered
        )
