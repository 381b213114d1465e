"""One agent's pull stack behind its two listeners on loopback, for tests that block."""

import threading
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Self

import trio

from beiran.engine.interface import Engine, EngineNews
from beiran.engine.open import open_engine
from beiran.settings.values import EngineSpec
from beiran_cli.demo_images import make_layout
from tests.http.serving import serve
from tests.pull.site import PEER, Site, open_site


async def _serve_engine(engine: Engine, nursery: trio.Nursery) -> None:
    """Have an engine run, and wait until it is up."""
    send, receive = trio.open_memory_channel[EngineNews](0)
    nursery.start_soon(engine.serve, send)
    await receive.receive()

    async def forget() -> None:
        async for _ in receive:
            pass

    nursery.start_soon(forget)


class PullStackThread:
    """In a thread of its own: a site whose engine is a layout folder, and whose peer is itself.

    Attributes:
      unix_url: where what the unix socket answers is answered over TCP.
      tcp_url: what other agents ask; to them we are a member.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self._folder = folder
        self._settings = settings
        self._started: SimpleQueue[tuple[Site, int, int] | None] = SimpleQueue()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))
        self._scope = trio.CancelScope()

    async def _run(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        try:
            with self._scope:
                async with AsyncExitStack() as stack:
                    make_layout(self._folder / "images")
                    engine = open_engine(
                        EngineSpec("oci", str(self._folder / "images")),
                        cache_dir=self._folder / "data",
                    )
                    site = await stack.enter_async_context(
                        open_site(self._folder, engine=engine, **self._settings)
                    )
                    nursery = await stack.enter_async_context(trio.open_nursery())
                    stack.callback(nursery.cancel_scope.cancel)
                    await _serve_engine(engine, nursery)
                    routes = site.routes
                    unix = await stack.enter_async_context(serve(routes, listener="unix"))
                    tcp = await stack.enter_async_context(serve(routes, listener="tcp"))
                    site.put_member(PEER, "127.0.0.1", tcp.port)
                    self._started.put((site, unix.port, tcp.port))
                    await trio.sleep_forever()
        finally:
            self._started.put(None)

    def __enter__(self) -> Self:
        self._thread.start()
        started = self._started.get(timeout=30)
        assert started is not None, "it did not start"
        self.site, unix, tcp = started
        self.unix_url, self.tcp_url = f"http://127.0.0.1:{unix}", f"http://127.0.0.1:{tcp}"
        return self

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Run an async function there."""
        return trio.from_thread.run(function, *arguments, trio_token=self._token)

    def __exit__(self, *details: object) -> None:
        trio.from_thread.run_sync(self._scope.cancel, trio_token=self._token)
        self._thread.join(30)
