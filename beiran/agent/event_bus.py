"""Where everything that happens is told, and everybody who listens hears it.

Two things are told: events, one by one, to those who want to know what happened; and which rows
may read differently, to those who follow a listing. Telling never waits: a listener that is too
far behind is cut off, and learns that it was.
"""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from beiran.api.events import Event
from beiran.errors import ApiError
from beiran.store.changes import Applied, RowsChanged

RECENT_EVENTS: Final = 1000
"""How many events are remembered for those who ask later."""

EVENTS_BEHIND_MAX: Final = 2000
"""How many events a listener may be behind. A new node with 100 images is about 1,000."""

ROWS_BEHIND_MAX: Final = 200_000
"""How many different rows may wait for the follower of a listing; about 40 MB."""


class TooSlow(ApiError):
    """A listener was cut off because it did not keep up."""

    def __init__(self, what: str) -> None:
        super().__init__(503, "TOO_SLOW", f"cut off: {what}; ask again, and read faster")


class EventListener:
    """Iterate it for events; ends with TooSlow once it was ``EVENTS_BEHIND_MAX`` behind."""

    def __init__(self) -> None:
        self._send, self._receive = trio.open_memory_channel[Event](EVENTS_BEHIND_MAX)
        self._cut_off = False

    def tell(self, event: Event) -> None:
        """Hand it an event, or cut it off."""
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
    """Which rows may read differently since it was last asked.

    A row that changes often waits once: who is slow sees fewer states of it, and the last.
    """

    def __init__(self) -> None:
        self._nodes: set[str] = set()
        self._images: set[str] = set()
        self._layers: set[str] = set()
        self._waiting = trio.Event()
        self._cut_off = False

    def tell(self, rows: RowsChanged) -> None:
        """Add rows, or cut it off."""
        if self._cut_off:
            return
        self._nodes |= rows.nodes
        self._images |= rows.images
        self._layers |= rows.layers
        if len(self._nodes) + len(self._images) + len(self._layers) > ROWS_BEHIND_MAX:
            self._cut_off = True
        self._waiting.set()

    async def changed(self) -> RowsChanged:
        """Wait for changes, and take all there are.

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


class Bus:
    """One per agent; everything is told from the agent's own thread."""

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
        """How many listen now."""
        return len(self._event_listeners) + len(self._rows_listeners)

    def publish(self, *events: Event) -> None:
        """Tell events."""
        self._recent.extend(events)
        for listener in self._event_listeners:
            for event in events:
                listener.tell(event)

    def announce(self, applied: Applied) -> None:
        """Tell what the store has written: its rows and its events. After it has, not before."""
        if applied.rows:
            for listener in self._rows_listeners:
                listener.tell(applied.rows)
        self.publish(*applied.events)

    @asynccontextmanager
    async def subscribe(self) -> AsyncIterator[EventListener]:
        """Hear every event from now on."""
        listener = EventListener()
        self._event_listeners[listener] = None
        try:
            yield listener
        finally:
            del self._event_listeners[listener]

    @asynccontextmanager
    async def follow_rows(self) -> AsyncIterator[RowsListener]:
        """Hear of every row that is written from now on."""
        listener = RowsListener()
        self._rows_listeners[listener] = None
        try:
            yield listener
        finally:
            del self._rows_listeners[listener]
