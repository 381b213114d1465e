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
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

import msgspec
import trio

from beiran.api.models import EngineInfo
from beiran.engine.content_store import PlatformImage
from beiran.engine.docker.commands import DockerActions
from beiran.engine.docker.containerd_store import ContainerdStore
from beiran.engine.docker.docker_client import (
    DockerApi,
    DockerEvent,
    ImageInspect,
    InfoReply,
    image_path,
    lines,
)
from beiran.engine.docker.graph_driver_store import GraphDriverStore
from beiran.engine.docker.image_list import INSPECTS_AT_ONCE, ImageRows
from beiran.engine.docker.image_store import ImageIndex, ImageStore
from beiran.engine.docker.relist_schedule import ListSchedule
from beiran.engine.docker.save import SavedLayers
from beiran.engine.folder_watch import watch_folders
from beiran.engine.image_changes import Telling
from beiran.engine.interface import (
    FIND_BLOBS_MAX,
    BlobReader,
    EngineNews,
    ImageToLoad,
    LayerReader,
    Manifest,
    PullProgress,
)
from beiran.engine.layers.blob_reader import BlobReaders
from beiran.engine.layers.sizes import LayerSizes
from beiran.engine.layers.verified_reader import LayerReaders, TarSource
from beiran.errors import EngineUnavailable, NotFound
from beiran.ids import Digest, digest_text

RELIST_S: Final = 300.0
HINT_PAUSE_S: Final = 0.25
"""How long more hints are gathered into one."""
RETRY_S_MIN: Final = 0.2
RETRY_S_MAX: Final = 5.0
FIRST_LIST_PATIENCE_S: Final = 2.0
"""How long the first list waits for layers that must be measured."""
BATCH: Final = 16
"""How many images are looked at before their changes are told."""
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
        self._blobs = BlobReaders(self._readers, self._open_source)
        self._actions = DockerActions(self._api)
        self._read_data_root = read_data_root
        self._relist_s = relist_s
        self._info = EngineInfo(kind="docker", up=False)
        self._store: ImageStore | None = None
        self._rows: ImageRows | None = None
        self._pending: dict[str, None] = {}
        self._schedule = ListSchedule(relist_s)
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
                nursery.start_soon(self._blobs.serve)
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
            self._rows = ImageRows(self._api, self._store, self._sizes)
            self._schedule = ListSchedule(self._relist_s)
            self._schedule.start(trio.current_time())
            await self._list(self._rows)
            self._info = EngineInfo(
                kind="docker", version=version.version, store=self._store.name, up=True
            )
            await telling.up(self._info)
            with trio.move_on_after(FIRST_LIST_PATIENCE_S):
                await self._sizes.settled.wait()
            await telling.everything(self._rows.images())
            await self._tell_changes(telling, self._rows, nursery)

    def _choose_store(self, info: InfoReply) -> ImageStore:
        data_root = Path(info.docker_root_dir) if self._read_data_root else None
        if ["driver-type", "io.containerd.snapshotter.v1"] in (info.driver_status or []):
            return ContainerdStore(self._api, data_root, self._sizes, self._saved)
        return GraphDriverStore(self._api, data_root, info.driver, self._sizes, self._saved)

    async def _tell_changes(self, telling: Telling, rows: ImageRows, nursery: trio.Nursery) -> None:
        """Look at what events name, and list all when it is time; for ever."""
        while True:
            with trio.move_on_at(self._schedule.due_at):
                await self._wake.wait()
            self._wake = trio.Event()
            now = trio.current_time()
            if now >= self._schedule.due_at:
                self._schedule.start(now)
                nursery.start_soon(self._list, rows)
            await self._look_at_pending(rows)
            if self._schedule.take_whole():
                await telling.everything(rows.images())
            else:
                await telling.changes(rows.images())

    async def _look_at_pending(self, rows: ImageRows) -> None:
        """Look at some of the images that events named; the rest is for the next time."""
        names = list(self._pending)[:BATCH]
        waiting = iter(names)

        async def look() -> None:
            for name in waiting:
                del self._pending[name]
                if await rows.look_at(name):
                    self._schedule.need(trio.current_time())
                    self._rouse()

        async with trio.open_nursery() as nursery:
            for _ in range(min(INSPECTS_AT_ONCE, len(names))):
                nursery.start_soon(look)
        if self._pending:
            self._rouse()

    async def _list(self, rows: ImageRows) -> None:
        """Bring all rows up to date."""
        await rows.list_all()
        self._schedule.end(trio.current_time())
        self._rouse()

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
            self._hint()
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
                self._hint()
                await trio.sleep(HINT_PAUSE_S)

    def _hint(self) -> None:
        """There may be something new that has no event."""
        self._schedule.hint(trio.current_time())
        self._rouse()

    def _rouse(self) -> None:
        self._wake.set()

    def _up(self) -> tuple[ImageStore, ImageIndex]:
        """The store, and what is listed. Raises: EngineUnavailable."""
        if self._store is None or self._rows is None or not self._info.up:
            raise EngineUnavailable(f"Docker at {self._api.socket_path} does not answer")
        return self._store, self._rows.index()

    @asynccontextmanager
    async def open_layer(self, digest: Digest) -> AsyncIterator[LayerReader]:
        """As ``contract.Engine`` says."""
        store, index = self._up()
        place = index.by_layer.get(digest)
        if place is None:
            raise NotFound("LAYER_UNKNOWN", f"this engine has no layer {digest_text(digest)}")
        tar = await store.open_tar(place, digest)
        with self._readers.open(digest, tar) as reader:
            yield reader

    async def find_blobs(self, digests: Sequence[Digest]) -> dict[Digest, int]:
        """As ``contract.Engine`` says."""
        try:
            store, index = self._up()
        except EngineUnavailable:
            return {}
        wanted = [each for each in digests[:FIND_BLOBS_MAX] if not self._blobs.is_damaged(each)]
        return await trio.to_thread.run_sync(store.find_blobs, wanted, index)

    def open_blob(self, digest: Digest) -> AbstractAsyncContextManager[BlobReader]:
        """As ``contract.Engine`` says."""
        return self._blobs.open(digest)

    async def _open_source(self, digest: Digest) -> TarSource:
        store, index = self._up()
        return await store.open_source(digest, index)

    async def manifest(self, digest: Digest) -> Manifest | None:
        """As ``contract.Engine`` says."""
        if self._store is None:
            return None
        return await trio.to_thread.run_sync(self._store.manifest, digest)

    async def image_manifest(self, image: Digest) -> Manifest | None:
        """As ``contract.Engine`` says."""
        store, index = self._up()
        place = index.by_config.get(image)
        return None if place is None else await store.image_manifest(place)

    async def missing_layers(self, diff_ids: Sequence[Digest]) -> list[Digest]:
        """As ``contract.Engine`` says; all of them while the engine is away."""
        try:
            store, index = self._up()
        except EngineUnavailable:
            return list(diff_ids)
        return await trio.to_thread.run_sync(store.missing_layers, diff_ids, index)

    async def knows_compressed(self, layers: Mapping[Digest, Digest]) -> set[Digest]:
        """As ``contract.Engine`` says."""
        if self._store is None:
            return set()
        return await trio.to_thread.run_sync(self._store.knows_compressed, layers)

    async def load(self, image: ImageToLoad) -> None:
        """As ``contract.Engine`` says."""
        store, index = self._up()
        files = await trio.to_thread.run_sync(store.files_to_load, image, index)
        await self._actions.load(files)

    @property
    def keeps_compressed_blobs(self) -> bool:
        """As ``contract.Engine`` says."""
        return self._store is not None and self._store.keeps_compressed_blobs

    @property
    def can_pull(self) -> bool:
        """As ``contract.Engine`` says."""
        return True

    async def pull(
        self,
        reference: str,
        *,
        platform: str | None = None,
        progress: Callable[[PullProgress], None] = lambda _: None,
    ) -> None:
        """As ``contract.Engine`` says."""
        await self._actions.pull(reference, platform, progress)

    async def tag(self, image: Digest | str, name: str) -> None:
        """As ``contract.Engine`` says."""
        if not isinstance(image, str):
            _, index = self._up()
            place = index.by_config.get(image)
            # What came a moment ago may not be listed yet; on a graph driver that is its ID.
            image = digest_text(image) if place is None else place.image_id
        await self._actions.tag(image, name)

    async def untag(self, name: str) -> None:
        """As ``contract.Engine`` says."""
        await self._actions.untag(name)

    async def find_image(self, name: str) -> Digest | None:
        """As ``contract.Engine`` says."""
        store, _ = self._up()
        try:
            inspect = await self._api.get(image_path(name, "json"), ImageInspect)
            images = await store.read(inspect.id)
        except NotFound:
            return None
        # Behind an index there may be several; the engine speaks of the one for its platform.
        fit = [one for one in images if (one.os, one.architecture) == inspect.platform]
        for image in fit or images:
            return image.config if isinstance(image, PlatformImage) else Digest(image.image)
        return None


def _first(group: BaseExceptionGroup[EngineUnavailable]) -> BaseException:
    """One of the errors in a group of groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
