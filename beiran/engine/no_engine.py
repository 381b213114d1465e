"""No engine at all: an agent that holds nothing, but knows what the others hold."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Never

import trio

from beiran.api.models import EngineInfo
from beiran.engine.interface import (
    BlobReader,
    EngineNews,
    EngineUp,
    ImagesListed,
    ImageToLoad,
    LayerReader,
    Manifest,
    PullProgress,
)
from beiran.errors import EngineRefused, NotFound
from beiran.ids import Digest, digest_text


class NoEngine:
    """Holds no image, ever. Keeps ``contract.Engine``."""

    info = EngineInfo(kind="none")
    can_pull = False
    keeps_compressed_blobs = False

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

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        """None."""
        return {}

    @asynccontextmanager
    async def open_blob(self, digest: Digest) -> AsyncIterator[BlobReader]:
        """Raises: NotFound."""
        raise NotFound("BLOB_UNKNOWN", f"this node has no blob {digest_text(digest)}")
        yield

    async def manifest(self, digest: Digest) -> Manifest | None:
        """None."""
        return None

    async def image_manifest(self, image: Digest) -> Manifest | None:
        """None."""
        return None

    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        """All of them."""
        return list(diff_ids)

    async def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """None."""
        return set()

    async def load(self, image: ImageToLoad) -> None:
        """Raises: EngineRefused."""
        _refuse()

    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        """Raises: EngineRefused."""
        _refuse()

    async def tag(self, image: Digest | str, name: str) -> None:
        """Raises: EngineRefused."""
        _refuse()

    async def untag(self, name: str) -> None:
        """Nothing has a name here."""

    async def find_image(self, name: str) -> Digest | None:
        """None."""
        return None


def _refuse() -> Never:
    raise EngineRefused("this node has no engine: start its agent with one (--engine)")
