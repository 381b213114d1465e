"""Open the SQLite file: which files are refused, and how SQLite is configured."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlite_utils import Database

from beiran.errors import DataError
from beiran.store.schema import MIGRATION_NAMES, MIGRATIONS

FILE_MODE: Final = 0o640  # of a new file; SQLite gives its -wal and -shm the same mode
BUSY_TIMEOUT_S: Final = 10.0  # wait for another writer: ``sqlite-utils``, an operator's shell
# The -wal file shrinks to this after a checkpoint. 1,000 nodes with 100 images write 4 MB at once.
WAL_BYTES_MAX: Final = 8 * 1024 * 1024

_SQLITE_MAGIC: Final = b"SQLite format 3\0"  # https://sqlite.org/fileformat.html, section 1.3
_FORBIDDEN: Final = (errno.EACCES, errno.EPERM, errno.EROFS)
_HOW_TO_GET_WRITE_ACCESS: Final = "run beirand as root, or choose another folder with --data-dir"


@contextmanager
def clear_errors(path: str) -> Iterator[None]:
    """Turn an error of SQLite into one line about the file.

    Raises: DataError.
    """
    try:
        yield
    except sqlite3.Error as error:
        readonly = (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
        forbidden = getattr(error, "sqlite_errorcode", 0) & 0xFF in readonly
        hint = f"; {_HOW_TO_GET_WRITE_ACCESS}" if forbidden else ""
        raise DataError(f"database {path}: {error}{hint}") from error


def open_writer(path: str) -> Database:
    """The connection that writes. It makes the file and its tables, or migrates them.

    Raises: DataError when the file cannot be used. The file then stays as it is.
    """
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, FILE_MODE))
        with open(path, "rb") as file:
            head = file.read(len(_SQLITE_MAGIC))
    except OSError as error:
        hint = f"; {_HOW_TO_GET_WRITE_ACCESS}" if error.errno in _FORBIDDEN else ""
        raise DataError(f"database {path}: {error.strerror}{hint}") from error
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
    """A connection for reads, which never wait for the writer."""
    with clear_errors(path):
        db = _connect(path)
        db.execute("PRAGMA query_only = ON")
    return db


def _connect(path: str) -> Database:
    connection = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, check_same_thread=False)
    # Plugins are for the sqlite-utils command, and searching for them takes 10 ms.
    return Database(connection, execute_plugins=False)


def _refuse_what_is_not_ours(db: Database, path: str) -> None:
    applied = {migration.name for migration in MIGRATIONS.applied(db)}
    ours = set(MIGRATION_NAMES)
    if not applied and db.table_names():
        raise DataError(f"database {path}: its tables are another program's, not beiran's")
    if applied - ours:
        newer = ", ".join(sorted(applied - ours))
        raise DataError(f"database {path}: a newer release of beiran wrote it (migrations {newer})")
    (problem,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if problem != "ok":
        raise DataError(f"database {path}: the file is damaged ({problem})")
