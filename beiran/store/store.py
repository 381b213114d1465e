"""The store: opened once, written by one thread at a time, and read meanwhile."""

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

# Tag resolutions kept; the oldest are deleted. Chosen, not measured: 2 MB at 200 bytes each.
TAGS_MAX: Final = 10_000

_NOW: Final = "strftime('%Y-%m-%dT%H:%M:%fZ', 'now')"


class Store:
    """The cluster as this node knows it, in one SQLite file. Call its methods in a thread.

    Writes wait for each other, and so do reads; no read waits for a write. Each method raises
    DataError, one line about the file, when SQLite reports an error; its transaction is then rolled
    back.

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
          path: of the file; its folder must exist.
          node, name: this node.
          cluster: name of this node's cluster.

        A file from another cluster loses the nodes of that cluster. A file of another node (the
        UUID file was removed) loses that node. The generation stays.

        Raises: DataError when the file cannot be read or written, is not a database, is damaged, or
        is another program's or a newer release's. The file then stays as it is.
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
        """Move everything into the one file, and close it. A second call does nothing."""
        with self._write_lock, self._read_lock, clear_errors(self.path):
            self._reader.close()
            self._writer.close()  # the last connection checkpoints and removes the -wal

    def begin_life(self, now_s: int) -> int:
        """Begin a new generation of this node. Every other node is offline until it is heard.

        Args:
          now_s: the wall clock, in seconds.

        Returns: the generation: above the last one, and at least ``now_s``. It is on the disk when
        this method returns.
        """
        with self._writing() as db:
            # In WAL mode NORMAL may lose the last commits in a power failure; this one must stay:
            # peers ignore an agent that comes back with an old generation.
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
        """The core's state when the agent last ran."""
        with self._read_lock, clear_errors(self.path), self._reader.atomic():
            try:
                return restore(self._reader, self.node)
            except (ValueError, MsgspecError) as error:
                raise DataError(f"database {self.path}: a row cannot be read ({error})") from error

    def apply(self, effects: Sequence[Effect], at: str) -> Applied:
        """Write effects about members, holdings and images, in one transaction.

        Args:
          effects: in the order in which the core emitted them; other effects are ignored.
          at: the time of the events and rows (RFC 3339, UTC).
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
        """Write the release and the engine of a node's ``/info``.

        Of this node, write name and address too, about which the core emits no effects.
        """
        with self._writing() as db, db.atomic():
            projection = Projection(db, node=self.node, at="")
            projection.record_info(node, info)
            return projection.finish()

    def seen(self, last_seen_at: Mapping[NodeId, str]) -> None:
        """Write when nodes were last heard (RFC 3339, UTC)."""
        rows = [(at, node_id_text(node)) for node, at in last_seen_at.items()]
        with self._writing() as db, db.atomic():
            db.conn.executemany("UPDATE nodes SET last_seen_at = ? WHERE uuid = ?", rows)

    def remember_tag(self, meaning: TagMeaning) -> None:
        """Write how a tag's origin resolved it now."""
        with self._writing() as db, db.atomic():
            db.execute("INSERT OR REPLACE INTO tags VALUES (?, ?, ?, ?, ?)", list(astuple(meaning)))
            db.execute(
                "DELETE FROM tags WHERE reference IN"
                " (SELECT reference FROM tags ORDER BY resolved_at DESC LIMIT -1 OFFSET ?)",
                [TAGS_MAX],
            )

    @contextmanager
    def reading(self) -> Iterator[Queries]:
        """Reads within one transaction, which see the same state.

        >>> with store.reading() as queries:
        ...     queries.images()
        """
        with self._read_lock, clear_errors(self.path), self._reader.atomic():
            yield Queries(self._reader, self.node)

    def knows(self, node: NodeId) -> bool:
        """Whether this node is in the listings. Reads no file, so any thread may call it."""
        return node in self._known

    @contextmanager
    def _writing(self) -> Iterator[Database]:
        with self._write_lock, clear_errors(self.path):
            yield self._writer


def _become(db: Database, uuid: str, name: str, cluster: str) -> None:
    """Make this node, in this cluster, the owner of the file."""
    row = db.execute("SELECT uuid, cluster FROM self").fetchone()
    if row is None:
        db.execute("INSERT INTO self VALUES (1, ?, ?, 0)", [uuid, cluster])
    elif row != (uuid, cluster):
        db.execute("UPDATE self SET uuid = ?, cluster = ?", [uuid, cluster])
        if row[1] != cluster:
            db.execute("DELETE FROM nodes WHERE uuid != ?", [uuid])
        else:  # this host was another node
            db.execute("DELETE FROM nodes WHERE uuid = ?", [row[0]])
    db.execute(
        "INSERT INTO nodes (uuid, name, address, port, state, generation, incarnation,"
        f" first_seen_at) VALUES (?, ?, '', 0, 'alive', 0, 0, {_NOW})"
        " ON CONFLICT (uuid) DO UPDATE SET"
        " name = iif(excluded.name = '', name, excluded.name),"
        " first_seen_at = coalesce(first_seen_at, excluded.first_seen_at)",
        [uuid, name],
    )
