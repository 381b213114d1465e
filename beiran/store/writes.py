"""Project effects of the gossip core to rows, and report the differences as events.

``Store`` runs a ``Projection`` for each batch of effects, within one transaction of the writer's
connection. An event is derived from the row before and the effect, so an effect that changes
nothing (a duplicate update, a restart that confirms the state) causes no event.
"""

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec
from sqlite_utils import Database

from beiran.api.events import Event, EventName
from beiran.api.models import Info
from beiran.gossip.effects import (
    Effect,
    HoldingsChanged,
    ImageDescribed,
    ImageForgotten,
    MemberChanged,
    MemberForgotten,
)
from beiran.gossip.membership.member import Member, Status
from beiran.ids import NodeId, digest_text, node_id_text
from beiran.oci.images import Holding, ImageDescription
from beiran.store.changes import Applied, RowsChanged

STATUS_OF_STATE: Final = {status.state: status for status in Status}

# Layers of one image that a node holds through no other of its images: the layers that it gained
# with that image, or is about to lose with it. A null ?2 selects every node that holds the image.
_LAYERS_ONLY_THROUGH: Final = """
    SELECT DISTINCT holdings.node, layers.digest
    FROM holdings
    JOIN image_layers ON image_layers.image = holdings.image
    JOIN layers ON layers.id = image_layers.layer
    WHERE holdings.image = ?1 AND (?2 IS NULL OR holdings.node = ?2)
    AND NOT EXISTS (
        SELECT 1 FROM image_layers AS others
        JOIN holdings AS held ON held.image = others.image AND held.node = holdings.node
        WHERE others.layer = image_layers.layer AND others.image != holdings.image
    )
    ORDER BY holdings.node, image_layers.position
"""


def json_text(values: Iterable[object]) -> str:
    """A JSON array of ``values`` as text."""
    return msgspec.json.encode([str(value) for value in values]).decode()


class Projection:
    """One batch: call ``apply`` for each effect in order, then ``finish``."""

    def __init__(self, db: Database, *, node: NodeId, at: str) -> None:
        self._db = db
        self._self = node
        self._at = at
        self._events: list[Event] = []
        self._nodes_changed: set[str] = set()
        self._images_changed: dict[int, str] = {}
        self._images_released: dict[int, str] = {}
        self._images_forgotten: list[str] = []

    def apply(self, effect: Effect) -> None:
        """Write one effect. Effects about anything but members, holdings and images are ignored."""
        match effect:
            case MemberChanged(member=member, reason=reason):
                self._member_changed(member, reason)
            case HoldingsChanged():
                self._holdings_changed(effect)
            case ImageDescribed(description=description):
                self._image_described(description)
            case MemberForgotten(node=node):
                self._member_forgotten(node)
            case ImageForgotten(image=image):
                # Its last holding may be released later in this batch: see finish().
                self._images_forgotten.append(digest_text(image))
            case _:
                pass

    def record_info(self, node: NodeId, info: Info) -> None:
        """Write the ``/info`` of a node, unless the node is unknown."""
        values: dict[str, str | int] = {
            "version": info.version,
            "engine": msgspec.json.encode(info.engine).decode(),
        }
        if node == self._self:  # of other nodes the core's effects say it
            values |= {"name": info.name, "address": info.address, "port": info.port}
            values |= {"generation": info.generation, "incarnation": info.incarnation}
        uuid = node_id_text(node)
        sets = ", ".join(f"{column} = :{column}" for column in values)
        differs = " OR ".join(f"{column} IS NOT :{column}" for column in values)
        cursor = self._db.execute(
            f"UPDATE nodes SET {sets} WHERE uuid = :uuid AND ({differs})", {**values, "uuid": uuid}
        )
        if cursor.rowcount:
            self._nodes_changed.add(uuid)

    def finish(self) -> Applied:
        """Delete rows that no holding needs any more, and return what the batch changed."""
        layers_changed = self._layers_of(self._images_changed)
        for digest in self._images_forgotten:
            row = self._db.execute("SELECT id FROM images WHERE digest = ?", [digest]).fetchone()
            if row is not None:
                self._delete_unheld(row[0], described=True)
        for image in self._images_released:
            self._delete_unheld(image, described=False)
        rows = RowsChanged(
            nodes=frozenset(self._nodes_changed),
            images=frozenset(self._images_changed.values()),
            layers=frozenset(layers_changed),
        )
        return Applied(events=tuple(self._events), rows=rows)

    # Members

    def _member_changed(self, member: Member, reason: str) -> None:
        uuid = node_id_text(member.node)
        state = member.status.state
        row = self._db.execute(
            "SELECT id, state, first_seen_at FROM nodes WHERE uuid = ?", [uuid]
        ).fetchone()
        seen_at = self._at if member.status is Status.ALIVE else None
        self._db.execute(
            "INSERT INTO nodes (uuid, name, address, port, state, generation, incarnation,"
            " first_seen_at, last_seen_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)"
            " ON CONFLICT (uuid) DO UPDATE SET name = ?2, address = ?3, port = ?4, state = ?5,"
            " generation = ?6, incarnation = ?7, first_seen_at = coalesce(first_seen_at, ?8),"
            " last_seen_at = coalesce(?9, last_seen_at)",
            [
                uuid,
                member.name,
                member.address.host,
                member.address.port,
                state,
                member.generation,
                member.incarnation,
                self._at,
                seen_at,
            ],
        )
        self._nodes_changed.add(uuid)
        before = None if row is None or row[2] is None else STATUS_OF_STATE[row[1]]
        was_online = before is not None and before.online
        if row is not None and was_online != member.status.online:
            self._touch_images_of(row[0])
        if member.node != self._self:
            for name in member_events(before, member.status):
                self._events.append(
                    Event(event=name, at=self._at, node=uuid, name=member.name, reason=reason)
                )

    def _member_forgotten(self, node: NodeId) -> None:
        uuid = node_id_text(node)
        row = self._db.execute("SELECT id FROM nodes WHERE uuid = ?", [uuid]).fetchone()
        if row is None or node == self._self:
            return
        self._touch_images_of(row[0], released=True)
        self._db.execute("DELETE FROM nodes WHERE id = ?", [row[0]])
        self._nodes_changed.add(uuid)

    def _touch_images_of(self, node: int, *, released: bool = False) -> None:
        rows = self._db.execute(
            "SELECT images.id, images.digest FROM holdings"
            " JOIN images ON images.id = holdings.image WHERE holdings.node = ?",
            [node],
        ).fetchall()
        self._images_changed.update(rows)
        if released:
            self._images_released.update(rows)

    # Holdings

    def _holdings_changed(self, change: HoldingsChanged) -> None:
        uuid = node_id_text(change.owner)
        node, name = self._node(uuid)
        about = Event(event="image.added", at=self._at, node=uuid, name=name)
        before = self._images_held(node) if change.reset else {}
        for holding in change.held:
            before.pop(digest_text(holding.image), None)
            self._hold(node, holding, about)
        for released in change.released:
            self._release(node, digest_text(released), about)
        for released_text in before:
            self._release(node, released_text, about)
        # This node's version never goes backwards. A peer's does when its database was deleted.
        version = "max(holdings_version, ?)" if change.owner == self._self else "?"
        self._db.execute(
            f"UPDATE nodes SET holdings_version = {version} WHERE id = ?", [change.version, node]
        )

    def _node(self, uuid: str) -> tuple[int, str]:
        row = self._db.execute("SELECT id, name FROM nodes WHERE uuid = ?", [uuid]).fetchone()
        if row is not None:
            return row[0], row[1]
        # Not listed (first_seen_at is null) until the member itself becomes known.
        cursor = self._db.execute(
            "INSERT INTO nodes (uuid, name, address, port, state, generation, incarnation)"
            " VALUES (?, '', '', 0, 'down', 0, 0)",
            [uuid],
        )
        assert cursor.lastrowid is not None
        return cursor.lastrowid, ""

    def _images_held(self, node: int) -> dict[str, int]:
        return dict(
            self._db.execute(
                "SELECT images.digest, images.id FROM holdings"
                " JOIN images ON images.id = holdings.image WHERE holdings.node = ?"
                " ORDER BY images.digest",
                [node],
            ).fetchall()
        )

    def _hold(self, node: int, holding: Holding, about: Event) -> None:
        digest = digest_text(holding.image)
        image, _ = self._image(digest)
        tags, digests = json_text(holding.tags), json_text(holding.digests)
        known = self._db.execute(
            "SELECT tags, digests FROM holdings WHERE image = ? AND node = ?", [image, node]
        ).fetchone()
        if known == (tags, digests):
            return
        self._images_changed[image] = digest
        if known is not None:
            self._db.execute(
                "UPDATE holdings SET tags = ?, digests = ? WHERE image = ? AND node = ?",
                [tags, digests, image, node],
            )
            return
        self._db.execute(
            "INSERT INTO holdings (image, node, tags, digests) VALUES (?, ?, ?, ?)",
            [image, node, tags, digests],
        )
        self._events.append(msgspec.structs.replace(about, image=digest, tags=holding.tags))
        self._layer_events("layer.added", image, node, about)

    def _release(self, node: int, digest: str, about: Event) -> None:
        row = self._db.execute(
            "SELECT images.id, holdings.tags FROM images"
            " JOIN holdings ON holdings.image = images.id AND holdings.node = ?"
            " WHERE images.digest = ?",
            [node, digest],
        ).fetchone()
        if row is None:
            return
        image = row[0]
        tags = msgspec.json.decode(row[1], type=tuple[str, ...])
        self._events.append(
            msgspec.structs.replace(about, event="image.removed", image=digest, tags=tags)
        )
        self._layer_events("layer.removed", image, node, about)
        self._db.execute("DELETE FROM holdings WHERE image = ? AND node = ?", [image, node])
        self._images_changed[image] = digest
        self._images_released[image] = digest

    def _layer_events(self, event: EventName, image: int, node: int, about: Event) -> None:
        for _, layer in self._db.execute(_LAYERS_ONLY_THROUGH, [image, node]).fetchall():
            self._events.append(msgspec.structs.replace(about, event=event, layer=layer))

    # Images

    def _image(self, digest: str) -> tuple[int, bool]:
        """The row id of an image, new or old, and whether the image is described."""
        row = self._db.execute(
            "SELECT id, size_bytes IS NOT NULL FROM images WHERE digest = ?", [digest]
        ).fetchone()
        if row is not None:
            return row[0], bool(row[1])
        cursor = self._db.execute("INSERT INTO images (digest) VALUES (?)", [digest])
        assert cursor.lastrowid is not None
        return cursor.lastrowid, False

    def _image_described(self, description: ImageDescription) -> None:
        digest = digest_text(description.image)
        image, described = self._image(digest)
        if described:  # an image never changes: its digest is that of its config
            return
        self._db.execute(
            "UPDATE images SET os = ?, architecture = ?, created_at = ?, size_bytes = ?"
            " WHERE id = ?",
            [
                description.os,
                description.architecture,
                description.created_at,
                description.size_bytes,
                image,
            ],
        )
        for position, layer in enumerate(description.layers):
            self._db.execute(
                "INSERT INTO layers (digest, size_bytes) VALUES (?, ?) ON CONFLICT DO NOTHING",
                [digest_text(layer.digest), layer.size_bytes],
            )
            self._db.execute(
                "INSERT INTO image_layers (image, position, layer, size_bytes)"
                " SELECT ?, ?, id, ? FROM layers WHERE digest = ?",
                [image, position, layer.size_bytes, digest_text(layer.digest)],
            )
        self._images_changed[image] = digest
        self._layers_gained_by_holders(image)

    def _layers_gained_by_holders(self, image: int) -> None:
        holders = self._db.execute(
            "SELECT nodes.id, nodes.uuid, nodes.name FROM holdings"
            " JOIN nodes ON nodes.id = holdings.node WHERE holdings.image = ?",
            [image],
        ).fetchall()
        names = {node: (uuid, name) for node, uuid, name in holders}
        for node, layer in self._db.execute(_LAYERS_ONLY_THROUGH, [image, None]).fetchall():
            uuid, name = names[node]
            self._events.append(
                Event(event="layer.added", at=self._at, node=uuid, name=name, layer=layer)
            )

    def _layers_of(self, images: Iterable[int]) -> list[str]:
        return [
            row[0]
            for row in self._db.execute(
                "SELECT DISTINCT layers.digest FROM image_layers"
                " JOIN layers ON layers.id = image_layers.layer"
                " WHERE image_layers.image IN (SELECT value FROM json_each(?))",
                [msgspec.json.encode(list(images)).decode()],
            ).fetchall()
        ]

    def _delete_unheld(self, image: int, *, described: bool) -> None:
        condition = "" if described else " AND size_bytes IS NULL"
        layers = self._db.execute(
            "SELECT DISTINCT layer FROM image_layers WHERE image = ?", [image]
        ).fetchall()
        deleted = self._db.execute(
            "DELETE FROM images WHERE id = ?"
            " AND NOT EXISTS (SELECT 1 FROM holdings WHERE holdings.image = images.id)" + condition,
            [image],
        )
        if deleted.rowcount:
            delete_unused_layers(self._db, [layer for (layer,) in layers])


def delete_unused_layers(db: Database, layers: Sequence[int]) -> None:
    """Delete those of ``layers`` (row ids) that are part of no image."""
    for layer in layers:
        db.execute(
            "DELETE FROM layers WHERE id = ?"
            " AND NOT EXISTS (SELECT 1 FROM image_layers WHERE image_layers.layer = layers.id)",
            [layer],
        )


def member_events(before: Status | None, now: Status) -> list[EventName]:
    """The events of a member that was ``before`` (None: unknown) and is ``now``."""
    events: list[EventName] = ["node.added"] if before is None else []
    was_online = before is not None and before.online
    if now.online:
        if not was_online or (before is Status.SUSPECT and now is Status.ALIVE):
            events.append("node.online")
        if now is Status.SUSPECT and before is not Status.SUSPECT:
            events.append("node.suspect")
    elif now is Status.LEFT:
        if before is not None and before is not Status.LEFT:
            events.append("node.left")
    elif was_online:
        events.append("node.offline")
    return events


def prune(db: Database) -> None:
    """Delete images that no node holds, and layers that are part of no image."""
    db.execute("DELETE FROM images WHERE id NOT IN (SELECT image FROM holdings)")
    db.execute("DELETE FROM layers WHERE id NOT IN (SELECT layer FROM image_layers)")
