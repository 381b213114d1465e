"""The image list of a Docker Engine, kept up to date image by image.

A ``DockerSession`` owns it for one connection.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import trio

from beiran.engine.docker.docker_client import (
    QUESTIONS_AT_ONCE,
    BadAnswer,
    DockerClient,
    ImageSummary,
)
from beiran.engine.docker.image_store import ImageIndex, ImageStore, Place, StoredImage
from beiran.engine.image_changes import Images, Row, merge
from beiran.engine.layers.sizes import LayerSizes
from beiran.errors import NotFound
from beiran.oci.familiar_names import digests_of, tags_of
from beiran.oci.images import RepoDigest

LIST_TRIES: Final = 5
LIST_AGAIN_S: Final = 0.1
"""Docker 26.1 fails to list while it removes an image, which takes some 0.1 s."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """A row of the engine's list, with an image for each platform that is there."""

    tags: tuple[str, ...]
    digests: tuple[RepoDigest, ...]
    images: tuple[StoredImage, ...]


class ImageRows:
    """The images of an engine, by the IDs that it gives them.

    ``list_all`` may take long (Docker 26.1 needs seconds for 500 images in containerd's store).
    ``look_at`` can be called meanwhile: what it finds is newer than the list.
    """

    def __init__(self, client: DockerClient, store: ImageStore, sizes: LayerSizes) -> None:
        self._client = client
        self._store = store
        self._sizes = sizes
        self._rows: dict[str, _Row] = {}
        self._touched: set[str] = set()
        self._warned: set[str] = set()
        self._index: ImageIndex | None = None

    def images(self) -> Images:
        """The images that can be described by now."""
        return merge(self._merge_rows())

    def index(self) -> ImageIndex:
        """All images by digests."""
        if self._index is None:
            self._index = ImageIndex()
            for image_id, row in self._rows.items():
                for image in row.images:
                    self._index.add(Place(image_id, image))
        return self._index

    async def look_at(self, name: str) -> bool:
        """Bring the row of one image up to date.

        Returns: whether all must be listed again to be sure. An image without a name may be one
        that lists hide (a step of a build), and its base may appear in lists again.

        Raises: EngineUnavailable.
        """
        try:
            inspect = await self._client.inspect_image(name)
            row = await self._read_row(inspect.id, inspect.repo_tags, inspect.repo_digests)
        except BadAnswer as problem:
            self._warn_once(str(problem))
            return True
        except NotFound:
            self._touched.add(name)
            self._rows.pop(name, None)
            self._index = None
            return True
        self._touched.add(inspect.id)
        list_needed = self._take_tags(inspect.id, row.tags)
        if row.tags or inspect.id in self._rows or not self._store.hides_steps:
            self._rows[inspect.id] = row
            self._index = None
            self._want_sizes()
        return list_needed or not row.tags

    def _take_tags(self, image_id: str, tags: tuple[str, ...]) -> bool:
        """Take tags that an image has now from all others: Docker has no event for those.

        Returns: whether an image lost its last name.
        """
        nameless = False
        for other_id, other in self._rows.items():
            if other_id != image_id and not set(tags).isdisjoint(other.tags):
                kept = tuple(tag for tag in other.tags if tag not in tags)
                self._rows[other_id] = replace(other, tags=kept)
                self._touched.add(other_id)
                nameless |= not kept
        return nameless

    async def list_all(self) -> None:
        """Bring all rows up to date. Raises: EngineUnavailable."""
        self._touched.clear()
        rows: dict[str, _Row] = {}
        waiting = iter(await self._list_summaries())

        async def read_some() -> None:
            for summary in waiting:
                try:
                    row = await self._read_row(summary.id, summary.repo_tags, summary.repo_digests)
                except NotFound:
                    continue  # removed since it was listed, which has an event
                except BadAnswer as problem:
                    self._warn_once(str(problem))
                    continue
                rows[summary.id] = row

        async with trio.open_nursery() as nursery:
            for _ in range(QUESTIONS_AT_ONCE):
                nursery.start_soon(read_some)
        for image_id in self._touched:
            rows.pop(image_id, None)
            if image_id in self._rows:
                rows[image_id] = self._rows[image_id]
        self._rows = rows
        self._index = None
        self._want_sizes()

    async def _list_summaries(self) -> list[ImageSummary]:
        """The engine's own list. Docker 26.1 answers 404 while an image is being removed."""
        for _ in range(LIST_TRIES - 1):
            try:
                return await self._client.images()
            except BadAnswer:
                await trio.sleep(LIST_AGAIN_S)
        return await self._client.images()

    async def _read_row(
        self, image_id: str, tags: list[str] | None, digests: list[str] | None
    ) -> _Row:
        """A row with these names. Its images are read again only where they may change."""
        known = self._rows.get(image_id)
        if known is not None and self._store.immutable:
            images = known.images
        else:
            images = await self._store.read(image_id)
        origins = await self._store.provenance(digests_of(digests))
        return _Row(tags_of(tags), origins, images)

    def _want_sizes(self) -> None:
        stored = (image for row in self._rows.values() for image in row.images)
        self._sizes.want(self._store.unmeasured(stored))

    def _merge_rows(self) -> Iterator[Row]:
        for row in self._rows.values():
            for image in row.images:
                description = self._store.describe(image)
                if description is not None:
                    yield description, row.tags, row.digests

    def _warn_once(self, problem: str) -> None:
        if problem not in self._warned:
            self._warned.add(problem)
            _log.warning("an image is not listed: %s", problem)
