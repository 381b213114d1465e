"""The engine of ``--engine none``: the agent holds no images and lists those of other nodes."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Never

import trio
from typing_extensions import override

from beiran.api.models import EngineInfo
from beiran.engine.interface import (
    BlobReader,
    Engine,
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


class NoEngine(Engine):
    """Holds no image, ever."""

    info = EngineInfo(kind="none")
    can_pull = False
    keeps_compressed_blobs = False

    @override
    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        await news.send(EngineUp(self.info))
        await news.send(ImagesListed(()))
        await trio.sleep_forever()

    @asynccontextmanager
    @override
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        raise NotFound("LAYER_UNKNOWN", f"this node has no layer {digest_text(digest)}")
        yield

    @override
    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        return {}

    @asynccontextmanager
    @override
    async def open_blob(self, digest: Digest) -> AsyncIterator[BlobReader]:
        raise NotFound("BLOB_UNKNOWN", f"this node has no blob {digest_text(digest)}")
        yield

    @override
    async def manifest(self, digest: Digest) -> Manifest | None:
        return None

    @override
    async def image_manifest(self, image: Digest) -> Manifest | None:
        return None

    @override
    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        return list(diff_ids)

    @override
    async def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        return set()

    @override
    async def load(self, image: ImageToLoad) -> None:
        _refuse()

    @override
    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        _refuse()

    @override
    async def tag(self, image: Digest | str, name: str) -> None:
        _refuse()

    @override
    async def untag(self, name: str) -> None:
        """Change nothing: no image has a name here."""


def _refuse() -> Never:
    raise EngineRefused("this node has no engine: start its agent with one (--engine)")
