"""Docker's HTTP API over its unix socket, as far as beiran asks it.

h11 and trio, which the agent's server needs anyway, instead of the ``docker`` SDK in threads:
importing the SDK takes 9 MB and some 100 ms, each of its calls a thread, and its endless event
stream a thread of its own that only ends with its socket. Here everything can be cancelled.
"""

import math
import re
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import quote

import h11
import msgspec
import trio
from msgspec import Struct, field

from beiran.errors import EngineRefused, EngineUnavailable, NotFound

IMAGES: Final = "/images/json"
API_VERSION_MAX: Final = (1, 51)
"""The newest version whose changes were read (Docker 28.5); older engines speak theirs."""
ANSWER_TIMEOUT_S: Final = 60.0
BODY_BYTES_MAX: Final = 256 * 2**20
LINE_BYTES_MAX: Final = 2**20
IDLE_CONNECTIONS_MAX: Final = 4
MESSAGE_CHARACTERS_MAX: Final = 500
_RECEIVE_BYTES: Final = 64 * 1024

T = TypeVar("T")


class VersionReply(Struct, rename="pascal"):
    """``GET /version``."""

    version: str = ""
    api_version: str = ""


class InfoReply(Struct, rename="pascal"):
    """``GET /info``."""

    docker_root_dir: str = ""
    driver: str = ""
    driver_status: list[list[str]] | None = None


class ImageSummary(Struct, rename="pascal"):
    """A row of ``GET /images/json``."""

    id: str
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None


class RootFs(Struct, rename="pascal"):
    """The layers of an image, by diff ID, the base first."""

    layers: list[str] | None = None


class ImageInspect(Struct, rename="pascal"):
    """``GET /images/NAME/json``."""

    id: str
    repo_tags: list[str] | None = None
    repo_digests: list[str] | None = None
    created: str | None = None
    architecture: str = ""
    os: str = ""
    root_fs: RootFs = field(name="RootFS", default_factory=RootFs)

    @property
    def platform(self) -> tuple[str, str]:
        """Operating system and architecture."""
        return self.os, self.architecture


class HistoryEntry(Struct, rename="pascal"):
    """A row of ``GET /images/NAME/history``, which has the newest first."""

    created_by: str = ""
    size: int = 0


class Actor(Struct, rename="pascal"):
    """Whom an event is about."""

    id: str = field(name="ID", default="")
    attributes: dict[str, str] | None = None


class DockerEvent(Struct, rename="pascal"):
    """A line of ``GET /events``."""

    type: str = field(name="Type", default="")
    action: str = ""
    actor: Actor = field(default_factory=Actor)


class _ErrorReply(Struct):
    message: str = ""


class BadAnswer(EngineUnavailable):
    """The engine answers, but with an error or what cannot be read."""


@dataclass(frozen=True, slots=True)
class Upload:
    """The body of a request: ``size_bytes`` that come in ``chunks``, closed afterwards."""

    media_type: str
    size_bytes: int
    chunks: AsyncGenerator[bytes, None]


class DockerApi:
    """Questions to a Docker Engine, over a few kept-alive connections.

    Every method raises EngineUnavailable when the engine does not answer (in time), BadAnswer when
    it answers what cannot be used, and NotFound when it says that there is no such image.
    """

    def __init__(self, socket_path: str) -> None:
        self.socket_path = socket_path
        self._idle: list[_Connection] = []
        self._prefix = ""

    async def negotiate(self) -> VersionReply:
        """Ask the engine's version, and speak its version of the API from now on."""
        self._prefix = ""
        reply = await self.get("/version", VersionReply)
        numbers = re.fullmatch(r"(\d+)\.(\d+)", reply.api_version)
        if numbers:
            major, minor = min((int(numbers[1]), int(numbers[2])), API_VERSION_MAX)
            self._prefix = f"/v{major}.{minor}"
        return reply

    async def get(self, path: str, answer: type[T]) -> T:
        """``GET path``, and its JSON as ``answer``."""
        body = await self._ask("GET", path)
        try:
            return msgspec.json.decode(body, type=answer)
        except msgspec.DecodeError as error:
            raise BadAnswer(f"Docker's answer to {path} cannot be read: {error}") from None

    async def post(self, path: str) -> None:
        """``POST path``, without a body. Also raises EngineRefused."""
        await self._ask("POST", path)

    async def delete(self, path: str) -> None:
        """``DELETE path``. Also raises EngineRefused."""
        await self._ask("DELETE", path)

    async def _ask(self, method: str, path: str) -> bytes:
        try:
            with trio.fail_after(ANSWER_TIMEOUT_S):
                return await self._exchange(method, path)
        except trio.TooSlowError:
            raise self._unavailable(f"no answer to {path} in {ANSWER_TIMEOUT_S:.0f} s") from None

    async def _exchange(self, method: str, path: str) -> bytes:
        while True:
            reused = bool(self._idle)
            connection = self._idle.pop() if reused else await self._connect()
            try:
                await connection.ask(method, self._prefix + path)
                status = await connection.read_status()
                body = await connection.read_body()
            except _Closed as error:
                # The engine may have closed a connection that lay idle; a new one will tell.
                connection.close()
                if reused:
                    continue
                raise self._unavailable(str(error)) from None
            except BaseException:
                connection.close()
                raise
            if connection.may_be_used_again() and len(self._idle) < IDLE_CONNECTIONS_MAX:
                self._idle.append(connection)
            else:
                connection.close()
            self._check(method, status, body, path)
            return body

    @asynccontextmanager
    async def stream(
        self, path: str, *, method: str = "GET", upload: "Upload | None" = None
    ) -> AsyncIterator[AsyncGenerator[bytes, None]]:
        """``METHOD path``, and the answer's body as it comes, on a connection of its own.

        The iterator ends where the body ends, and raises EngineUnavailable when it breaks off.
        Leaving before that hangs up, at which Docker stops what it was asked to do. An answer may
        be long in coming, but for GET.
        """
        connection = await self._connect()
        try:
            try:
                with trio.fail_after(ANSWER_TIMEOUT_S if method == "GET" else math.inf):
                    await connection.ask(method, self._prefix + path, upload)
                    status = await connection.read_status()
                    if status != 200:
                        self._check(method, status, await connection.read_body(), path)
            except _Closed as error:
                raise self._unavailable(str(error)) from None
            except trio.TooSlowError:
                raise self._unavailable(f"no answer to {path}") from None
            async with aclosing(self._pieces(connection)) as pieces:
                yield pieces
        finally:
            connection.close()

    async def _pieces(self, connection: "_Connection") -> AsyncGenerator[bytes, None]:
        try:
            while (piece := await connection.read_piece()) is not None:
                yield piece
        except _Closed as error:
            raise self._unavailable(str(error)) from None

    def close(self) -> None:
        """Close the connections that lie idle."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> "_Connection":
        try:
            return _Connection(await trio.open_unix_socket(self.socket_path))
        except OSError as error:
            reason = "no such socket" if isinstance(error, FileNotFoundError) else error.strerror
            raise self._unavailable((reason or str(error)).lower()) from None
        except ValueError as error:
            raise self._unavailable(str(error)) from None

    def _check(self, method: str, status: int, body: bytes, path: str) -> None:
        if 200 <= status < 300:
            return
        try:
            message = msgspec.json.decode(body, type=_ErrorReply).message
        except msgspec.DecodeError:
            message = f"HTTP status {status}"
        if status == 404 and path.startswith("/images/") and path != IMAGES:
            raise NotFound("IMAGE_UNKNOWN", message)
        if method != "GET":
            raise EngineRefused(f"Docker: {one_line(message)}")
        raise BadAnswer(f"Docker answers {status} to {path}: {message}")

    def _unavailable(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable(f"Docker at {self.socket_path}: {reason}")


def image_path(name: str, what: str) -> str:
    """Where ``what`` (``json``, ``history``, ``get``) of the image with this name or ID is."""
    return f"/images/{quote(name, safe='/:@')}/{what}"


async def lines(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The lines of a body, without their ends. Raises EngineUnavailable for one without end."""
    rest = b""
    async for piece in pieces:
        *whole, rest = (rest + piece).split(b"\n")
        for line in whole:
            yield line
        if len(rest) > LINE_BYTES_MAX:
            raise EngineUnavailable(f"Docker sent a line of over {LINE_BYTES_MAX} bytes")


def one_line(message: str) -> str:
    """What an engine says, as one line of bounded length."""
    return " ".join(message.split())[:MESSAGE_CHARACTERS_MAX] or "it does not say why"


class _Closed(Exception):
    """The connection broke, or what came over it is not HTTP."""


class _Connection:
    """One HTTP/1.1 connection, one request at a time."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._http = h11.Connection(h11.CLIENT)

    async def ask(self, method: str, path: str, upload: Upload | None = None) -> None:
        """Send a request.

        Where the other end hangs up in the middle of an upload, it has usually said why: the
        answer is read then as always.
        """
        headers = [("Host", "docker")]
        if upload is not None:
            headers += [
                ("Content-Type", upload.media_type),
                ("Content-Length", str(upload.size_bytes)),
            ]
        elif method != "GET":
            headers.append(("Content-Length", "0"))
        try:
            if self._http.their_state is h11.DONE:
                self._http.start_next_cycle()
            head = self._http.send(h11.Request(method=method, target=path, headers=headers))
            assert head is not None
            if upload is None:
                self._http.send(h11.EndOfMessage())
            await self.stream.send_all(head)
        except (trio.BrokenResourceError, h11.ProtocolError) as error:
            raise _Closed(f"the connection broke ({error})") from None
        if upload is not None:
            await self._send_upload(upload)

    async def _send_upload(self, upload: Upload) -> None:
        try:
            async with aclosing(upload.chunks) as chunks:
                async for chunk in chunks:
                    data = self._http.send(h11.Data(data=chunk))
                    await self.stream.send_all(data or b"")
            self._http.send(h11.EndOfMessage())
        except trio.BrokenResourceError:
            self._http.send_failed()
        except h11.LocalProtocolError as error:
            raise _Closed(f"an upload has another length than was said ({error})") from None

    async def read_status(self) -> int:
        """The status of the answer."""
        event = await self._next_event()
        while isinstance(event, h11.InformationalResponse):
            event = await self._next_event()
        if not isinstance(event, h11.Response):
            raise _Closed("it closed the connection without an answer")
        return event.status_code

    async def read_piece(self) -> bytes | None:
        """Some of the body; None at its end."""
        event = await self._next_event()
        if isinstance(event, h11.Data):
            return bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            return None
        raise _Closed("it closed the connection in the middle of an answer")

    async def read_body(self) -> bytes:
        """The whole body."""
        pieces: list[bytes] = []
        size_bytes = 0
        while (piece := await self.read_piece()) is not None:
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > BODY_BYTES_MAX:
                raise _Closed(f"an answer of over {BODY_BYTES_MAX} bytes")
        return b"".join(pieces)

    def may_be_used_again(self) -> bool:
        """Whether both sides are done and keep the connection."""
        return self._http.our_state is h11.DONE and self._http.their_state is h11.DONE

    def close(self) -> None:
        """Close it at once: no part of HTTP/1.1 says goodbye."""
        self.stream.socket.close()

    async def _next_event(self) -> h11.Event | type[h11.PAUSED]:
        data = None
        try:
            while True:
                event = self._http.next_event()
                if event is not h11.NEED_DATA:
                    return event  # type: ignore[return-value]
                data = await self.stream.receive_some(_RECEIVE_BYTES)
                self._http.receive_data(data)
        except (trio.BrokenResourceError, h11.ProtocolError) as error:
            if data == b"":
                raise _Closed("it closed the connection") from None
            raise _Closed(f"the connection broke ({error})") from None
