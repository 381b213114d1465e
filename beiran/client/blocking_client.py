"""``Client`` without trio, for programs that ask once and end, such as the CLI.

It speaks HTTP/1.0 over a plain socket: a request has a connection of its own, and the answer ends
with it. ``http.client`` and h11 would each add a fifth to the CPU time of a command's start
(measured: 35 and 30 ms beside 147 on a busy machine). Following is for ``Client`` alone.

>>> with BlockingClient() as client:
...     for image in client.get_images(all=True):
...         print(image.tags, image.available_at)
"""

import socket as sockets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BufferedReader
from types import TracebackType
from typing import Final, Literal, NamedTuple, Self, TypeVar

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
    range_header,
    read_answer,
    read_error,
    read_events,
    unreachable,
)
from beiran.errors import AgentUnreachable, RemoteProtocolError

TIMEOUT_S: Final = 10.0  # chosen, not measured
RECEIVE_BYTES: Final = 256 * 1024  # few system calls for a long listing; chosen, not measured
HEAD_BYTES_MAX: Final = 64 * 1024  # agents send some 300 bytes; bounds what a wrong server can send
ERROR_BYTES_MAX: Final = 64 * 1024  # one JSON object with a message of a line

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
        """One image, by ``sha256:`` and its digest. Raises: NotFound when no node holds it."""
        return self._get(item_path("/images", id), Image)

    def get_layers(self, *, all: bool = False, node: str | None = None) -> list[Layer]:
        """The layers of the agent's engine; of all nodes; or of the node with UUID ``node``."""
        return list(self._get(listing_path("/layers", all=all, node=node), Layers).layers)

    def get_events(self) -> list[Event]:
        """The latest events the agent remembers, oldest first."""
        return read_events(self._get("/events", RawEvents))

    def get_transfers(self) -> list[Transfer]:
        """The blobs that the agent receives or sends now."""
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
        headers = range_header(start, end)
        with self._ask("GET", item_path("/layers", digest), headers) as answer:
            if answer.status not in (200, 206):
                raise read_error(answer.status, b"".join(self._chunks(answer)))
            if headers and answer.status != 206:
                raise RemoteProtocolError("the agent ignored the range it was asked for")
            yield self._chunks(answer)

    def _get(
        self,
        path: str,
        type: type[T],
        method: Literal["GET", "POST"] = "GET",
        body: bytes = b"",
        *,
        wait: bool = False,
    ) -> T:
        """Args: wait: for the answer without a time limit."""
        received = bytearray()
        with self._ask(method, path, [], body=body, wait=wait) as answer:
            for chunk in self._chunks(answer):
                received += chunk
                if len(received) > RESPONSE_BYTES_MAX:
                    raise RemoteProtocolError(f"an answer of more than {RESPONSE_BYTES_MAX} bytes")
        if answer.status != 200:
            raise read_error(answer.status, bytes(received))
        return read_answer(bytes(received), type)

    @contextmanager
    def _ask(
        self,
        method: str,
        path: str,
        headers: list[tuple[str, str]],
        *,
        body: bytes = b"",
        wait: bool = False,
    ) -> Iterator["_Answer"]:
        """Send a request and read the head of its answer. The connection ends with the block."""
        head = [f"{method} {self.endpoint.prefix}{path} HTTP/1.0"]
        head += [f"Host: {self.endpoint.authority}", *(f"{key}: {value}" for key, value in headers)]
        if method == "POST":
            head.append(f"Content-Length: {len(body)}")
        try:
            connection = _connect(self.endpoint, self._timeout_s)
        except OSError as error:
            raise unreachable(self.endpoint, error) from None
        with connection, connection.makefile("rb") as file:
            try:
                connection.settimeout(None if wait else self._timeout_s)
                connection.sendall("\r\n".join([*head, "", ""]).encode("ascii") + body)
                answer = _read_head(file)
            except OSError as error:
                raise unreachable(self.endpoint, error) from None
            if answer is None:
                raise unreachable(self.endpoint, "it closed the connection")
            yield answer

    def _chunks(self, answer: "_Answer") -> Iterator[bytes]:
        """The body. Raises: AgentUnreachable when it ends before the length that the head says."""
        left = answer.length
        try:
            while left != 0 and (data := answer.file.read1(RECEIVE_BYTES)):
                left = None if left is None else max(0, left - len(data))
                yield data
        except OSError as error:
            raise unreachable(self.endpoint, error) from None
        if left:
            raise AgentUnreachable(f"{self.endpoint}: the connection ended before the answer did")


class _Answer(NamedTuple):
    """The head of an answer, and the file to read its body from."""

    status: int
    length: int | None
    file: BufferedReader


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


def _read_head(file: BufferedReader) -> _Answer | None:
    """None when the connection ended before an answer. Raises: RemoteProtocolError."""
    first = file.readline(HEAD_BYTES_MAX)
    if not first:
        return None
    protocol, _, status = first.decode("latin-1").partition(" ")
    length = None
    left = HEAD_BYTES_MAX
    while (line := file.readline(left)).strip():
        left = max(0, left - len(line))
        name, _, value = line.decode("latin-1").partition(":")
        if name.lower() == "content-length" and value.strip().isdecimal():
            length = int(value)
    if not line or not protocol.startswith("HTTP/1.") or not status[:3].isdecimal():
        raise RemoteProtocolError("what answers there is no agent: it does not speak HTTP")
    return _Answer(int(status[:3]), length, file)
