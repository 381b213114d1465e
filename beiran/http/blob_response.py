"""Answers that are a blob, or part of one: from the cache, from one in flight, or following it."""

import os
from typing import Final

from beiran.cache.blob_cache import BlobFile
from beiran.cache.partial_blob import PartialBlob
from beiran.errors import NotFound
from beiran.http.messages import (
    FileSlice,
    Gate,
    HttpError,
    Request,
    Response,
    content_range,
    parse_range,
)
from beiran.http.token_bucket import TokenBucket
from beiran.ids import Digest, digest_text

BLOB_MEDIA_TYPE = "application/octet-stream"
ACTIVE_HEADER: Final = "Beiran-Active"
"""Of a request of an agent: how many other fetches bring it bytes now."""

NODE_HEADER: Final = "Beiran-Node"
"""In which an agent that asks another says its UUID: several may be at one address."""


def answer_blob(
    request: Request,
    blob: BlobFile | PartialBlob,
    *,
    limiter: TokenBucket | None = None,
    media_type: str = BLOB_MEDIA_TYPE,
) -> Response:
    """Answer GET or HEAD, with or without Range, with what is there.

    Args:
      blob: a ``BlobFile``, which is closed with the answer, also when this raises; or one in
        flight, of which only what is held is given, and that only if all of what was asked is.
      limiter: of all that is sent to peers.

    Raises: HttpError (416); NotFound when all of a blob in flight is asked for.
    """
    if isinstance(blob, PartialBlob):
        return _answer_partial(request, blob, limiter, media_type)
    try:
        wanted = _wanted(request, blob.size_bytes)
        body = _slice(request, blob.descriptor, blob.size_bytes, wanted, limited(limiter))
    except BaseException:
        blob.close()
        raise

    async def close() -> None:
        blob.close()

    response = _response(blob.digest, blob.size_bytes, wanted, body, media_type)
    response.close = close
    return response


def answer_following(
    request: Request,
    partial: PartialBlob,
    *,
    media_type: str = BLOB_MEDIA_TYPE,
) -> Response:
    """Answer GET or HEAD with a blob in flight, as what may be handed to an engine comes in.

    The answer breaks off when the blob is given up. Raises: HttpError (416); NotFound when it was
    given up already.
    """

    async def gate(start: int, end: int) -> int:
        return min(end, await partial.wait_for_prefix(start + 1))

    if partial.ended.is_set():
        raise _unknown(partial)
    wanted = _wanted(request, partial.size_bytes)
    body = _slice(request, partial.descriptor, partial.size_bytes, wanted, gate)
    return _response(partial.digest, partial.size_bytes, wanted, body, media_type)


def limited(limiter: TokenBucket | None) -> Gate | None:
    """A gate that lets bytes through as ``limiter`` says; None when nothing is held back."""
    if limiter is None or limiter.bytes_per_s is None:
        return None

    async def gate(start: int, end: int) -> int:
        await limiter.take(end - start)
        return end

    return gate


def _answer_partial(
    request: Request, partial: PartialBlob, limiter: TokenBucket | None, media_type: str
) -> Response:
    wanted = _wanted(request, partial.size_bytes)
    if partial.ended.is_set() or (wanted is None and not partial.whole):
        raise _unknown(partial)
    if wanted is not None and not partial.held.covers(*wanted):
        raise HttpError(
            416,
            "RANGE_NOT_HELD",
            "these bytes are not here yet",
            [("Content-Range", f"bytes */{partial.size_bytes}")],
        )
    body = _slice(request, partial.descriptor, partial.size_bytes, wanted, limited(limiter))
    return _response(partial.digest, partial.size_bytes, wanted, body, media_type)


def _wanted(request: Request, size_bytes: int) -> tuple[int, int] | None:
    """The range asked for; None for all. A HEAD asks for all (RFC 9110 §14.2)."""
    if request.method != "GET":
        return None
    return parse_range(request.header("range"), size_bytes)


def _slice(
    request: Request,
    descriptor: int,
    size_bytes: int,
    wanted: tuple[int, int] | None,
    gate: Gate | None,
) -> FileSlice:
    start, end = wanted or (0, size_bytes)
    return FileSlice(descriptor=os.dup(descriptor), start=start, length=end - start, gate=gate)


def _response(
    digest: Digest,
    size_bytes: int,
    wanted: tuple[int, int] | None,
    body: FileSlice,
    media_type: str,
) -> Response:
    headers = [
        ("Content-Type", media_type),
        ("Docker-Content-Digest", digest_text(digest)),
        ("ETag", f'"{digest_text(digest)}"'),
        ("Accept-Ranges", "bytes"),
    ]
    if wanted is None:
        return Response(headers=headers, body=body)
    return Response(status=206, headers=[*headers, content_range(*wanted, size_bytes)], body=body)


def _unknown(partial: PartialBlob) -> NotFound:
    return NotFound("BLOB_UNKNOWN", f"{partial} is not here, or not all of it")
