"""What every engine must do; ``tests/engine/`` holds each of them to it."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import trio
from msgspec import Struct

from beiran.ids import Digest
from beiran.models import EngineInfo
from beiran.oci import Holding, ImageDescription


class EngineImage(Struct, frozen=True):
    """An image that the engine holds."""

    description: ImageDescription
    holding: Holding


class EngineUp(Struct, frozen=True):
    """The engine answers; ``ImagesListed`` follows."""

    info: EngineInfo


class EngineDown(Struct, frozen=True):
    """The engine does not answer, for ``reason`` (one line). ``EngineUp`` comes when it does."""

    reason: str


class ImagesListed(Struct, frozen=True):
    """Everything the engine holds: what is not in it is gone."""

    images: tuple[EngineImage, ...]


class ImageChanged(Struct, frozen=True):
    """An image appeared, or goes by other names now."""

    image: EngineImage


class ImageGone(Struct, frozen=True):
    """An image is no longer there."""

    image: Digest


EngineNews = EngineUp | EngineDown | ImagesListed | ImageChanged | ImageGone


class LayerReader(Protocol):
    """An open layer: its uncompressed tar, bit for bit as its diff ID says."""

    size_bytes: int
    """Length of the tar."""

    def chunks(self, start: int, end: int) -> AsyncIterator[bytes]:
        """The bytes ``start`` (included) to ``end`` (excluded), in order, in chunks of any size.

        Raises: DataError when what is on disk turns out not to be that layer. When the whole tar
        is asked for, that is told before the last chunk is handed out.
        """
        ...


class Engine(Protocol):
    """Where images live."""

    @property
    def info(self) -> EngineInfo:
        """What is known of it now; ``up`` is False while it does not answer."""
        ...

    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        """Tell everything that happens, for ever; never raises because the engine is away.

        First ``EngineUp`` and ``ImagesListed``, then changes as the engine has them, and a
        fresh ``ImagesListed`` now and then for what was missed. Where layers must be read to
        know their sizes, large images may come as changes soon after the first list.
        """
        ...

    def open_layer(self, digest: Digest) -> AbstractAsyncContextManager[LayerReader]:
        """Open the layer with this diff ID.

        Raises: NotFound when the engine does not have it (or its data cannot be read here);
        EngineUnavailable; DataError when it is damaged.
        """
        ...
