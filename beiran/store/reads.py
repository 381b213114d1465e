"""Reads of the store, as models of the API.

A listing takes two steps, so that a long one is sent while it is read: first its keys (UUIDs or
digests, in order), then the rows of a part of the keys. A row that disappears between the steps is
left out. Rows without a tag come last.

A listing of all nodes, and ``available_at``, count the holdings of online nodes (alive or suspect).
A listing of one node shows the holdings of that node, or its last known ones.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from msgspec import Struct
from sqlite_utils import Database

from beiran.api.models import EngineInfo, Image, Layer, Node, TagMeaning
from beiran.errors import BadRequest, NotFound
from beiran.ids import (
    NODE_URI_SCHEME,
    Digest,
    NodeId,
    node_id_text,
    parse_digest,
    parse_node_id,
)

ONLINE: Final = "nodes.state IN ('alive', 'suspect')"

AMBIGUOUS_SHOWN_MAX: Final = 5  # digests that the error for an ambiguous prefix lists
LAST_CHAR: Final = "\U0010ffff"  # a prefix with it sorts after every string with that prefix

_HEX: Final = re.compile(r"(?:sha256:)?([0-9a-f]{1,64})")

_NODES: Final = """
    SELECT uuid, name, address, port, state, generation, incarnation, version, engine, last_seen_at
    FROM nodes WHERE first_seen_at IS NOT NULL
"""

_NAMED: Final = """
    names JOIN holding_names ON holding_names.name = names.id
    JOIN holdings ON holdings.image = holding_names.image AND holdings.node = holding_names.node
    JOIN nodes ON nodes.id = holdings.node
"""


class OnlineNodes(Struct, frozen=True):
    """Listings of the holdings of all online nodes."""


class HeldBy(Struct, frozen=True):
    """Listings of the holdings of one node; of an offline node, the last known ones."""

    node: NodeId


Scope = OnlineNodes | HeldBy


class NamedHolding(Struct, frozen=True):
    """An online node that holds an image under a given name."""

    image: Digest
    node: NodeId
    tags: tuple[str, ...]
    digests: tuple[str, ...]
    created_at: str
    """Of the image (RFC 3339); empty while it is not described."""


class Counts(Struct, frozen=True):
    """Numbers of rows."""

    nodes_online: int
    nodes_known: int
    images: int
    """Held by this node."""
    layers: int
    """Of the images held by this node."""
    images_known: int
    """Held by any node, offline or not."""
    layers_known: int
    holdings: int


class Queries:
    """Reads within one transaction. Made by ``Store.reading()``.

    An unknown node, in a scope too, raises NotFound (``NODE_UNKNOWN``).
    """

    def __init__(self, db: Database, node: NodeId) -> None:
        self._db = db
        self._self = node

    # Nodes

    def nodes(self, *, online_only: bool = False) -> list[Node]:
        """All known nodes, this one included, by name."""
        condition = f" AND {ONLINE}" if online_only else ""
        rows = self._db.execute(_NODES + condition + " ORDER BY name, uuid").fetchall()
        return [_node(row) for row in rows]

    def node(self, node: NodeId) -> Node:
        """One node, online or not."""
        uuid = node_id_text(node)
        row = self._db.execute(_NODES + " AND uuid = ?", [uuid]).fetchone()
        if row is None:
            raise node_unknown(node)
        return _node(row)

    def nodes_of(self, uuids: Sequence[str], *, online_only: bool = False) -> list[Node]:
        """The rows of those of ``uuids`` that are in ``nodes``, in the order of ``uuids``."""
        condition = f" AND {ONLINE}" if online_only else ""
        rows = self._db.execute(
            _NODES + condition + " AND uuid IN (SELECT value FROM json_each(?))", [_json(uuids)]
        ).fetchall()
        found = {row[0]: _node(row) for row in rows}
        return [found[uuid] for uuid in uuids if uuid in found]

    # Images

    def images(self, scope: Scope) -> list[Image]:
        """By first tag; images without a tag last, the newest first."""
        return self.images_of(self.image_digests(scope), scope)

    def image_digests(self, scope: Scope) -> list[str]:
        """The digests of ``images``, in the same order."""
        where, arguments = self._holders(scope)
        first_tags: dict[int, str] = {}
        for image, tag in self._db.execute(
            "SELECT holdings.image, json_extract(holdings.tags, '$[0]') FROM holdings"
            f" JOIN nodes ON nodes.id = holdings.node WHERE {where}",
            arguments,
        ).fetchall():
            known = first_tags.get(image)
            if not known or (tag is not None and tag < known):
                first_tags[image] = tag or ""
        images = self._db.execute(
            "SELECT id, digest FROM images WHERE id IN (SELECT value FROM json_each(?))"
            " ORDER BY coalesce(created_at, '') DESC, digest",
            [_json(first_tags)],
        ).fetchall()
        images.sort(key=lambda row: (not first_tags[row[0]], first_tags[row[0]]))
        return [digest for _, digest in images]

    def images_of(self, digests: Sequence[str], scope: Scope) -> list[Image]:
        """The rows of those of ``digests`` that are in ``images``, in the order of ``digests``."""
        where, arguments = self._holders(scope)
        rows = self._column(
            "SELECT id FROM images WHERE digest IN (SELECT value FROM json_each(?))"
            " AND EXISTS (SELECT 1 FROM holdings JOIN nodes ON nodes.id = holdings.node"
            f" WHERE holdings.image = images.id AND {where})",
            [_json(digests), *arguments],
        )
        found = {image.id: image for image in self._images(rows, scope).values()}
        return [found[digest] for digest in digests if digest in found]

    def image(self, image: str) -> Image:
        """One image by its digest, a name, or a prefix of the digest that no other image has.

        A name is a tag (``:latest`` may be left out) or ``NAME@sha256:…``. This node's holdings go
        before those of other online nodes, and these before those of offline nodes. Names go before
        prefixes, as with docker.

        Raises: NotFound (``IMAGE_UNKNOWN``); BadRequest (``IMAGE_AMBIGUOUS``) when several match.
        """
        row = self._image_row(image)
        found = self._images([row], OnlineNodes()).get(row)
        if found is not None and (found.tags or found.digests or found.available_at):
            return found
        return self._images([row], None)[row]

    def _image_row(self, image: str) -> int:
        prefix = _HEX.fullmatch(image)
        whole = prefix is not None and len(prefix[1]) == 64
        if not whole:
            for where in (f"nodes.uuid = '{node_id_text(self._self)}'", ONLINE, "1"):
                rows = self._images_named(image, where)
                if rows:
                    return self._only(rows, image)
        if prefix is not None:
            low = "sha256:" + prefix[1]
            rows = self._column(
                "SELECT id FROM images WHERE digest BETWEEN ? AND ?"
                " AND EXISTS (SELECT 1 FROM holdings WHERE image = images.id) ORDER BY digest",
                [low, low + "g"],
            )
            if rows:
                return self._only(rows, image)
        raise NotFound("IMAGE_UNKNOWN", f"no image {image} is known here")

    def _images_named(self, name: str, where: str) -> list[int]:
        has_tag = "@" in name or ":" in name.rpartition("/")[2]
        return self._column(
            f"SELECT DISTINCT holdings.image FROM {_NAMED} WHERE {where} AND names.name = ?"
            " ORDER BY holdings.image",
            [name if has_tag else name + ":latest"],
        )

    def _only(self, rows: list[int], asked: str) -> int:
        if len(rows) > 1:
            shown = self._column(
                "SELECT digest FROM images WHERE id IN (SELECT value FROM json_each(?))"
                f" ORDER BY digest LIMIT {AMBIGUOUS_SHOWN_MAX}",
                [_json(rows)],
            )
            raise BadRequest(
                f"{len(rows)} images match {asked}, among them {', '.join(map(str, shown))}",
                code="IMAGE_AMBIGUOUS",
            )
        return rows[0]

    def _images(self, rows: Sequence[int], scope: Scope | None) -> dict[int, Image]:
        names = self._names(rows, scope)
        holders = self._holders_of_images(rows)
        layers: dict[int, list[str]] = {}
        for image, layer in self._db.execute(
            "SELECT image_layers.image, layers.digest FROM image_layers"
            " JOIN layers ON layers.id = image_layers.layer"
            " WHERE image_layers.image IN (SELECT value FROM json_each(?))"
            " ORDER BY image_layers.image, image_layers.position",
            [_json(rows)],
        ).fetchall():
            layers.setdefault(image, []).append(layer)
        images = {}
        for row, digest, os, architecture, created_at, size_bytes in self._db.execute(
            "SELECT id, digest, os, architecture, created_at, size_bytes FROM images"
            " WHERE id IN (SELECT value FROM json_each(?))",
            [_json(rows)],
        ).fetchall():
            tags, digests = names.get(row, (set(), set()))
            images[row] = Image(
                id=digest,
                tags=tuple(sorted(tags)),
                digests=tuple(sorted(digests)),
                size_bytes=size_bytes,
                created_at=created_at or None,
                os=os or None,
                architecture=architecture or None,
                layers=tuple(layers.get(row, ())),
                available_at=holders.get(row, ()),
            )
        return images

    def _names(
        self, rows: Sequence[int], scope: Scope | None
    ) -> dict[int, tuple[set[str], set[str]]]:
        """Tags and repository digests of images, from the holdings of a scope's nodes."""
        where, arguments = self._holders(scope)
        names: dict[int, tuple[set[str], set[str]]] = {}
        # 1,000 nodes that pulled one image have the same names for it: DISTINCT saves decoding.
        for image, tags, digests in self._db.execute(
            "SELECT DISTINCT holdings.image, holdings.tags, holdings.digests FROM holdings"
            " JOIN nodes ON nodes.id = holdings.node"
            f" WHERE holdings.image IN (SELECT value FROM json_each(?)) AND {where}",
            [_json(rows), *arguments],
        ).fetchall():
            known = names.setdefault(image, (set(), set()))
            known[0].update(msgspec.json.decode(tags, type=list[str]))
            known[1].update(msgspec.json.decode(digests, type=list[str]))
        return names

    def _holders_of_images(self, rows: Sequence[int]) -> dict[int, tuple[str, ...]]:
        uris = self._online_uris()
        return {
            image: _uris(nodes, uris)
            for image, nodes in self._db.execute(
                "SELECT image, json_group_array(node) FROM holdings"
                " WHERE image IN (SELECT value FROM json_each(?)) GROUP BY image",
                [_json(rows)],
            ).fetchall()
        }

    # Layers

    def layers(self, scope: Scope) -> list[Layer]:
        """The largest layer first."""
        return self.layers_of(self.layer_digests(scope), scope)

    def layer_digests(self, scope: Scope) -> list[str]:
        """The digests of ``layers``, in the same order."""
        where, arguments = self._holders(scope)
        rows = self._db.execute(
            "SELECT digest FROM layers WHERE id IN (SELECT layer FROM image_layers WHERE image IN"
            " (SELECT holdings.image FROM holdings JOIN nodes ON nodes.id = holdings.node"
            f" WHERE {where})) ORDER BY size_bytes DESC, digest",
            arguments,
        ).fetchall()
        return [digest for (digest,) in rows]

    def layers_of(self, digests: Sequence[str], scope: Scope) -> list[Layer]:
        """The rows of those of ``digests`` that are in ``layers``, in the order of ``digests``."""
        where, arguments = self._holders(scope)
        rows = self._column(
            "SELECT id FROM layers WHERE digest IN (SELECT value FROM json_each(?))"
            " AND EXISTS (SELECT 1 FROM image_layers"
            " JOIN holdings ON holdings.image = image_layers.image"
            " JOIN nodes ON nodes.id = holdings.node"
            f" WHERE image_layers.layer = layers.id AND {where})",
            [_json(digests), *arguments],
        )
        found = {layer.digest: layer for layer in self._layers(rows, scope).values()}
        return [found[digest] for digest in digests if digest in found]

    def layer(self, digest: str) -> Layer:
        """One layer by its whole digest, with every known image that contains it.

        Raises: NotFound (``LAYER_UNKNOWN``).
        """
        rows = self._column(
            "SELECT id FROM layers WHERE digest = ? AND EXISTS (SELECT 1 FROM image_layers"
            " JOIN holdings ON holdings.image = image_layers.image WHERE layer = layers.id)",
            [digest],
        )
        if not rows:
            raise NotFound("LAYER_UNKNOWN", f"no layer {digest} is known here")
        return self._layers(rows, None)[rows[0]]

    def _layers(self, rows: Sequence[int], scope: Scope | None) -> dict[int, Layer]:
        where, arguments = self._holders(scope)
        images = self._db.execute(
            "SELECT layer, json_group_array(DISTINCT digest) FROM image_layers"
            " JOIN images ON images.id = image_layers.image"
            " WHERE layer IN (SELECT value FROM json_each(?)) AND EXISTS"
            " (SELECT 1 FROM holdings JOIN nodes ON nodes.id = holdings.node"
            f" WHERE holdings.image = images.id AND {where}) GROUP BY layer",
            [_json(rows), *arguments],
        ).fetchall()
        of_images = {
            layer: tuple(sorted(msgspec.json.decode(digests, type=list[str])))
            for layer, digests in images
        }
        uris = self._online_uris()
        holders = {
            layer: _uris(nodes, uris)
            for layer, nodes in self._db.execute(
                "SELECT layer, json_group_array(DISTINCT node) FROM image_layers"
                " JOIN holdings ON holdings.image = image_layers.image"
                " WHERE layer IN (SELECT value FROM json_each(?)) GROUP BY layer",
                [_json(rows)],
            ).fetchall()
        }
        return {
            row: Layer(
                digest=digest,
                size_bytes=size_bytes,
                images=of_images.get(row, ()),
                available_at=holders.get(row, ()),
            )
            for row, digest, size_bytes in self._db.execute(
                "SELECT id, digest, size_bytes FROM layers"
                " WHERE id IN (SELECT value FROM json_each(?))",
                [_json(rows)],
            ).fetchall()
        }

    # For pulls

    def holdings_named(self, name: str) -> list[NamedHolding]:
        """The online nodes that hold an image under a tag (``busybox:1``) or ``NAME@sha256:…``.

        The newest image comes first.
        """
        rows = self._db.execute(
            "SELECT images.digest, nodes.uuid, holdings.tags, holdings.digests,"
            f" coalesce(images.created_at, '') FROM {_NAMED}"
            f" JOIN images ON images.id = holdings.image WHERE {ONLINE} AND names.name = ?"
            " ORDER BY images.created_at DESC, images.digest, nodes.uuid",
            [name],
        ).fetchall()
        return [
            NamedHolding(
                parse_digest(image),
                parse_node_id(node),
                msgspec.json.decode(tags, type=tuple[str, ...]),
                msgspec.json.decode(digests, type=tuple[str, ...]),
                created_at,
            )
            for image, node, tags, digests, created_at in rows
        ]

    def tags_in(self, prefix: str) -> list[str]:
        """Tags of images on online nodes that begin with ``prefix``, sorted."""
        rows = self._db.execute(
            "SELECT names.name FROM names"
            " WHERE names.name >= ?1 AND names.name < ?2 AND instr(names.name, '@') = 0 AND EXISTS"
            " (SELECT 1 FROM holding_names JOIN nodes ON nodes.id = holding_names.node"
            f" WHERE holding_names.name = names.id AND {ONLINE}) ORDER BY names.name",
            [prefix, prefix + LAST_CHAR],
        ).fetchall()
        return [tag for (tag,) in rows]

    def holders(self, digests: Sequence[str]) -> dict[str, list[NodeId]]:
        """The online nodes that hold each of these images or layers (diff IDs), by digest."""
        found: dict[str, list[NodeId]] = {}
        for digest, node in self._db.execute(
            "SELECT images.digest, nodes.uuid FROM images"
            " JOIN holdings ON holdings.image = images.id JOIN nodes ON nodes.id = holdings.node"
            f" WHERE {ONLINE} AND images.digest IN (SELECT value FROM json_each(?1))"
            " UNION SELECT layers.digest, nodes.uuid FROM layers"
            " JOIN image_layers ON image_layers.layer = layers.id"
            " JOIN holdings ON holdings.image = image_layers.image"
            " JOIN nodes ON nodes.id = holdings.node"
            f" WHERE {ONLINE} AND layers.digest IN (SELECT value FROM json_each(?1))"
            " ORDER BY 1, 2",
            [_json(digests)],
        ).fetchall():
            found.setdefault(digest, []).append(parse_node_id(node))
        return found

    def tag_meaning(self, reference: str) -> TagMeaning | None:
        """How a tag's origin last resolved it; None where it never did."""
        row = self._db.execute(
            "SELECT digest, media_type, size_bytes, resolved_at FROM tags WHERE reference = ?",
            [reference],
        ).fetchone()
        if row is None:
            return None
        return TagMeaning(
            reference=reference,
            digest=row[0],
            media_type=row[1],
            size_bytes=row[2],
            resolved_at=row[3],
        )

    # All of them

    def counts(self) -> Counts:
        """Numbers of all rows."""
        uuid = node_id_text(self._self)
        mine = "SELECT image FROM holdings WHERE node = (SELECT id FROM nodes WHERE uuid = ?)"
        row = self._db.execute(
            f"""
            SELECT
                (SELECT count(*) FROM nodes WHERE first_seen_at IS NOT NULL AND {ONLINE}),
                (SELECT count(*) FROM nodes WHERE first_seen_at IS NOT NULL),
                (SELECT count(*) FROM ({mine})),
                (SELECT count(DISTINCT layer) FROM image_layers WHERE image IN ({mine})),
                (SELECT count(*) FROM images WHERE id IN (SELECT image FROM holdings)),
                (SELECT count(*) FROM layers),
                (SELECT count(*) FROM holdings)
            """,
            [uuid, uuid],
        ).fetchone()
        return Counts(*row)

    def _holders(self, scope: Scope | None) -> tuple[str, list[int]]:
        """An SQL condition on ``nodes`` and its arguments. None is all nodes, offline ones too."""
        match scope:
            case None:
                return "1", []
            case OnlineNodes():
                return ONLINE, []
            case HeldBy(node=node):
                uuid = node_id_text(node)
                rows = self._column(
                    "SELECT id FROM nodes WHERE uuid = ? AND first_seen_at IS NOT NULL", [uuid]
                )
                if not rows:
                    raise node_unknown(node)
                return "nodes.id = ?", rows

    def _online_uris(self) -> dict[int, str]:
        return {
            row: NODE_URI_SCHEME + uuid
            for row, uuid in self._db.execute(
                f"SELECT id, uuid FROM nodes WHERE {ONLINE} ORDER BY uuid"
            ).fetchall()
        }

    def _column(self, sql: str, arguments: Sequence[object] = ()) -> list[int]:
        return [row[0] for row in self._db.execute(sql, arguments).fetchall()]


def node_unknown(node: NodeId) -> NotFound:
    """The error for a node that is not in the store."""
    return NotFound("NODE_UNKNOWN", f"no node {node_id_text(node)} is known here")


def _node(row: tuple[str, ...]) -> Node:
    (uuid, name, address, port, state, generation, incarnation, version, engine, seen_at) = row
    return msgspec.convert(
        {
            "uuid": uuid,
            "name": name,
            "address": address,
            "port": port,
            "state": state,
            "online": state in ("alive", "suspect"),
            "generation": generation,
            "incarnation": incarnation,
            "version": version,
            "engine": msgspec.json.decode(engine, type=EngineInfo) if engine else None,
            "last_seen_at": seen_at,
        },
        Node,
    )


def _uris(nodes: str, uris: dict[int, str]) -> tuple[str, ...]:
    """The URIs of the online nodes among a JSON array of row ids."""
    ids = msgspec.json.decode(nodes, type=list[int])
    return tuple(sorted([uris[node] for node in ids if node in uris]))


def _json(values: Iterable[object]) -> str:
    return msgspec.json.encode(list(values)).decode()
