"""A database file opened by a command, without an engine: to look at one snapshot of it, or to repair it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import StorageUnavailableError
from memory_mcp.storage import sqlite_file
from memory_mcp.storage.filelock import FileLock
from memory_mcp.storage.sqlite_session import SqliteSession, failure


@contextmanager
def snapshot(path: Path, busy_seconds: float) -> Iterator[SqliteSession]:
    """One consistent snapshot, on a connection that cannot write.

    Raises:
        StorageUnavailableError: there is no store, or it cannot be read now.
        StoreCorruptError: the file is damaged.
    """
    with _translated(), sqlite_file.reading(path, busy_seconds) as connection:
        if connection is None:
            raise StorageUnavailableError(
                f"there is no store at {path}", hint="Name the directory of the data with --data-dir."
            )
        session = SqliteSession(connection)
        session.run("BEGIN")
        yield session


@contextmanager
def transaction(path: Path, *, lock_seconds: float, busy_seconds: float) -> Iterator[SqliteSession]:
    """One transaction in its turn between processes; it is rolled back where the caller fails.

    Raises:
        StorageUnavailableError: it cannot be written.
        StoreBusyError: other processes did not let go of it in time.
        StoreCorruptError, StoreFailure: the database failed.
    """
    try:
        lock = FileLock(path.with_suffix(".lock"))
    except OSError as error:
        raise StorageUnavailableError(f"cannot write the store: {error}") from error
    try:
        with _translated(), lock.held(lock_seconds), closing(_writer(path, busy_seconds)) as connection:
            session = SqliteSession(connection)
            session.run("BEGIN IMMEDIATE")
            yield session
            # who leaves early closes the connection, which takes everything back
            session.run("COMMIT")
    finally:
        lock.close()


def _writer(path: Path, busy_seconds: float) -> sqlite.Connection:
    connection = sqlite.connect(str(path), timeout=busy_seconds, isolation_level=None)
    for pragma in ("synchronous = FULL", "foreign_keys = ON", "trusted_schema = OFF"):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


@contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except sqlite.Error as error:
        raise failure(error) from error
    except OSError as error:
        raise StorageUnavailableError(f"cannot read the store: {error}") from error
