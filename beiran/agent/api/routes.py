"""The API's routes: what ``docs/api.md`` says, over HTTP and by WebSocket alike."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import msgspec

from beiran.agent.api.layer_tar import layer_response, prefers_json
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
from beiran.agent.api.metrics import METRICS_CONTENT_TYPE, Metric, metrics_text
from beiran.agent.api.parameters import Parameters, read_digest, read_node_id, read_parameters
from beiran.agent.api.streams import follow_rows, listing_response, send_rows
from beiran.agent.event_bus import Bus
from beiran.api.models import ErrorItem, Errors, Image, Info, Layer, Node
from beiran.engine.interface import LayerReader
from beiran.http.messages import Request, Response, Route, SendMessage, json_response
from beiran.ids import Digest, NodeId
from beiran.store.async_reads import Reads
from beiran.store.reads import Everybody, HeldBy, Scope, node_unknown
from beiran.store.store import Store

OPENAPI_FILE: Final = Path(__file__).with_name("openapi.json")


class ApiAgent(Protocol):
    """What the agent itself answers. None of it may take long."""

    async def info(self) -> Info:
        """This node now."""
        ...

    def problems(self) -> Sequence[str]:
        """What keeps it from doing its work, a line each; empty when all is well."""
        ...

    def metrics(self) -> Iterable[Metric]:
        """Its numbers."""
        ...

    def open_layer(self, digest: Digest) -> AbstractAsyncContextManager[LayerReader]:
        """As ``beiran.engine.interface.Engine`` says."""
        ...


def api_routes(agent: ApiAgent, store: Store, bus: Bus) -> list[Route]:
    """Every route of the API.

    Args:
      agent: what only the agent knows.
      store: read in threads, one question at a time.
      bus: on which the agent announces what it writes to ``store``.
    """
    rows = _Rows(store, Reads(store), bus)
    single = _Single(agent, bus)
    return [
        _message_route("/info", single.info),
        rows.listing_route("/nodes", ("all", "follow"), rows.nodes),
        rows.item_route("/nodes/{uuid}", rows.node),
        rows.listing_route("/images", ("all", "node", "follow"), rows.images),
        rows.item_route("/images/{id:path}", rows.image),
        rows.listing_route("/layers", ("all", "node", "follow"), rows.layers),
        rows.item_route("/layers/{digest}", rows.layer, partial(_layer, agent)),
        Route(
            method="GET",
            pattern="/events",
            handler=single.recent_events,
            prepare=partial(_check, ("follow",)),
            stream=single.stream_events,
        ),
        Route(method="GET", pattern="/metrics", handler=single.metrics),
        _message_route("/healthz", single.healthz),
        Route(method="GET", pattern="/openapi.json", handler=single.openapi),
    ]


class _Single:
    """What is not a listing."""

    def __init__(self, agent: ApiAgent, bus: Bus) -> None:
        self._agent = agent
        self._bus = bus
        self._openapi = OPENAPI_FILE.read_bytes()

    async def info(self, request: Request) -> Response:
        return json_response(await self._agent.info())

    async def healthz(self, request: Request) -> Response:
        problems = self._agent.problems()
        if not problems:
            return json_response({"status": "ok"})
        errors = tuple(ErrorItem(code="UNHEALTHY", message=problem) for problem in problems)
        return json_response(Errors(errors=errors), status=503)

    async def metrics(self, request: Request) -> Response:
        read_parameters(request, (), websocket=False)
        return Response(
            headers=[("Content-Type", METRICS_CONTENT_TYPE)],
            body=metrics_text(self._agent.metrics()),
        )

    async def openapi(self, request: Request) -> Response:
        read_parameters(request, (), websocket=False)
        return Response(headers=[("Content-Type", "application/json")], body=self._openapi)

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
    """Nodes, images and layers."""

    def __init__(self, store: Store, reads: Reads, bus: Bus) -> None:
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
        self, path: str, names: Sequence[str], listing: Callable[[Parameters], Listing[R]]
    ) -> Route:
        """A path with many rows, which takes the parameters ``names``."""

        async def handler(request: Request) -> Response:
            parameters = read_parameters(request, names, websocket=False)
            return await listing_response(listing(parameters), self._reads)

        def prepare(request: Request) -> None:
            listing(read_parameters(request, names, websocket=True))

        async def stream(request: Request, send: SendMessage) -> None:
            parameters = read_parameters(request, names, websocket=True)
            await self._stream(listing(parameters), parameters, send)

        return Route(method="GET", pattern=path, handler=handler, prepare=prepare, stream=stream)

    def item_route(
        self,
        path: str,
        item: Callable[[Request], Awaitable[Listing[R]]],
        payload: Callable[[Request], Awaitable[Response | None]] | None = None,
    ) -> Route:
        """A path with one row, or with what ``payload`` answers if it does."""

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

        return Route(method="GET", pattern=path, handler=handler, prepare=prepare, stream=stream)

    async def _stream(self, listing: Listing[R], parameters: Parameters, send: SendMessage) -> None:
        if parameters.follow:
            await follow_rows(listing, self._reads, self._bus, send)
        else:
            await send_rows(listing, self._reads, send)

    def _scope(self, parameters: Parameters) -> Scope:
        if parameters.all:
            return Everybody()
        if parameters.node is None:
            return HeldBy(self._store.node)
        self._check_node(parameters.node)
        return HeldBy(parameters.node)

    def _check_node(self, node: NodeId) -> None:
        if not self._store.knows(node):
            raise node_unknown(node)


def _check(names: Sequence[str], request: Request) -> None:
    read_parameters(request, names, websocket=True)


async def _layer(agent: ApiAgent, request: Request) -> Response | None:
    """The layer's tar; None when its description is wanted."""
    digest = read_digest(request.path_args["digest"])
    if prefers_json(request):
        return None
    return await layer_response(request, digest, agent.open_layer)


def _message_route(path: str, handler: Callable[[Request], Awaitable[Response]]) -> Route:
    """A path without parameters, whose JSON is also one message of a WebSocket."""

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
    )
