"""No engine at all: an agent that holds nothing, but knows what the others hold."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from beiran.engine.contract import EngineNews, EngineUp, ImagesListed, LayerReader
from beiran.errors import NotFound
from beiran.ids import Digest, digest_text
from beiran.models import EngineInfo


class NoEngine:
    """Holds no image, ever. Keeps ``contract.Engine``."""

    info = EngineInfo(kind="none")

    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        """Tell an empty list, and then nothing for ever."""
        await news.send(EngineUp(self.info))
        await news.send(ImagesListed(()))
        await trio.sleep_forever()

    @asynccontextmanager
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        """Raises: NotFound."""
        raise NotFound("LAYER_UNKNOWN", f"this node has no layer {digest_text(digest)}")
        yield
