"""What pulls ask of the picture: who has a name, a layer, and what a tag last meant."""

import pytest

from beiran.api.models import TagMeaning
from beiran.gossip.membership.member import Status
from beiran.store import store as store_module
from beiran.store.store import Store
from tests.store.pictures import (
    AT,
    LATER,
    changed,
    described,
    digest,
    held,
    holding,
    node,
    text,
)


def meaning(reference: str, image: str, at: str) -> TagMeaning:
    return TagMeaning(
        reference=reference, digest=text(image), media_type="x/y", size_bytes=7, resolved_at=at
    )


@pytest.fixture
def picture(store: Store) -> Store:
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


def test_who_holds_a_tag_is_told_the_newest_image_first(picture: Store) -> None:
    with picture.reading() as queries:
        found = queries.holdings_named("app:1")
    assert [(row.image, row.node) for row in found] == [
        (digest("web"), node("b")),
        (digest("app"), node("a")),
    ]
    assert found[0].tags == ("app:1", "web:2")
    assert found[1].digests == (f"app@{text('manifest of app')}",)


def test_who_holds_a_repository_digest_is_told(picture: Store) -> None:
    with picture.reading() as queries:
        (found,) = queries.holdings_named(f"app@{text('manifest of app')}")
    assert found.node == node("a")


def test_holders_of_images_and_layers_are_told_together(picture: Store) -> None:
    with picture.reading() as queries:
        found = queries.holders([text("app"), text("base"), text("top"), text("other")])
    assert {digest: sorted(nodes) for digest, nodes in found.items()} == {
        text("app"): [node("a")],
        text("base"): sorted([node("a"), node("b")]),
        text("top"): [node("a")],
    }


def test_the_tags_of_a_repository_are_those_of_online_nodes(picture: Store) -> None:
    with picture.reading() as queries:
        assert queries.tags_in("app:") == ["app:1"]
        assert queries.tags_in("") == ["app:1", "web:2"]


def test_what_a_tag_last_meant_is_remembered(store: Store) -> None:
    store.remember_tag(meaning("docker.io/library/app:1", "app", AT))
    store.remember_tag(meaning("docker.io/library/app:1", "web", LATER))
    with store.reading() as queries:
        assert queries.tag_meaning("docker.io/library/app:1") == meaning(
            "docker.io/library/app:1", "web", LATER
        )
        assert queries.tag_meaning("docker.io/library/app:2") is None


def test_the_oldest_meanings_are_forgotten(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "TAGS_MAX", 2)
    for number in range(3):
        store.remember_tag(meaning(f"docker.io/library/app:{number}", "app", f"2026-01-0{number}"))
    with store.reading() as queries:
        assert queries.tag_meaning("docker.io/library/app:0") is None
        assert queries.tag_meaning("docker.io/library/app:2") is not None
