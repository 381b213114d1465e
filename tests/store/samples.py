"""Short names for nodes, images and layers, and stores of a test's own."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from beiran.api.events import Event
from beiran.gossip.effects import HoldingsChanged, ImageDescribed, MemberChanged
from beiran.gossip.membership.member import Address, Member, Status
from beiran.ids import Digest, NodeId, digest_text, node_id_text
from beiran.oci.images import Holding, ImageDescription, LayerDescription, RepoDigest
from beiran.store.store import Store

AT = "2026-11-23T10:00:00Z"
LATER = "2026-11-23T10:00:01Z"

OpenStore = Callable[[], Store]


def node(name: str) -> NodeId:
    return NodeId(hashlib.sha256(name.encode()).digest()[:16])


def digest(name: str) -> Digest:
    return Digest(hashlib.sha256(name.encode()).digest())


def uuid(name: str) -> str:
    return node_id_text(node(name))


def uri(name: str) -> str:
    return "beiran+uuid://" + uuid(name)


def text(name: str) -> str:
    return digest_text(digest(name))


def member(name: str, status: Status = Status.ALIVE, *, generation: int = 7) -> Member:
    return Member(node(name), name, Address("10.0.0.1", 8888), generation, 0, status)


def changed(name: str, status: Status = Status.ALIVE, *, reason: str = "") -> MemberChanged:
    return MemberChanged(member(name, status), None, reason)


def holding(image: str, *tags: str, repo: str = "") -> Holding:
    digests = (RepoDigest(repo, digest("manifest of " + image)),) if repo else ()
    return Holding(digest(image), tuple(sorted(tags)), digests)


def held(owner: str, *holdings: Holding, version: int = 1) -> HoldingsChanged:
    return HoldingsChanged(node(owner), version, held=tuple(holdings))


def released(owner: str, *images: str, version: int = 2) -> HoldingsChanged:
    return HoldingsChanged(node(owner), version, released=tuple(map(digest, images)))


def description(image: str, *layers: str, created_at: str = "") -> ImageDescription:
    described = tuple(LayerDescription(digest(layer), 10 * len(layer)) for layer in layers)
    return ImageDescription(digest(image), "linux", "amd64", created_at, described)


def described(image: str, *layers: str, created_at: str = "") -> ImageDescribed:
    return ImageDescribed(description(image, *layers, created_at=created_at))


def open_store(folder: Path, *, name: str = "me", cluster: str = "default") -> Store:
    path = str(folder / "beiran.db")
    return Store.open(path, node=node(name), cluster=cluster, name=name)


def summary(events: Sequence[Event]) -> list[tuple[str, ...]]:
    """Shorten each event to its kind, its node's name, and its image's or layer's name."""
    names = {digest_text(digest(name)): name for name in _NAMES}
    return [
        tuple(filter(None, (event.event, event.name, names.get(event.image or event.layer, ""))))
        for event in events
    ]


_NAMES = ("app", "web", "base", "top", "other", "db")
