"""Requests, responses and routes: what handlers see of the HTTP server (``http/server.py``).

The same handlers serve all listeners. A route answers plain HTTP with ``handler`` and, where it has
one, a WebSocket upgrade of the same path with ``stream``.
"""

import re
from collections.abc import AsyncIterable, Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal

import msgspec
from msgspec import Struct, field

from beiran.api.models import ErrorItem, Errors
from beiran.errors import ApiError
from beiran.http.description import Answer, Parameter, Schema

REQUEST_BODY_BYTES_MAX: Final = 64 * 1024  # unless a route says otherwise, as gossip's does
PATH_CHARS_MAX: Final = 2048  # a repository has 255 characters and a tag 128; chosen
WATCH_PROTOCOL: Final = "beiran-watch"
"""The ``Upgrade`` header of a watch connection: one that carries nothing, and whose end is news."""

Listener = Literal["unix", "tcp", "mirror"]


class Request(Struct, frozen=True, kw_only=True):
    """A request, as a handler gets it.

    Attributes:
      path: percent-decoded, starts with ``/``.
      path_args: the parts of the path that the ``{names}`` of the route's pattern matched.
      query: every parameter with its values, in order, percent-decoded.
      headers: names in lower case; a name that comes several times has several values.
      body: at most the route's ``body_bytes_max``.
      listener: which listener it came to.
      peer: host of the other end; empty on the unix socket.
    """

    method: str
    path: str
    listener: Listener
    path_args: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, list[str]] = field(default_factory=dict)
    headers: Mapping[str, list[str]] = field(default_factory=dict)
    body: bytes = b""
    peer: str = ""

    def header(self, name: str) -> str | None:
        """The first value of a header (``name`` in lower case), or None."""
        values = self.headers.get(name)
        return values[0] if values else None


Gate = Callable[[int, int], Awaitable[int]]
"""Called before the bytes ``start`` to ``end`` of a file are sent. Waits until some may be sent.

Returns: the end of those that may, after ``start``. An exception breaks the answer off."""


class FileSlice(Struct, frozen=True, kw_only=True):
    """Part of an open file, sent with ``sendfile``. The server closes the descriptor.

    Attributes:
      gate: delays bytes that a rate limit holds back, or that the file does not have yet.
    """

    descriptor: int
    start: int
    length: int
    gate: Gate | None = None


class Response(Struct, kw_only=True):
    """An answer.

    Attributes:
      body: bytes, a slice of a file, or chunks.
      length: bytes of ``body`` where it is chunks; None sends it with chunked encoding.
      close: called once after the answer was sent or failed.
    """

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes | FileSlice | AsyncIterable[bytes] = b""
    length: int | None = None
    close: Callable[[], Awaitable[None]] | None = None


Handler = Callable[[Request], Awaitable[Response]]
"""Answers a request. May raise ApiError, which the server turns into the error body."""

SendMessage = Callable[[bytes], Awaitable[None]]
"""Sends one WebSocket text message (UTF-8 JSON)."""

Stream = Callable[[Request, SendMessage], Awaitable[None]]
"""Answers a WebSocket: sends its messages, then returns, which closes it with 1000. An ApiError
closes it with 1011. Refuse a request before its upgrade in the route's ``prepare``."""


class Route(Struct, frozen=True, kw_only=True):
    """One path of one method. HEAD is answered by the handler of GET.

    Attributes:
      pattern: a path with ``{name}`` for one segment and ``{name:path}`` for several.
      prepare: called before an upgrade is accepted; an ApiError is answered in HTTP.
      body_bytes_max: a longer request body is answered with 413.
      listeners: those that serve the route; others answer 404.
      watch: ``Upgrade: beiran-watch`` is answered with 101, and then the connection idles until
        either end closes it. ``handler`` answers plain requests (``upgrade_required``).
      summary: one line for the OpenAPI document; a route without one is not in it.
      parameters, answers, request_body: for the document. Every route also answers 400.
      tags: groups of the document that the route is in.
    """

    method: str
    pattern: str
    handler: Handler
    stream: Stream | None = None
    prepare: Callable[[Request], None] | None = None
    body_bytes_max: int = REQUEST_BODY_BYTES_MAX
    listeners: tuple[Listener, ...] = ("unix", "tcp")
    watch: bool = False
    summary: str = ""
    parameters: tuple[Parameter, ...] = ()
    answers: tuple[Answer, ...] = ()
    request_body: Schema | None = None
    tags: tuple[str, ...] = ()

    def regex(self) -> re.Pattern[str]:
        """``pattern`` as a regular expression that matches whole paths."""
        parts = []
        for part in re.split(r"(\{[a-z_]+(?::path)?\})", self.pattern):
            if part.startswith("{"):
                name, _, kind = part[1:-1].partition(":")
                parts.append(f"(?P<{name}>{'.+' if kind else '[^/]+'})")
            else:
                parts.append(re.escape(part))
        return re.compile("".join(parts))


class HttpError(ApiError):
    """An ApiError whose answer has headers of its own, such as ``Allow``."""

    def __init__(
        self, status: int, code: str, message: str, headers: Sequence[tuple[str, str]]
    ) -> None:
        super().__init__(status, code, message)
        self.headers = list(headers)


def json_response(body: object, *, status: int = 200) -> Response:
    """An answer with ``body`` as JSON."""
    return Response(
        status=status,
        headers=[("Content-Type", "application/json")],
        body=msgspec.json.encode(body),
    )


def error_response(error: ApiError) -> Response:
    """The answer to a request that failed with ``error``."""
    response = json_response(
        Errors(errors=(ErrorItem(code=error.code, message=error.message),)), status=error.status
    )
    if isinstance(error, HttpError):
        response.headers += error.headers
    return response


async def upgrade_required(request: Request) -> Response:
    """The ``handler`` of a route for watch connections only."""
    raise HttpError(
        426,
        "UPGRADE_REQUIRED",
        f"{request.path} is for connections with Upgrade: {WATCH_PROTOCOL}",
        [("Upgrade", WATCH_PROTOCOL), ("Connection", "Upgrade")],
    )
