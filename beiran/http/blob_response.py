"""Answer a request for a blob with the bytes that the blob cache has.

``transfer/uploads.py`` calls it for other agents. Blobs that come from an engine and not from the
cache are answered there.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Final

from beiran.cache.blob_cache import BlobFile
from beiran.cache.partial_blob import PartialBlob
from beiran.errors import NotFound
from beiran.http.messages import FileSlice, Gate, HttpError, Request, Response
from beiran.http.ranges import Ranged, entity_tag, ranged
from beiran.http.token_bucket import TokenBucket
from beiran.ids import Digest, digest_text

BLOB_MEDIA_TYPE = "application/octet-stream"
ACTIVE_HEADER: Final = "Beiran-Active"
"""An agent's request header: how many other fetches bring it bytes now."""

NODE_HEADER: Final = "Beiran-Node"
"""An agent's request header: its UUID. Several agents may share one IP address."""


def answer_blob(
    request: Request, blob: BlobFile | PartialBlob, *, limiter: TokenBucket | None = None
) -> Response:
    """Answer GET or HEAD, with or without ``Range``, from a blob that is open.

    Args:
      blob: a ``BlobFile``, which the answer closes when it ends, and which is closed when this
        raises; or a blob in flight, whose answer needs all bytes of the range to be held.
      limiter: the upload limit, shared by all peers.

    Raises: HttpError (416), also for bytes that a blob in flight lacks; NotFound when all of a
    blob in flight is asked for and some of it is missing.
    """
    try:
        found = ranged(request, blob.size_bytes, entity_tag(blob.digest))
        if isinstance(blob, PartialBlob):
            _check_held(blob, found)
        return Response(
            status=found.status,
            headers=[*blob_headers(blob.digest), *found.headers],
            body=FileSlice(
                descriptor=os.dup(blob.descriptor),
                start=found.start,
                length=found.end - found.start,
                gate=limited(limiter),
            ),
            close=_closing(blob) if isinstance(blob, BlobFile) else None,
        )
    except BaseException:
        if isinstance(blob, BlobFile):
            blob.close()
        raise


def blob_headers(digest: Digest) -> list[tuple[str, str]]:
    """The headers that every answer with bytes of a blob has."""
    return [
        ("Content-Type", BLOB_MEDIA_TYPE),
        ("Docker-Content-Digest", digest_text(digest)),
        ("ETag", entity_tag(digest)),
        ("Accept-Ranges", "bytes"),
    ]


def limited(limiter: TokenBucket | None) -> Gate | None:
    """A gate that waits for ``limiter`` before each step; None when there is no limit."""
    if limiter is None or limiter.bytes_per_s is None:
        return None

    async def gate(start: int, end: int) -> int:
        await limiter.take(end - start)
        return end

    return gate


def _closing(blob: BlobFile) -> Callable[[], Awaitable[None]]:
    async def close() -> None:
        blob.close()

    return close


def _check_held(partial: PartialBlob, found: Ranged) -> None:
    """Raises: NotFound, HttpError (416) when bytes of ``found`` are missing."""
    if partial.ended.is_set() or (found.status == 200 and not partial.whole):
        raise NotFound("BLOB_UNKNOWN", f"{partial} is not here, or not all of it")
    if found.status == 206 and not partial.held.covers(found.start, found.end):
        raise HttpError(
            416,
            "RANGE_NOT_HELD",
            "these bytes are not here yet",
            [("Content-Range", f"bytes */{partial.size_bytes}")],
        )
