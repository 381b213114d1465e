"""The event bus: every listener gets everything, or is cut off and knows it."""

import pytest
import trio

from beiran.agent.event_bus import EVENTS_BEHIND_MAX, ROWS_BEHIND_MAX, EventBus, TooSlow
from beiran.api.events import Event
from beiran.store.changes import RowsChanged


async def test_a_listener_that_does_not_read_is_cut_off() -> None:
    bus = EventBus()
    event = Event(event="engine.up", at="", node="x")
    async with bus.subscribe() as slow, bus.subscribe() as quick:
        bus.publish(event)
        await quick.__anext__()
        bus.publish(*[event] * EVENTS_BEHIND_MAX)
        for _ in range(EVENTS_BEHIND_MAX):
            await slow.__anext__()
            await quick.__anext__()
        with pytest.raises(TooSlow, match="2000 events behind"):
            await slow.__anext__()
        bus.publish(event)
        assert await quick.__anext__() == event
        with pytest.raises(TooSlow):
            await slow.__anext__()


async def test_a_follower_of_rows_that_is_far_behind_is_cut_off() -> None:
    bus = EventBus()
    many = frozenset(map(str, range(ROWS_BEHIND_MAX)))
    async with bus.follow_rows() as slow:
        slow.push(RowsChanged(images=many))
        assert (await slow.changed()).images == many
        slow.push(RowsChanged(images=many))
        slow.push(RowsChanged(layers=frozenset("x")))
        with pytest.raises(TooSlow, match="200000 changed rows behind"):
            await slow.changed()
        slow.push(RowsChanged(layers=frozenset("y")))
        with pytest.raises(TooSlow):
            await slow.changed()


async def test_rows_that_change_often_wait_once() -> None:
    bus = EventBus()
    async with bus.follow_rows() as listener:
        for _ in range(3):
            listener.push(RowsChanged(nodes=frozenset("a"), images=frozenset("b")))
        rows = await listener.changed()
        assert rows == RowsChanged(nodes=frozenset("a"), images=frozenset("b"))
        with trio.move_on_after(0.01) as scope:
            await listener.changed()
        assert scope.cancelled_caught
