"""The listings of the API: the rows of each, how to read them, and which changes touch them."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, TypeVar

from msgspec.structs import replace

from beiran.api.models import Change, Image, Layer, Node
from beiran.errors import NotFound
from beiran.ids import Digest, NodeId, digest_text, node_id_text
from beiran.store.changes import RowsChanged
from beiran.store.reads import OnlineNodes, Queries, Scope

ChangeKind = Literal["added", "changed", "removed"]
R = TypeVar("R", Node, Image, Layer)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Listing(Generic[R]):
    """One listing. Its keys are UUIDs of nodes, or digests as text.

    Attributes:
      name: the name of the rows' array in JSON.
      keys: the keys of all its rows, in its order.
      read: the rows of these keys, in their order, without keys that are not in the listing.
      touched: the keys that a change of the store may concern, in the listing or not.
      key: the key of a row.
      essence: a row without the fields whose changes are not sent to followers.
      gone: a row as the message about its removal shows it.
      change: the message about a row.
    """

    name: str
    keys: Callable[[Queries], Sequence[str]]
    read: Callable[[Queries, Sequence[str]], Sequence[R]]
    touched: Callable[[RowsChanged], Iterable[str]]
    key: Callable[[R], str]
    essence: Callable[[R], R]
    gone: Callable[[R], R]
    change: Callable[[ChangeKind, R], Change]


def nodes_listing(*, online_only: bool) -> Listing[Node]:
    """The nodes that are online, or all known ones."""
    return Listing(
        name="nodes",
        keys=lambda queries: [node.uuid for node in queries.nodes(online_only=online_only)],
        read=lambda queries, keys: queries.nodes_of(keys, online_only=online_only),
        touched=lambda changed: changed.nodes,
        key=lambda row: row.uuid,
        essence=lambda row: replace(row, last_seen_at=None),
        gone=lambda row: row,
        change=lambda kind, row: Change(change=kind, node=row),
    )


def node_listing(node: NodeId) -> Listing[Node]:
    """One node, online or not. Raises (when read): NotFound."""
    return _only(
        nodes_listing(online_only=False),
        node_id_text(node),
        lambda queries, uuid: queries.node(node),
    )


def images_listing(scope: Scope) -> Listing[Image]:
    """The images that the nodes of a scope hold."""
    return Listing(
        name="images",
        keys=lambda queries: queries.image_digests(scope),
        read=lambda queries, keys: queries.images_of(keys, scope),
        touched=lambda changed: changed.images,
        key=lambda row: row.id,
        essence=lambda row: row,
        gone=lambda row: replace(row, available_at=()),
        change=lambda kind, row: Change(change=kind, image=row),
    )


def image_listing(digest: str) -> Listing[Image]:
    """One image, by its whole digest. Raises (when read): NotFound."""
    return _only(images_listing(OnlineNodes()), digest, Queries.image)


def layers_listing(scope: Scope) -> Listing[Layer]:
    """The layers of the images that the nodes of a scope hold."""
    return Listing(
        name="layers",
        keys=lambda queries: queries.layer_digests(scope),
        read=lambda queries, keys: queries.layers_of(keys, scope),
        touched=lambda changed: changed.layers,
        key=lambda row: row.digest,
        essence=lambda row: row,
        gone=lambda row: replace(row, images=(), available_at=()),
        change=lambda kind, row: Change(change=kind, layer=row),
    )


def layer_listing(digest: Digest) -> Listing[Layer]:
    """One layer. Raises (when read): NotFound."""
    return _only(layers_listing(OnlineNodes()), digest_text(digest), Queries.layer)


def _only(listing: Listing[R], key: str, one: Callable[[Queries, str], R]) -> Listing[R]:
    """``listing`` reduced to one row."""

    def keys(queries: Queries) -> Sequence[str]:
        one(queries, key)
        return [key]

    def read(queries: Queries, keys: Sequence[str]) -> Sequence[R]:
        try:
            return [one(queries, key)]
        except NotFound:
            return []

    def touched(changed: RowsChanged) -> Iterable[str]:
        return [touched for touched in listing.touched(changed) if touched == key]

    return Listing(
        name=listing.name,
        keys=keys,
        read=read,
        touched=touched,
        key=listing.key,
        essence=listing.essence,
        gone=listing.gone,
        change=listing.change,
    )
