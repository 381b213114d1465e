"""The Docker SDK, asked from trio: each call in a worker thread, each answer typed.

``DockerSession`` opens one client for one connection; all of ``engine/docker`` asks through it.

The SDK blocks, and cannot be cancelled. A task that is cancelled while it waits for an answer
leaves the thread to itself, which ends within ``ANSWER_TIMEOUT_S``. To cancel a stream (events, a
pull, an image's archive) the client shuts its socket down: then the thread ends and Docker stops.

Importing the SDK costs an agent 6 MB and 0.15 s (measured), so that only ``open_engine`` imports
this module, and only for a Docker Engine.
"""

import re
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, closing, contextmanager, suppress
from functools import partial
from http.client import HTTPException
from math import inf
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import docker
import msgspec
import trio
from docker.errors import APIError, DockerException
from docker.errors import NotFound as DockerNotFound
from docker.types import CancellableStream
from docker.utils.utils import version_lt
from msgspec import Struct, field
from requests import JSONDecodeError, RequestException, Response
from urllib3.exceptions import HTTPError

from beiran.engine.docker.address import Endpoint, SSHException, find_endpoint
from beiran.engine.interface import PullProgress
from beiran.errors import EngineRefused, EngineUnavailable, NotFound

API_VERSION_MAX: Final = "1.51"
"""The newest version whose changes were read (Docker 28.5). Older engines speak theirs."""
ANSWER_TIMEOUT_S: Final = 60.0
"""Docker 26.1 takes seconds to list 500 images of containerd's store; ten times that is a fault."""
QUESTIONS_AT_ONCE: Final = 4
"""Threads that ask. Python runs one at a time, so that more do not list faster (measured)."""
STREAMS_AT_ONCE: Final = 32
"""Pulls, loads and saves at the same time. Each takes a thread; chosen, not measured."""
LINE_BYTES_MAX: Final = 2**20
MESSAGE_CHARACTERS_MAX: Final = 500

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


class HistoryEntry(Struct, rename="pascal"):
    """A row of ``GET /images/NAME/history``, which has the newest first."""

    created_by: str = ""
    size: int = 0


class Actor(Struct, rename="pascal"):
    """The subject of an event."""

    id: str = field(name="ID", default="")
    attributes: dict[str, str] | None = None


class DockerEvent(Struct, rename="pascal"):
    """A line of ``GET /events``."""

    type: str = field(name="Type", default="")
    action: str = ""
    actor: Actor = field(default_factory=Actor)


class _Detail(Struct):
    current: int = 0
    total: int = 0


class _ErrorDetail(Struct):
    message: str = ""


class _Line(Struct, rename="camel"):
    """A line of Docker's answer while it loads or pulls. moby, pkg/jsonmessage."""

    status: str = ""
    id: str = ""
    error: str = ""
    message: str = ""
    progress_detail: _Detail | None = None
    error_detail: _ErrorDetail | None = None


class BadAnswer(EngineUnavailable):
    """The engine answers with an error, or with what cannot be read.

    Attributes:
      message: Docker's own words; empty where it said none.
    """

    def __init__(self, text: str, message: str = "") -> None:
        super().__init__(text)
        self.message = message


class DockerClient:
    """Questions and commands to one Docker Engine.

    Every method raises EngineUnavailable when the engine does not answer in time, BadAnswer when
    its answer cannot be used, and NotFound when it has no such image. Commands raise EngineRefused
    with Docker's own reason.

    Args:
      address: as ``find_endpoint`` takes it, for errors.
    """

    def __init__(
        self, address: str, endpoint: Endpoint, api: docker.APIClient, version: str
    ) -> None:
        self.address: Final = address
        self.endpoint: Final = endpoint
        self.version: Final = version
        self._api: Final = api
        self._questions: Final = trio.CapacityLimiter(QUESTIONS_AT_ONCE)
        self._streams: Final = trio.CapacityLimiter(STREAMS_AT_ONCE)
        # The SDK's generators hide the response whose socket must be shut down.
        self._opened: Final = threading.local()
        api.hooks["response"] = [lambda response, **_: self._note_response(response)]

    def _note_response(self, response: object) -> None:
        self._opened.response = response

    # --- questions --------------------------------------------------------------------------

    async def info(self) -> InfoReply:
        """``docker info``."""
        return await self._ask(InfoReply, self._api.info)

    async def images(self) -> list[ImageSummary]:
        """``docker images``."""
        try:
            return await self._ask(list[ImageSummary], self._api.images)
        except NotFound as error:  # 26.1 answers so while an image is being removed
            raise BadAnswer(f"Docker answers 404 to /images/json: {error}") from None

    async def inspect_image(self, name: str) -> ImageInspect:
        """``docker image inspect``."""
        return await self._ask(ImageInspect, self._api.inspect_image, name)

    async def history(self, name: str) -> list[HistoryEntry]:
        """``docker history``."""
        return await self._ask(list[HistoryEntry], self._api.history, name)

    async def _ask(self, answer: type[T], call: Callable[..., object], *arguments: str) -> T:
        reply = await self._in_thread(call, *arguments, limiter=self._questions)
        try:
            return msgspec.convert(reply, answer)
        except msgspec.ValidationError as error:
            raise BadAnswer(f"Docker's answer cannot be read: {error}") from None

    # --- answers that come in pieces --------------------------------------------------------

    @asynccontextmanager
    async def events(
        self, since: int, filters: dict[str, list[str]]
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """``docker events``, a line for each, from this time on.

        They have a thread of their own, which waits for the next line.
        """

        def open_events() -> Iterator[Any]:
            # ``decode`` would wait for ever on a line that is no JSON.
            return self._api.events(since=since, filters=filters, decode=False)

        limiter = trio.CapacityLimiter(1)
        async with (
            self._stream(open_events, limiter=limiter, timeout_s=ANSWER_TIMEOUT_S) as pieces,
            aclosing(self._lines(pieces, limiter)) as lines,
        ):
            yield lines

    @asynccontextmanager
    async def image_archive(self, image_id: str) -> AsyncIterator[Iterator[bytes]]:
        """``docker save``: an iterator to be read in a thread."""
        open_archive = partial(self._api.get_image, image_id)
        async with self._stream(
            open_archive, limiter=self._streams, timeout_s=ANSWER_TIMEOUT_S
        ) as pieces:
            yield pieces

    async def pull(
        self, reference: str, platform: str | None, progress: Callable[[PullProgress], None]
    ) -> None:
        """``docker pull``.

        Cancelling it hangs up, at which Docker stops; before its first word, as soon as that comes.
        """
        name, tag = split_reference(reference)
        # Without credentials: the agent's mirror has its own, and the SDK would ask a credential
        # helper for those of the mirror.
        open_pull = partial(
            self._api.pull, name, tag, stream=True, auth_config={}, platform=platform
        )
        with _as_refusals():
            async with (
                self._stream(open_pull, limiter=self._streams) as pieces,
                aclosing(self._lines(pieces, self._streams)) as lines,
            ):
                async for line in lines:
                    with suppress(msgspec.DecodeError, UnicodeDecodeError):
                        # An empty line, or a word that no release says yet, is passed over.
                        progress(_read_progress(msgspec.json.decode(line, type=_Line)))

    async def load(self, archive: AsyncIterator[bytes]) -> None:
        """``docker load``. Also raises the errors of ``archive``."""
        send, receive = trio.open_memory_channel[bytes](0)
        try:
            async with send, receive, trio.open_nursery() as nursery:
                nursery.start_soon(self._load, receive)
                with suppress(trio.BrokenResourceError):  # Docker wants no more, and says why
                    async for piece in archive:
                        await send.send(piece)
                    await send.aclose()
        except ExceptionGroup as group:
            raise first_error(group) from None

    async def _load(self, pieces: trio.MemoryReceiveChannel[bytes]) -> None:
        def upload() -> Iterator[bytes]:
            with suppress(trio.EndOfChannel):
                while True:
                    yield trio.from_thread.run(pieces.receive)

        def load() -> None:
            # A client of its own, without a limit of time: Docker unpacks layers before it answers.
            with closing(self.endpoint.open(version=self._api.api_version, timeout_s=None)) as api:
                for said in api.load_image(upload(), quiet=True):  # type: ignore[no-untyped-call]
                    _read_progress(msgspec.convert(said, _Line))

        with pieces, _as_refusals():
            await self._in_thread(load, limiter=self._streams)

    # --- commands ---------------------------------------------------------------------------

    async def tag(self, image: str, name: str) -> None:
        """``docker tag``. Also raises NotFound."""
        with _as_refusals(not_found=False):
            await self._in_thread(
                self._api.tag, image, *split_reference(name), limiter=self._questions
            )

    async def untag(self, name: str) -> None:
        """``docker rmi --no-prune`` of a name. A name that is not there is gone already."""
        remove = partial(self._api.remove_image, name, noprune=True)
        with _as_refusals(not_found=False), suppress(NotFound):
            await self._in_thread(remove, limiter=self._questions)

    # --- threads ----------------------------------------------------------------------------

    @asynccontextmanager
    async def _stream(
        self,
        open_pieces: Callable[[], Iterator[Any]],
        *,
        limiter: trio.CapacityLimiter,
        timeout_s: float = inf,
    ) -> AsyncIterator[Iterator[Any]]:
        """A streamed answer. Leaving the context shuts its socket down.

        Args:
          timeout_s: for its beginning.
        """

        def opened() -> tuple[Iterator[Any], Response]:
            return open_pieces(), self._opened.response

        try:
            with trio.fail_after(timeout_s):
                pieces, response = await self._in_thread(opened, limiter=limiter)
        except trio.TooSlowError:
            raise self._unavailable(f"no answer in {timeout_s:.0f} s") from None
        try:
            yield pieces
        finally:
            # Over SSH the SDK cannot shut the socket down; elsewhere it must be, for ``close``
            # waits for a thread that reads.
            with suppress(DockerException, OSError, AttributeError):
                CancellableStream(pieces, response).close()
            response.close()

    async def _lines(
        self, pieces: Iterator[bytes], limiter: trio.CapacityLimiter
    ) -> AsyncGenerator[bytes, None]:
        """The lines of an answer, without their ends."""
        lines = _split_lines(pieces)
        while (line := await self._in_thread(next, lines, None, limiter=limiter)) is not None:
            yield line

    async def _in_thread(
        self, call: Callable[..., T], *arguments: object, limiter: trio.CapacityLimiter
    ) -> T:
        with _translated(self.address):
            return await trio.to_thread.run_sync(
                partial(call, *arguments), limiter=limiter, abandon_on_cancel=True
            )

    def _unavailable(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable(f"Docker at {self.address}: {reason}")


@asynccontextmanager
async def open_client(address: str) -> AsyncIterator[DockerClient]:
    """Connect to the engine at ``address`` (see ``find_endpoint``), and agree on a version.

    Raises: EngineUnavailable.
    """
    with _translated(address):
        endpoint, api, version = await trio.to_thread.run_sync(
            _connect, address, abandon_on_cancel=True
        )
    try:
        yield DockerClient(address, endpoint, api, version)
    finally:
        api.close()


def _connect(address: str) -> tuple[Endpoint, docker.APIClient, str]:
    endpoint = find_endpoint(address)
    api = endpoint.open(version=API_VERSION_MAX, timeout_s=ANSWER_TIMEOUT_S)
    try:
        reply = msgspec.convert(api.version(api_version=False), VersionReply)
        if version_lt(reply.api_version, API_VERSION_MAX):
            api.close()
            api = endpoint.open(version=reply.api_version, timeout_s=ANSWER_TIMEOUT_S)
        return endpoint, api, reply.version
    except BaseException:
        api.close()
        raise


def _split_lines(pieces: Iterator[bytes | str]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        # The SDK decodes an answer that is not sent in chunks.
        data = piece.encode() if isinstance(piece, str) else piece
        *whole, rest = (rest + data).split(b"\n")
        yield from whole
        if len(rest) > LINE_BYTES_MAX:
            raise BadAnswer(f"Docker sent a line of over {LINE_BYTES_MAX} bytes")
    if rest:
        yield rest


_LAYER: Final = re.compile(r"[0-9a-f]{12}")


def _read_progress(line: _Line) -> PullProgress:
    """Raises: EngineRefused when a line says that it did not work.

    Docker answers 200 before it begins, and reports a failure in the stream of its answer.
    """
    detail = line.error_detail
    message = line.error or (detail.message if detail else "") or line.message
    if message:
        raise EngineRefused(f"Docker: {one_line(message)}")
    # After "id" comes a layer, or the tag that is pulled.
    layer = line.id if _LAYER.fullmatch(line.id) else ""
    step = line.progress_detail or _Detail()
    return PullProgress(layer, line.status, max(step.current, 0), max(step.total, 0))


def split_reference(reference: str) -> tuple[str, str]:
    """A name, and its tag or digest.

    Raises: EngineRefused when it has neither: Docker would pull all tags.
    """
    name, at, digest = reference.partition("@")
    if at:
        return name, digest
    name, colon, tag = reference.rpartition(":")
    if not colon or "/" in tag or not name or not tag:
        raise EngineRefused(f"{reference} has neither a tag nor a digest")
    return name, tag


@contextmanager
def _translated(address: str) -> Iterator[None]:
    """The errors of the SDK and of the libraries below it, as ours."""
    try:
        yield
    except DockerNotFound as error:
        raise NotFound("IMAGE_UNKNOWN", one_line(str(error.explanation))) from None
    except APIError as error:
        message = one_line(str(error.explanation or ""))
        raise BadAnswer(
            f"Docker answers {error.status_code} to {_path(error)}: {message}", message
        ) from None
    except (JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        # The SDK takes ``["message"]`` of an error that may be no object.
        raise BadAnswer(f"Docker at {address}: its answer cannot be read: {error!r}") from None
    except (
        DockerException,
        RequestException,
        HTTPError,
        HTTPException,
        SSHException,
        OSError,
        ValueError,
    ) as error:
        raise EngineUnavailable(f"Docker at {address}: {_reason(error)}") from None


def _path(error: APIError) -> str:
    url = str(getattr(error.response, "url", ""))
    return re.sub(r"^/v[0-9.]+", "", urlsplit(url).path)


def _reason(error: BaseException) -> str:
    """The innermost cause in a few words; requests and urllib3 wrap it three times."""
    cause = error
    while inner := cause.__cause__ or (None if cause.__suppress_context__ else cause.__context__):
        cause = inner
    if isinstance(cause, FileNotFoundError):
        return "no such socket"
    if isinstance(cause, TimeoutError):
        return f"no answer in {ANSWER_TIMEOUT_S:.0f} s"
    text = cause.strerror if isinstance(cause, OSError) else None
    return one_line(text or str(cause) or type(cause).__name__).lower()


@contextmanager
def _as_refusals(*, not_found: bool = True) -> Iterator[None]:
    """An error that Docker answers to a command is its refusal."""
    try:
        yield
    except BadAnswer as error:
        raise EngineRefused(f"Docker: {error.message or error}") from None
    except NotFound as error:
        if not not_found:
            raise
        raise EngineRefused(f"Docker: {error.message}") from None


def one_line(message: str) -> str:
    """A message of an engine as one line of bounded length."""
    return " ".join(message.split())[:MESSAGE_CHARACTERS_MAX] or "it does not say why"


def first_error(group: BaseExceptionGroup[Exception]) -> BaseException:
    """One of the errors in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
