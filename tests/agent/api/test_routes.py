"""The API over HTTP: answers and errors of each path."""

import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from beiran.api.events import Event
from beiran.errors import DataError, EngineUnavailable
from beiran.gossip.membership.member import Status
from beiran.ids import digest_text
from tests.agent.api.api_server import TAR, TAR_DIGEST, ServerThread, engine_that
from tests.store.samples import changed, described, held, holding, text, uri, uuid

LAYER = "/layers/" + digest_text(TAR_DIGEST)
ETAG = f'"{digest_text(TAR_DIGEST)}"'


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ServerThread]:
    with ServerThread(tmp_path) as api:
        yield api


@pytest.fixture
def cluster(api: ServerThread) -> ServerThread:
    """Ourselves with an image, a peer with two, and one that is gone."""
    api.happen(
        changed("peer"),
        changed("gone", Status.DOWN),
        described("app", "base", "top"),
        described("web", "base"),
        held("me", holding("app", "app:1")),
        held("peer", holding("app", "app:2"), holding("web", "host:5000/web:1")),
        held("gone", holding("old", "old:1")),
    )
    return api


def test_info_and_health_say_how_the_agent_is(api: ServerThread) -> None:
    assert api.server.ask("/info").status == 200
    healthy = api.server.ask("/healthz")
    assert (healthy.status, healthy.body) == (200, b'{"status":"ok"}')
    api.server.agent.trouble = ["the engine does not answer", "no member was heard"]
    ill = api.server.ask("/healthz")
    assert ill.status == 503
    assert ill.json["errors"] == [
        {"code": "UNHEALTHY", "message": "the engine does not answer", "detail": None},
        {"code": "UNHEALTHY", "message": "no member was heard", "detail": None},
    ]


def test_nodes_are_the_online_ones_unless_all_are_wanted(cluster: ServerThread) -> None:
    online = cluster.server.ask("/nodes").json["nodes"]
    assert [node["name"] for node in online] == ["me", "peer"]
    for query in ("?all=false", ""):
        assert cluster.server.ask("/nodes" + query).json["nodes"] == online
    known = cluster.server.ask("/nodes?all=true").json["nodes"]
    assert [node["name"] for node in known] == ["gone", "me", "peer"]
    one = cluster.server.ask(f"/nodes/{uuid('gone')}")
    assert one.json == known[0]
    assert one.json["state"] == "down"


def test_images_are_of_this_node_of_all_or_of_one_node(cluster: ServerThread) -> None:
    (mine,) = cluster.server.ask("/images").json["images"]
    assert (mine["id"], mine["tags"]) == (text("app"), ["app:1"])
    assert mine["available_at"] == sorted([uri("me"), uri("peer")])
    of_all = cluster.server.ask("/images?all=true").json["images"]
    assert [image["tags"] for image in of_all] == [["app:1", "app:2"], ["host:5000/web:1"]]
    theirs = cluster.server.ask(f"/images?node={uuid('peer')}").json["images"]
    assert [image["tags"] for image in theirs] == [["app:2"], ["host:5000/web:1"]]
    (last,) = cluster.server.ask(f"/images?node={quote(uri('gone'))}&all=false").json["images"]
    assert (last["tags"], last["available_at"]) == (["old:1"], [])


def test_one_image_is_found_by_any_of_its_names(cluster: ServerThread) -> None:
    for asked in (text("web"), text("web")[7:19], "host:5000/web:1", "host%3A5000%2Fweb:1"):
        answer = cluster.server.ask("/images/" + asked)
        assert answer.status == 200
        assert answer.json["id"] == text("web")


def test_layers_are_of_this_node_of_all_or_of_one_node(cluster: ServerThread) -> None:
    mine = cluster.server.ask("/layers").json["layers"]
    assert [layer["digest"] for layer in mine] == [text("base"), text("top")]
    assert mine[0]["images"] == [text("app")]
    (base, _top) = cluster.server.ask("/layers?all=true").json["layers"]
    assert base["images"] == sorted([text("app"), text("web")])
    assert base["available_at"] == sorted([uri("me"), uri("peer")])
    theirs = cluster.server.ask(f"/layers?node={uuid('gone')}").json["layers"]
    assert theirs == []


def test_a_long_listing_comes_whole_and_in_order(api: ServerThread) -> None:
    names = [f"image {number:03}" for number in range(333)]
    api.happen(held("me", *(holding(name, f"{name}:1") for name in names)))
    images = api.server.ask("/images").json["images"]
    assert [image["tags"] for image in images] == [[f"{name}:1"] for name in names]
    api.happen(*(changed(f"node {number:03}") for number in range(99)))
    assert len(api.server.ask("/nodes").json["nodes"]) == 100
    api.happen(*(changed(f"node {number:03}") for number in range(99, 250)))
    assert len(api.server.ask("/nodes").json["nodes"]) == 251


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/nodes?all=maybe", "all='maybe' is neither all=true nor all=false"),
        ("/nodes?all=", "all='' is neither"),
        ("/nodes?all=True", "all='True' is neither"),
        ("/nodes?all=true&all=true", "parameter all is given 2 times; give it once"),
        ("/nodes?node=x", "/nodes has no parameter 'node'; it takes all, follow"),
        ("/info?verbose=true", "/info has no parameter 'verbose'; it takes none"),
        ("/metrics?x", "/metrics has no parameter 'x'"),
        ("/openapi.json?x", "/openapi.json has no parameter 'x'"),
        ("/images?node=123", "'123' is not a node's UUID, such as 8c1ecd5f-"),
        ("/images?node=", "'' is not a node's UUID"),
        (f"/images?all=true&node={uuid('me')}", "exclude each other; give only one of them"),
        ("/images?follow=true", "follow=true needs a WebSocket; leave it out over HTTP"),
        ("/events?follow=true", "follow=true needs a WebSocket"),
        ("/events?follow=1", "follow='1' is neither"),
        ("/nodes/me", "'me' is not a node's UUID"),
        ("/nodes/00000000000000000000000000000000", "is not a node's UUID"),
        ("/layers/sha256:123", "'sha256:123' is not a digest: sha256: and 64 hex"),
        ("/layers/" + digest_text(TAR_DIGEST).upper(), "is not a digest"),
        (LAYER + "?all=true", "has no parameter 'all'"),
    ],
)
def test_a_bad_parameter_is_refused_with_a_valid_form(
    api: ServerThread, path: str, says: str
) -> None:
    answer = api.server.ask(path)
    assert answer.status == 400
    assert answer.code == "BAD_REQUEST"
    assert says in str(answer.json["errors"][0]["message"])


@pytest.mark.parametrize(
    ("path", "code"),
    [
        (f"/nodes/{uuid('stranger')}", "NODE_UNKNOWN"),
        (f"/images?node={uuid('stranger')}", "NODE_UNKNOWN"),
        (f"/layers?node={uuid('stranger')}", "NODE_UNKNOWN"),
        ("/images/nothing", "IMAGE_UNKNOWN"),
        (f"/layers/{text('nothing')}", "LAYER_UNKNOWN"),
    ],
)
def test_an_unknown_thing_is_not_found(api: ServerThread, path: str, code: str) -> None:
    answer = api.server.ask(path)
    assert (answer.status, answer.code) == (404, code)


def test_a_layer_is_delivered_as_its_tar(api: ServerThread) -> None:
    answer = api.server.ask(LAYER)
    assert (answer.status, answer.body) == (200, TAR)
    assert answer.headers["content-type"] == "application/vnd.oci.image.layer.v1.tar"
    assert answer.headers["content-length"] == str(len(TAR))
    assert answer.headers["etag"] == ETAG
    assert answer.headers["accept-ranges"] == "bytes"
    head = api.server.ask(LAYER, {"Range": "bytes=0-9"}, method="HEAD")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-length"] == str(len(TAR))
    no_layer_is_open(api)


@pytest.mark.parametrize(
    ("asked", "start", "end"),
    [
        ("bytes=0-9", 0, 10),
        ("bytes=1000-", 1000, len(TAR)),
        ("bytes=-10", len(TAR) - 10, len(TAR)),
        ("bytes=999-999999999", 999, len(TAR)),
    ],
)
def test_a_range_of_a_layer_is_served(api: ServerThread, asked: str, start: int, end: int) -> None:
    for headers in ({"Range": asked}, {"Range": asked, "If-Range": ETAG}):
        answer = api.server.ask(LAYER, headers)
        assert (answer.status, answer.body) == (206, TAR[start:end])
        assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(TAR)}"
        assert answer.headers["content-length"] == str(end - start)


def test_a_range_that_does_not_count_is_answered_with_all_of_it(api: ServerThread) -> None:
    for headers in (
        {"Range": "bytes=0-1,5-6"},
        {"Range": "lines=1-2"},
        {"Range": "bytes=0-9", "If-Range": '"another"'},
    ):
        assert api.server.ask(LAYER, headers).body == TAR


def test_a_range_beyond_the_end_is_refused_with_the_size(api: ServerThread) -> None:
    answer = api.server.ask(LAYER, {"Range": f"bytes={len(TAR)}-"})
    assert (answer.status, answer.code) == (416, "RANGE_INVALID")
    assert answer.headers["content-range"] == f"bytes */{len(TAR)}"
    no_layer_is_open(api)


def test_a_layer_that_the_client_has_is_not_sent_again(api: ServerThread) -> None:
    for value in (ETAG, f'"other", W/{ETAG}', "*"):
        answer = api.server.ask(LAYER, {"If-None-Match": value})
        assert (answer.status, answer.body) == (304, b"")
        assert answer.headers["etag"] == ETAG
    assert api.server.ask(LAYER, {"If-None-Match": '"other"'}).status == 200


def test_a_layers_description_comes_when_accept_prefers_json(
    cluster: ServerThread,
) -> None:
    path = "/layers/" + text("base")
    tar = "application/vnd.oci.image.layer.v1.tar"
    for accept in (
        "application/json",
        f"{tar};q=0.5, application/json;q=0.9",
        f"application/*, {tar};q=0",
    ):
        answer = cluster.server.ask(path, {"Accept": accept})
        assert answer.status == 200
        assert answer.json["digest"] == text("base")
    for accept in ("*/*", tar, f"application/json;q=0.1, {tar}", "application/json;q=x"):
        assert cluster.server.ask(path, {"Accept": accept}).code == "LAYER_UNKNOWN"
    unknown = cluster.server.ask(LAYER, {"Accept": "application/json"})
    assert (unknown.status, unknown.code) == (404, "LAYER_UNKNOWN")


def test_an_engine_that_cannot_deliver_says_why(api: ServerThread) -> None:
    with engine_that(api.server.agent, EngineUnavailable("docker does not answer")):
        answer = api.server.ask(LAYER)
    assert (answer.status, answer.code) == (503, "ENGINE_UNAVAILABLE")
    with engine_that(api.server.agent, DataError("its tar-split is damaged")):
        answer = api.server.ask(LAYER)
    assert (answer.status, answer.code) == (500, "LAYER_DAMAGED")
    assert answer.json["errors"][0]["message"] == "its tar-split is damaged"


def test_the_last_events_are_remembered_the_oldest_first(api: ServerThread) -> None:
    assert api.server.ask("/events").json == {"events": []}
    api.happen(changed("peer"), held("peer", holding("app", "app:1")))
    events = api.server.ask("/events").json["events"]
    assert [event["event"] for event in events] == ["node.added", "node.online", "image.added"]
    assert events[2]["tags"] == ["app:1"]
    many = [Event(event="engine.up", at=str(number), node="x") for number in range(1500)]
    api.server.bus.publish(*many)
    remembered = api.server.ask("/events").json["events"]
    assert [event["at"] for event in remembered] == [str(number) for number in range(500, 1500)]


def test_metrics_are_as_prometheus_reads_them(api: ServerThread) -> None:
    answer = api.server.ask("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert answer.body.decode() == (
        "# HELP beiran_engine_up 1 while the engine answers.\n"
        "# TYPE beiran_engine_up gauge\n"
        "beiran_engine_up 1\n"
        "# HELP beiran_nodes Known nodes.\n"
        "# TYPE beiran_nodes gauge\n"
        'beiran_nodes{state="alive"} 2\n'
        'beiran_nodes{state="a \\"b\\"\\\\c\\n"} 0\n'
    )


def test_an_error_of_the_database_is_a_failure_that_ends_nothing(cluster: ServerThread) -> None:
    reader = cluster.server.store._reader
    reader.execute("PRAGMA query_only = OFF")
    cluster.server.store._writer.execute("ALTER TABLE images RENAME TO elsewhere")
    answer = cluster.server.ask("/images")
    assert (answer.status, answer.code) == (500, "INTERNAL")
    assert cluster.server.ask("/nodes").status == 200


def no_layer_is_open(api: ServerThread) -> None:
    """The server closes them when it has sent the last byte, which is when we have it."""
    deadline = time.monotonic() + 20
    while api.server.agent.open_layers:
        assert time.monotonic() < deadline
        time.sleep(0.001)
