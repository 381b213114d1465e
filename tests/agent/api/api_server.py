"""The API on real sockets, over a real store; the tests apply effects to it."""

import hashlib
import http.client
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, Self

import msgspec
import trio
from msgspec import Struct

from beiran.agent.api.openapi import openapi_route
from beiran.agent.api.prometheus_text import Metric, Sample
from beiran.agent.api.routes import api_routes
from beiran.agent.event_bus import EventBus
from beiran.api.models import EngineInfo, Info
from beiran.engine.interface import LayerReader
from beiran.errors import DataError, EngineUnavailable, NotFound
from beiran.gossip.effects import Effect
from beiran.http.listeners import open_tcp_listeners
from beiran.http.server import HttpCounters, serve_http
from beiran.ids import Digest, digest_text, node_id_text
from tests.store.samples import AT, node, open_store

TAR = bytes(range(256)) * 1000
TAR_DIGEST = Digest(hashlib.sha256(TAR).digest())


class TarReader:
    """A layer in memory: a ``LayerReader``."""

    size_bytes = len(TAR)

    async def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        for at in range(start, end, 1000):
            yield TAR[at : min(at + 1000, end)]


class SmallAgent:
    """An agent with one layer: a ``StatusSource`` with metrics."""

    def __init__(self) -> None:
        self.trouble: list[str] = []
        self.engine_error: Exception | None = None
        self.open_layers = 0

    async def info(self) -> Info:
        return Info(
            uuid=node_id_text(node("me")),
            name="me",
            cluster="default",
            address="127.0.0.1",
            port=8888,
            state="alive",
            generation=1,
            incarnation=0,
            version="0.1.0",
            engine=EngineInfo(kind="none"),
            started_at=AT,
            nodes_online=1,
            nodes_known=1,
            images=0,
            layers=0,
            problems=tuple(self.trouble),
        )

    def problems(self) -> Sequence[str]:
        return self.trouble

    def metrics(self) -> list[Metric]:
        up = Metric("beiran_engine_up", "gauge", "1 while the engine answers.", (Sample(1),))
        samples = (Sample(2, {"state": "alive"}), Sample(0, {"state": 'a "b"\\c\n'}))
        return [up, Metric("beiran_nodes", "gauge", "Known nodes.", samples)]

    @asynccontextmanager
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        if self.engine_error is not None:
            raise self.engine_error
        if digest != TAR_DIGEST:
            raise NotFound("LAYER", f"no layer {digest_text(digest)} here")
        self.open_layers += 1
        try:
            yield TarReader()
        finally:
            self.open_layers -= 1


class Answer(Struct):
    """An answer, with header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        assert self.headers["content-type"] == "application/json"
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> object:
        """The code of its one error."""
        (error,) = self.json["errors"]
        assert error["message"]
        return error["code"]


class ApiServer:
    """The API of one node, its store and its event bus."""

    def __init__(self, folder: Path) -> None:
        self.store = open_store(folder)
        self.bus = EventBus()
        self.agent = SmallAgent()
        self.counters = HttpCounters()
        self.port = 0
        self.nursery: trio.Nursery  # from ``serve`` on, for what a test runs beside it

    async def serve(self, *, task_status: trio.TaskStatus[None]) -> None:
        listeners = await open_tcp_listeners("127.0.0.1", 0)
        self.port = listeners[0].socket.getsockname()[1]
        described = api_routes(
            self.agent,
            self.store,
            self.bus,
            metrics=self.agent.metrics,
            open_layer=self.agent.open_layer,
        )
        routes = [*described, openapi_route(described)]
        async with trio.open_nursery() as nursery:
            self.nursery = nursery
            serve = partial(serve_http, listeners, routes, listener="tcp", counters=self.counters)
            await nursery.start(serve)
            task_status.started()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def happen(self, *effects: Effect) -> None:
        """Write effects and announce the outcome, as the agent's store writer does."""
        self.bus.announce(self.store.apply(effects, AT))

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
    ) -> Answer:
        """Blocks, so call it from another thread than the server's."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=dict(headers or {}))
            response = connection.getresponse()
            received = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, received, response.read())
        finally:
            connection.close()


class ServerThread(AbstractContextManager["ServerThread"]):
    """An ``ApiServer`` in a thread of its own, for tests that block."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: SimpleQueue[ApiServer] = SimpleQueue()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._scope = trio.CancelScope()

    async def _run(self) -> None:
        self.token = trio.lowlevel.current_trio_token()
        server = ApiServer(self._folder)
        with self._scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve)
                self._started.put(server)
        server.store.close()

    def __enter__(self) -> Self:
        self._thread.start()
        self.server = self._started.get(timeout=30)
        return self

    def happen(self, *effects: Effect) -> None:
        """As ``ApiServer.happen``."""
        trio.from_thread.run_sync(lambda: self.server.happen(*effects), trio_token=self.token)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self.token)
        self._thread.join(30)


@contextmanager
def engine_that(agent: SmallAgent, error: EngineUnavailable | DataError) -> Iterator[None]:
    """While it fails with ``error``."""
    agent.engine_error = error
    try:
        yield
    finally:
        agent.engine_error = None
