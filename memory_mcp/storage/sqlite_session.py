"""Units of work on a SQLite connection, and what the driver's errors mean."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import aiosqlite
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import InternalError, MemoryMCPError, StoreCorruptError
from memory_mcp.storage import migrations
from memory_mcp.storage.engine import StoreBusyError, StoreFailure
from memory_mcp.storage.session import Row, Session

T = TypeVar("T")

_log = logging.getLogger(__name__)

# errors that say something about the statement, not about the database
DEFECTS = (
    sqlite.IntegrityError,
    sqlite.ProgrammingError,
    sqlite.InterfaceError,
    sqlite.DataError,
    sqlite.NotSupportedError,
)
_BUSY, _CORRUPT, _NOT_A_DATABASE = 5, 11, 26


class SqliteSession:
    """A `Session` on a SQLite connection."""

    DatabaseError: type[Exception] = sqlite.DatabaseError

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def all(self, sql: str, *values: Any) -> list[Row]:
        rows: list[Row] = self._connection.execute(sql, _bind(values)).fetchall()
        return rows

    def one(self, sql: str, *values: Any) -> Row | None:
        cursor = self._connection.execute(sql, _bind(values))
        row: Row | None = cursor.fetchone()
        # an open cursor would keep the read transaction of its connection alive
        cursor.close()
        return row

    def each(self, sql: str, *values: Any) -> Iterator[Row]:
        with closing(self._connection.execute(sql, _bind(values))) as cursor:
            yield from cursor

    def run(self, sql: str, *values: Any) -> int:
        return int(self._connection.execute(sql, _bind(values)).rowcount)

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, [_bind(row) for row in rows])


class Fts5Index:
    """The words of units in FTS5."""

    def put(self, session: Session, unit_id: int, terms: str) -> None:
        session.run("INSERT INTO units_fts (rowid, terms) VALUES ($1, $2)", unit_id, terms)

    def remove(self, session: Session, unit_id: int) -> None:
        session.run("DELETE FROM units_fts WHERE rowid = $1", unit_id)


class Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs whole units of work, one thread hop each."""

    async def unit(self, work: Callable[[SqliteSession], T]) -> T:
        if not self._running or self._connection is None:
            raise StoreFailure("the store is closed")
        result: T = await self._execute(self._run, self._connection, work)  # type: ignore[no-untyped-call]
        return result

    def _run(self, connection: Any, work: Callable[[SqliteSession], T]) -> T:
        try:
            return work(SqliteSession(connection))
        except sqlite.Error as error:
            raise failure(error) from error


@contextmanager
def in_memory() -> Iterator[SqliteSession]:
    """A store of its own that lives in memory and is gone at the end."""
    with closing(sqlite.connect(":memory:", isolation_level=None)) as connection:
        session = SqliteSession(connection)
        migrations.migrate(session, "sqlite", "", before=0)
        yield session


def failure(error: Exception) -> MemoryMCPError:
    """The error of ours for an error of the driver."""
    code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
    if code in (_CORRUPT, _NOT_A_DATABASE):
        return StoreCorruptError(f"the database file is damaged or not a database: {error}")
    if code == _BUSY:
        return StoreBusyError(f"another process does not let go of the database: {error}")
    if isinstance(error, DEFECTS):
        return InternalError(f"a statement is wrong: {error}")
    return StoreFailure(f"the database failed: {error}")


def rollback(session: Session) -> None:
    """End a transaction without its changes, whatever is left of it."""
    try:
        session.run("ROLLBACK")
    except sqlite.Error as error:
        # a failed COMMIT may have ended the transaction by itself
        _log.debug("rollback: %s", error)


def _bind(values: Sequence[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values, 1)}
