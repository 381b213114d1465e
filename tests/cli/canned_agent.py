"""An agent's API on a unix socket and on TCP, served by the real server from ``rows``."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio
from msgspec import Struct

from beiran.api.models import Change, Image, Layer, Node, Prefetch, Prefetching, PullFailed
from beiran.errors import BadRequest, NotFound
from beiran.http.messages import Request, Response, Route, SendMessage
from beiran.http.server import HttpCounters, serve_http
from tests.cli.rows import (
    EVENTS,
    IMAGES,
    INFO,
    LAYERS,
    NODES,
    PULL,
    PULLED,
    TRANSFERS,
    UUID_A,
    UUID_NEW,
    at,
)


class Api(Struct, frozen=True):
    """Where the canned agent answers."""

    socket: str
    url: str


def _json(value: object) -> Response:
    return Response(headers=[("Content-Type", "application/json")], body=msgspec.json.encode(value))


def _of(request: Request, rows: Sequence[Node | Image | Layer]) -> list[Node | Image | Layer]:
    return [row for row in rows if _is_wanted(row, request)]


def _is_wanted(row: Node | Image | Layer, request: Request) -> bool:
    if request.query.get("all") == ["true"]:
        return True
    if isinstance(row, Node):
        return row.online
    (uuid,) = request.query.get("node", [UUID_A])
    return at(uuid)[0] in row.available_at


async def _info(request: Request) -> Response:
    return _json(INFO)


async def _nodes(request: Request) -> Response:
    return _json({"nodes": _of(request, NODES)})


async def _node(request: Request) -> Response:
    for row in NODES:
        if row.uuid == request.path_args["uuid"]:
            return _json(row)
    raise NotFound("NODE_UNKNOWN", "no such node")


async def _images(request: Request) -> Response:
    return _json({"images": _of(request, IMAGES)})


async def _image(request: Request) -> Response:
    for row in IMAGES:
        if row.id == request.path_args["id"]:
            return _json(row)
    raise NotFound("IMAGE_UNKNOWN", "no such image")


async def _layers(request: Request) -> Response:
    return _json({"layers": _of(request, LAYERS)})


async def _events(request: Request) -> Response:
    return _json({"events": EVENTS})


async def _follow_events(request: Request, send: SendMessage) -> None:
    for event in EVENTS:
        await send(msgspec.json.encode(event))
    await trio.sleep_forever()


async def _transfers(request: Request) -> Response:
    return _json({"transfers": TRANSFERS})


async def _follow_transfers(request: Request, send: SendMessage) -> None:
    for row in TRANSFERS:
        await send(msgspec.json.encode(row))
    await send(msgspec.json.encode(Change(change="listed")))
    first = TRANSFERS[0]
    await send(msgspec.json.encode(Change(change="changed", transfer=first)))
    await send(msgspec.json.encode(Change(change="removed", transfer=first)))
    await trio.sleep_forever()


async def _pull(request: Request) -> Response:
    pulls.append(request.query)
    return _json(PULLED)


async def _run_pull(request: Request, send: SendMessage) -> None:
    """``missing`` is unknown, ``endless`` ends when its client leaves, ``torn`` is cut off."""
    pulls.append(request.query)
    (reference,) = request.query["reference"]
    if reference == "missing":
        failed = PullFailed(status=404, code="MANIFEST_UNKNOWN", message="there is no missing")
        await send(msgspec.json.encode(failed))
        return
    for row in PULL:
        await send(msgspec.json.encode(row))
    await send(b'{"digest": "sha256:f", "state": "of a newer agent"}')
    await send(b'{"pull": "of a newer agent"}')
    if reference == "endless":
        try:
            await trio.sleep_forever()
        finally:
            pulls.append({"ended": [reference]})
    if reference != "torn":
        await send(msgspec.json.encode(PULLED))


def _refuse(request: Request) -> None:
    if request.query["reference"] == ["NOT A NAME"]:
        raise BadRequest("'NOT A NAME' is no name of an image")


async def _only_websocket(request: Request) -> Response:
    raise BadRequest("by WebSocket")


async def _prefetch(request: Request) -> Response:
    wanted = msgspec.json.decode(request.body, type=Prefetch)
    prefetches.append(wanted)
    uuids = [row.uuid for row in NODES] if wanted.nodes == "all" else wanted.nodes
    names = {row.uuid: row.name for row in NODES}
    answers = [
        Prefetching(node=uuid, name=names[uuid], state="refused", message="its disk is full")
        if uuid == UUID_NEW
        else Prefetching(node=uuid, name=names[uuid], state="started")
        for uuid in uuids
    ]
    return _json({"nodes": answers})


pulls: list[Mapping[str, Sequence[str]]] = []
"""The parameters of each pull, and that an endless one has ended."""
prefetches: list[Prefetch] = []

ROUTES = (
    Route(method="GET", pattern="/transfers", handler=_transfers, stream=_follow_transfers),
    Route(method="POST", pattern="/pulls", handler=_pull, listeners=("unix",)),
    Route(
        method="GET",
        pattern="/pulls/run",
        handler=_only_websocket,
        prepare=_refuse,
        stream=_run_pull,
        listeners=("unix",),
    ),
    Route(method="POST", pattern="/prefetch", handler=_prefetch, listeners=("unix",)),
    Route(method="GET", pattern="/info", handler=_info),
    Route(method="GET", pattern="/nodes", handler=_nodes),
    Route(method="GET", pattern="/nodes/{uuid}", handler=_node),
    Route(method="GET", pattern="/images", handler=_images),
    Route(method="GET", pattern="/images/{id}", handler=_image),
    Route(method="GET", pattern="/layers", handler=_layers),
    Route(method="GET", pattern="/events", handler=_events, stream=_follow_events),
)


@asynccontextmanager
async def open_canned_agent(folder: Path) -> AsyncIterator[Api]:
    path = str(folder / "agent.sock")
    with trio.socket.socket(trio.socket.AF_UNIX) as unix:
        await unix.bind(path)
        unix.listen()
        (tcp,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = tcp.socket.getsockname()[1]
        async with trio.open_nursery() as nursery:
            for listener, name in ((trio.SocketListener(unix), "unix"), (tcp, "tcp")):
                await nursery.start(_serve, listener, name)
            yield Api(path, f"http://127.0.0.1:{port}")
            nursery.cancel_scope.cancel()


async def _serve(
    listener: trio.SocketListener,
    name: str,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    await serve_http(
        [listener],
        ROUTES,
        listener="unix" if name == "unix" else "tcp",
        counters=HttpCounters(),
        task_status=task_status,
    )
