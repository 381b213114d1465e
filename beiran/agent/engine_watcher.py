"""Watch the engine, and report its images to the gossip core as this node's holdings.

The news of the engine (``engine/interface.py``, ``EngineNews``) arrives here: a Docker event enters
at ``engine/docker/session.py`` and is an ``ImageChanged`` or ``ImageGone`` here.
``GossipNode.hold`` and ``release`` make it a change of holdings. While the engine is down its
images are still on the disk, so the holdings stay.
"""

import logging
from typing import Final

import trio

from beiran.agent.event_bus import EventBus
from beiran.agent.gossip_driver import GossipDriver
from beiran.api.events import Event, EventName
from beiran.api.models import EngineInfo
from beiran.clock import now_text
from beiran.engine.interface import (
    Engine,
    EngineDown,
    EngineImage,
    EngineNews,
    EngineUp,
    ImageChanged,
    ImageGone,
    ImagesListed,
)
from beiran.ids import Digest, node_id_text

# Chosen, not measured: more than the events of one `docker system prune`. A full channel makes the
# engine's task wait and loses nothing.
NEWS_WAITING_MAX: Final = 1024

_log: Final = logging.getLogger(__name__)


class EngineWatcher:
    """Follows one engine.

    Attributes:
      engine: the engine.
      down_reason: why the engine does not answer; None while it does.
      listed: set once the engine has listed its images for the first time.
    """

    def __init__(self, engine: Engine, driver: GossipDriver, bus: EventBus) -> None:
        self.engine: Final = engine
        self._driver: Final = driver
        self._bus: Final = bus
        self.down_reason: str | None = "it has not answered yet"
        self.listed: Final = trio.Event()
        self._turned = trio.Event()

    async def serve(self) -> None:
        """Follow the engine until cancelled."""
        send, receive = trio.open_memory_channel[EngineNews](NEWS_WAITING_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.engine.serve, send)
            async for news in receive:
                self._take(news)

    async def turned(self) -> None:
        """Wait until the engine has gone up or down since the last call. For one task only."""
        await self._turned.wait()
        self._turned = trio.Event()

    def _take(self, news: EngineNews) -> None:
        match news:
            case EngineUp():
                self.down_reason = None
                self._publish("engine.up", "")
                _log.info("%s", _words(news.info))
            case EngineDown(reason=reason):
                self.down_reason = reason
                self._publish("engine.down", reason)
                _log.warning("engine is down: %s", reason)
            case ImagesListed(images=images):
                self._hold(images)
                listed = {image.holding.image for image in images}
                own = self._driver.node.own.node
                held = [h.image for h in self._driver.node.possession.holdings(own)]
                self._release([image for image in held if image not in listed])
                self.listed.set()
            case ImageChanged(image=image):
                self._hold((image,))
            case ImageGone(image=digest):
                self._release([digest])

    def _hold(self, images: tuple[EngineImage, ...]) -> None:
        holdings = [image.holding for image in images]
        descriptions = [image.description for image in images]
        now = trio.current_time()
        self._driver.do(self._driver.node.hold(holdings, descriptions, now=now))

    def _release(self, images: list[Digest]) -> None:
        self._driver.do(self._driver.node.release(images, now=trio.current_time()))

    def _publish(self, event: EventName, reason: str) -> None:
        self._turned.set()
        own = self._driver.node.own
        self._bus.publish(
            Event(
                event=event,
                at=now_text(),
                node=node_id_text(own.node),
                name=own.name,
                reason=reason,
            )
        )


def _words(info: EngineInfo) -> str:
    """The log line for an engine that answers."""
    if info.kind == "none":
        return "no engine: this node holds no images of its own"
    return "engine is up: " + " ".join(filter(None, (info.kind, info.version, info.store)))
