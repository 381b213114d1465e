"""Opening the one file: what is refused, and how SQLite is set."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlite_utils import Database

from beiran.errors import DataError
from beiran.store.schema import MIGRATION_NAMES, MIGRATIONS

FILE_MODE: Final = 0o640
"""Of a new file; SQLite gives its -wal and -shm the same."""

BUSY_TIMEOUT_S: Final = 10.0
"""How long to wait for another program that writes (``sqlite-utils``, a person's shell)."""

WAL_BYTES_MAX: Final = 8 * 1024 * 1024
"""What the -wal file is cut back to once its pages are in the database."""

_SQLITE_MAGIC: Final = b"SQLite format 3\0"


@contextmanager
def clear_errors(path: str) -> Iterator[None]:
    """Turn what SQLite raises into one line about the file.

    Raises: DataError.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise DataError(f"database {path}: {error}") from error


def open_writer(path: str) -> Database:
    """The connection that writes; makes the file and its tables, or brings them up to date.

    Raises: DataError when the file cannot be used; it is left as it is.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        with open(path, "rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        raise DataError(f"database {path}: {error.strerror}") from error
    if head and head != _SQLITE_MAGIC:
        raise DataError(f"database {path}: file is not a database")
    with clear_errors(path):
        db = _connect(path)
        try:
            _refuse_what_is_not_ours(db, path)
            db.enable_wal()
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute(f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}")
            db.execute("PRAGMA foreign_keys = ON")
            MIGRATIONS.apply(db)
        except BaseException:
            db.close()
            raise
    return db


def open_reader(path: str) -> Database:
    """A connection of its own for questions, which never wait for the writer."""
    with clear_errors(path):
        db = _connect(path)
        db.execute("PRAGMA query_only = ON")
    return db


def _connect(path: str) -> Database:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    # Plugins are for the sqlite-utils command; looking for them takes 10 ms.
    return Database(connection, execute_plugins=False)


def _refuse_what_is_not_ours(db: Database, path: str) -> None:
    applied = {migration.name for migration in MIGRATIONS.applied(db)}
    ours = set(MIGRATION_NAMES)
    if not applied and db.table_names():
        raise DataError(f"database {path}: it is not beiran's; its tables are another program's")
    if applied - ours:
        newer = ", ".join(sorted(applied - ours))
        raise DataError(f"database {path}: a newer release of beiran wrote it (it has {newer})")
    (problem,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise DataError(f"database {path}: it is damaged ({problem})")
