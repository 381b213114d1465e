"""The Docker Engine as an engine: listed once, then followed by its events.

Both of its image stores are known. In a graph driver's an image's ID is its config digest; in
containerd's it is the digest of a manifest or an index, behind which the config is looked up.
Docker's events are subscribed to before the first list, so that nothing falls between the two.
Not everything has an event (an untagged build, a prune in containerd's store): where the engine's
data root can be read, the kernel tells of those (inotify), and all is listed again now and then.
"""

import json
import logging
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlencode

import msgspec
import trio

from beiran.engine.contract import EngineNews, LayerReader
from beiran.engine.docker_api import (
    BadAnswer,
    DockerApi,
    DockerEvent,
    ImageInspect,
    ImageSummary,
    InfoReply,
    lines,
)
from beiran.engine.docker_save import SavedLayers
from beiran.engine.docker_stores import (
    ContainerdStore,
    GraphDriverStore,
    ImageStore,
    StoredImage,
    has_layer,
)
from beiran.engine.inotify import watch_folders
from beiran.engine.layer_reader import LayerReaders
from beiran.engine.layer_sizes import LayerSizes
from beiran.engine.references import digests_of, tags_of
from beiran.engine.telling import Images, Row, Telling, merge
from beiran.errors import EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text
from beiran.models import EngineInfo
from beiran.oci import RepoDigest

RELIST_S: Final = 300.0
RELIST_SOON_S: Final = 0.5
"""How long after the last hint all is listed again. The steps of a build come in between."""
RELIST_DELAY_S_MAX: Final = 5.0
"""How long after the first hint that is, when hints go on and on."""
RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 5.0
FIRST_LIST_PATIENCE_S: Final = 2.0
"""How long the first list waits for layers that must be measured."""
INSPECTS_AT_ONCE: Final = 4
LIST_TRIES: Final = 5
LIST_AGAIN_S: Final = 0.1
BURST_MAX: Final = 32
"""With more images than this to look at, all are listed instead."""
SINCE_S: Final = 1.0
"""How far back the events begin. Docker answers a little before it subscribes us."""

IMAGE_EVENTS: Final = (
    "create",
    "delete",
    "import",
    "load",
    "prune",
    "pull",
    "push",
    "tag",
    "untag",
)
CONTAINER_EVENTS: Final = ("commit",)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Row:
    """An image as the engine lists it; there may be several platforms behind it."""

    tags: tuple[str, ...]
    digests: tuple[RepoDigest, ...]
    images: tuple[StoredImage, ...]


class DockerEngine:
    """The Docker Engine at ``socket_path``. Keeps ``contract.Engine``.

    Args:
      socket_path: its unix socket, which need not be there yet.
      sizes_file: keeps the sizes of layers that lie compressed (containerd's store).
      read_data_root: whether to read the engine's files where that is possible; without them
        sizes come from histories, and layers from ``docker save``.
      relist_s: seconds between full lists.
    """

    def __init__(
        self,
        socket_path: str,
        *,
        sizes_file: Path | None = None,
        read_data_root: bool = True,
        relist_s: float = RELIST_S,
    ) -> None:
        self._api = DockerApi(socket_path)
        self._sizes = LayerSizes(sizes_file)
        self._saved = SavedLayers(self._api)
        self._readers = LayerReaders()
        self._read_data_root = read_data_root
        self._relist_s = relist_s
        self._info = EngineInfo(kind="docker", up=False)
        self._store: ImageStore | None = None
        self._rows: dict[str, _Row] = {}
        self._pending: dict[str, None] = {}
        self._warned: set[str] = set()
        self._relist_at = inf
        self._relist_by = inf
        self._wake = trio.Event()

    @property
    def info(self) -> EngineInfo:
        """As ``contract.Engine`` says."""
        return self._info

    async def serve(self, news: trio.MemorySendChannel[EngineNews]) -> None:
        """As ``contract.Engine`` says."""
        telling = Telling(news)
        await self._sizes.load()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sizes.serve, self._rouse)
                nursery.start_soon(self._saved.serve)
                await self._follow_again_and_again(telling)
        finally:
            self._api.close()

    async def _follow_again_and_again(self, telling: Telling) -> None:
        retry_s = RETRY_S_MIN
        while True:
            try:
                await self._follow(telling)
            except* EngineUnavailable as group:
                reason = str(_first(group))
            if self._info.up:
                retry_s = RETRY_S_MIN
            self._info = msgspec.structs.replace(self._info, up=False)
            self._api.close()
            await telling.down(reason)
            await trio.sleep(retry_s)
            retry_s = min(2 * retry_s, RETRY_S_MAX)

    async def _follow(self, telling: Telling) -> None:
        """Tell what the engine holds until it is away. Raises: EngineUnavailable (in groups)."""
        version = await self._api.negotiate()
        info = await self._api.get("/info", InfoReply)
        self._store = await trio.to_thread.run_sync(self._choose_store, info)
        self._pending.clear()
        filters = {"type": ["image", "container"], "event": [*IMAGE_EVENTS, *CONTAINER_EVENTS]}
        query = urlencode({"since": f"{time.time() - SINCE_S:.9f}", "filters": json.dumps(filters)})
        async with (
            self._api.stream(f"/events?{query}") as pieces,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(self._watch_files, self._store.folders)
            nursery.start_soon(self._read_events, pieces)
            self._rows = {}
            await self._list()
            self._info = EngineInfo(
                kind="docker", version=version.version, store=self._store.name, up=True
            )
            await telling.up(self._info)
            with trio.move_on_after(FIRST_LIST_PATIENCE_S):
                await self._sizes.settled.wait()
            await telling.everything(self._images())
            await self._tell_changes(telling)

    def _choose_store(self, info: InfoReply) -> ImageStore:
        data_root = Path(info.docker_root_dir) if self._read_data_root else None
        if ["driver-type", "io.containerd.snapshotter.v1"] in (info.driver_status or []):
            return ContainerdStore(self._api, data_root, self._sizes, self._saved)
        return GraphDriverStore(self._api, data_root, info.driver, self._sizes, self._saved)

    async def _tell_changes(self, telling: Telling) -> None:
        """Look at what events name, and list all now and then; for ever."""
        next_list_at = trio.current_time() + self._relist_s
        while True:
            with trio.move_on_at(min(next_list_at, self._relist_at)):
                await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            if now >= next_list_at:
                await self._list()
                await telling.everything(self._images())
                next_list_at = trio.current_time() + self._relist_s
                continue
            names = list(self._pending)
            self._pending.clear()
            if now >= self._relist_at or len(names) > BURST_MAX or not await self._look_at(names):
                await self._list()
            await telling.changes(self._images())

    async def _look_at(self, names: list[str]) -> bool:
        """Bring the rows of some images up to date.

        Returns: False when only a list can tell. An image without a name may be one that lists
        hide (a step of a build), and a tag that moved leaves its former image behind.
        """
        for name in names:
            try:
                inspect = await self._api.get(f"/images/{quote(name)}/json", ImageInspect)
                row = await self._read_row(inspect.id, inspect.repo_tags, inspect.repo_digests)
            except BadAnswer:
                return False
            except NotFound:
                if self._rows.pop(name, None) is None:
                    return False
                # What was built on may be an image of its own again.
                self._relist_soon()
                continue
            others = (row_id for row_id in self._rows if row_id != inspect.id)
            if not row.tags or any(set(self._rows[each].tags) & set(row.tags) for each in others):
                return False
            self._rows[inspect.id] = row
            self._want_sizes()
        return True

    async def _list(self) -> None:
        """Bring all rows up to date. What was read of an image before is not read again."""
        self._relist_at = inf
        summaries = await self._list_summaries()
        rows: dict[str, _Row] = {}
        waiting = iter(summaries)

        async def read_some() -> None:
            for summary in waiting:
                try:
                    row = await self._read_row(summary.id, summary.repo_tags, summary.repo_digests)
                except NotFound:
                    continue  # removed since it was listed; an event tells
                except BadAnswer as problem:
                    self._warn_once(str(problem))
                    continue
                rows[summary.id] = row

        async with trio.open_nursery() as nursery:
            for _ in range(INSPECTS_AT_ONCE):
                nursery.start_soon(read_some)
        self._rows = rows
        self._want_sizes()

    async def _list_summaries(self) -> list[ImageSummary]:
        """The engine's own list. Docker 26.1 answers 404 while an image is being removed."""
        for _ in range(LIST_TRIES - 1):
            try:
                return await self._api.get("/images/json", list[ImageSummary])
            except (NotFound, BadAnswer):
                await trio.sleep(LIST_AGAIN_S)
        try:
            return await self._api.get("/images/json", list[ImageSummary])
        except NotFound as error:
            raise EngineUnavailable(f"Docker cannot list its images: {error}") from None

    def _warn_once(self, problem: str) -> None:
        if problem not in self._warned:
            self._warned.add(problem)
            _log.warning("Leaving out an image: %s", problem)

    async def _read_row(
        self, image_id: str, tags: list[str] | None, digests: list[str] | None
    ) -> _Row:
        """A row with these names; what the image is, is read where it is not known for good."""
        assert self._store is not None
        known = self._rows.get(image_id)
        if known is not None and self._store.immutable:
            images = known.images
        else:
            images = await self._store.read(image_id)
        return _Row(tags_of(tags), digests_of(digests), images)

    def _want_sizes(self) -> None:
        assert self._store is not None
        stored = (image for row in self._rows.values() for image in row.images)
        self._sizes.want(self._store.unmeasured(stored))

    def _images(self) -> Images:
        return merge(self._merge_rows())

    def _merge_rows(self) -> Iterator[Row]:
        assert self._store is not None
        for row in self._rows.values():
            for image in row.images:
                description = self._store.describe(image)
                if description is not None:
                    yield description, row.tags, row.digests

    async def _read_events(self, pieces: AsyncIterator[bytes]) -> None:
        """Note whom Docker's events are about. Raises: EngineUnavailable when they end."""
        async with aclosing(lines(pieces)) as each_line:
            async for line in each_line:
                try:
                    event = msgspec.json.decode(line, type=DockerEvent)
                except msgspec.DecodeError as error:
                    _log.warning("Docker sent an event that cannot be read: %s", error)
                    continue
                self._note_event(event)
        raise EngineUnavailable(f"Docker at {self._api.socket_path}: it ended its events")

    def _note_event(self, event: DockerEvent) -> None:
        attributes = event.actor.attributes or {}
        if event.type == "container":
            if event.action == "commit" and (image := attributes.get("imageID")):
                self._pending[image] = None
                self._rouse()
        elif event.action == "prune" or not event.actor.id:
            self._relist_soon()
        else:
            self._pending[event.actor.id] = None
            self._rouse()

    async def _watch_files(self, folders: Sequence[Path]) -> None:
        """Take changes in the engine's files as hints that there may be something new."""
        if not folders:
            return
        with watch_folders(folders, otherwise_s=self._relist_s) as watch:
            while True:
                await watch.changed()
                self._relist_soon()
                await trio.sleep(RELIST_SOON_S / 2)

    def _relist_soon(self) -> None:
        now = trio.current_time()
        if self._relist_at == inf:
            self._relist_by = now + RELIST_DELAY_S_MAX
        self._relist_at = min(now + RELIST_SOON_S, self._relist_by)
        self._rouse()

    def _rouse(self) -> None:
        self._wake.set()

    @asynccontextmanager
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        """As ``contract.Engine`` says."""
        store = self._store
        if store is None or not self._info.up:
            raise EngineUnavailable(f"Docker at {self._api.socket_path} does not answer")
        for image_id, row in self._rows.items():
            for image in row.images:
                if has_layer(image, digest):
                    tar = await store.open_tar(image_id, image, digest)
                    with self._readers.open(digest, tar) as reader:
                        yield reader
                    return
        raise NotFound("LAYER_UNKNOWN", f"this engine has no layer {digest_text(digest)}")


def _first(group: BaseExceptionGroup[EngineUnavailable]) -> BaseException:
    """One of the errors in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
