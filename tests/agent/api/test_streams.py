"""The API by WebSocket: rows, and then their changes."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.lowlevel

from beiran.agent import event_bus as bus_module
from beiran.api.events import Event
from beiran.client.protocol import parse_endpoint
from beiran.client.trio_client import Follow
from beiran.errors import ApiError
from beiran.gossip.effects import HoldingsChanged, MemberForgotten
from beiran.gossip.membership.member import Status
from beiran.store.reads import HeldBy
from tests.agent.api.api_server import ApiServer
from tests.store.samples import (
    changed,
    described,
    digest,
    held,
    holding,
    node,
    released,
    text,
    uri,
    uuid,
)

LISTED = {"change": "listed"}


@pytest.fixture
async def api(tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[ApiServer]:
    server = ApiServer(tmp_path)
    await nursery.start(server.serve)
    yield server
    server.store.close()


def ask(api: ApiServer, path: str) -> Follow[dict[str, Any]]:
    """A WebSocket, read as it comes."""
    return Follow(parse_endpoint(url=api.url), path, msgspec.json.decode, api.nursery)


async def receive(websocket: Follow[dict[str, Any]]) -> dict[str, Any]:
    with trio.fail_after(20):
        return await websocket.__anext__()


async def all_messages(api: ApiServer, path: str) -> list[dict[str, Any]]:
    """Everything until the server closes, as it should: with 1000."""
    with trio.fail_after(20):
        return [message async for message in ask(api, path)]


def short(change: dict[str, Any]) -> tuple[str, str]:
    """The kind of a change, and the key of its row."""
    (row,) = (change[kind] for kind in ("node", "image", "layer") if kind in change)
    (key,) = (row[name] for name in ("uuid", "id", "digest") if name in row)
    return change["change"], key


async def test_every_listing_comes_row_by_row(api: ApiServer) -> None:
    api.happen(changed("peer"), described("app", "base", "top"), held("me", holding("app")))
    for path, name, count in (
        ("/nodes", "nodes", 2),
        ("/nodes?all=true&follow=false", "nodes", 2),
        ("/images", "images", 1),
        ("/layers?all=true", "layers", 2),
        ("/events", "events", 5),
    ):
        rows = await all_messages(api, path)
        answer = await trio.to_thread.run_sync(api.ask, path.replace("&follow=false", ""))
        assert rows == answer.json[name]
        assert len(rows) == count


async def test_a_path_without_rows_is_one_message(api: ApiServer) -> None:
    api.happen(described("app", "base"), held("me", holding("app", "app:1")))
    for path in ("/info", "/healthz", f"/nodes/{uuid('me')}", "/images/app:1"):
        answer = await trio.to_thread.run_sync(api.ask, path)
        assert await all_messages(api, path) == [answer.json]
    (layer,) = await all_messages(api, f"/layers/{text('base')}")
    assert layer["digest"] == text("base")


async def test_a_follower_gets_the_rows_and_then_their_changes(api: ApiServer) -> None:
    api.happen(described("app", "base"), held("me", holding("app", "app:1")))
    async with ask(api, "/images?all=true&follow=true") as images:
        assert (await receive(images))["tags"] == ["app:1"]
        assert await receive(images) == LISTED
        api.happen(held("me", holding("app", "app:1", "app:2")))
        assert short(await receive(images)) == ("changed", text("app"))
        api.happen(changed("peer"), held("peer", holding("web", "web:1")))
        added = await receive(images)
        assert short(added) == ("added", text("web"))
        assert added["image"] == {
            "id": text("web"),
            "tags": ["web:1"],
            "digests": [],
            "size_bytes": None,
            "created_at": None,
            "os": None,
            "architecture": None,
            "layers": [],
            "available_at": [uri("peer")],
        }
        api.happen(described("web", "base", "top"))
        assert short(await receive(images)) == ("changed", text("web"))
        api.happen(changed("peer", Status.SUSPECT))  # still online: nothing is new
        api.happen(changed("peer", Status.DOWN))
        gone = await receive(images)
        assert short(gone) == ("removed", text("web"))
        assert (gone["image"]["tags"], gone["image"]["available_at"]) == (["web:1"], [])


async def test_nodes_can_be_followed(api: ApiServer) -> None:
    async with (
        ask(api, "/nodes?follow=true") as online,
        ask(api, "/nodes?all=true&follow=true") as known,
        ask(api, f"/nodes/{uuid('me')}?follow=true") as me,
    ):
        for websocket in (online, known, me):
            assert (await receive(websocket))["name"] == "me"
            assert await receive(websocket) == LISTED
        api.happen(changed("peer"))
        for websocket in (online, known):
            assert short(await receive(websocket)) == ("added", uuid("peer"))
        api.store.seen({node("peer"): "2026-11-23T11:00:00Z"})
        api.happen(changed("peer"))  # seen again: no news
        api.happen(changed("peer", Status.DOWN))
        assert short(await receive(online)) == ("removed", uuid("peer"))
        down = await receive(known)
        assert short(down) == ("changed", uuid("peer"))
        assert (down["node"]["state"], down["node"]["online"]) == ("down", False)
        api.happen(MemberForgotten(node("peer")))
        assert short(await receive(known)) == ("removed", uuid("peer"))
        info = await api.agent.info()
        api.bus.announce(api.store.record_info(node("me"), info))
        assert short(await receive(me)) == ("changed", uuid("me"))


async def test_layers_of_a_node_and_single_rows_can_be_followed(api: ApiServer) -> None:
    api.happen(changed("peer"), described("app", "base", "top"), described("web", "base"))
    api.happen(held("peer", holding("app", "app:1")), held("me", holding("web", "web:1")))
    async with (
        ask(api, f"/layers?node={uuid('peer')}&follow=true") as layers,
        ask(api, "/images/app:1?follow=true") as image,
        ask(api, f"/layers/{text('top')}?follow=true") as layer,
    ):
        for websocket, rows in ((layers, 2), (image, 1), (layer, 1)):
            for _ in range(rows):
                assert "available_at" in await receive(websocket)
            assert await receive(websocket) == LISTED
        api.happen(held("me", holding("app", "mine:1")))
        assert short(await receive(image)) == ("changed", text("app"))
        assert short(await receive(layer)) == ("changed", text("top"))
        assert short(await receive(layers)) == ("changed", text("top"))  # base we had already
        api.happen(released("peer", "app"))
        removed = {short(await receive(layers)) for _ in range(2)}
        assert removed == {("removed", text("base")), ("removed", text("top"))}
        assert (await receive(image))["change"] == "changed"
        assert (await receive(layer))["change"] == "changed"
        api.happen(released("me", "app"))
        assert short(await receive(image)) == ("removed", text("app"))
        assert short(await receive(layer)) == ("removed", text("top"))


async def test_a_follower_whose_node_is_forgotten_is_cut_off_with_the_reason(
    api: ApiServer,
) -> None:
    api.happen(changed("peer"), held("peer", holding("app")))
    path = f"/images?node={uuid('peer')}&follow=true"
    async with ask(api, f"{path}") as websocket:
        assert (await receive(websocket))["id"] == text("app")
        assert await receive(websocket) == LISTED
        api.happen(MemberForgotten(node("peer")))
        with pytest.raises(ApiError, match=uuid("peer")):
            await receive(websocket)


async def test_a_follower_of_events_gets_new_events_only(api: ApiServer) -> None:
    api.happen(changed("before"))
    async with ask(api, "/events?follow=true") as websocket:
        await until(lambda: api.bus.listeners == 1)
        api.happen(changed("after"))
        for expected in ("node.added", "node.online"):
            event = await receive(websocket)
            assert (event["event"], event["name"]) == (expected, "after")
    await until(lambda: api.bus.listeners == 0)


async def test_a_client_that_does_not_keep_up_is_cut_off_with_the_reason(api: ApiServer) -> None:
    async with ask(api, "/events?follow=true") as websocket:
        await until(lambda: api.bus.listeners == 1)
        event = Event(event="engine.up", at="", node="x")
        api.bus.publish(*[event] * (bus_module.EVENTS_BEHIND_MAX + 2))  # one goes out at once
        for _ in range(bus_module.EVENTS_BEHIND_MAX + 1):
            assert (await receive(websocket))["event"] == "engine.up"
        with pytest.raises(ApiError, match="cut off: 2000 events behind"):
            await receive(websocket)


async def test_a_path_that_cannot_be_followed_is_refused_in_http(api: ApiServer) -> None:
    for path, status in (
        ("/images?all=maybe", 400),
        ("/images?follow=true&all=true&node=" + uuid("me"), 400),
        (f"/layers?node={uuid('stranger')}", 404),
        (f"/nodes/{uuid('stranger')}", 404),
        ("/nodes/x", 400),
        ("/layers/x", 400),
        ("/info?follow=true", 400),
        ("/healthz?x=y", 400),
        ("/events?all=true", 400),
        ("/metrics", 400),
    ):
        with pytest.raises(ApiError) as refused:
            await all_messages(api, path)
        assert refused.value.status == status, path
        assert refused.value.code, path


async def test_an_unknown_image_closes_its_websocket_with_the_reason(
    api: ApiServer,
) -> None:
    async with ask(api, "/images/nothing") as websocket:
        with pytest.raises(ApiError, match=r"^no image nothing is known here$"):
            await receive(websocket)


async def test_rows_and_changes_have_no_gap_and_no_repetition(api: ApiServer) -> None:
    """Images come and go while followers begin; each ends up with exactly what is there."""
    api.happen(held("me", *(holding(f"image {number}") for number in range(150))))
    followed: list[set[str]] = []

    async def follow() -> None:
        listed: set[str] = set()
        followed.append(listed)
        async with ask(api, "/images?follow=true") as websocket:
            while text("last") not in listed:
                message = await receive(websocket)
                if message == LISTED:
                    continue
                if "change" not in message:
                    assert message["id"] not in listed
                    listed.add(message["id"])
                    continue
                kind, key = short(message)
                assert (key in listed) == (kind != "added"), message
                if kind == "added":
                    listed.add(key)
                elif kind == "removed":
                    listed.remove(key)

    async with trio.open_nursery() as nursery:
        for number in range(60):
            if number % 6 == 0:
                nursery.start_soon(follow)
            api.happen(
                HoldingsChanged(
                    node("me"),
                    number + 2,
                    held=(holding(f"new {number}"),),
                    released=(digest(f"image {number * 2}"), digest(f"new {number - 20}")),
                )
            )
            await trio.lowlevel.checkpoint()
        await until(lambda: api.bus.listeners == 10)
        api.happen(held("me", holding("last but one")))
        await until(lambda: all(text("last but one") in listed for listed in followed))
        api.happen(held("me", holding("last")))
    with api.store.reading() as queries:
        there = {image.id for image in queries.images(HeldBy(node("me")))}
    assert len(there) == 150 - 60 + 20 + 2
    assert followed == [there] * 10


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(20):
        while not condition():  # noqa: ASYNC110 - the server has no event for listeners
            await trio.sleep(0.001)
