"""The requests of a client and how to read their answers, without input or output.

``Client`` (trio) and ``BlockingClient`` (plain sockets) share this. It imports little, since the
CLI starts with it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Final, Literal, TypeVar, get_args
from urllib.parse import quote, urlencode, urlsplit

import msgspec
from msgspec import Struct

from beiran.api import SOCKET_PATH_DEFAULT
from beiran.api.events import EVENT_NAMES, Event
from beiran.api.models import (
    Change,
    Errors,
    Image,
    Layer,
    LayerState,
    Node,
    Prefetch,
    Prefetching,
    PullDone,
    PullFailed,
    PullProgress,
    Transfer,
)
from beiran.errors import (
    AgentForbidden,
    AgentUnreachable,
    ApiError,
    BadRequest,
    NotFound,
    RemoteProtocolError,
)

RESPONSE_BYTES_MAX: Final = 256 * 1024 * 1024  # 500,000 layers with their holders take less
HTTP_PORT_DEFAULT: Final = 80

T = TypeVar("T")

_LAYER_STATES: Final = get_args(LayerState)
_CHANGE_KINDS: Final = get_args(Change.__annotations__["change"])


class Nodes(Struct, frozen=True):
    """The answer of ``/nodes``."""

    nodes: tuple[Node, ...]


class Images(Struct, frozen=True):
    """The answer of ``/images``."""

    images: tuple[Image, ...]


class Layers(Struct, frozen=True):
    """The answer of ``/layers``."""

    layers: tuple[Layer, ...]


class Transfers(Struct, frozen=True):
    """The answer of ``/transfers``."""

    transfers: tuple[Transfer, ...]


class Prefetchings(Struct, frozen=True):
    """The answer of ``/prefetch``."""

    nodes: tuple[Prefetching, ...]


class RawEvents(Struct, frozen=True):
    """The answer of ``/events``: the latest events, oldest first, each still encoded."""

    events: tuple[msgspec.Raw, ...]


class Endpoint(Struct, frozen=True):
    """Where an agent answers: a unix socket, or a host and a port.

    Attributes:
      socket: path of its unix socket; empty when it is reached over TCP.
      prefix: the part before each path, without a slash at its end; mostly empty.
    """

    socket: str = ""
    host: str = ""
    port: int = 0
    prefix: str = ""

    def __str__(self) -> str:
        if self.socket:
            return self.socket
        return f"http://{self.authority}{self.prefix}"

    @property
    def authority(self) -> str:
        """The value of the ``Host`` header."""
        if self.socket:
            return "localhost"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == HTTP_PORT_DEFAULT else f"{host}:{self.port}"


def parse_endpoint(*, socket: str | None = None, url: str | None = None) -> Endpoint:
    """The endpoint from a user's socket or URL. Neither means the default socket.

    Raises: ValueError when both are given, or ``url`` is not ``http://HOST[:PORT][/PREFIX]``.
    """
    if url is None:
        return Endpoint(socket=socket or SOCKET_PATH_DEFAULT)
    if socket is not None:
        raise ValueError("give a socket or a URL, not both")
    parts = urlsplit(url)
    if parts.scheme != "http" or not parts.hostname or parts.query or parts.fragment:
        raise ValueError(f"not a URL of an agent (http://HOST[:PORT]): {url!r}")
    port = HTTP_PORT_DEFAULT if parts.port is None else parts.port
    return Endpoint(host=parts.hostname, port=port, prefix=parts.path.rstrip("/"))


def listing_path(
    path: str, *, all: bool = False, node: str | None = None, follow: bool = False
) -> str:
    """``path`` with the parameters of a listing."""
    query = []
    if all:
        query.append(("all", "true"))
    if node is not None:
        query.append(("node", node))
    if follow:
        query.append(("follow", "true"))
    return f"{path}?{urlencode(query)}" if query else path


def pull_path(path: str, reference: str, node: str | None, platform: str | None) -> str:
    """``path`` with the parameters of a pull."""
    query = [("reference", reference), ("from", node), ("platform", platform)]
    return f"{path}?{urlencode([(name, value) for name, value in query if value is not None])}"


def prefetch_body(
    reference: str, nodes: Sequence[str] | Literal["all"], platform: str | None
) -> bytes:
    """The body of a request to prefetch an image."""
    wanted = Prefetch(
        reference=reference, nodes="all" if nodes == "all" else tuple(nodes), platform=platform
    )
    return msgspec.json.encode(wanted)


def item_path(path: str, name: str) -> str:
    """The path of ``name`` below ``path``, percent-encoded."""
    return f"{path}/{quote(name, safe=':')}"


def range_header(start: int, end: int | None) -> list[tuple[str, str]]:
    """The header for the bytes ``start`` to ``end`` (excluded; None: the last); none for all."""
    if not start and end is None:
        return []
    return [("Range", f"bytes={start}-{'' if end is None else end - 1}")]


def read_answer(body: bytes | msgspec.Raw, type: type[T]) -> T:
    """Read a JSON body. Unknown fields are ignored, so that newer agents are understood.

    Raises: RemoteProtocolError when it is not a ``type``.
    """
    try:
        return msgspec.json.decode(body, type=type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RemoteProtocolError(
            f"the agent's answer is not what this version expects: {error}"
        ) from None


class _State(Struct):
    state: str = ""


class _Kind(Struct):
    event: str = ""
    change: str = ""
    pull: str = ""


def read_pull(message: bytes) -> PullProgress | PullDone | None:
    """Read a row of a pull; None for a row or a state that this version does not know.

    Raises: ApiError when the pull failed; RemoteProtocolError.
    """
    kind = read_answer(message, _Kind).pull
    if kind == "failed":
        failed = read_answer(message, PullFailed)
        raise api_error(failed.status, failed.code, failed.message)
    if kind:
        return read_answer(message, PullDone) if kind == "done" else None
    if read_answer(message, _State).state not in _LAYER_STATES:
        return None
    return read_answer(message, PullProgress)


def read_event(message: bytes | msgspec.Raw) -> Event | None:
    """Read one event; None when it is of a kind that this version does not know.

    Raises: RemoteProtocolError.
    """
    if read_answer(message, _Kind).event not in EVENT_NAMES:
        return None
    return read_answer(message, Event)


def read_events(answer: RawEvents) -> list[Event]:
    """The events of an answer that this version knows."""
    events = (read_event(event) for event in answer.events)
    return [event for event in events if event is not None]


def change_reader(
    row: Literal["node", "image", "layer", "transfer"],
) -> Callable[[bytes], Change | None]:
    """A reader of the messages of a followed listing of nodes, images, layers or transfers.

    Bare rows become ``Change`` of kind ``listed``; kinds of change that this version does not
    know become None.
    """

    def read(message: bytes) -> Change | None:
        kind = read_answer(message, _Kind).change
        if kind:
            return read_answer(message, Change) if kind in _CHANGE_KINDS else None
        if row == "node":
            return Change(change="listed", node=read_answer(message, Node))
        if row == "image":
            return Change(change="listed", image=read_answer(message, Image))
        if row == "layer":
            return Change(change="listed", layer=read_answer(message, Layer))
        return Change(change="listed", transfer=read_answer(message, Transfer))

    return read


def read_error(status: int, body: bytes) -> ApiError:
    """The error in the body of an answer with ``status`` (not 2xx), or one for any other body."""
    try:
        item = msgspec.json.decode(body, type=Errors).errors[0]
        code, message = item.code, item.message
    except (msgspec.DecodeError, UnicodeDecodeError, IndexError):
        code, message = "UNKNOWN", f"the agent answered with HTTP status {status}"
    return api_error(status, code, message)


def api_error(status: int, code: str, message: str) -> ApiError:
    """An ApiError of the class for its status."""
    if status == 404:
        return NotFound(code, message)
    if status == 400:
        return BadRequest(message, code=code)
    return ApiError(status, code, message)


def unreachable(endpoint: Endpoint, error: OSError | str) -> AgentUnreachable:
    """The error when no agent answers at ``endpoint``, with what to do about it."""
    if isinstance(error, PermissionError):
        return AgentForbidden(
            f"no permission to use {endpoint}: run this as root or as a member of its group"
        )
    if isinstance(error, OSError):  # a number below 0 is the resolver's
        number = error.errno or 0
        error = os.strerror(number) if number > 0 else error.strerror or str(error)
    return AgentUnreachable(
        f"no agent answers at {endpoint} ({error.lower()}); start one with: beirand"
    )
