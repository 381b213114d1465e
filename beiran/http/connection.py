"""A kept-alive HTTP/1.1 connection on trio, as the client library and the peer client use it."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Final

import h11
import trio
from msgspec import Struct

from beiran.errors import BeiranError, RemoteProtocolError

RECEIVE_BYTES: Final = 64 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024


class ConnectionLost(BeiranError):
    """The connection ended before the answer was whole.

    Attributes:
      answered: whether anything of the answer had come. If not, and the connection had been used
        before, the other end had most likely closed it already, and the request can be repeated.
    """

    def __init__(self, message: str, *, answered: bool) -> None:
        super().__init__(message)
        self.answered = answered


class Answer(Struct, frozen=True):
    """The head of an answer. Header names are in lower case."""

    status: int
    headers: dict[str, str]


class HttpConnection:
    """One connection, which carries one request at a time.

    Send with ``ask``, then read the body to its end with ``read`` or ``receive``; when that went
    well the connection is ``reusable``. Owns ``stream``.
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
        """Send a request and receive the head of its answer (a 101 counts as one).

        Raises: ConnectionLost; RemoteProtocolError when what comes is not HTTP.
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
        with suppress(trio.BrokenResourceError):  # it may have refused early, and said why
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

        Raises: ConnectionLost; RemoteProtocolError also when it has more than ``bytes_max``.
        """
        body = bytearray()
        while chunk := await self.receive():
            body += chunk
            if len(body) > bytes_max:
                raise RemoteProtocolError(f"an answer of more than {bytes_max} bytes")
        return bytes(body)

    async def receive(self) -> bytes:
        """The next part of the body; empty when it was whole.

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

    def close(self) -> None:
        """Close it, whatever is under way."""
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
