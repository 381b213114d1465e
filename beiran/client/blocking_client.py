"""``Client`` without trio, for programs that ask once and end, such as the CLI.

It imports little and speaks HTTP/1.0 over a plain socket: one request, one connection, the answer
ends with it. Following is for ``Client`` alone.

>>> with BlockingClient() as client:
...     for image in client.get_images(all=True):
...         print(image.tags, image.available_at)
"""

import socket as sockets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Literal, Self, TypeVar

from msgspec import Struct

from beiran.api.events import Event
from beiran.api.models import Image, Info, Layer, Node, Prefetching, PullDone, Transfer
from beiran.client.protocol import (
    RESPONSE_BYTES_MAX,
    Endpoint,
    Images,
    Layers,
    Nodes,
    Prefetchings,
    RawEvents,
    Transfers,
    item_path,
    listing_path,
    parse_endpoint,
    prefetch_body,
    pull_path,
    read_answer,
    read_error,
    read_events,
    unreachable,
)
from beiran.errors import AgentUnreachable, RemoteProtocolError

TIMEOUT_S: Final = 10.0
RECEIVE_BYTES: Final = 256 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
ERROR_BYTES_MAX: Final = 64 * 1024

T = TypeVar("T")


class BlockingClient:
    """Asks one agent, blocking. The same methods, models and errors as ``Client``.

    Args:
      socket: path of the agent's unix socket; ``/run/beiran/beiran.sock`` when neither is given.
      url: ``http://HOST:PORT`` of an agent, instead of ``socket``.
      timeout_s: how long to wait for the connection, and for each next part of an answer.

    Raises: ValueError for a socket and a URL together, or a URL that is not ``http://``.
    """

    def __init__(
        self, *, socket: str | None = None, url: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self.endpoint = parse_endpoint(socket=socket, url=url)
        self._timeout_s = timeout_s

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nothing stays open between requests."""

    def get_info(self) -> Info:
        """The agent's own node, and how it is doing."""
        return self._get("/info", Info)

    def get_online_nodes(self) -> list[Node]:
        """The nodes that are online as the agent sees it, its own included."""
        return list(self._get("/nodes", Nodes).nodes)

    def get_known_nodes(self) -> list[Node]:
        """Every node the agent knows, the offline ones included."""
        return list(self._get(listing_path("/nodes", all=True), Nodes).nodes)

    def get_node(self, uuid: str) -> Node:
        """One node. Raises: NotFound when the agent does not know it."""
        return self._get(item_path("/nodes", uuid), Node)

    def get_images(self, *, all: bool = False, node: str | None = None) -> list[Image]:
        """The images of the agent's engine; of all nodes; or of the node with UUID ``node``."""
        return list(self._get(listing_path("/images", all=all, node=node), Images).images)

    def get_image(self, id: str) -> Image:
        """One image, by ``sha256:`` and its digest. Raises: NotFound when nobody holds it."""
        return self._get(item_path("/images", id), Image)

    def get_layers(self, *, all: bool = False, node: str | None = None) -> list[Layer]:
        """The layers of the agent's engine; of all nodes; or of the node with UUID ``node``."""
        return list(self._get(listing_path("/layers", all=all, node=node), Layers).layers)

    def get_events(self) -> list[Event]:
        """The latest events the agent remembers, oldest first."""
        return read_events(self._get("/events", RawEvents))

    def get_transfers(self) -> list[Transfer]:
        """The blobs that are on their way to that node or from it, now."""
        return list(self._get("/transfers", Transfers).transfers)

    def pull(
        self, reference: str, *, node: str | None = None, platform: str | None = None
    ) -> PullDone:
        """Have the engine pull an image: see ``Client.pull``. Waits for as long as it takes."""
        path = pull_path("/pulls", reference, node, platform)
        return self._get(path, PullDone, "POST", wait=True)

    def prefetch(
        self,
        reference: str,
        *,
        nodes: Sequence[str] | Literal["all"],
        platform: str | None = None,
    ) -> list[Prefetching]:
        """Have other nodes pull an image: see ``Client.prefetch``."""
        body = prefetch_body(reference, nodes, platform)
        return list(self._get("/prefetch", Prefetchings, "POST", body, wait=True).nodes)

    @contextmanager
    def get_layer_tar(
        self, digest: str, *, start: int = 0, end: int | None = None
    ) -> Iterator[Iterator[bytes]]:
        """The uncompressed tar of a layer, in chunks: see ``Client.get_layer_tar``."""
        lines = []
        if start or end is not None:
            lines.append(f"Range: bytes={start}-{'' if end is None else end - 1}")
        with self._connect() as connection:
            answer = self._ask(connection, item_path("/layers", digest), lines)
            if answer.status not in (200, 206):
                raise read_error(answer.status, b"".join(self._chunks(connection, answer)))
            if lines and answer.status != 206:
                raise RemoteProtocolError("the agent ignored the range it was asked for")
            yield self._chunks(connection, answer)

    def _get(
        self,
        path: str,
        type: type[T],
        method: Literal["GET", "POST"] = "GET",
        sent: bytes = b"",
        *,
        wait: bool = False,
    ) -> T:
        """Args: wait: for the answer, however long it takes."""
        with self._connect() as connection:
            if wait:
                connection.settimeout(None)
            answer = self._ask(connection, path, [], method=method, body=sent)
            body = bytearray()
            for chunk in self._chunks(connection, answer):
                body += chunk
                if len(body) > RESPONSE_BYTES_MAX:
                    raise RemoteProtocolError(f"an answer of more than {RESPONSE_BYTES_MAX} bytes")
        if answer.status != 200:
            raise read_error(answer.status, bytes(body))
        return read_answer(bytes(body), type)

    def _connect(self) -> sockets.socket:
        try:
            return _connect(self.endpoint, self._timeout_s)
        except OSError as error:
            raise unreachable(self.endpoint, error) from None

    def _ask(
        self,
        connection: sockets.socket,
        path: str,
        lines: list[str],
        *,
        method: str = "GET",
        body: bytes = b"",
    ) -> "_Head":
        head = [f"{method} {self.endpoint.prefix}{path} HTTP/1.0"]
        head += [f"Host: {self.endpoint.authority}", *lines]
        if method == "POST":
            head.append(f"Content-Length: {len(body)}")
        data = b""
        try:
            connection.sendall("\r\n".join([*head, "", ""]).encode("ascii") + body)
            while b"\r\n\r\n" not in data:
                more = connection.recv(RECEIVE_BYTES)
                data += more
                if not more or len(data) > HEAD_BYTES_MAX + RECEIVE_BYTES:
                    break
        except OSError as error:
            raise unreachable(self.endpoint, error) from None
        if not data:
            raise unreachable(self.endpoint, "it closed the connection")
        return _read_head(data)

    def _chunks(self, connection: sockets.socket, answer: "_Head") -> Iterator[bytes]:
        """The body; whole, if its length was told, when this ends without an error."""
        left = answer.length
        data = answer.rest
        try:
            while True:
                if data:
                    yield data
                    left = None if left is None else left - len(data)
                if left is not None and left <= 0:
                    return
                data = connection.recv(RECEIVE_BYTES)
                if not data:
                    break
        except OSError as error:
            raise unreachable(self.endpoint, error) from None
        if left is not None:
            raise AgentUnreachable(f"{self.endpoint}: the connection ended before the answer did")


class _Head(Struct, frozen=True):
    """The head of an answer, and what of the body came with it."""

    status: int
    length: int | None
    rest: bytes


def _connect(endpoint: Endpoint, timeout_s: float) -> sockets.socket:
    if not endpoint.socket:
        return sockets.create_connection((endpoint.host, endpoint.port), timeout_s)
    connection = sockets.socket(sockets.AF_UNIX, sockets.SOCK_STREAM)
    try:
        connection.settimeout(timeout_s)
        connection.connect(endpoint.socket)
    except BaseException:
        connection.close()
        raise
    return connection


def _read_head(data: bytes) -> _Head:
    head, separator, rest = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    protocol, _, status = first.partition(" ")
    if not separator or not protocol.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise RemoteProtocolError("what answers there is no agent: it does not speak HTTP")
    length = None
    for line in lines:
        name, _, value = line.partition(":")
        if name.lower() == "content-length" and value.strip().isdecimal():
            length = int(value)
    return _Head(int(status[:3]), length, rest)
