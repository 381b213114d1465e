"""``/layers/DIGEST``: a layer's tar, whole or in part, as this node's engine has it."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from beiran.engine.interface import LayerReader
from beiran.errors import ApiError, DataError, EngineUnavailable, NotFound
from beiran.http.messages import Request, Response, content_range, parse_range
from beiran.ids import Digest, digest_text
from beiran.oci.media_types import parse_accept

LAYER_MEDIA_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"
JSON_MEDIA_TYPE: Final = "application/json"

OpenLayer = Callable[[Digest], AbstractAsyncContextManager[LayerReader]]


async def layer_response(request: Request, digest: Digest, open_layer: OpenLayer) -> Response:
    """Answer GET and HEAD.

    Raises: NotFound when the engine does not have the layer; HttpError (416); ApiError 503 when
    the engine is away, 500 when what it has is damaged.
    Source: RFC 9110 §13.2.2 (which condition comes first), §14 (ranges).
    """
    tag = f'"{digest_text(digest)}"'
    headers = [
        ("Content-Type", LAYER_MEDIA_TYPE),
        ("ETag", tag),
        ("Accept-Ranges", "bytes"),
        ("Vary", "Accept"),
    ]
    async with AsyncExitStack() as stack:
        try:
            reader = await stack.enter_async_context(open_layer(digest))
        except NotFound as error:
            raise NotFound("LAYER_UNKNOWN", error.message) from error
        except EngineUnavailable as error:
            raise ApiError(503, "ENGINE_UNAVAILABLE", str(error)) from error
        except DataError as error:
            raise ApiError(500, "LAYER_DAMAGED", str(error)) from error
        size = reader.size_bytes
        if _names_tag(request.headers.get("if-none-match", []), tag):
            return Response(status=304, headers=headers[1:])
        status, start, end = 200, 0, size
        if request.method == "GET" and request.header("if-range") in (None, tag):
            wanted = parse_range(request.header("range"), size)
            if wanted is not None:
                status, (start, end) = 206, wanted
                headers.append(content_range(start, end, size))
        return Response(
            status=status,
            headers=headers,
            body=reader.chunks(start, end),
            length=end - start,
            close=stack.pop_all().aclose,
        )
    raise AssertionError("an open layer does not swallow errors")


def prefers_json(request: Request) -> bool:
    """Whether ``Accept`` rates JSON above the tar. Source: RFC 9110 §12.5.1."""
    accept = parse_accept(request.headers.get("accept", []))
    return accept.quality(JSON_MEDIA_TYPE) > accept.quality(LAYER_MEDIA_TYPE)


def _names_tag(values: list[str], tag: str) -> bool:
    tags = [part.strip().removeprefix("W/") for value in values for part in value.split(",")]
    return tag in tags or "*" in tags
