"""Telling what an engine holds: one image per config, and only what changed."""

from collections.abc import Iterable

import trio

from beiran.api.models import EngineInfo
from beiran.engine.interface import (
    EngineDown,
    EngineImage,
    EngineNews,
    EngineUp,
    ImageChanged,
    ImageGone,
    ImagesListed,
)
from beiran.ids import Digest
from beiran.oci.images import Holding, ImageDescription, RepoDigest

Images = dict[Digest, EngineImage]
Row = tuple[ImageDescription, Iterable[str], Iterable[RepoDigest]]
"""An image under some of its names. The same image may come in several rows."""


def merge(rows: Iterable[Row]) -> Images:
    """One image per config digest, with the names of all its rows."""
    descriptions: dict[Digest, ImageDescription] = {}
    tags: dict[Digest, set[str]] = {}
    digests: dict[Digest, set[RepoDigest]] = {}
    for description, row_tags, row_digests in rows:
        image = Digest(description.image)
        descriptions[image] = description
        tags.setdefault(image, set()).update(row_tags)
        digests.setdefault(image, set()).update(row_digests)
    return {
        image: EngineImage(
            description,
            Holding(image, tuple(sorted(tags[image])), tuple(sorted(digests[image]))),
        )
        for image, description in descriptions.items()
    }


class Telling:
    """What was told on a channel, so that only the difference needs to be told."""

    def __init__(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        self._news = news
        self._told: Images = {}
        self._down = ""

    async def up(self, info: EngineInfo) -> None:
        """The engine answers."""
        self._down = ""
        await self._news.send(EngineUp(info))

    async def down(self, reason: str) -> None:
        """It does not, which is told once."""
        if not self._down:
            self._down = reason
            await self._news.send(EngineDown(reason))

    async def everything(self, images: Images) -> None:
        """All there is."""
        self._told = images
        await self._news.send(ImagesListed(tuple(images.values())))

    async def changes(self, images: Images) -> None:
        """All there is; only what differs from what was told is told."""
        told, self._told = self._told, images
        for image in told.keys() - images.keys():
            await self._news.send(ImageGone(image))
        for image, held in images.items():
            if told.get(image) != held:
                await self._news.send(ImageChanged(held))
