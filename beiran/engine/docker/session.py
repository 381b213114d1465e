"""One connection to a Docker Engine: all images listed once, then followed by Docker's events.

``DockerEngine`` opens a session, passes its changes on, and opens another when it has ended. The
session owns all that belongs to one connection: the client, the image store, the rows, the events
and the times of the next list.

Docker's events are subscribed to before the first list, so that nothing falls between the two. Not
everything has an event (an untagged build, a prune in containerd's store): where the engine's data
root can be read, inotify(7) reports changes of its files, and all is listed again every
``RELIST_S``. A list costs the engine far more than an inspect, so that ``RelistSchedule`` holds it
to 5 % of the time.
"""

import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from math import inf
from pathlib import Path
from typing import Final

import msgspec
import trio

from beiran.api.models import EngineInfo
from beiran.engine.docker.containerd_store import ContainerdStore
from beiran.engine.docker.docker_client import (
    QUESTIONS_AT_ONCE,
    DockerClient,
    DockerEvent,
    InfoReply,
    open_client,
)
from beiran.engine.docker.graph_driver_store import GraphDriverStore
from beiran.engine.docker.image_list import ImageRows
from beiran.engine.docker.image_store import ImageStore
from beiran.engine.docker.save import SavedLayers
from beiran.engine.folder_watch import watch_folders
from beiran.engine.image_changes import changes, listed
from beiran.engine.interface import EngineNews, EngineUp
from beiran.engine.layers.sizes import LayerSizes
from beiran.errors import EngineUnavailable

RELIST_S: Final = 300.0
"""Between full lists. What has neither an event nor a file to watch is seen this late at most."""
HINT_PAUSE_S: Final = 0.25
"""Hints within this time count as one: a load writes a file for each layer. Chosen."""
SOON_S: Final = 0.5
"""After the last hint, before all is listed. The steps of a build come in between. Chosen."""
SOON_S_MAX: Final = 5.0
"""After the first hint, when more follow all the time. Chosen."""
PAUSES: Final = 20.0
"""The pause after a list, in times of its own length: listing takes at most 5 % of the time."""
FIRST_LIST_PATIENCE_S: Final = 2.0
"""The first list waits this long for layers that must be read to know their sizes."""
BATCH: Final = 16
"""Images to look at before their changes are reported: four rounds of ``QUESTIONS_AT_ONCE``."""
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
EVENT_FILTERS: Final = {
    "type": ["image", "container"],
    "event": [*IMAGE_EVENTS, *CONTAINER_EVENTS],
}

_log = logging.getLogger(__name__)


class RelistSchedule:
    """The time of the next list. All times are seconds of one clock.

    Args:
      period_s: after this time there is a list in any case, and all of it is reported.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._period_at = inf
        self._need_at = inf
        self._hint_at = inf
        self._hint_by = inf
        self._free_at = 0.0
        self._started_at = inf
        self._whole = False

    @property
    def due_at(self) -> float:
        """When to list; never while there is a list under way."""
        if self._started_at != inf:
            return inf
        return max(min(self._period_at, self._need_at, self._hint_at), self._free_at)

    def need(self, now: float) -> None:
        """Only a list can show what happened."""
        self._need_at = min(self._need_at, now)

    def hint(self, now: float) -> None:
        """Something may have happened. Hints in a row are followed by one list."""
        if self._hint_at == inf:
            self._hint_by = now + SOON_S_MAX
        self._hint_at = min(now + SOON_S, self._hint_by)

    def start(self, now: float) -> None:
        """A list begins, and answers all that was asked up to now."""
        self._whole = self._whole or now >= self._period_at
        self._started_at = now
        self._period_at = self._need_at = self._hint_at = inf

    def end(self, now: float) -> None:
        """The list is there."""
        self._free_at = now + min(PAUSES * (now - self._started_at), self._period_s)
        self._period_at = now + self._period_s
        self._started_at = inf

    def take_whole(self) -> bool:
        """Whether a list that was due by its period is there, once."""
        if self._started_at != inf:
            return False
        whole, self._whole = self._whole, False
        return whole


class DockerSession:
    """The images of an engine for the life of one connection. ``open_session`` makes it.

    Attributes:
      info: of the engine, which is up.
      store: where it keeps its images.
      rows: its images by now.
    """

    def __init__(
        self,
        client: DockerClient,
        store: ImageStore,
        sizes: LayerSizes,
        nursery: trio.Nursery,
        *,
        relist_s: float,
    ) -> None:
        self.client: Final = client
        self.store: Final = store
        self.info: Final = EngineInfo(
            kind="docker", version=client.version, store=store.name, up=True
        )
        self.rows: Final = ImageRows(client, store, sizes)
        self._sizes: Final = sizes
        self._nursery: Final = nursery
        self._relist_s: Final = relist_s
        self._schedule: Final = RelistSchedule(relist_s)
        self._pending: Final[dict[str, None]] = {}  # names to look at, the first one first
        self._wake = trio.Event()

    async def changes(self) -> AsyncGenerator[EngineNews, None]:
        """All that the engine holds, and then what changes, for ever."""
        yield EngineUp(self.info)
        with trio.move_on_after(FIRST_LIST_PATIENCE_S):
            await self._sizes.settled.wait()
        reported = self.rows.images()
        yield listed(reported)
        while True:
            with trio.move_on_at(self._schedule.due_at):
                await self._wake.wait()
            self._wake = trio.Event()
            if trio.current_time() >= self._schedule.due_at:
                self._start_list()
            await self._look_at_pending()
            before, reported = reported, self.rows.images()
            if self._schedule.take_whole():
                yield listed(reported)
                continue
            for change in changes(before, reported):
                yield change

    async def list_first(self) -> None:
        """Bring all rows up to date, before there is anything to report."""
        self._schedule.start(trio.current_time())
        await self._list()

    def _start_list(self) -> None:
        self._schedule.start(trio.current_time())
        self._nursery.start_soon(self._list)

    async def _list(self) -> None:
        await self.rows.list_all()
        self._schedule.end(trio.current_time())
        self._wake.set()

    async def _look_at_pending(self) -> None:
        """Look at some of the images that events named; the rest is for the next time."""
        names = list(self._pending)[:BATCH]
        waiting = iter(names)

        async def look() -> None:
            for name in waiting:
                del self._pending[name]
                if await self.rows.look_at(name):
                    self._schedule.need(trio.current_time())
                    self._wake.set()

        async with trio.open_nursery() as nursery:
            for _ in range(min(QUESTIONS_AT_ONCE, len(names))):
                nursery.start_soon(look)
        if self._pending:
            self._wake.set()

    async def follow_events(self, lines: AsyncIterator[bytes]) -> None:
        """Note which images Docker's events name. Raises: EngineUnavailable when they end."""
        async for line in lines:
            try:
                event = msgspec.json.decode(line, type=DockerEvent)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                _log.warning("Docker sent an event that cannot be read: %s", error)
                continue
            self._note_event(event)
        raise EngineUnavailable(f"Docker at {self.client.address}: it ended its events")

    def _note_event(self, event: DockerEvent) -> None:
        name = event.actor.id
        if event.type == "container":
            name = (event.actor.attributes or {}).get("imageID", "")
            if event.action != "commit" or not name:
                return
        elif event.action == "prune" or not name:
            self._hint()
            return
        self._pending[name] = None
        self._wake.set()

    async def watch_files(self) -> None:
        """Take changes of the engine's files as hints that there may be something new."""
        if not self.store.folders:
            return
        with watch_folders(self.store.folders, otherwise_s=self._relist_s) as watch:
            while True:
                await watch.changed()
                self._hint()
                await trio.sleep(HINT_PAUSE_S)

    async def follow_sizes(self) -> None:
        """Look again when layers are measured: their images can be described."""
        while True:
            await self._sizes.more_measured()
            self._wake.set()

    def _hint(self) -> None:
        self._schedule.hint(trio.current_time())
        self._wake.set()


@asynccontextmanager
async def open_session(
    address: str, sizes: LayerSizes, *, read_data_root: bool = True, relist_s: float = RELIST_S
) -> AsyncIterator[DockerSession]:
    """Connect, subscribe to events, and list all images.

    Args:
      address: as ``find_endpoint`` takes it.
      read_data_root: whether to read the engine's files where that is possible.
      relist_s: seconds between full lists.

    Raises: EngineUnavailable, in groups, also from the body when the connection ends.
    """
    since = int(time.time() - SINCE_S)
    async with open_client(address) as client:
        info = await client.info()
        reads = read_data_root and client.endpoint.is_on_this_host
        data_root = Path(info.docker_root_dir) if reads else None
        saved = SavedLayers(client)
        store = await trio.to_thread.run_sync(_choose_store, client, info, data_root, sizes, saved)
        async with (
            client.events(since, EVENT_FILTERS) as events,
            trio.open_nursery() as nursery,
        ):
            session = DockerSession(client, store, sizes, nursery, relist_s=relist_s)
            nursery.start_soon(saved.serve)
            nursery.start_soon(session.watch_files)
            nursery.start_soon(session.follow_events, events)
            nursery.start_soon(session.follow_sizes)
            await session.list_first()
            yield session
            nursery.cancel_scope.cancel()


def _choose_store(
    client: DockerClient,
    info: InfoReply,
    data_root: Path | None,
    sizes: LayerSizes,
    saved: SavedLayers,
) -> ImageStore:
    if ["driver-type", "io.containerd.snapshotter.v1"] in (info.driver_status or []):
        return ContainerdStore(client, data_root, sizes, saved)
    return GraphDriverStore(client, data_root, info.driver, sizes, saved)
