"""Read the answers of registries: heads of blobs, manifests, tags, and errors."""

import re
from collections.abc import AsyncIterator
from typing import Final, NamedTuple

import msgspec

from beiran.http.token_bucket import Pace
from beiran.ids import Digest, digest_text
from beiran.registry.errors import (
    OriginBroken,
    OriginDenied,
    OriginError,
    OriginLimited,
    OriginMissing,
    OriginUnavailable,
)
from beiran.registry.transport import Answer, Url

TAG_CHARS_MAX: Final = 128  # OCI distribution specification, "Pulling manifests"
ERROR_CHARS_MAX: Final = 200  # of a registry's message in ours, which is one line

_CONTENT_RANGE: Final = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
SAYS_NOTHING: Final = ("", "application/json", "application/octet-stream", "text/plain")
"""Media types that do not say which kind of manifest it is."""


class ManifestHead(NamedTuple):
    """The head of a manifest. ``size_bytes`` is None where the registry does not say it."""

    digest: Digest
    media_type: str
    size_bytes: int | None


class Manifest(NamedTuple):
    """A manifest or index, byte for byte; ``digest`` is the SHA-256 of ``data``."""

    digest: Digest
    media_type: str
    data: bytes


class TagPage(NamedTuple):
    """Tags of a repository, in the registry's order, and whether more follow."""

    tags: list[str]
    more: bool


class OriginBlob(NamedTuple):
    """Bytes of a blob as they come, unchecked: ``cache`` compares the whole blob's SHA-256.

    Attributes:
      size_bytes: of the whole blob; None where the registry does not say it.
      start: where ``chunks`` begin.
      end: where they end, excluded; None if not known. It may be less than requested.
      has_ranges: False if the registry sends the blob from its beginning, of which ``start`` bytes
        are dropped.
      chunks: to be read once, some 64 KiB each. Raises OriginUnavailable when the connection
        breaks off, OriginBroken when more bytes come than the head says.
    """

    size_bytes: int | None
    start: int
    end: int | None
    has_ranges: bool
    chunks: AsyncIterator[bytes]


class OriginCounters(msgspec.Struct):
    """Counts of one registry: requests (second tries included), failures, bytes of blobs."""

    requests: int = 0
    failures: int = 0
    blob_bytes: int = 0


def read_blob_head(
    answer: Answer,
    digest: Digest,
    start: int,
    end: int | None,
    *,
    registry: str,
    counters: OriginCounters,
    pace: Pace,
) -> OriginBlob:
    """The bytes that follow a head. Reading them counts them and keeps to ``pace``.

    Raises: OriginBroken for a head that is not of the requested range.
    """
    where = f"{answer.url.place}: {digest_text(digest)}"
    refuse_html(registry, answer)
    if (answer.header("content-encoding") or "identity").lower() != "identity":
        raise OriginBroken(f"{where} comes with a Content-Encoding, which changes its bytes")
    if answer.status == 206:
        found = _CONTENT_RANGE.fullmatch(answer.header("content-range") or "")
        if not found:
            raise OriginBroken(f"{where}: a 206 without a Content-Range")
        first, stop = int(found[1]), int(found[2]) + 1
        size = None if found[3] == "*" else int(found[3])
        fits = first == start < stop and (end is None or stop <= end)
        if not fits or (size is not None and stop > size):
            raise OriginBroken(f"{where}: requested bytes {start} to {end}, it sends {found[0]}")
        body = _Body(answer, 0, stop - start, True, counters, pace)
        return OriginBlob(size, start, stop, True, body)
    size = answer.length
    if size is not None and start >= max(size, 1):
        raise OriginBroken(f"{where} has only {size} bytes, not {start}")
    known = [value for value in (end, size) if value is not None]
    stop_at = min(known) if known else None
    length = None if stop_at is None else stop_at - start
    whole = stop_at == size
    body = _Body(answer, start, length, whole, counters, pace)
    return OriginBlob(size, start, stop_at if size is not None else None, not start, body)


def refuse_html(registry: str, answer: Answer) -> None:
    """A login page or a captive portal says 200 as well."""
    if answer.media_type in ("text/html", "application/xhtml+xml"):
        raise OriginBroken(
            f"{registry}: {answer.url.place} answers with a web page; is it a registry, "
            "and nothing in between?"
        )


def manifest_type(registry: str, answer: Answer, data: bytes) -> str:
    """The media type in the head, or else in the manifest itself."""
    try:
        document = msgspec.json.decode(data, type=_AnyManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise OriginBroken(
            f"{registry}: {answer.url.place} sends a manifest that is not JSON"
        ) from None
    if answer.media_type not in SAYS_NOTHING:
        return answer.media_type
    if not document.media_type:
        raise OriginBroken(f"{registry}: {answer.url.place} sends a manifest without a media type")
    return document.media_type


def read_tags(registry: str, answer: Answer, data: bytes) -> TagPage:
    """Raises: OriginBroken."""
    try:
        tags = msgspec.json.decode(data, type=_Tags).tags or []
    except (msgspec.DecodeError, UnicodeDecodeError):
        raise OriginBroken(f"{registry}: its list of tags is not valid JSON of that form") from None
    if any(not 0 < len(tag) <= TAG_CHARS_MAX for tag in tags):
        raise OriginBroken(f"{registry}: its list of tags has names that are no tags")
    more = any("next" in link.rpartition(";")[2] for link in answer.headers("link"))
    return TagPage(tags, more and bool(tags))


def _not_found(repository: str, target: str) -> str:
    """What a 404 is about, in the words of ``docker pull``."""
    kind, _, name = target.partition("?")[0].partition("/")
    match kind:
        case "manifests":
            separator = "@" if ":" in name else ":"
            return f"manifest for {repository}{separator}{name} not found: manifest unknown"
        case "blobs":
            return f"blob {name} of {repository} not found: blob unknown"
        case _:
            return f"repository {repository} not found: name unknown"


def error_of(
    registry: str, base: Url, repository: str, target: str, answer: Answer, body: bytes
) -> OriginError:
    """The error that a status means."""
    what = f"{registry}/{repository}"
    where = base.place if answer.url.same_origin(base) else answer.url.place
    said = _message_of(body)
    text = f" ({said})" if said else ""
    match answer.status:
        case 404:
            return OriginMissing(f"{_not_found(what, target)} at {where}{text}")
        case 401 | 403:
            return OriginDenied(
                f"{what}: {where} does not grant it{text}; docker login {registry} as the "
                "agent's user"
            )
        case 416:
            return OriginBroken(f"{what}: {where} has fewer bytes of {target}")
        case 429:
            return limited(where, answer)
        case status if status >= 500:
            return OriginUnavailable(f"{where} answers {status}{text}")
        case status:
            return OriginBroken(f"{what}: {where} answers {status}{text}")


def limited(where: str, answer: Answer) -> OriginLimited:
    """The error that a 429 means."""
    text = answer.header("retry-after") or ""
    retry_after_s = float(text) if text.isascii() and text.isdigit() and len(text) < 10 else None
    again = "" if retry_after_s is None else f"; again in {retry_after_s:g} s"
    return OriginLimited(
        f"{where} answers 429, its rate limit is reached{again}; credentials raise it for most",
        retry_after_s=retry_after_s,
    )


def _message_of(body: bytes) -> str:
    """The first message of a registry's errors, as one line; empty without one."""
    try:
        errors = msgspec.json.decode(body, type=_Errors).errors
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    text = " ".join((errors[0].message or errors[0].code).split()) if errors else ""
    return "".join(char for char in text if char.isprintable())[:ERROR_CHARS_MAX]


class _Body:
    """The requested part of an answer's body. A class, as its reader need not close it."""

    def __init__(
        self,
        answer: Answer,
        skip: int,
        length: int | None,
        is_all: bool,
        counters: OriginCounters,
        pace: Pace,
    ) -> None:
        """``is_all``: bytes after ``length`` are an error."""
        self._place: Final = answer.url.place
        self._source: Final = answer.chunks()
        self._skip = skip
        self._left = length
        self._is_all: Final = is_all
        self._counters: Final = counters
        self._pace: Final = pace

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._left != 0 or self._is_all:
            try:
                chunk = await anext(self._source)
            except StopAsyncIteration:
                if self._skip or self._left:
                    missing = f"{self._skip + (self._left or 0)} bytes missing"
                    raise OriginUnavailable(f"{self._place} broke off, {missing}") from None
                raise
            self._counters.blob_bytes += len(chunk)
            await self._pace.take(len(chunk))
            skipped = min(self._skip, len(chunk))
            self._skip -= skipped
            wanted = chunk[skipped:] if skipped else chunk
            if self._left is not None:
                if len(wanted) > self._left and self._is_all:
                    raise OriginBroken(f"{self._place} sends more bytes than its head says")
                wanted = wanted[: self._left]
                self._left -= len(wanted)
            if wanted:
                return wanted
        raise StopAsyncIteration


class _Tags(msgspec.Struct):
    tags: list[str] | None = None


class _AnyManifest(msgspec.Struct, rename="camel"):
    media_type: str = ""


class _OneError(msgspec.Struct):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct):
    errors: list[_OneError] = []
