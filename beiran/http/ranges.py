"""Decide what a GET or HEAD of content that has an entity tag is answered with.

Every handler that serves bytes by digest asks here: the mirror, the uploads to peers, the blob
cache's answers and ``/layers/DIGEST``. RFC 9110 §13 (conditions), §14 (ranges).
"""

from typing import NamedTuple

from beiran.http.messages import Request, content_range, parse_range
from beiran.ids import Digest, digest_text


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
