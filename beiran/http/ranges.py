"""Decide what a GET or HEAD of content that has an entity tag is answered with.

Every handler that serves bytes by digest asks here: the mirror, the uploads to peers, the blob
cache's answers and ``/layers/DIGEST``. RFC 9110 §13 (conditions), §14 (ranges).
"""

import re
from typing import Final, NamedTuple

from beiran.http.messages import HttpError, Request
from beiran.ids import Digest, digest_text

_RANGE: Final = re.compile(r"bytes=[ \t]*(?:([0-9]+)-([0-9]*)|-([0-9]+))[ \t]*")
_DIGITS_MAX: Final = 18  # below 2**63; a larger offset is past the end of any file


class Ranged(NamedTuple):
    """The status of an answer, and which bytes go with it.

    Attributes:
      status: 200, or 206 for part of the content.
      start: the first byte of the body.
      end: the byte after the last.
      headers: ``Content-Range`` with a 206, else none.
    """

    status: int
    start: int
    end: int
    headers: list[tuple[str, str]]


def ranged(request: Request, size: int, etag: str) -> Ranged:
    """Read ``Range`` and ``If-Range`` of a request for ``size`` bytes that have the tag ``etag``.

    A HEAD asks for all bytes (§14.2), and so does an ``If-Range`` with another tag (§13.1.5).

    Raises: HttpError (416) when the range begins after the last byte.
    """
    wanted = None
    if request.method == "GET" and request.header("if-range") in (None, etag):
        wanted = parse_range(request.header("range"), size)
    if wanted is None:
        return Ranged(200, 0, size, [])
    return Ranged(206, *wanted, [content_range(*wanted, size)])


def entity_tag(digest: Digest) -> str:
    """The entity tag of the content that has this digest."""
    return f'"{digest_text(digest)}"'


def has_current(request: Request, etag: str) -> bool:
    """Whether ``If-None-Match`` names ``etag``, so that 304 answers. Source: RFC 9110 §13.1.2.

    A digest without its quotes is no entity tag, but distribution's registry accepts it.
    """
    values = request.headers.get("if-none-match", [])
    tags = [part.strip().removeprefix("W/") for value in values for part in value.split(",")]
    return any(tag in ("*", etag, etag.strip('"')) for tag in tags)


def parse_range(header: str | None, size: int) -> tuple[int, int] | None:
    """The bytes of ``size`` that ``Range`` requests: the first, and the one after the last.

    None means all of them: no header, another unit, several ranges, or one that is malformed. A
    server may ignore those.

    Raises: HttpError (416) when the range lies outside, with the header that says ``size``.
    Source: RFC 9110 §14.1.1, §14.1.2, §14.2, §15.5.17.
    """
    match = _RANGE.fullmatch(header or "")
    if match is None:
        return None
    first, last, suffix = (_bounded(text) if text else None for text in match.groups())
    if suffix is not None:
        if suffix and not size:
            return None
        start, end = max(0, size - suffix), size
    else:
        assert first is not None
        if last is not None and last < first:
            return None
        start, end = first, size if last is None else min(last + 1, size)
    if start >= end:
        raise HttpError(
            416,
            "RANGE_INVALID",
            f"the range lies outside of the {size} bytes",
            [("Content-Range", f"bytes */{size}")],
        )
    return start, end


def content_range(start: int, end: int, size: int) -> tuple[str, str]:
    """The header of a 206 with the bytes ``start`` to ``end`` (excluded) of ``size``."""
    return ("Content-Range", f"bytes {start}-{end - 1}/{size}")


def _bounded(digits: str) -> int:
    """``digits`` as a number; 10**18 for more than 18 of them."""
    return int(digits) if len(digits.lstrip("0")) <= _DIGITS_MAX else 10**_DIGITS_MAX
