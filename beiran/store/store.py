"""The node's memory: opened once, written by one thread at a time, read beside it."""

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, Self

from msgspec import MsgspecError
from msgspec.structs import astuple
from sqlite_utils import Database

from beiran.api.models import Info, TagMeaning
from beiran.errors import DataError
from beiran.gossip.effects import Effect, MemberChanged, MemberForgotten
from beiran.ids import NodeId, node_id_text, parse_node_id
from beiran.store.changes import Applied
from beiran.store.database import clear_errors, open_reader, open_writer
from beiran.store.reads import Queries
from beiran.store.restore import Restored, restore
from beiran.store.writes import Projection, prune

TAGS_MAX: Final = 10_000
"""Meanings of tags that are kept; the oldest go."""

_NOW: Final = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


class Store:
    """What this node knows, in one SQLite file. Every method blocks: call it in a thread.

    Writes wait for each other, and so do reads; no read waits for a write. Every method raises
    DataError, one line about the file, when SQLite cannot do what is asked; nothing of that
    batch is then written.

    Attributes:
      path: of the file.
      node: this node.
    """

    def __init__(self, path: str, node: NodeId, writer: Database, reader: Database) -> None:
        self.path = path
        self.node = node
        self._writer = writer
        self._reader = reader
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()
        self._known: set[NodeId] = set()

    @classmethod
    def open(cls, path: str, *, node: NodeId, cluster: str, name: str = "") -> Self:
        """Open the file, or make it.

        Args:
          path: of the file; its folder must be there.
          node, name: this node.
          cluster: name of the cluster that this node is in.

        A file that was used in another cluster loses what it knew of that one's nodes; one that
        was another node's (the UUID file was removed) loses that node. The generation stays.

        Raises: DataError when the file cannot be read or written, is no database, is damaged, is
        another program's or a newer release's. It is left as it is.
        """
        writer = open_writer(path)
        try:
            with clear_errors(path), writer.atomic():
                _become(writer, node_id_text(node), name, cluster)
                prune(writer)
            store = cls(path, node, writer, open_reader(path))
        except BaseException:
            writer.close()
            raise
        with store.reading() as queries:
            store._known.update(parse_node_id(known.uuid) for known in queries.nodes())
        return store

    def close(self) -> None:
        """Move everything into the one file and close it. Closing twice does nothing."""
        with self._write_lock, self._read_lock, clear_errors(self.path):
            self._reader.close()
            self._writer.close()  # the last connection checkpoints and removes the -wal

    def begin_life(self, now_s: int) -> int:
        """Start anew: nobody has been heard yet, so every other node is offline.

        Returns: this start's generation, above the last one's and never below the clock's
        seconds. It is on the disk when this returns.
        """
        with self._writing() as db:
            # In WAL, NORMAL may lose the last commits with the power; this one must stay.
            db.execute("PRAGMA synchronous = FULL")
            try:
                with db.atomic():
                    db.execute("UPDATE self SET generation = max(generation + 1, ?)", [now_s])
                    (generation,) = db.execute("SELECT generation FROM self").fetchone()
                    db.execute(
                        "UPDATE nodes SET state = 'alive', generation = ?, incarnation = 0,"
                        f" last_seen_at = {_NOW} WHERE uuid = ?",
                        [generation, node_id_text(self.node)],
                    )
                    db.execute(
                        "UPDATE nodes SET state = 'down'"
                        " WHERE state IN ('alive', 'suspect') AND uuid != ?",
                        [node_id_text(self.node)],
                    )
            finally:
                db.execute("PRAGMA synchronous = NORMAL")
        assert isinstance(generation, int)
        return generation

    def restore(self) -> Restored:
        """What the core knew when the agent last ran."""
        with self._read_lock, clear_errors(self.path), self._reader.atomic():
            try:
                return restore(self._reader, self.node)
            except (ValueError, MsgspecError) as error:
                raise DataError(f"database {self.path}: a row is not ours ({error})") from error

    def apply(self, effects: Sequence[Effect], at: str) -> Applied:
        """Write what ``effects`` say of members, holdings and images, in one transaction.

        Args:
          effects: in the order the core gave them; those about something else are passed over.
          at: now, as events and rows will say it (RFC 3339, UTC).
        """
        with self._writing() as db, db.atomic():
            projection = Projection(db, node=self.node, at=at)
            for effect in effects:
                projection.apply(effect)
            applied = projection.finish()
        for effect in effects:
            if isinstance(effect, MemberChanged):
                self._known.add(effect.member.node)
            elif isinstance(effect, MemberForgotten) and effect.node != self.node:
                self._known.discard(effect.node)
        return applied

    def record_info(self, node: NodeId, info: Info) -> Applied:
        """Note the release and the engine that a node told of in its ``/info``.

        Of ourselves, name and address too: what the core does not tell.
        """
        with self._writing() as db, db.atomic():
            projection = Projection(db, node=self.node, at="")
            projection.record_info(node, info)
            return projection.finish()

    def seen(self, last_seen_at: Mapping[NodeId, str]) -> None:
        """Note when nodes were last heard of (RFC 3339, UTC), many at once."""
        rows = [(at, node_id_text(node)) for node, at in last_seen_at.items()]
        with self._writing() as db, db.atomic():
            db.conn.executemany("UPDATE nodes SET last_seen_at = ? WHERE uuid = ?", rows)

    def remember_tag(self, meaning: TagMeaning) -> None:
        """Note what a tag means at its origin now."""
        with self._writing() as db, db.atomic():
            db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", list(astuple(meaning)))
            db.execute(
                "DELETE FROM tags WHERE reference IN"
                " (SELECT reference FROM tags ORDER BY resolved_at DESC LIMIT -1 OFFSET ?)",
                [TAGS_MAX],
            )

    @contextmanager
    def reading(self) -> Iterator[Queries]:
        """Questions that all see the same moment.

        >>> with store.reading() as queries:
        ...     queries.images()
        """
        with self._read_lock, clear_errors(self.path), self._reader.atomic():
            yield Queries(self._reader, self.node)

    def knows(self, node: NodeId) -> bool:
        """Whether this node is in the listings. Asks no file, so any thread may."""
        return node in self._known

    @contextmanager
    def _writing(self) -> Iterator[Database]:
        with self._write_lock, clear_errors(self.path):
            yield self._writer


def _become(db: Database, uuid: str, name: str, cluster: str) -> None:
    """Make the file this node's, in this cluster."""
    row = db.execute("SELECT uuid, cluster FROM self").fetchone()
    if row is None:
        db.execute("INSERT INTO self VALUES (1, ?, ?, 0)", [uuid, cluster])
    elif row != (uuid, cluster):
        db.execute("UPDATE self SET uuid = ?, cluster = ?", [uuid, cluster])
        if row[1] != cluster:
            db.execute("DELETE FROM nodes WHERE uuid != ?", [uuid])
        else:  # we were another node
            db.execute("DELETE FROM nodes WHERE uuid = ?", [row[0]])
    db.execute(
        "INSERT INTO nodes (uuid, name, address, port, state, generation, incarnation,"
        f" first_seen_at) VALUES (?, ?, '', 0, 'alive', 0, 0, {_NOW})"
        " ON CONFLICT (uuid) DO UPDATE SET"
        " name = iif(excluded.name = '', name, excluded.name),"
        " first_seen_at = coalesce(first_seen_at, excluded.first_seen_at)",
        [uuid, name],
    )
