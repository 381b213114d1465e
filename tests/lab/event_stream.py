"""An agent's events by WebSocket over its unix socket, for tests without an event loop."""

import contextlib
import json
import select
import socket
import time
from collections import deque
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Final, Self

import wsproto
from wsproto.events import AcceptConnection, CloseConnection, Ping, Request, TextMessage

CONNECT_TIMEOUT_S: Final = 20.0
READ_BYTES: Final = 1 << 16
EVENTS: Final = "/events?follow=true"


class EventStream:
    """The messages of one agent from now on. Read it steadily: the agent drops a slow reader.

    Args:
      target: what is followed: ``/events``, or a listing, whose rows come first.
    """

    def __init__(self, connection: socket.socket, target: str = EVENTS) -> None:
        self._connection = connection
        self._websocket = wsproto.WSConnection(wsproto.ConnectionType.CLIENT)
        self._text = ""
        self._waiting: deque[dict[str, Any]] = deque()
        connection.sendall(self._websocket.send(Request(host="localhost", target=target)))
        self._accepted = False
        self.passed: list[dict[str, Any]] = []
        """Events that ``await_event`` read before the one that it returned."""
        while not self._accepted:
            data = connection.recv(READ_BYTES)
            if not data:
                raise ConnectionError("the agent closed the connection instead of upgrading it")
            self._waiting.extend(self.feed(data))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def fileno(self) -> int:
        """For a selector; hand what it reads to ``feed``."""
        return self._connection.fileno()

    def close(self) -> None:
        self._connection.close()

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """The events in these bytes, which came from the connection."""
        self._websocket.receive_data(data or None)
        for event in self._websocket.events():
            match event:
                case AcceptConnection():
                    self._accepted = True
                case TextMessage(data=text):
                    self._text += text
                    if event.message_finished:
                        yield json.loads(self._text)
                        self._text = ""
                case Ping():
                    self._connection.sendall(self._websocket.send(event.response()))
                case CloseConnection():
                    with contextlib.suppress(OSError):  # it may have gone already
                        self._connection.sendall(self._websocket.send(event.response()))
                case _:
                    raise ConnectionError(f"the agent answers the upgrade with {event}")

    def waiting(self) -> list[dict[str, Any]]:
        """Return the messages that have arrived and are not read yet, without waiting."""
        while select.select([self._connection], [], [], 0)[0]:
            data = self._connection.recv(READ_BYTES)
            if not data:
                break
            self._waiting.extend(self.feed(data))
        arrived = list(self._waiting)
        self._waiting.clear()
        return arrived

    def await_event(self, *, timeout_s: float = 30.0, **expected: str) -> dict[str, Any]:
        """The first event, from here on, whose fields are as given.

        Raises: AssertionError, with what came instead, after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            while self._waiting:
                event = self._waiting.popleft()
                if all(event.get(name) == value for name, value in expected.items()):
                    return event
                self.passed.append(event)
            left = max(0.0, deadline - time.monotonic())
            data = b""
            if select.select([self._connection], [], [], left)[0]:
                data = self._connection.recv(READ_BYTES)
            if not data:
                raise AssertionError(f"no event with {expected}; there came {self.passed}")
            self._waiting.extend(self.feed(data))


def connect_events(socket_path: str, target: str = EVENTS) -> EventStream:
    """Follow the messages of the agent with this unix socket."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        connection.connect(socket_path)
        return EventStream(connection, target)
    except BaseException:
        connection.close()
        raise
