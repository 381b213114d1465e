"""The store: its file is made, opened again, refused, and survives a kill."""

import json
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from sqlite_utils import Database

from beiran.errors import DataError
from beiran.gossip.effects import Effect, HoldingsChanged, ImageForgotten
from beiran.gossip.membership.member import Status
from beiran.store.database import FILE_MODE
from beiran.store.reads import HeldBy, OnlineNodes
from beiran.store.restore import Restored, RestoredMember
from beiran.store.schema import MIGRATION_NAMES, MIGRATIONS
from beiran.store.store import Store
from tests.store.samples import (
    AT,
    changed,
    described,
    description,
    digest,
    held,
    holding,
    member,
    node,
    open_store,
    released,
    text,
    uuid,
)


def sqlite(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


def test_a_new_file_is_for_us_and_our_group_only(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        store = open_store(tmp_path)
        store.apply([changed("peer")], AT)
        for file in tmp_path.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == FILE_MODE, file
        store.close()
    finally:
        os.umask(before)


def test_closing_leaves_one_file_and_may_be_done_twice(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply([changed("peer")], AT)
    store.close()
    store.close()
    assert [file.name for file in tmp_path.iterdir()] == ["beiran.db"]


def test_generations_grow_even_when_the_clock_goes_back(tmp_path: Path) -> None:
    generations = []
    for now_s in (1000, 5, 1000, 2000):
        store = open_store(tmp_path)
        generations.append(store.begin_life(now_s))
        store.close()
    assert generations == [1000, 1001, 1002, 2000]


def test_the_version_of_our_own_holdings_never_goes_backwards(store: Store) -> None:
    store.apply([held("me", holding("app"), version=9)], AT)
    store.apply([held("me", holding("web"), version=3)], AT)
    assert store.restore().version == 9


def test_a_restart_restores_members_holdings_and_descriptions(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    app = description("app", "base", "top", "base", created_at="2026-01-01T00:00:00Z")
    web = description("web", "base")
    store.apply([changed("a"), changed("b", Status.DOWN), held("b", holding("app"), version=4)], AT)
    store.apply([described("app", "base", "top", "base", created_at="2026-01-01T00:00:00Z")], AT)
    store.apply([described("web", "base"), described("unheld", "top")], AT)
    store.apply([held("a", holding("app", "x:1", repo="x"), holding("db"), version=3)], AT)
    store.apply([held("me", holding("web", "w:1"), version=5)], AT)
    store.close()
    store = open_store(tmp_path)
    restored = store.restore()
    store.close()
    assert restored == Restored(
        version=5,
        holdings=(holding("web", "w:1"),),
        members=tuple(
            sorted(
                [
                    RestoredMember(
                        member("a"), 3, (holding("app", "x:1", repo="x"), holding("db"))
                    ),
                    RestoredMember(member("b", Status.DOWN), 4, (holding("app"),)),
                ],
                key=lambda restored: restored.member.node,
            )
        ),
        descriptions=(app, web),
    )


def test_a_layer_keeps_its_size_in_each_image(store: Store) -> None:
    store.apply([described("app", "base"), held("me", holding("app"), holding("web"))], AT)
    store._writer.execute("UPDATE layers SET size_bytes = 1")
    store.apply([described("web", "base")], AT)
    assert set(store.restore().descriptions) == {
        description("app", "base"),
        description("web", "base"),
    }


def test_after_a_start_no_other_node_is_online_until_heard(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply([changed("peer"), changed("gone", Status.LEFT), held("peer", holding("app"))], AT)
    store.begin_life(1)
    with store.reading() as queries:
        assert [n.name for n in queries.nodes(online_only=True)] == ["me"]
        assert queries.images(OnlineNodes()) == []
        assert queries.node(node("gone")).state == "left"
        assert len(queries.images(HeldBy(node("peer")))) == 1
    events = store.apply([changed("peer")], AT).events
    assert [event.event for event in events] == ["node.online"]
    store.close()


def test_the_file_of_another_cluster_keeps_only_this_node(tmp_path: Path) -> None:
    store = open_store(tmp_path, cluster="one")
    generation = store.begin_life(1000)
    store.apply([changed("peer"), described("app", "base"), held("peer", holding("app"))], AT)
    store.apply([described("web", "top"), held("me", holding("web"), version=8)], AT)
    store.close()
    store = open_store(tmp_path, cluster="two")
    restored = store.restore()
    assert restored.members == ()
    assert restored.version == 8
    assert restored.holdings == (holding("web"),)
    assert restored.descriptions == (description("web", "top"),)
    assert not store.knows(node("peer"))
    with store.reading() as queries:
        assert queries.counts().layers_known == 1
    assert store.begin_life(1) == generation + 1
    store.close()


def test_the_file_of_another_node_loses_that_node(tmp_path: Path) -> None:
    store = open_store(tmp_path, name="before")
    store.begin_life(1000)
    store.apply([changed("peer"), held("before", holding("app"), version=8)], AT)
    store.close()
    store = open_store(tmp_path, name="after")
    restored = store.restore()
    assert [known.member.name for known in restored.members] == ["peer"]
    assert (restored.version, restored.holdings) == (0, ())
    assert store.begin_life(1) == 1001
    store.close()


def test_a_deleted_file_is_made_anew(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply([changed("peer")], AT)
    store.close()
    (tmp_path / "beiran.db").unlink()
    store = open_store(tmp_path)
    assert store.restore().members == ()
    store.close()


def test_an_empty_file_is_a_new_one(tmp_path: Path) -> None:
    (tmp_path / "beiran.db").touch()
    open_store(tmp_path).close()


def test_a_file_that_is_no_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "beiran.db"
    for content in (b"hello", b"not a database\n" * 1000, b"SQLite format 3\0 and then nothing"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"beiran\.db: file is not a database$"):
            open_store(tmp_path)
        assert file.read_bytes() == content
        assert list(tmp_path.iterdir()) == [file]


def test_a_damaged_file_is_refused_and_unchanged(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply([held("me", *(holding(f"image {n}", f"tag:{n}") for n in range(500)))], AT)
    store.close()
    file = tmp_path / "beiran.db"
    content = bytearray(file.read_bytes())
    content[4096 * 5 : 4096 * 20] = os.urandom(4096 * 15)
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"beiran\.db: (it is damaged|database disk image)"):
        open_store(tmp_path)
    assert file.read_bytes() == content


def test_another_programs_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    file = tmp_path / "beiran.db"
    sqlite(file, "CREATE TABLE recipes (title TEXT)")
    content = file.read_bytes()
    with pytest.raises(DataError, match="another program"):
        open_store(tmp_path)
    assert file.read_bytes() == content


def test_a_newer_releases_database_is_refused_and_unchanged(tmp_path: Path) -> None:
    open_store(tmp_path).close()
    file = tmp_path / "beiran.db"
    sqlite(
        file,
        "INSERT INTO _sqlite_migrations (migration_set, name, applied_at)"
        " VALUES ('beiran', 'm999_from_the_future', '')",
    )
    content = file.read_bytes()
    with pytest.raises(DataError, match=r"newer release of beiran wrote it .*m999_from_the_future"):
        open_store(tmp_path)
    assert file.read_bytes() == content


def test_a_foreign_row_is_one_clear_line(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.apply([changed("peer"), held("peer", holding("app"))], AT)
    store._writer.execute("UPDATE images SET digest = 'sha1:abc'")
    with pytest.raises(DataError, match=r"beiran\.db: a row cannot be read \(not a SHA-256"):
        store.restore()
    store.close()


def test_a_missing_folder_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing/beiran\.db: No such file or directory$"):
        open_store(tmp_path / "missing")
    (tmp_path / "beiran.db").mkdir()
    with pytest.raises(DataError, match=r"beiran\.db: Is a directory$"):
        open_store(tmp_path)


def as_nobody(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python without root's right to write everywhere."""
    drop = "import os\nif os.geteuid() == 0: os.setgid(65534); os.setuid(65534)\n"
    return subprocess.run(
        [sys.executable, "-c", "import sys, beiran.store.store\n" + drop + code, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


OPEN = """
from beiran.errors import DataError
try:
    beiran.store.store.Store.open(sys.argv[1], node=bytes(16), cluster="default")
except DataError as error:
    print(error)
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that others may enter, which pytest's own are not."""
    with TemporaryDirectory(prefix="beiran-store-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


HINT = "run beirand as root, or choose another folder with --data-dir"


def test_a_file_without_permission_is_one_line_that_says_what_to_do(shared_folder: Path) -> None:
    open_store(shared_folder).close()
    file = shared_folder / "beiran.db"
    file.chmod(0o444)
    content = file.read_bytes()
    result = as_nobody(OPEN, str(file))
    assert result.stderr == ""
    assert result.stdout == f"database {file}: Permission denied; {HINT}\n"
    assert file.read_bytes() == content


def test_a_folder_without_permission_is_one_line_that_says_what_to_do(shared_folder: Path) -> None:
    open_store(shared_folder).close()
    file = shared_folder / "beiran.db"
    file.chmod(0o666)
    shared_folder.chmod(0o555)
    result = as_nobody(OPEN, str(file))
    assert result.stderr == ""
    assert result.stdout.startswith(f"database {file}: ")
    assert result.stdout.endswith(f"; {HINT}\n")
    assert result.stdout.count("\n") == 1


KILLED = """
import os, signal
from tests.store.samples import *
store = open_store(__import__("pathlib").Path(sys.argv[1]))
store.begin_life(1000)
store.apply([changed("peer"), described("app", "base"), held("peer", holding("app"))], AT)

def batch():
    yield changed("second")
    yield held("peer", holding("web"), version=2)
    os.kill(os.getpid(), signal.SIGKILL)

class Batch(list):
    def __iter__(self):
        return batch()

store.apply(Batch(), AT)
"""


def test_a_kill_in_the_middle_of_a_transaction_leaves_the_one_before(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", "import sys\n" + KILLED, str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == -signal.SIGKILL, result.stderr
    store = open_store(tmp_path)
    restored = store.restore()
    assert [known.member.name for known in restored.members] == ["peer"]
    assert restored.members[0].holdings == (holding("app"),)
    assert store.begin_life(1) == 1001
    store.close()


def test_a_batch_that_fails_leaves_nothing_behind(store: Store) -> None:
    store.apply([changed("peer")], AT)
    store._writer.execute(
        "CREATE TRIGGER full BEFORE INSERT ON holdings"
        " BEGIN SELECT raise(ABORT, 'database or disk is full'); END"
    )
    with pytest.raises(DataError, match=r"beiran\.db: database or disk is full$"):
        store.apply([changed("second"), held("peer", holding("app"))], AT)
    assert not store.knows(node("second"))
    assert [known.member.name for known in store.restore().members] == ["peer"]
    store._writer.execute("DROP TRIGGER full")
    store.apply([changed("second"), held("peer", holding("app"))], AT)
    assert store.knows(node("second"))


def test_an_image_without_a_holder_is_deleted(store: Store) -> None:
    store.apply([described("app", "base", "top"), described("web", "base")], AT)
    store.apply([held("me", holding("app"), holding("web"), holding("bare"))], AT)
    store.apply([released("me", "app", "bare"), ImageForgotten(digest("app"))], AT)
    rows = store._reader.execute("SELECT digest FROM images").fetchall()
    assert rows == [(description("web").image.hex().join(("sha256:", "")),)]
    assert store._reader.execute("SELECT count(*) FROM layers").fetchone() == (1,)


def test_an_image_forgotten_before_its_release_in_one_batch_goes_too(store: Store) -> None:
    store.apply([described("app", "base"), held("me", holding("app"))], AT)
    store.apply([ImageForgotten(digest("app")), released("me", "app")], AT)
    assert store._reader.execute("SELECT count(*) FROM images").fetchone() == (0,)


def test_an_image_forgotten_and_held_again_in_one_batch_stays(store: Store) -> None:
    store.apply([described("app", "base"), held("me", holding("app"))], AT)
    again: list[Effect] = [
        released("me", "app"),
        ImageForgotten(digest("app")),
        held("me", holding("app")),
    ]
    store.apply(again, AT)
    assert store.restore().descriptions == (description("app", "base"),)


def test_every_migration_is_one_that_this_release_knows() -> None:
    assert [migration.name for migration in MIGRATIONS._migrations] == list(MIGRATION_NAMES)


def test_a_database_of_an_earlier_release_is_brought_up_to_date(tmp_path: Path) -> None:
    db = Database(str(tmp_path / "beiran.db"))
    MIGRATIONS.apply(db, stop_before="m003_names")
    db.execute(
        "INSERT INTO nodes (id, uuid, name, address, port, state, generation, incarnation,"
        " first_seen_at) VALUES (1, ?, 'peer', '10.0.0.1', 8888, 'alive', 1, 0, ?)",
        [uuid("peer"), AT],
    )
    db.execute("INSERT INTO images (id, digest) VALUES (1, ?)", [text("app")])
    names = {"tags": ["a:1", "b:1"], "digests": [f"a@{text('manifest')}"]}
    db.execute(
        "INSERT INTO holdings (image, node, tags, digests) VALUES (1, 1, ?, ?)",
        [json.dumps(names["tags"]), json.dumps(names["digests"])],
    )
    db.close()
    store = open_store(tmp_path)
    with store.reading() as queries:
        for name in (*names["tags"], *names["digests"]):
            (row,) = queries.holdings_named(name)
            assert (row.node, row.image) == (node("peer"), digest("app"))
    store.apply([held("peer", holding("app", "c:1"), version=2)], AT)
    with store.reading() as queries:
        assert queries.holdings_named("a:1") == []
        assert queries.tags_in("") == ["c:1"]
    store.close()


def test_the_tables_read_well(store: Store) -> None:
    """What a person finds in ``sqlite-utils beiran.db`` or Datasette."""
    store.apply(
        [changed("peer"), described("app", "base"), held("peer", holding("app", "a:1"))], AT
    )
    uri = f"beiran+uuid://{uuid('peer')}"
    (image,) = store._reader.query("SELECT * FROM image_list")
    assert image["available_at"] == f'["{uri}"]'
    (layer,) = store._reader.query("SELECT * FROM layer_list")
    assert (layer["size_bytes"], layer["available_at"]) == (40, f'["{uri}"]')
    (held_image,) = store._reader.query("SELECT * FROM image_holdings")
    assert (held_image["tags"], held_image["node_name"]) == ('["a:1"]', "peer")
    (held_layer,) = store._reader.query("SELECT * FROM layer_holdings")
    assert (held_layer["node"], held_layer["node_state"]) == (uuid("peer"), "alive")


def test_the_write_ahead_log_stays_small(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    many = tuple(holding(f"image {n}", f"a-rather-long-name-for-an-image:{n}") for n in range(4000))
    for version in range(1, 9):
        held_now = many if version % 2 else ()
        store.apply([HoldingsChanged(node("me"), version, held=held_now, reset=True)], AT)
    store.apply([changed("peer")], AT)
    assert (tmp_path / "beiran.db-wal").stat().st_size <= 8 * 1024 * 1024
    store.close()
