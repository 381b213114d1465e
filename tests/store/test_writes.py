"""The rows and the events that effects of the core cause."""

import pytest

from beiran.api.events import EventName
from beiran.gossip.effects import Effect, HoldingsChanged, ImageForgotten, MemberForgotten
from beiran.gossip.membership.member import Status
from beiran.store.store import Store
from beiran.store.writes import member_events
from tests.store.samples import (
    AT,
    LATER,
    changed,
    described,
    digest,
    held,
    holding,
    node,
    released,
    summary,
    text,
    uuid,
)

ALIVE, SUSPECT, DOWN, LEFT = Status.ALIVE, Status.SUSPECT, Status.DOWN, Status.LEFT


@pytest.mark.parametrize(
    ("before", "now", "events"),
    [
        (None, ALIVE, ["node.added", "node.online"]),
        (None, SUSPECT, ["node.added", "node.online", "node.suspect"]),
        (None, DOWN, ["node.added"]),
        (None, LEFT, ["node.added"]),
        (ALIVE, ALIVE, []),
        (ALIVE, SUSPECT, ["node.suspect"]),
        (ALIVE, DOWN, ["node.offline"]),
        (ALIVE, LEFT, ["node.left"]),
        (SUSPECT, ALIVE, ["node.online"]),
        (SUSPECT, SUSPECT, []),
        (SUSPECT, DOWN, ["node.offline"]),
        (SUSPECT, LEFT, ["node.left"]),
        (DOWN, ALIVE, ["node.online"]),
        (DOWN, SUSPECT, ["node.online", "node.suspect"]),
        (DOWN, DOWN, []),
        (DOWN, LEFT, ["node.left"]),
        (LEFT, ALIVE, ["node.online"]),
        (LEFT, SUSPECT, ["node.online", "node.suspect"]),
        (LEFT, DOWN, []),
        (LEFT, LEFT, []),
    ],
)
def test_each_change_of_a_member_has_its_events(
    before: Status | None, now: Status, events: list[EventName]
) -> None:
    assert member_events(before, now) == events


def test_an_event_says_when_whose_and_why(store: Store) -> None:
    store.apply([changed("peer")], AT)
    (event,) = store.apply([changed("peer", DOWN, reason="refused")], LATER).events
    assert (event.event, event.at, event.node, event.name, event.reason) == (
        "node.offline",
        LATER,
        uuid("peer"),
        "peer",
        "refused",
    )


def test_changes_of_this_node_cause_no_events(store: Store) -> None:
    assert store.apply([changed("me"), changed("me", LEFT)], AT).events == ()


def test_a_member_known_by_its_holdings_alone_is_added_when_it_shows_itself(store: Store) -> None:
    assert summary(store.apply([held("peer", holding("app"))], AT).events) == [
        ("image.added", "app")
    ]
    assert summary(store.apply([changed("peer")], AT).events) == [
        ("node.added", "peer"),
        ("node.online", "peer"),
    ]


def test_an_image_brings_its_layers_and_takes_them_along(store: Store) -> None:
    batch: list[Effect] = [
        changed("peer"),
        described("app", "base", "top"),
        held("peer", holding("app", "a:1")),
    ]
    events = store.apply(batch, AT).events[2:]
    assert summary(events) == [
        ("image.added", "peer", "app"),
        ("layer.added", "peer", "base"),
        ("layer.added", "peer", "top"),
    ]
    assert events[0].tags == ("a:1",)
    events = store.apply([released("peer", "app")], AT).events
    assert summary(events) == [
        ("image.removed", "peer", "app"),
        ("layer.removed", "peer", "base"),
        ("layer.removed", "peer", "top"),
    ]
    assert events[0].tags == ("a:1",)


def test_layer_events_come_with_the_first_and_the_last_image_of_a_layer(store: Store) -> None:
    store.apply([changed("peer"), described("app", "base", "top"), described("web", "base")], AT)
    assert summary(store.apply([held("peer", holding("web"))], AT).events) == [
        ("image.added", "peer", "web"),
        ("layer.added", "peer", "base"),
    ]
    assert summary(store.apply([held("peer", holding("app"))], AT).events) == [
        ("image.added", "peer", "app"),
        ("layer.added", "peer", "top"),
    ]
    assert summary(store.apply([released("peer", "web")], AT).events) == [
        ("image.removed", "peer", "web")
    ]


def test_a_layer_twice_in_an_image_causes_one_event(store: Store) -> None:
    batch: list[Effect] = [described("app", "base", "top", "base"), held("me", holding("app"))]
    assert summary(store.apply(batch, AT).events) == [
        ("image.added", "me", "app"),
        ("layer.added", "me", "base"),
        ("layer.added", "me", "top"),
    ]


def test_layers_follow_when_the_description_comes_late(store: Store) -> None:
    store.apply([changed("a"), changed("b")], AT)
    store.apply([held("a", holding("app")), held("b", holding("app"), holding("web"))], AT)
    store.apply([described("web", "base")], AT)
    assert summary(store.apply([described("app", "base", "top")], AT).events) == [
        ("layer.added", "a", "base"),
        ("layer.added", "a", "top"),
        ("layer.added", "b", "top"),
    ]
    assert store.apply([described("app", "base", "top")], AT).events == ()


def test_other_names_for_an_image_are_no_event_but_a_changed_row(store: Store) -> None:
    store.apply([described("app", "base"), held("me", holding("app", "a:1"))], AT)
    applied = store.apply([held("me", holding("app", "a:2"))], AT)
    assert applied.events == ()
    assert applied.rows.images == {text("app")}


def test_the_same_holding_again_changes_nothing(store: Store) -> None:
    store.apply([held("me", holding("app", "a:1"))], AT)
    applied = store.apply([held("me", holding("app", "a:1"), version=2)], AT)
    assert not applied.events
    assert not applied.rows


def test_a_reset_causes_events_for_the_difference_only(store: Store) -> None:
    descriptions = [described("app", "base", "top"), described("web", "base"), described("db")]
    store.apply([changed("peer"), *descriptions], AT)
    store.apply([held("peer", holding("app"), holding("db"))], AT)
    reset = HoldingsChanged(node("peer"), 9, held=(holding("web"), holding("db")), reset=True)
    assert summary(store.apply([reset], AT).events) == [
        ("image.added", "peer", "web"),
        ("image.removed", "peer", "app"),
        ("layer.removed", "peer", "top"),
    ]


def test_the_release_of_an_image_that_is_not_held_is_ignored(store: Store) -> None:
    assert store.apply([released("peer", "app")], AT).events == ()


def test_a_forgotten_member_causes_no_events_but_its_rows_change(store: Store) -> None:
    store.apply([changed("peer"), described("app", "base"), held("peer", holding("app"))], AT)
    store.apply([changed("peer", DOWN)], AT)
    applied = store.apply([MemberForgotten(node("peer")), ImageForgotten(digest("app"))], AT)
    assert applied.events == ()
    assert applied.rows.nodes == {uuid("peer")}
    assert applied.rows.images == {text("app")}
    assert applied.rows.layers == {text("base")}


def test_a_node_that_goes_offline_changes_the_rows_of_its_images(store: Store) -> None:
    store.apply([changed("peer"), described("app", "base"), held("peer", holding("app"))], AT)
    assert not store.apply([changed("peer", SUSPECT)], AT).rows.images
    rows = store.apply([changed("peer", DOWN)], AT).rows
    assert rows.images == {text("app")}
    assert rows.layers == {text("base")}
