"""The mirror: the pull part of the OCI distribution specification, for the engine of this host.

It speaks the protocol and knows nothing of images: what a name means and where bytes are is asked
of a ``Library``. Clients wait long for a registry that says nothing (dockerd over a minute for a
blob's head) and go on at once after one that says no, so every request has its answer, or at
least the head of it, within ``FIRST_BYTE_S_MAX``.

Source: OCI distribution specification 1.1 (end-1, end-2, end-3, end-8, "Error Codes", "Warnings",
"Registry Proxying"); RFC 9110 for conditions and ranges; distribution's registry for what the
specification leaves open.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Final, TypeVar
from urllib.parse import quote, urlencode

import trio

from beiran.errors import ApiError, BadRequest, BeiranError
from beiran.http.messages import (
    Handler,
    HttpError,
    Request,
    Response,
    Route,
    content_range,
    error_response,
    json_response,
    parse_range,
)
from beiran.ids import Digest, digest_text
from beiran.mirror.backend import (
    BlobReader,
    BlobUnknown,
    Denied,
    Late,
    Library,
    LibraryError,
    ManifestAnswer,
    ManifestUnknown,
    Reference,
    RepositoryName,
    Source,
)
from beiran.mirror.paths import (
    Asked,
    asked_repository,
    read_blob_digest,
    read_reference,
)
from beiran.oci.manifests import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    BadManifest,
    Index,
    Platform,
    choose_platform,
    read_manifest,
)
from beiran.oci.media_types import Accept, parse_accept

FIRST_BYTE_S_MAX: Final = 9.5
"""Whoever waits for us is told something before 10 s are over."""

BLOB_HEAD_S_MAX: Final = 5.0
"""From a request for a blob to the head of its answer, where its bytes are slow to come."""

CHUNK_S_MAX: Final = 60.0
"""A blob of which nothing comes for so long is broken off; clients come back with a Range."""

TAGS_MAX: Final = 10_000
"""Of one page; the next is named in its ``Link`` header."""

WARNING_CHARS_MAX: Final = 1024  # the specification allows 4,096 bytes for all warnings
BLOB_MEDIA_TYPE: Final = "application/octet-stream"
API_VERSION: Final = ("Docker-Distribution-Api-Version", "registry/2.0")
SOURCE_HEADER: Final = "Beiran-Source"
VIA: Final = "1.1 beiran"
"""The ``Via`` of what agents ask origins: a mirror that is asked by it would ask itself."""

PLATFORMS_DEFAULT: Final = (Platform(os="linux", architecture="amd64"),)
_ALLOW: Final = ("Allow", "GET, HEAD, OPTIONS")
_WRITE_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")


def mirror_routes(
    library: Library, *, platforms: Sequence[Platform] = PLATFORMS_DEFAULT
) -> list[Route]:
    """The routes of the mirror's door.

    Args:
      platforms: what this host runs, the best first: whoever asks for a tag and takes no index is
        given the manifest for the first of them that the index has.
    """
    mirror = _Mirror(library, platforms)
    reads: list[tuple[str, Handler]] = [
        ("/v2/", mirror.version),
        ("/v2", mirror.version),
        ("/v2/{name:path}/manifests/{reference}", mirror.manifest),
        ("/v2/{name:path}/blobs/{digest}", mirror.blob),
        ("/v2/{name:path}/tags/list", mirror.tags),
        ("/v2/{rest:path}", mirror.unsupported),
    ]
    routes = [_route("GET", pattern, handler) for pattern, handler in reads]
    routes.append(_route("OPTIONS", "/v2/{rest:path}", mirror.options))
    for method in _WRITE_METHODS:
        routes.append(_route(method, "/v2/{rest:path}", mirror.refused))
    return routes


def _route(method: str, pattern: str, handler: Handler) -> Route:
    return Route(method=method, pattern=pattern, handler=_answering(handler), doors=("mirror",))


def _answering(handler: Handler) -> Handler:
    """``handler`` with the header that all answers have, errors included."""

    async def answer(request: Request) -> Response:
        try:
            response = await handler(request)
        except ApiError as error:
            if error.status >= 500:
                _log.warning("%s %s: %s", request.method, request.path, error)
            response = error_response(error)
        response.headers.append(API_VERSION)
        return response

    return answer


class _Mirror:
    """The handlers."""

    def __init__(self, library: Library, platforms: Sequence[Platform]) -> None:
        self._library: Final = library
        self._platforms: Final = platforms

    async def version(self, request: Request) -> Response:
        """end-1: that this is a registry, and that one need not log in."""
        return json_response({})

    async def manifest(self, request: Request) -> Response:
        """end-3."""
        asked = _asked(request)
        reference = read_reference(request.path_args["reference"])
        accept = parse_accept(request.headers.get("accept", []))
        answer = await _in_time(lambda: self._acceptable(request, asked.name, reference, accept))
        headers = [
            *_digest_headers(answer.digest),
            ("Vary", "Accept"),
            *_source_headers(answer.source, answer.warning),
            *asked.headers,
        ]
        if names_tag(request, answer.digest):
            return Response(status=304, headers=headers)
        headers.append(("Content-Type", answer.media_type))
        if request.method == "HEAD":
            headers.append(("Content-Length", str(answer.size_bytes)))
            return Response(headers=headers)
        return Response(headers=headers, body=_data_of(answer))

    async def blob(self, request: Request) -> Response:
        """end-2. Raises: LibraryError, which an engine can go on from."""
        asked = _asked(request)
        try:
            return await self._blob(request, asked)
        except LibraryError as error:
            if not asked.has_next or error.status < 429:
                raise
            # Docker's graph driver asks again and again, for 75 s, unless it is told 404.
            _log.warning("%s %s: %s", request.method, request.path, error)
            raise BlobUnknown(f"{error}; ask the registry") from error

    async def _blob(self, request: Request, asked: Asked) -> Response:
        digest = read_blob_digest(request.path_args["digest"])
        headers = [*_digest_headers(digest), ("Accept-Ranges", "bytes"), *asked.headers]
        unchanged = names_tag(request, digest)
        if unchanged or request.method == "HEAD":
            size = await _in_time(lambda: self._library.blob_size(asked.name, digest))
            if unchanged:
                return Response(status=304, headers=headers)
            headers += [("Content-Type", BLOB_MEDIA_TYPE), ("Content-Length", str(size))]
            return Response(headers=headers)
        headers.append(("Content-Type", BLOB_MEDIA_TYPE))
        head_at = trio.current_time() + BLOB_HEAD_S_MAX
        async with AsyncExitStack() as stack:
            opening = self._library.blob(asked.name, digest)
            reader = await _in_time(lambda: stack.enter_async_context(opening))
            response = await _blob_response(request, digest, reader, head_at=head_at)
            response.headers += headers
            response.close = stack.pop_all().aclose
            return response
        raise AssertionError("an open blob does not swallow errors")

    async def tags(self, request: Request) -> Response:
        """end-8a, end-8b."""
        asked = _asked(request)
        n, last = _read_page(request)
        # Of an unknown repository even an empty page is an error.
        question = self._library.tags
        page = await _in_time(lambda: question(asked.name, n=max(1, min(n, TAGS_MAX)), last=last))
        tags = list(page.tags)[:n]
        response = json_response({"name": request.path_args["name"], "tags": tags})
        response.headers += [*asked.headers, *_source_headers(page.source, page.warning)]
        if tags and (page.more or len(page.tags) > len(tags)):
            response.headers.append(_next_page(asked, tags[-1], n))
        return response

    async def unsupported(self, request: Request) -> Response:
        """Whatever else there may be to read in a registry, such as referrers and the catalog.

        Clients that find no referrers there look for them under a tag, which is served.
        """
        raise ApiError(404, "UNSUPPORTED", f"this is a mirror: there is nothing at {request.path}")

    async def options(self, request: Request) -> Response:
        """What is allowed; the routes below only say in the protocol's words what is not."""
        return Response(status=204, headers=[_ALLOW])

    async def refused(self, request: Request) -> Response:
        """Pushes and deletions."""
        raise HttpError(
            405,
            "UNSUPPORTED",
            "this is a mirror, which is only read: push to the registry itself",
            [_ALLOW],
        )

    async def _acceptable(
        self, request: Request, name: RepositoryName, reference: Reference, accept: Accept
    ) -> ManifestAnswer:
        """The manifest in a form that the client takes.

        What is asked for by its digest is sent as it is, for nothing else has that digest. Of a
        tag's index a client that takes none is given one of its manifests, as distribution's
        registry does for linux/amd64.

        Raises: ManifestUnknown, which says what would be there.
        """
        head = request.method == "HEAD"
        client = request.header("user-agent") or ""
        answer = await self._library.manifest(
            name, reference, accept=accept, head=head, client=client
        )
        if isinstance(reference, bytes) or accept.takes(answer.media_type):
            return answer
        what = f"{name}:{reference} is a {answer.media_type}"
        if answer.media_type not in INDEX_TYPES or accept.best(MANIFEST_TYPES) is None:
            raise ManifestUnknown(f"{what}, which Accept does not take")
        if answer.data is None:
            answer = await self._library.manifest(name, answer.digest, accept=accept, client=client)
        inner = choose_platform(_read_index(answer), self._platforms)
        if inner is None:
            runs = " or ".join(map(str, self._platforms))
            raise ManifestUnknown(f"{what} without {runs}, and Accept takes no index")
        chosen = await self._library.manifest(
            name, inner.raw, accept=accept, head=head, client=client
        )
        if not accept.takes(chosen.media_type):
            raise ManifestUnknown(
                f"{what}, and {digest_text(inner.raw)} in it a {chosen.media_type}:"
                " Accept takes neither"
            )
        return chosen


def _asked(request: Request) -> Asked:
    _refuse_ourselves(request)
    return asked_repository(request)


async def _in_time(ask: Callable[[], Awaitable[T]]) -> T:
    """What ``ask`` answers. Raises: Late when it does not within ``FIRST_BYTE_S_MAX``."""
    with trio.move_on_after(FIRST_BYTE_S_MAX):
        return await ask()
    raise Late(f"no answer within {FIRST_BYTE_S_MAX} s; ask again")


async def _blob_response(
    request: Request, digest: Digest, reader: BlobReader, *, head_at: float
) -> Response:
    """The bytes that are wanted: with ``sendfile`` where they are all here, else as they come.

    The head waits for the first of them until ``head_at``: what fails before it is told as an
    error, and engines go on to the registry, where after it they would come back to us.
    """
    size = reader.size_bytes
    status, start, end = 200, 0, size
    headers = []
    if request.header("if-range") in (None, _entity_tag(digest)):
        wanted = parse_range(request.header("range"), size)
        if wanted is not None:
            status, (start, end) = 206, wanted
            headers.append(content_range(start, end, size))
    piece = reader.file(start, end)
    if piece is not None:
        return Response(status=status, headers=headers, body=piece)
    chunks = reader.chunks(start, end)
    first: bytes | None = None
    with trio.move_on_at(head_at) as scope:
        first = await anext(chunks, b"")
    if scope.cancelled_caught:
        chunks = reader.chunks(start, end)  # what was cancelled cannot go on
    body = _steadily(first, chunks)
    return Response(status=status, headers=headers, body=body, length=end - start)


async def _steadily(first: bytes | None, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """``first`` and ``chunks``, unless none comes for ``CHUNK_S_MAX``, which ends the answer."""
    try:
        if first:
            yield first
        while True:
            with trio.move_on_after(CHUNK_S_MAX) as scope:
                chunk = await anext(chunks, None)
            if scope.cancelled_caught:
                raise BeiranError(f"nothing came for {CHUNK_S_MAX:g} s")
            if chunk is None:
                return
            yield chunk
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def _read_index(answer: ManifestAnswer) -> Index:
    try:
        document = read_manifest(_data_of(answer))
    except BadManifest as error:
        raise ManifestUnknown(str(error)) from None
    if not isinstance(document, Index):
        raise ManifestUnknown(f"{digest_text(answer.digest)} is no index, whatever its type says")
    return document


def _data_of(answer: ManifestAnswer) -> bytes:
    if answer.data is None:
        raise AssertionError("a manifest without its bytes, though not just its head was asked for")
    return answer.data


def _read_page(request: Request) -> tuple[int, str]:
    """How many tags, and after which. Raises: BadRequest."""
    counts, lasts = request.query.get("n", []), request.query.get("last", [""])
    if len(counts) > 1 or len(lasts) > 1:
        raise BadRequest("give n and last at most once", code="PAGINATION_NUMBER_INVALID")
    if not counts:
        return TAGS_MAX, lasts[0]
    text = counts[0]
    if not (text.isascii() and text.isdecimal()):
        message = f"n={text}: not a number of tags, 0 or more"
        raise BadRequest(message, code="PAGINATION_NUMBER_INVALID")
    return (int(text) if len(text) <= len(str(TAGS_MAX)) else TAGS_MAX), lasts[0]


def _next_page(asked: Asked, last: str, n: int) -> tuple[str, str]:
    """Where the tags after ``last`` are. Source: RFC 8288."""
    query = [("last", last), ("n", str(n))]
    if asked.namespace is not None:
        query.append(("ns", asked.namespace))
    path = f"/v2/{quote(asked.path)}/tags/list"
    return ("Link", f'<{path}?{urlencode(query)}>; rel="next"')


def names_tag(request: Request, digest: Digest) -> bool:
    """Whether ``If-None-Match`` names this. Source: RFC 9110 §13.1.2."""
    values = request.headers.get("if-none-match", [])
    tags = [part.strip().removeprefix("W/") for value in values for part in value.split(",")]
    # A digest without quotes is no entity tag; distribution's registry takes it for one.
    return any(tag in ("*", _entity_tag(digest), digest_text(digest)) for tag in tags)


def _entity_tag(digest: Digest) -> str:
    return f'"{digest_text(digest)}"'


def _digest_headers(digest: Digest) -> list[tuple[str, str]]:
    return [("Docker-Content-Digest", digest_text(digest)), ("ETag", _entity_tag(digest))]


def _source_headers(source: Source, warning: str) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = [(SOURCE_HEADER, source)]
    if warning:
        safe = "".join(char if " " <= char <= "~" else "?" for char in warning[:WARNING_CHARS_MAX])
        escaped = safe.replace("\\", "\\\\").replace('"', '\\"')
        headers.append(("Warning", f'299 - "{escaped}"'))
    return headers


def _refuse_ourselves(request: Request) -> None:
    """Raises: Denied when it is an agent that asks, which would go round in circles."""
    hops = [hop.strip() for value in request.headers.get("via", []) for hop in value.split(",")]
    if VIA in hops:
        raise Denied("an agent asks a mirror: no registry of an image can be its mirror")
