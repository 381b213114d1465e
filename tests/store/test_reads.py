"""Reads of the store: listings, single rows, and what pulls look up."""

import pytest

from beiran.api.models import EngineInfo, Image, Info, Layer, TagMeaning
from beiran.errors import BadRequest, NotFound
from beiran.gossip.effects import MemberForgotten
from beiran.gossip.membership.member import Status
from beiran.store import store as store_module
from beiran.store.reads import HeldBy, OnlineNodes, Scope
from beiran.store.store import Store
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
    text,
    uri,
    uuid,
)

ONLINE = OnlineNodes()
OWN = HeldBy(node("me"))


def images(store: Store, scope: Scope) -> list[Image]:
    with store.reading() as queries:
        return queries.images(scope)


def layers(store: Store, scope: Scope) -> list[Layer]:
    with store.reading() as queries:
        return queries.layers(scope)


def image(store: Store, asked: str) -> Image:
    with store.reading() as queries:
        return queries.image(asked)


def info(name: str, version: str = "1.2.3") -> Info:
    return Info(
        uuid=uuid(name),
        name=name,
        cluster="default",
        address="10.0.0.9",
        port=8888,
        state="alive",
        generation=7,
        incarnation=0,
        version=version,
        engine=EngineInfo(kind="docker", version="29.0", store="overlay2"),
        started_at=AT,
        nodes_online=1,
        nodes_known=1,
        images=0,
        layers=0,
    )


def test_we_are_a_node_like_any_other(store: Store) -> None:
    with store.reading() as queries:
        (me,) = queries.nodes(online_only=True)
    assert (me.uuid, me.name, me.online, me.generation) == (uuid("me"), "me", True, 0)
    assert me.last_seen_at is None
    store.begin_life(1000)
    with store.reading() as queries:
        me = queries.node(node("me"))
    assert me.generation == 1000
    assert me.last_seen_at is not None


def test_suspects_are_online_and_members_down_or_left_are_not(store: Store) -> None:
    for status in Status:
        store.apply([changed(status.state, status)], AT)
    with store.reading() as queries:
        assert [n.name for n in queries.nodes(online_only=True)] == ["alive", "me", "suspect"]
        nodes = queries.nodes()
    assert [n.name for n in nodes] == ["alive", "down", "left", "me", "suspect"]
    assert [n.state for n in nodes] == ["alive", "down", "left", "alive", "suspect"]


def test_a_node_is_seen_when_it_is_alive_and_when_it_was_heard(store: Store) -> None:
    store.apply([changed("peer"), changed("never", Status.DOWN)], AT)
    store.apply([changed("peer", Status.DOWN)], LATER)
    with store.reading() as queries:
        assert queries.node(node("peer")).last_seen_at == AT
        assert queries.node(node("never")).last_seen_at is None
    store.seen({node("peer"): LATER})
    with store.reading() as queries:
        assert queries.node(node("peer")).last_seen_at == LATER


def test_the_info_of_a_node_is_shown(store: Store) -> None:
    store.apply([changed("peer")], AT)
    assert store.record_info(node("peer"), info("peer")).rows.nodes == {uuid("peer")}
    assert not store.record_info(node("peer"), info("peer")).rows
    assert not store.record_info(node("stranger"), info("stranger")).rows
    with store.reading() as queries:
        peer = queries.node(node("peer"))
    assert peer.version == "1.2.3"
    assert peer.engine == EngineInfo(kind="docker", version="29.0", store="overlay2")
    assert peer.address == "10.0.0.1"  # as the core knows it


def test_the_info_of_this_node_includes_its_address(store: Store) -> None:
    store.record_info(node("me"), info("renamed"))
    with store.reading() as queries:
        me = queries.node(node("me"))
    assert (me.name, me.address, me.port) == ("renamed", "10.0.0.9", 8888)


def test_an_unknown_node_is_not_found(store: Store) -> None:
    for ask in (
        lambda: images(store, HeldBy(node("stranger"))),
        lambda: layers(store, HeldBy(node("stranger"))),
    ):
        with pytest.raises(NotFound, match=uuid("stranger")) as caught:
            ask()
        assert caught.value.code == "NODE_UNKNOWN"
    with store.reading() as queries, pytest.raises(NotFound):
        queries.node(node("stranger"))
    assert not store.knows(node("stranger"))


def test_a_node_is_known_from_its_first_sight_until_it_is_forgotten(store: Store) -> None:
    store.apply([held("peer", holding("app"))], AT)
    assert not store.knows(node("peer"))
    store.apply([changed("peer")], AT)
    assert store.knows(node("peer"))
    store.apply([MemberForgotten(node("peer"))], AT)
    assert not store.knows(node("peer"))


def test_an_image_has_its_description_its_holders_and_their_names(store: Store) -> None:
    store.apply(
        [
            changed("peer"),
            described("app", "base", "top", created_at="2026-01-01T00:00:00Z"),
            held("peer", holding("app", "a:1", "a:2", repo="a")),
            held("me", holding("app", "mine:1")),
        ],
        AT,
    )
    (of_all,) = images(store, ONLINE)
    manifest = "a@" + text("manifest of app")
    assert of_all == Image(
        id=text("app"),
        tags=("a:1", "a:2", "mine:1"),
        digests=(manifest,),
        size_bytes=70,
        created_at="2026-01-01T00:00:00Z",
        os="linux",
        architecture="amd64",
        layers=(text("base"), text("top")),
        available_at=tuple(sorted([uri("peer"), uri("me")])),
    )
    (mine,) = images(store, OWN)
    assert (mine.tags, mine.digests) == (("mine:1",), ())
    assert mine.available_at == of_all.available_at
    (theirs,) = images(store, HeldBy(node("peer")))
    assert (theirs.tags, theirs.digests) == (("a:1", "a:2"), (manifest,))


def test_an_image_without_a_description_is_listed_without_a_size(store: Store) -> None:
    store.apply([held("me", holding("app", "a:1"))], AT)
    (app,) = images(store, OWN)
    assert (app.size_bytes, app.created_at, app.os, app.architecture) == (None,) * 4
    assert app.layers == ()
    assert layers(store, OWN) == []


def test_holdings_of_offline_nodes_are_listed_only_when_asked_for(store: Store) -> None:
    store.apply(
        [changed("peer"), described("app", "base"), held("peer", holding("app", "a:1"))], AT
    )
    store.apply([described("web", "base"), held("me", holding("web", "w:1"))], AT)
    store.apply([changed("peer", Status.DOWN)], AT)
    assert [found.tags for found in images(store, ONLINE)] == [("w:1",)]
    (base,) = layers(store, ONLINE)
    assert (base.images, base.available_at) == ((text("web"),), (uri("me"),))
    (last,) = images(store, HeldBy(node("peer")))
    assert (last.tags, last.available_at) == (("a:1",), ())
    (base,) = layers(store, HeldBy(node("peer")))
    assert (base.images, base.available_at) == ((text("app"),), (uri("me"),))
    assert image(store, "a:1").available_at == ()
    with store.reading() as queries:
        assert queries.layer(text("base")).images == tuple(sorted([text("app"), text("web")]))


def test_images_come_by_first_tag_and_then_the_newest(store: Store) -> None:
    store.apply(
        [
            described("old", "base", created_at="2020-01-01T00:00:00Z"),
            described("new", "base", created_at="2025-01-01T00:00:00Z"),
            held(
                "me",
                holding("old"),
                holding("new"),
                holding("bare"),
                holding("z", "z:1"),
                holding("a", "a:1", "zz:1"),
            ),
        ],
        AT,
    )
    expected = [text(name) for name in ("a", "z", "new", "old", "bare")]
    assert [found.id for found in images(store, OWN)] == expected
    assert [found.id for found in images(store, ONLINE)] == expected


def test_layers_come_the_largest_first(store: Store) -> None:
    store.apply([described("app", "bb", "a", "cccc"), held("me", holding("app"))], AT)
    assert [layer.size_bytes for layer in layers(store, OWN)] == [40, 20, 10]


def test_an_image_answers_to_its_digest_a_prefix_a_tag_and_a_repository_digest(
    store: Store,
) -> None:
    store.apply([held("me", holding("app", "host:5000/team/app:latest", repo="app"))], AT)
    whole = text("app")
    for asked in (
        whole,
        whole[7:],
        whole[:12],
        whole[7:10],
        "host:5000/team/app:latest",
        "host:5000/team/app",
        "app@" + text("manifest of app"),
    ):
        assert image(store, asked).id == whole
    for asked in (
        "app",
        "host:5000/team/app:other",
        "app@" + text("other"),
        text("other"),
        "sha256:",
        "%",
    ):
        with pytest.raises(NotFound) as caught:
            image(store, asked)
        assert caught.value.code == "IMAGE_UNKNOWN"


def test_a_prefix_that_several_images_have_is_refused_with_some_of_them(store: Store) -> None:
    store.apply([held("me", *(holding(str(number)) for number in range(40)))], AT)
    prefixes = [text(str(number))[7] for number in range(40)]
    shared = max(prefixes, key=prefixes.count)
    with pytest.raises(BadRequest, match=rf"images match {shared}, among them sha256:") as caught:
        image(store, shared)
    assert caught.value.code == "IMAGE_AMBIGUOUS"


def test_a_name_is_looked_up_on_this_node_before_other_nodes(store: Store) -> None:
    store.apply([changed("a"), changed("b"), changed("gone")], AT)
    store.apply([held("gone", holding("first", "app:1"))], AT)
    store.apply([changed("gone", Status.DOWN)], AT)
    assert image(store, "app:1").id == text("first")
    store.apply([held("a", holding("second", "app:1"))], AT)
    assert image(store, "app:1").id == text("second")
    store.apply([held("b", holding("third", "app:1"))], AT)
    with pytest.raises(BadRequest):
        image(store, "app:1")
    store.apply([held("me", holding("fourth", "app:1"))], AT)
    assert image(store, "app:1").id == text("fourth")


def test_a_name_in_hexadecimal_digits_is_a_name_first(store: Store) -> None:
    prefix = text("app")[7:11]
    store.apply([held("me", holding("app"), holding("web", prefix + ":latest"))], AT)
    assert image(store, prefix).id == text("web")


def test_rows_that_went_away_are_left_out_of_the_rest_of_a_listing(store: Store) -> None:
    store.apply([described("app", "base"), held("me", holding("app"), holding("web"))], AT)
    with store.reading() as queries:
        wanted = [*queries.image_digests(OWN), text("never")]
        wanted_layers = queries.layer_digests(OWN)
    store.apply([released("me", "app")], AT)
    with store.reading() as queries:
        assert [found.id for found in queries.images_of(wanted, OWN)] == [text("web")]
        assert queries.layers_of(wanted_layers, OWN) == []
        assert queries.nodes_of([uuid("never"), uuid("me")])[0].name == "me"


def test_an_unknown_layer_is_not_found(store: Store) -> None:
    with store.reading() as queries, pytest.raises(NotFound) as caught:
        queries.layer(text("base"))
    assert caught.value.code == "LAYER_UNKNOWN"


def test_counts_are_of_this_node_and_of_all_nodes(store: Store) -> None:
    store.apply([changed("peer"), changed("gone", Status.DOWN)], AT)
    store.apply([described("app", "base", "top"), described("web", "base", "other")], AT)
    store.apply([held("me", holding("app")), held("gone", holding("app"), holding("web"))], AT)
    with store.reading() as queries:
        counts = queries.counts()
    assert (counts.nodes_online, counts.nodes_known) == (2, 3)
    assert (counts.images, counts.layers) == (1, 2)
    assert (counts.images_known, counts.layers_known, counts.holdings) == (2, 3, 3)


def test_a_listing_is_of_one_moment_and_waits_for_no_write(store: Store) -> None:
    with store.reading() as queries:
        before = queries.image_digests(OWN)
        store.apply([held("me", holding("app"))], AT)  # would wait for ever, and so would we
        assert queries.image_digests(OWN) == before == []
    assert [found.id for found in images(store, OWN)] == [text("app")]
    assert digest("app").hex() in text("app")


# For pulls


def resolution(reference: str, image: str, at: str) -> TagMeaning:
    return TagMeaning(
        reference=reference, digest=text(image), media_type="x/y", size_bytes=7, resolved_at=at
    )


@pytest.fixture
def cluster(store: Store) -> Store:
    store.apply(
        [
            changed("a"),
            changed("b"),
            changed("gone", Status.DOWN),
            described("app", "base", "top", created_at="2026-01-01T00:00:00Z"),
            described("web", "base", created_at="2026-02-02T00:00:00Z"),
            held("a", holding("app", "app:1", repo="app")),
            held("b", holding("web", "app:1", "web:2")),
            held("gone", holding("app", "app:1")),
        ],
        AT,
    )
    return store


def test_the_holders_of_a_tag_come_newest_image_first(cluster: Store) -> None:
    with cluster.reading() as queries:
        found = queries.holdings_named("app:1")
    assert [(row.image, row.node) for row in found] == [
        (digest("web"), node("b")),
        (digest("app"), node("a")),
    ]
    assert found[0].tags == ("app:1", "web:2")
    assert found[1].digests == (f"app@{text('manifest of app')}",)


def test_the_holders_of_a_repository_digest_are_found(cluster: Store) -> None:
    with cluster.reading() as queries:
        (found,) = queries.holdings_named(f"app@{text('manifest of app')}")
    assert found.node == node("a")


def test_holders_of_images_and_layers_are_found_together(cluster: Store) -> None:
    with cluster.reading() as queries:
        found = queries.holders([text("app"), text("base"), text("top"), text("other")])
    assert {digest: sorted(nodes) for digest, nodes in found.items()} == {
        text("app"): [node("a")],
        text("base"): sorted([node("a"), node("b")]),
        text("top"): [node("a")],
    }


def test_the_tags_of_a_repository_are_those_of_online_nodes(cluster: Store) -> None:
    with cluster.reading() as queries:
        assert queries.tags_in("app:") == ["app:1"]
        assert queries.tags_in("") == ["app:1", "web:2"]


def test_the_last_resolution_of_a_tag_is_kept(store: Store) -> None:
    store.remember_tag(resolution("docker.io/library/app:1", "app", AT))
    store.remember_tag(resolution("docker.io/library/app:1", "web", LATER))
    with store.reading() as queries:
        assert queries.tag_meaning("docker.io/library/app:1") == resolution(
            "docker.io/library/app:1", "web", LATER
        )
        assert queries.tag_meaning("docker.io/library/app:2") is None


def test_the_oldest_resolutions_are_deleted(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "TAGS_MAX", 2)
    for number in range(3):
        store.remember_tag(
            resolution(f"docker.io/library/app:{number}", "app", f"2026-01-0{number}")
        )
    with store.reading() as queries:
        assert queries.tag_meaning("docker.io/library/app:0") is None
        assert queries.tag_meaning("docker.io/library/app:2") is not None
