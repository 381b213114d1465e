"""The API's routes of ``docs/reference/api.md`` for nodes, images, layers, events and status."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from beiran.agent.api.layer_tar import LAYER_MEDIA_TYPE, OpenLayer, layer_response, prefers_json
from beiran.agent.api.listings import (
    Listing,
    R,
    image_listing,
    images_listing,
    layer_listing,
    layers_listing,
    node_listing,
    nodes_listing,
)
from beiran.agent.api.parameters import Parameters, read_digest, read_node_id, read_parameters
from beiran.agent.api.prometheus_text import METRICS_CONTENT_TYPE, Metric, metrics_text
from beiran.agent.api.streams import follow_rows, listing_response, send_rows
from beiran.agent.event_bus import EventBus
from beiran.api.events import Event
from beiran.api.models import ErrorItem, Errors, Image, Info, Layer, Node
from beiran.http.description import (
    ANY_BYTES,
    DIGEST,
    JSON,
    NOT_FOUND,
    RANGE,
    STRING,
    UUID,
    Answer,
    Parameter,
    Schema,
    array_of,
    error,
    json_answer,
    object_of,
    path_parameter,
)
from beiran.http.messages import Handler, Request, Response, Route, SendMessage, json_response
from beiran.ids import NodeId
from beiran.store.async_reads import Reads
from beiran.store.reads import HeldBy, OnlineNodes, Scope, node_unknown
from beiran.store.store import Store

# The descriptions of the routes, for the OpenAPI document.
IMAGE_NAME: Final[Schema] = {"type": "string", "pattern": "^[A-Za-z0-9._:/@-]+$"}
NODE: Final = Parameter(
    "node",
    UUID,
    "Only what the node with this UUID holds, or held last if it is offline."
    " Not together with `all=true`.",
)
_TAR_AND_JSON: Final[Mapping[str, Schema]] = {LAYER_MEDIA_TYPE: ANY_BYTES, JSON: Layer}
_TAR_HEADERS: Final[Mapping[str, Schema]] = {
    "ETag": STRING,
    "Accept-Ranges": {"const": "bytes"},
    "Content-Range": STRING,
}
LAYER_ANSWERS: Final = (
    Answer(
        200,
        "The whole tar. With `Accept: application/json`, what is known of the layer, without the"
        " headers of the tar.",
        _TAR_AND_JSON,
    ),
    Answer(206, "The bytes that `Range` asks for.", {LAYER_MEDIA_TYPE: ANY_BYTES}, _TAR_HEADERS),
    Answer(304, "`If-None-Match` names this layer."),
    NOT_FOUND,
    Answer(416, "`Range` lies outside of the tar.", {JSON: Errors}, {"Content-Range": STRING}),
    error(500, "The files of this node are not that layer (`LAYER_DAMAGED`)."),
    error(503, "The engine does not answer (`ENGINE_UNAVAILABLE`)."),
)


class StatusSource(Protocol):
    """The state of this node, as ``agent/status.py`` reads it."""

    async def info(self) -> Info:
        """This node now."""
        ...

    def problems(self) -> Sequence[str]:
        """What keeps the agent from its work, one line each; empty when all is well."""
        ...


def api_routes(
    status: StatusSource,
    store: Store,
    bus: EventBus,
    *,
    metrics: Callable[[], Iterable[Metric]],
    open_layer: OpenLayer,
) -> list[Route]:
    """The routes for nodes, images, layers, events and the agent's status.

    Args:
      store: read in threads, one request at a time.
      bus: announces what the agent writes to ``store``.
      metrics: reads the metrics of ``/metrics``.
      open_layer: opens a layer that this node's engine holds.
    """
    rows = _Rows(store, Reads(store), bus)
    single = _Single(status, metrics, bus)
    return [
        _message_route(
            "/info",
            single.info,
            summary="This node, and how it is doing",
            answers=(json_answer("This node.", Info),),
        ),
        rows.listing_route(
            "/nodes",
            ("all", "follow"),
            rows.nodes,
            summary="The online nodes, this one included, by name",
            parameters=(_all("all known nodes, the offline ones too"),),
            answers=(json_answer("The nodes.", object_of(nodes=array_of(Node))),),
        ),
        rows.item_route(
            "/nodes/{uuid}",
            rows.node,
            summary="One node, online or not",
            parameters=(path_parameter("uuid", UUID, "The node's UUID."),),
            answers=(json_answer("The node.", Node), NOT_FOUND),
        ),
        rows.listing_route(
            "/images",
            ("all", "node", "follow"),
            rows.images,
            summary="The images that this node holds, by first tag; images without a tag last,"
            " the newest first",
            parameters=(_all("the images that online nodes hold"), NODE),
            answers=(json_answer("The images.", object_of(images=array_of(Image))), NOT_FOUND),
        ),
        rows.item_route(
            "/images/{id:path}",
            rows.image,
            summary="One image, by its digest, a prefix of it that no other image has, a tag or"
            " NAME@DIGEST",
            parameters=(path_parameter("id", IMAGE_NAME, "A digest, a prefix of one, or a name."),),
            answers=(json_answer("The image.", Image), NOT_FOUND),
        ),
        rows.listing_route(
            "/layers",
            ("all", "node", "follow"),
            rows.layers,
            summary="The layers of the images that this node holds, the largest first",
            parameters=(_all("the layers of the images that online nodes hold"), NODE),
            answers=(json_answer("The layers.", object_of(layers=array_of(Layer))), NOT_FOUND),
        ),
        rows.item_route(
            "/layers/{digest}",
            rows.layer,
            partial(_layer, open_layer),
            summary="The uncompressed tar of a layer that this node holds",
            parameters=(path_parameter("digest", DIGEST, "The layer's diff ID."), RANGE),
            answers=LAYER_ANSWERS,
        ),
        Route(
            method="GET",
            pattern="/events",
            handler=single.recent_events,
            prepare=partial(_check, ("follow",)),
            stream=single.stream_events,
            summary="The last events, the oldest first",
            answers=(json_answer("The events.", object_of(events=array_of(Event))),),
        ),
        Route(
            method="GET",
            pattern="/metrics",
            handler=single.metrics,
            summary="Metrics for Prometheus",
            answers=(Answer(200, "The metrics, text format 0.0.4.", {"text/plain": STRING}),),
        ),
        _message_route(
            "/healthz",
            single.healthz,
            summary="Whether the agent can do its work",
            answers=(
                json_answer("It can.", object_of(status={"const": "ok"})),
                error(503, "It cannot. Each error gives one reason."),
            ),
        ),
    ]


class _Single:
    """The paths that are not listings."""

    def __init__(
        self, status: StatusSource, metrics: Callable[[], Iterable[Metric]], bus: EventBus
    ) -> None:
        self._status: Final = status
        self._metrics: Final = metrics
        self._bus: Final = bus

    async def info(self, request: Request) -> Response:
        return json_response(await self._status.info())

    async def healthz(self, request: Request) -> Response:
        problems = self._status.problems()
        if not problems:
            return json_response({"status": "ok"})
        errors = tuple(ErrorItem(code="UNHEALTHY", message=problem) for problem in problems)
        return json_response(Errors(errors=errors), status=503)

    async def metrics(self, request: Request) -> Response:
        read_parameters(request, (), websocket=False)
        return Response(
            headers=[("Content-Type", METRICS_CONTENT_TYPE)],
            body=metrics_text(self._metrics()),
        )

    async def recent_events(self, request: Request) -> Response:
        read_parameters(request, ("follow",), websocket=False)
        return json_response({"events": self._bus.recent})

    async def stream_events(self, request: Request, send: SendMessage) -> None:
        if not read_parameters(request, ("follow",), websocket=True).follow:
            for event in self._bus.recent:
                await send(msgspec.json.encode(event))
            return
        async with self._bus.subscribe() as listener:
            async for event in listener:
                await send(msgspec.json.encode(event))


class _Rows:
    """The listings of nodes, images and layers, and their single rows."""

    def __init__(self, store: Store, reads: Reads, bus: EventBus) -> None:
        self._store = store
        self._reads = reads
        self._bus = bus

    def nodes(self, parameters: Parameters) -> Listing[Node]:
        return nodes_listing(online_only=not parameters.all)

    def images(self, parameters: Parameters) -> Listing[Image]:
        return images_listing(self._scope(parameters))

    def layers(self, parameters: Parameters) -> Listing[Layer]:
        return layers_listing(self._scope(parameters))

    async def node(self, request: Request) -> Listing[Node]:
        return node_listing(read_node_id(request.path_args["uuid"]))

    async def image(self, request: Request) -> Listing[Image]:
        asked = request.path_args["id"]
        image = await self._reads(lambda queries: queries.image(asked))
        return image_listing(image.id)

    async def layer(self, request: Request) -> Listing[Layer]:
        return layer_listing(read_digest(request.path_args["digest"]))

    def listing_route(
        self,
        path: str,
        names: Sequence[str],
        listing: Callable[[Parameters], Listing[R]],
        **description: Any,
    ) -> Route:
        """A listing that takes the parameters ``names``."""

        async def handler(request: Request) -> Response:
            parameters = read_parameters(request, names, websocket=False)
            return await listing_response(listing(parameters), self._reads)

        def prepare(request: Request) -> None:
            listing(read_parameters(request, names, websocket=True))

        async def stream(request: Request, send: SendMessage) -> None:
            parameters = read_parameters(request, names, websocket=True)
            await self._stream(listing(parameters), parameters, send)

        return Route(
            method="GET",
            pattern=path,
            handler=handler,
            prepare=prepare,
            stream=stream,
            **description,
        )

    def item_route(
        self,
        path: str,
        item: Callable[[Request], Awaitable[Listing[R]]],
        payload: Callable[[Request], Awaitable[Response | None]] | None = None,
        **description: Any,
    ) -> Route:
        """A path with one row, or with the answer of ``payload`` unless that is None."""

        async def handler(request: Request) -> Response:
            read_parameters(request, ("follow",), websocket=False)
            response = None if payload is None else await payload(request)
            if response is not None:
                return response
            one = await item(request)
            (row,) = await self._reads(lambda queries: one.read(queries, one.keys(queries)))
            return json_response(row)

        def prepare(request: Request) -> None:
            read_parameters(request, ("follow",), websocket=True)
            if "uuid" in request.path_args:
                self._check_node(read_node_id(request.path_args["uuid"]))
            if "digest" in request.path_args:
                read_digest(request.path_args["digest"])

        async def stream(request: Request, send: SendMessage) -> None:
            parameters = read_parameters(request, ("follow",), websocket=True)
            await self._stream(await item(request), parameters, send)

        return Route(
            method="GET",
            pattern=path,
            handler=handler,
            prepare=prepare,
            stream=stream,
            **description,
        )

    async def _stream(self, listing: Listing[R], parameters: Parameters, send: SendMessage) -> None:
        if parameters.follow:
            await follow_rows(listing, self._reads, self._bus, send)
        else:
            await send_rows(listing, self._reads, send)

    def _scope(self, parameters: Parameters) -> Scope:
        if parameters.all:
            return OnlineNodes()
        if parameters.node is None:
            return HeldBy(self._store.node)
        self._check_node(parameters.node)
        return HeldBy(parameters.node)

    def _check_node(self, node: NodeId) -> None:
        if not self._store.knows(node):
            raise node_unknown(node)


def _all(rows: str) -> Parameter:
    return Parameter("all", {"type": "boolean", "default": False}, f"`true`: {rows}.")


def _check(names: Sequence[str], request: Request) -> None:
    read_parameters(request, names, websocket=True)


async def _layer(open_layer: OpenLayer, request: Request) -> Response | None:
    """The layer's tar; None when ``Accept`` prefers its description."""
    digest = read_digest(request.path_args["digest"])
    if prefers_json(request):
        return None
    return await layer_response(request, digest, open_layer)


def _message_route(path: str, handler: Handler, **description: Any) -> Route:
    """A path without parameters, whose JSON body is also the one message of a WebSocket."""

    async def checked(request: Request) -> Response:
        read_parameters(request, (), websocket=False)
        return await handler(request)

    async def stream(request: Request, send: SendMessage) -> None:
        body = (await handler(request)).body
        assert isinstance(body, bytes)
        await send(body)

    return Route(
        method="GET",
        pattern=path,
        handler=checked,
        prepare=partial(_check, ()),
        stream=stream,
        **description,
    )
