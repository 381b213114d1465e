"""``/layers/DIGEST``: the tar of a layer that this node's engine holds, whole or in part."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Final

from beiran.engine.interface import LayerReader
from beiran.errors import ApiError, DataError, EngineUnavailable, NotFound
from beiran.http.description import JSON
from beiran.http.messages import Request, Response
from beiran.http.ranges import entity_tag, has_current, ranged
from beiran.ids import Digest
from beiran.oci.media_types import parse_accept

LAYER_MEDIA_TYPE: Final = "application/vnd.oci.image.layer.v1.tar"

OpenLayer = Callable[[Digest], AbstractAsyncContextManager[LayerReader]]


async def layer_response(request: Request, digest: Digest, open_layer: OpenLayer) -> Response:
    """Answer GET and HEAD.

    Raises: NotFound when the engine does not hold the layer; HttpError (416); ApiError 503 when
    the engine does not answer, 500 when its files are damaged.
    Source: RFC 9110 §13.2.2 (which condition comes first), §14 (ranges).
    """
    tag = entity_tag(digest)
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
        if has_current(request, tag):
            return Response(status=304, headers=headers[1:])
        part = ranged(request, reader.size_bytes, tag)
        return Response(
            status=part.status,
            headers=headers + part.headers,
            body=reader.chunks(part.start, part.end),
            length=part.end - part.start,
            close=stack.pop_all().aclose,
        )
    raise AssertionError("an open layer does not swallow errors")


def prefers_json(request: Request) -> bool:
    """Whether ``Accept`` rates JSON above the tar. Source: RFC 9110 §12.5.1."""
    accept = parse_accept(request.headers.get("accept", []))
    return accept.quality(JSON) > accept.quality(LAYER_MEDIA_TYPE)
