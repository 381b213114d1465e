"""Any effects in any order: the rows are those of a plain dictionary."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from beiran.api.events import Event
from beiran.gossip.effects import (
    Broadcast,
    Effect,
    HoldingsChanged,
    ImageDescribed,
    ImageForgotten,
    MemberChanged,
    MemberForgotten,
)
from beiran.gossip.membership.member import Member, Status
from beiran.ids import NODE_URI_SCHEME, Digest, NodeId, digest_text, node_id_text
from beiran.oci.images import Holding, ImageDescription
from beiran.store.reads import HeldBy, OnlineNodes
from beiran.store.store import Store
from tests.store.samples import AT, description, digest, holding, member, node, open_store

NODES = ("me", "a", "b", "c")
DESCRIPTIONS = {
    digest("app"): description("app", "base", "top"),
    digest("web"): description("web", "base", "other", "base"),
    digest("db"): description("db"),
    digest("tool"): description("tool", "top"),
}
IMAGES = ("app", "web", "db", "tool")

Facts = set[tuple[str, str]]

holdings = st.builds(
    lambda image, tags, repo: holding(image, *tags, repo=repo),
    st.sampled_from(IMAGES),
    st.sets(st.sampled_from(("x:1", "x:2", "y:1"))),
    st.sampled_from(("", "x", "y")),
)
unique_holdings = st.lists(holdings, max_size=4, unique_by=lambda held: held.image).map(tuple)


@st.composite
def holdings_changes(draw: st.DrawFn) -> HoldingsChanged:
    held = draw(unique_holdings)
    kept = {holding.image for holding in held}
    images = draw(st.sets(st.sampled_from(IMAGES)))
    return HoldingsChanged(
        node(draw(st.sampled_from(NODES))),
        draw(st.integers(0, 2**40)),
        held=held,
        released=tuple(digest(image) for image in sorted(images) if digest(image) not in kept),
        reset=draw(st.booleans()),
    )


members = st.builds(
    lambda name, status, generation: member(name, status, generation=generation),
    st.sampled_from(NODES[1:]),
    st.sampled_from(Status),
    st.integers(1, 3),
)
effects = st.one_of(
    st.builds(MemberChanged, members, st.none()),
    st.builds(MemberForgotten, st.sampled_from(NODES).map(node)),
    holdings_changes(),
    holdings_changes(),
    st.sampled_from(sorted(DESCRIPTIONS)).map(lambda image: ImageDescribed(DESCRIPTIONS[image])),
    st.sampled_from(IMAGES).map(lambda image: ImageForgotten(digest(image))),
    st.just(Broadcast(b"")),
)
batches = st.lists(st.lists(effects, max_size=6), max_size=6)


@dataclass
class Model:
    """What is true, in dictionaries."""

    members: dict[NodeId, Member] = field(default_factory=dict)
    held: dict[NodeId, dict[Digest, Holding]] = field(default_factory=dict)
    versions: dict[NodeId, int] = field(default_factory=dict)
    described: dict[Digest, ImageDescription] = field(default_factory=dict)

    def apply_batch(self, batch: list[Effect]) -> None:
        forgotten = []
        for effect in batch:
            if isinstance(effect, MemberChanged):
                self.members[effect.member.node] = effect.member
            elif isinstance(effect, MemberForgotten) and effect.node != node("me"):
                self.members.pop(effect.node, None)
                self.held.pop(effect.node, None)
                self.versions.pop(effect.node, None)
            elif isinstance(effect, HoldingsChanged):
                self._holdings_changed(effect)
            elif isinstance(effect, ImageDescribed):
                self.described[effect.description.image] = effect.description
            elif isinstance(effect, ImageForgotten):
                forgotten.append(effect.image)
        for image in forgotten:
            if not any(image in held for held in self.held.values()):
                self.described.pop(image, None)

    def _holdings_changed(self, change: HoldingsChanged) -> None:
        held = self.held.setdefault(change.owner, {})
        if change.reset:
            held.clear()
        held.update({holding.image: holding for holding in change.held})
        for image in change.released:
            held.pop(image, None)
        before = self.versions.get(change.owner, 0)
        ours = change.owner == node("me")
        self.versions[change.owner] = max(before, change.version) if ours else change.version

    def layers_of(self, owner: NodeId) -> set[str]:
        return {
            digest_text(layer.digest)
            for image in self.held.get(owner, {})
            if image in self.described
            for layer in self.described[image].layers
        }

    def online(self) -> list[NodeId]:
        return [node("me"), *(n for n, m in self.members.items() if m.status.online)]


def check_rows(store: Store, model: Model) -> None:
    restored = store.restore()
    assert {known.member.node: known.member for known in restored.members} == model.members
    for known in restored.members:
        owner = known.member.node
        assert {held.image: held for held in known.holdings} == model.held.get(owner, {})
        assert known.version == model.versions.get(owner, 0)
    assert {held.image: held for held in restored.holdings} == model.held.get(node("me"), {})
    assert restored.version == model.versions.get(node("me"), 0)
    everywhere = {image for held in model.held.values() for image in held}
    assert {what.image: what for what in restored.descriptions} == {
        image: what for image, what in model.described.items() if image in everywhere
    }


def check_names(store: Store, model: Model) -> None:
    names: dict[str, set[tuple[NodeId, Digest]]] = {}
    for owner, held in model.held.items():
        for image, named in held.items():
            for name in (*named.tags, *map(str, named.digests)):
                names.setdefault(name, set()).add((owner, image))
    kept = store._reader.execute("SELECT name FROM names ORDER BY name").fetchall()
    assert [name for (name,) in kept] == sorted(names)
    online = model.online()
    with store.reading() as queries:
        for name, holders in names.items():
            assert {(row.node, row.image) for row in queries.holdings_named(name)} == {
                holder for holder in holders if holder[0] in online
            }


def node_uris(nodes: Iterable[NodeId]) -> tuple[str, ...]:
    return tuple(sorted(NODE_URI_SCHEME + node_id_text(node) for node in nodes))


def check_listings(store: Store, model: Model) -> None:
    online = model.online()
    with store.reading() as queries:
        assert {n.uuid for n in queries.nodes(online_only=True)} == set(map(node_id_text, online))
        for image in queries.images(OnlineNodes()):
            holders = [n for n in online if image.id in map(digest_text, model.held.get(n, {}))]
            assert image.available_at == node_uris(holders)
            assert set(image.tags) == {
                tag
                for n in holders
                for held in model.held[n].values()
                if digest_text(held.image) == image.id
                for tag in held.tags
            }
        for layer in queries.layers(OnlineNodes()):
            holders = [n for n in online if layer.digest in model.layers_of(n)]
            assert holders
            assert layer.available_at == node_uris(holders)
        for n in (node("me"), *model.members):
            assert {i.id for i in queries.images(HeldBy(n))} == set(
                map(digest_text, model.held.get(n, {}))
            )
            assert {row.digest for row in queries.layers(HeldBy(n))} == model.layers_of(n)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(batches)
def test_any_sequence_of_effects_keeps_the_rows_equal_to_a_plain_model(
    batches: list[list[Effect]],
) -> None:
    with TemporaryDirectory(prefix="beiran-store-") as folder:
        store = open_store(Path(folder))
        model = Model()
        seen: dict[str, Facts] = {"image": set(), "layer": set()}
        try:
            for batch in batches:
                events = store.apply(batch, AT).events
                model.apply_batch(batch)
                check_rows(store, model)
                check_names(store, model)
                check_listings(store, model)
                # A forgotten member was offline for long: no event reports its images as removed.
                forgotten = any(isinstance(effect, MemberForgotten) for effect in batch)
                follow(seen, events, strict=not forgotten)
                if forgotten:
                    seen = facts(model)
                assert seen == facts(model)
        finally:
            store.close()
        store = open_store(Path(folder))  # what opening again drops was of no use
        check_rows(store, model)
        store.close()


def follow(seen: dict[str, Facts], events: tuple[Event, ...], *, strict: bool) -> None:
    """Apply the events to ``seen``, and check that each reports a change."""
    for event in events:
        kind, _, what = event.event.partition(".")
        if kind == "node":
            continue
        fact = (event.node, event.image or event.layer)
        assert not strict or (fact in seen[kind]) == (what == "removed")
        if what == "added":
            seen[kind].add(fact)
        else:
            seen[kind].discard(fact)


def facts(model: Model) -> dict[str, Facts]:
    """Who has what."""
    held = {node_id_text(n): model.held[n] for n in model.held}
    return {
        "image": {(n, digest_text(image)) for n, images in held.items() for image in images},
        "layer": {(node_id_text(n), layer) for n in model.held for layer in model.layers_of(n)},
    }
