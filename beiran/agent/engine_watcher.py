"""Tells the core what this node's engine holds.

The engine says what it has, in full or change by change; the core is told the difference to what it
knows. While the engine is away its images are still on the disk, and what was known stays.
"""

import logging
from typing import Final

import trio

from beiran.agent.event_bus import Bus
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

NEWS_WAITING_MAX: Final = 1024

_log: Final = logging.getLogger(__name__)


class Holder:
    """Follows one engine.

    Attributes:
      down_reason: why the engine does not answer; None while it does.
      turned: set when the engine has come or gone; whoever waits for it puts a new one there.
      listed: set once the engine has said for the first time what it holds.
    """

    def __init__(self, engine: Engine, driver: GossipDriver, bus: Bus) -> None:
        self._engine: Final = engine
        self._driver: Final = driver
        self._bus: Final = bus
        self.down_reason: str | None = "it has not answered yet"
        self.listed: Final = trio.Event()
        self.turned = trio.Event()

    async def serve(self) -> None:
        """Follow the engine for ever."""
        send, receive = trio.open_memory_channel[EngineNews](NEWS_WAITING_MAX)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._engine.serve, send)
            async for news in receive:
                self._take(news)

    def _take(self, news: EngineNews) -> None:
        match news:
            case EngineUp():
                self.down_reason = None
                self._tell("engine.up", "")
                _log.info("%s", _words(news.info))
            case EngineDown(reason=reason):
                self.down_reason = reason
                self._tell("engine.down", reason)
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

    def _tell(self, event: EventName, reason: str) -> None:
        self.turned.set()
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
