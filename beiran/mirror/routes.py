"""The mirror: the pull part of the OCI distribution specification, for the engine of this host.

It speaks the protocol and knows nothing of images: a ``Backend`` resolves names and locates bytes.
A client that gets no answer waits long (dockerd over a minute for a blob's head), and one that gets
an error goes on at once, so every request has its answer, or at least the head of one, within
``FIRST_BYTE_S_MAX``.

Source: OCI distribution specification 1.1 (end-1, end-2, end-3, end-8, "Error Codes", "Warnings",
"Registry Proxying"); RFC 9110 for conditions and ranges; distribution's registry for what the
specification leaves open.
"""

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, Final, TypeVar
from urllib.parse import quote, urlencode

import trio

from beiran.engine.interface import is_engine_client
from beiran.errors import ApiError, BadRequest, BeiranError
from beiran.http.description import (
    ANY_BYTES,
    DIGEST,
    JSON,
    NOT_FOUND,
    RANGE,
    STRING,
    Answer,
    Parameter,
    Schema,
    array_of,
    bytes_answers,
    error,
    json_answer,
    object_of,
    path_parameter,
)
from beiran.http.messages import (
    Handler,
    HttpError,
    Request,
    Response,
    Route,
    error_response,
    json_response,
)
from beiran.http.ranges import entity_tag, has_current, ranged
from beiran.ids import Digest, digest_text
from beiran.mirror.backend import (
    Backend,
    ManifestAnswer,
    OpenBlob,
    Reference,
    RepositoryName,
    Source,
)
from beiran.mirror.errors import BlobUnknown, Denied, Late, ManifestUnknown, MirrorError
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
from beiran.registry.transport import VIA

FIRST_BYTE_S_MAX: Final = 9.5
"""The mirror answers every request within 10 s; half a second is for sending."""

BLOB_HEAD_S_MAX: Final = 5.0
"""How long the head of a blob waits for its first bytes. A failure until then is answered with a
status, from which every engine goes on; a connection that breaks off later is retried for 75 s."""

CHUNK_S_MAX: Final = 60.0
"""A blob of which no byte comes for this time is broken off; clients come back with a ``Range``.
dockerd itself waits without limit. Chosen, not measured."""

TAGS_MAX: Final = 10_000
"""Of one page; its ``Link`` header names the next one."""

WARNING_CHARS_MAX: Final = 1024  # the specification allows 4,096 bytes for all warnings
BLOB_MEDIA_TYPE: Final = "application/octet-stream"
API_VERSION: Final = ("Docker-Distribution-Api-Version", "registry/2.0")
SOURCE_HEADER: Final = "Beiran-Source"

PLATFORMS_DEFAULT: Final = (Platform(os="linux", architecture="amd64"),)
_ALLOW: Final = ("Allow", "GET, HEAD, OPTIONS")
_WRITE_METHODS: Final = ("POST", "PUT", "PATCH", "DELETE")

# The descriptions of the routes, for the OpenAPI document.

ANY_OBJECT: Final[Schema] = {"type": "object"}
MANIFEST_REFERENCE: Final[Schema] = {
    "type": "string",
    "pattern": "^(sha256:[0-9a-f]{64}|[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127})$",
}
# A name of one component only: a path of several cannot be described in OpenAPI.
REPOSITORY: Final[Schema] = {"type": "string", "pattern": "^[a-z0-9]{1,30}(-[a-z0-9]{1,30}){0,3}$"}
REGISTRY: Final[Schema] = {
    "type": "string",
    "pattern": "^[a-z0-9]{1,20}([.][a-z0-9]{1,20}){1,3}(:[1-9][0-9]{0,3})?$",
}
NAME: Final = path_parameter("name", REPOSITORY, "The repository.")
NAMESPACE: Final = Parameter(
    "ns", REGISTRY, "The registry, if the path does not name it. The default is `docker.io`."
)
DIGEST_HEADERS: Final[Mapping[str, Schema]] = {"Docker-Content-Digest": STRING, "ETag": STRING}
SOURCE_HEADERS: Final[Mapping[str, Schema]] = {SOURCE_HEADER: STRING, "Warning": STRING}
MANIFEST: Final = Answer(
    200,
    "The manifest or the index, byte for byte.",
    dict.fromkeys(MANIFEST_TYPES, ANY_BYTES),
    {**DIGEST_HEADERS, **SOURCE_HEADERS},
)
TAGS: Final = Answer(
    200,
    "Tags of the repository, sorted. `Link` names the next page.",
    {JSON: object_of(name=STRING, tags=array_of(STRING))},
    {**SOURCE_HEADERS, "Link": STRING},
)
NOT_MODIFIED: Final = Answer(
    304, "`If-None-Match` names this manifest or blob.", headers=DIGEST_HEADERS
)
ERRORS: Final = (
    error(403, "The origin, or the operator of this node, does not allow the request."),
    NOT_FOUND,
    error(429, "The origin limits its requests. Ask again later."),
    error(502, "The origin's answer cannot be used."),
    error(503, "No origin and no node that has it can be reached in time."),
)

_log: Final = logging.getLogger(__name__)

T = TypeVar("T")


def mirror_routes(
    backend: Backend, *, platforms: Sequence[Platform] = PLATFORMS_DEFAULT
) -> list[Route]:
    """The routes of the mirror's listener.

    Args:
      platforms: what this host runs, the best first. A client that asks for a tag and takes no
        index gets the manifest for the first of them that the index has.
    """
    mirror = _Mirror(backend, platforms)
    routes = [
        _route(
            "GET",
            pattern,
            mirror.version,
            summary="Whether this is a registry",
            answers=(json_answer("This is a registry, and it asks for no login.", ANY_OBJECT),),
        )
        for pattern in ("/v2/", "/v2")
    ]
    routes += [
        _route(
            "GET",
            "/v2/{name:path}/manifests/{reference}",
            mirror.manifest,
            summary="A manifest or an index, by tag or by digest",
            parameters=(
                NAME,
                path_parameter("reference", MANIFEST_REFERENCE, "A tag or a digest."),
                NAMESPACE,
            ),
            answers=(MANIFEST, NOT_MODIFIED, *ERRORS),
        ),
        _route(
            "GET",
            "/v2/{name:path}/blobs/{digest}",
            mirror.blob,
            summary="A blob, whole or in part",
            parameters=(
                NAME,
                path_parameter("digest", DIGEST, "The blob's digest."),
                NAMESPACE,
                RANGE,
            ),
            answers=(
                *bytes_answers(BLOB_MEDIA_TYPE, "The blob.", DIGEST_HEADERS),
                NOT_MODIFIED,
                *ERRORS,
            ),
        ),
        _route(
            "GET",
            "/v2/{name:path}/tags/list",
            mirror.tags,
            summary="The tags of a repository, one page of them",
            parameters=(
                NAME,
                Parameter("n", {"type": "integer", "minimum": 0}, "Tags of a page, at most."),
                Parameter("last", STRING, "The page begins after this tag."),
                NAMESPACE,
            ),
            answers=(TAGS, *ERRORS),
        ),
        _route("GET", "/v2/{rest:path}", mirror.unsupported),
        _route("OPTIONS", "/v2/{rest:path}", mirror.options),
    ]
    for method in _WRITE_METHODS:
        routes.append(_route(method, "/v2/{rest:path}", mirror.refused))
    return routes


def _route(method: str, pattern: str, handler: Handler, **description: Any) -> Route:
    return Route(
        method=method,
        pattern=pattern,
        handler=_answering(handler),
        listeners=("mirror",),
        **description,
    )


def _answering(handler: Handler) -> Handler:
    """Give ``handler`` the header that all answers have, errors included."""

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
    """The handlers; each names the specification's endpoint."""

    def __init__(self, backend: Backend, platforms: Sequence[Platform]) -> None:
        self._backend: Final = backend
        self._platforms: Final = platforms

    async def version(self, request: Request) -> Response:
        """end-1: this is a registry, and it needs no login."""
        return json_response({})

    async def manifest(self, request: Request) -> Response:
        """end-3: a manifest or index."""
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
        if has_current(request, entity_tag(answer.digest)):
            return Response(status=304, headers=headers)
        headers.append(("Content-Type", answer.media_type))
        return Response(headers=headers, body=answer.data)

    async def blob(self, request: Request) -> Response:
        """end-2: a blob. Raises: MirrorError, with a status from which the engine goes on."""
        asked = _asked(request)
        try:
            return await self._blob(request, asked)
        except MirrorError as error:
            if not asked.has_next or error.status < 429:
                raise
            # Docker's graph driver repeats the request for 75 s unless the answer is 404.
            _log.warning("%s %s: %s", request.method, request.path, error)
            raise BlobUnknown(f"{error}; ask the registry") from error

    async def _blob(self, request: Request, asked: Asked) -> Response:
        digest = read_blob_digest(request.path_args["digest"])
        headers = [*_digest_headers(digest), ("Accept-Ranges", "bytes"), *asked.headers]
        unchanged = has_current(request, entity_tag(digest))
        if unchanged or request.method == "HEAD":
            size = await _in_time(lambda: self._backend.blob_size(asked.name, digest))
            if unchanged:
                return Response(status=304, headers=headers)
            headers += [("Content-Type", BLOB_MEDIA_TYPE), ("Content-Length", str(size))]
            return Response(headers=headers)
        headers.append(("Content-Type", BLOB_MEDIA_TYPE))
        head_at = trio.current_time() + BLOB_HEAD_S_MAX
        async with AsyncExitStack() as stack:
            opening = self._backend.blob(asked.name, digest)
            reader = await _in_time(lambda: stack.enter_async_context(opening))
            response = await _blob_response(request, digest, reader, head_at=head_at)
            response.headers += headers
            response.close = stack.pop_all().aclose
            return response
        raise AssertionError("an open blob does not swallow errors")

    async def tags(self, request: Request) -> Response:
        """end-8a, end-8b: a page of tags."""
        asked = _asked(request)
        n, last = _read_page(request)
        # Even a page of no tags must be an error for an unknown repository.
        question = self._backend.tags
        page = await _in_time(lambda: question(asked.name, n=max(1, min(n, TAGS_MAX)), last=last))
        tags = list(page.tags)[:n]
        response = json_response({"name": request.path_args["name"], "tags": tags})
        response.headers += [*asked.headers, *_source_headers(page.source, page.warning)]
        if tags and (page.more or len(page.tags) > len(tags)):
            response.headers.append(_next_page(asked, tags[-1], n))
        return response

    async def unsupported(self, request: Request) -> Response:
        """Other paths of a registry, such as referrers and the catalog.

        A client that finds no referrers there looks for them under a tag, which is served.
        """
        raise ApiError(404, "UNSUPPORTED", f"this is a mirror: there is nothing at {request.path}")

    async def options(self, request: Request) -> Response:
        """Which methods are allowed."""
        return Response(status=204, headers=[_ALLOW])

    async def refused(self, request: Request) -> Response:
        """Refuse pushes and deletions."""
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

        A digest is answered with what has that digest, whatever ``Accept`` says. For a tag's index,
        a client that takes no index gets one of its manifests, as from distribution's registry for
        linux/amd64.

        Raises: ManifestUnknown, which says what the tag names.
        """
        ask = partial(
            self._backend.manifest,
            name,
            accept=accept,
            for_engine=is_engine_client(request.header("user-agent") or ""),
        )
        answer = await ask(reference)
        if isinstance(reference, bytes) or accept.takes(answer.media_type):
            return answer
        found = f"{name}:{reference} is a {answer.media_type}"
        if answer.media_type not in INDEX_TYPES or accept.best(MANIFEST_TYPES) is None:
            raise ManifestUnknown(f"{found}, which Accept does not take")
        inner = choose_platform(_read_index(answer), self._platforms)
        if inner is None:
            runs = " or ".join(map(str, self._platforms))
            raise ManifestUnknown(f"{found} without {runs}, and Accept takes no index")
        chosen = await ask(inner.raw)
        if not accept.takes(chosen.media_type):
            raise ManifestUnknown(
                f"{found}, and {digest_text(inner.raw)} in it a {chosen.media_type}:"
                " Accept takes neither"
            )
        return chosen


def _asked(request: Request) -> Asked:
    _refuse_ourselves(request)
    return asked_repository(request)


async def _in_time(ask: Callable[[], Awaitable[T]]) -> T:
    """Call ``ask``. Raises: Late when it does not answer within ``FIRST_BYTE_S_MAX``."""
    with trio.move_on_after(FIRST_BYTE_S_MAX):
        return await ask()
    raise Late(f"no answer within {FIRST_BYTE_S_MAX} s; ask again")


async def _blob_response(
    request: Request, digest: Digest, blob: OpenBlob, *, head_at: float
) -> Response:
    """Answer with the bytes that are asked for: with ``sendfile`` from a file, else in chunks.

    The head waits for the first chunk until ``head_at``, so that a failure before that is answered
    with a status. After a head, engines would come back here instead of asking the registry.
    """
    found = ranged(request, blob.size_bytes, entity_tag(digest))
    piece = blob.file(found.start, found.end)
    if piece is not None:
        return Response(status=found.status, headers=found.headers, body=piece)
    chunks = blob.chunks(found.start, found.end)
    first: bytes | None = None
    with trio.move_on_at(head_at) as scope:
        first = await anext(chunks, b"")
    if scope.cancelled_caught:
        chunks = blob.chunks(found.start, found.end)  # a cancelled generator cannot go on
    return Response(
        status=found.status,
        headers=found.headers,
        body=_steadily(first, chunks),
        length=found.end - found.start,
    )


async def _steadily(first: bytes | None, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    """``first`` and then ``chunks``; a pause of ``CHUNK_S_MAX`` ends the answer."""
    try:
        if first:
            yield first
        while True:
            with trio.move_on_after(CHUNK_S_MAX) as scope:
                chunk = await anext(chunks, None)
            if scope.cancelled_caught:
                raise BeiranError(f"no byte came for {CHUNK_S_MAX:g} s")
            if chunk is None:
                return
            yield chunk
    finally:
        if isinstance(chunks, AsyncGenerator):
            await chunks.aclose()


def _read_index(answer: ManifestAnswer) -> Index:
    try:
        document = read_manifest(answer.data)
    except BadManifest as error:
        raise ManifestUnknown(str(error)) from None
    if not isinstance(document, Index):
        raise ManifestUnknown(
            f"{digest_text(answer.digest)} is not an index, though its type says so"
        )
    return document


def _read_page(request: Request) -> tuple[int, str]:
    """The parameters ``n`` and ``last``. Raises: BadRequest."""
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
    """The ``Link`` header to the tags after ``last``. Source: RFC 8288."""
    query = [("last", last), ("n", str(n))]
    if asked.namespace is not None:
        query.append(("ns", asked.namespace))
    path = f"/v2/{quote(asked.path)}/tags/list"
    return ("Link", f'<{path}?{urlencode(query)}>; rel="next"')


def _digest_headers(digest: Digest) -> list[tuple[str, str]]:
    return [("Docker-Content-Digest", digest_text(digest)), ("ETag", entity_tag(digest))]


def _source_headers(source: Source, warning: str) -> list[tuple[str, str]]:
    headers: list[tuple[str, str]] = [(SOURCE_HEADER, source)]
    if warning:
        safe = "".join(char if " " <= char <= "~" else "?" for char in warning[:WARNING_CHARS_MAX])
        escaped = safe.replace("\\", "\\\\").replace('"', '\\"')
        headers.append(("Warning", f'299 - "{escaped}"'))
    return headers


def _refuse_ourselves(request: Request) -> None:
    """Raises: Denied when an agent asks."""
    hops = [hop.strip() for value in request.headers.get("via", []) for hop in value.split(",")]
    if VIA in hops:
        raise Denied("an agent asks this mirror: set a registry, not a mirror, as the origin")
