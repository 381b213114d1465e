"""The bus between the agent and its clients that follow events or listings.

It carries two things: events, one by one, to clients of ``/events``; and the keys of rows that may
have changed, to followers of a listing, which then read these rows from the store
(``agent/api/streams.py``). Publishing never waits: the bus cuts off a listener that falls too far
behind, and the listener's next read raises ``TooSlow``.

The store writer announces what it wrote, and the engine watcher publishes ``engine.up`` and
``engine.down``. Nothing else publishes.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from beiran.api.events import Event
from beiran.errors import ApiError
from beiran.store.changes import Applied, RowsChanged

RECENT_EVENTS: Final = 1000  # kept for GET /events; about 300 kB
EVENTS_BEHIND_MAX: Final = 2000  # a new node with 100 images causes about 1,000 events
ROWS_BEHIND_MAX: Final = 200_000  # keys of rows for one follower; about 40 MB


class TooSlow(ApiError):
    """The bus cut off a listener that did not keep up."""

    def __init__(self, what: str) -> None:
        super().__init__(503, "TOO_SLOW", f"cut off: {what}; connect again, and read faster")


class EventListener:
    """An iterator of events. Raises TooSlow once it was ``EVENTS_BEHIND_MAX`` behind."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](EVENTS_BEHIND_MAX)
        self._cut_off = False

    def push(self, event: Event) -> None:
        """Queue an event, or cut the listener off."""
        if self._cut_off:
            return
        try:
            self._send.send_nowait(event)
        except trio.WouldBlock:
            self._cut_off = True
            self._send.close()

    def __aiter__(self) -> "EventListener":
        return self

    async def __anext__(self) -> Event:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise TooSlow(f"{EVENTS_BEHIND_MAX} events behind") from None


class RowsListener:
    """The keys of rows that may have changed since the listener last read.

    A row that changes often waits once: a slow follower sees fewer of its states, and the last one.
    """

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        self._images: set[str] = set()
        self._layers: set[str] = set()
        self._waiting = trio.Event()
        self._cut_off = False

    def push(self, rows: RowsChanged) -> None:
        """Add rows, or cut the listener off."""
        if self._cut_off:
            return
        self._nodes |= rows.nodes
        self._images |= rows.images
        self._layers |= rows.layers
        if len(self._nodes) + len(self._images) + len(self._layers) > ROWS_BEHIND_MAX:
            self._cut_off = True
        self._waiting.set()

    async def changed(self) -> RowsChanged:
        """Wait for changes, and take all of them.

        Raises: TooSlow once more than ``ROWS_BEHIND_MAX`` rows were waiting.
        """
        await self._waiting.wait()
        if self._cut_off:
            raise TooSlow(f"over {ROWS_BEHIND_MAX} changed rows behind")
        rows = RowsChanged(
            nodes=frozenset(self._nodes),
            images=frozenset(self._images),
            layers=frozenset(self._layers),
        )
        self._nodes.clear()
        self._images.clear()
        self._layers.clear()
        self._waiting = trio.Event()
        return rows


class EventBus:
    """One per agent. Used from the agent's own thread only."""

    def __init__(self) -> None:
        self._recent: deque[Event] = deque(maxlen=RECENT_EVENTS)
        self._event_listeners: dict[EventListener, None] = {}
        self._rows_listeners: dict[RowsListener, None] = {}

    @property
    def recent(self) -> tuple[Event, ...]:
        """The last ``RECENT_EVENTS`` events, the oldest first."""
        return tuple(self._recent)

    @property
    def listeners(self) -> int:
        """Listeners now, of events and of rows."""
        return len(self._event_listeners) + len(self._rows_listeners)

    def publish(self, *events: Event) -> None:
        """Send events to all event listeners, and keep them for ``recent``."""
        self._recent.extend(events)
        for listener in self._event_listeners:
            for event in events:
                listener.push(event)

    def announce(self, applied: Applied) -> None:
        """Send the rows and the events of one transaction. Call it after the commit."""
        if applied.rows:
            for listener in self._rows_listeners:
                listener.push(applied.rows)
        self.publish(*applied.events)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[EventListener]:
        """A listener of every event from now on."""
        listener = EventListener()
        self._event_listeners[listener] = None
        try:
            yield listener
        finally:
            del self._event_listeners[listener]

    @asynccontextmanager
    async def follow_rows(self) -> AsyncIterator[RowsListener]:
        """A listener of every row that is written from now on."""
        listener = RowsListener()
        self._rows_listeners[listener] = None
        try:
            yield listener
        finally:
            del self._rows_listeners[listener]
