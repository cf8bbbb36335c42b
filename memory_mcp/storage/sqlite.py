"""SQLite as the source of truth: one writer with group commit, a few readers, all on threads of their own.

The driver is sqlcipher3, because the SQLite inside it has no WAL-reset bug (sqlite.org/wal.html#walresetbug), which
corrupts files that several processes write; aiosqlite supplies the threads. A unit of work is one thread hop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import aiosqlite
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import InternalError, MemoryMCPError, StorageError, StoreCorruptError
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage import migrations, queries
from memory_mcp.storage.engine import StoreFailure
from memory_mcp.storage.filelock import FileLock
from memory_mcp.storage.learned import FOLLOWER_OPERATIONS
from memory_mcp.storage.operations import OPERATIONS, result_of
from memory_mcp.storage.session import Row, Session
from memory_mcp.storage.transaction import Recipe, Transaction

T = TypeVar("T")

SAFE_SQLITE = (3, 51, 3)
MAX_GROUP = 256

_HANDLERS = OPERATIONS | FOLLOWER_OPERATIONS

_log = logging.getLogger(__name__)


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


class _Connection(aiosqlite.Connection):
    """An aiosqlite connection that runs whole units of work, one thread hop each."""

    async def unit(self, work: Callable[[SqliteSession], T]) -> T:
        result: T = await self._execute(self._run, work)  # type: ignore[no-untyped-call]
        return result

    def _run(self, work: Callable[[SqliteSession], T]) -> T:
        try:
            return work(SqliteSession(self._conn))
        except sqlite.Error as error:
            raise failure(error) from error


@dataclass(slots=True)
class _Waiting:
    command: Command
    replayed: bool
    future: asyncio.Future[Written]


class SqliteEngine:
    """A database file, opened for this process.

    Args:
        path: the database file; its directory exists.
        recipe: how records become searchable text.
        lock_seconds: how long a write waits for its turn between processes before it relies on SQLite alone.
        busy_seconds: how long SQLite itself waits for a lock.
        readers: number of reading connections.
    """

    name = "sqlite"

    def __init__(
        self, path: Path, recipe: Recipe, *, lock_seconds: float = 5.0, busy_seconds: float = 5.0, readers: int = 2
    ) -> None:
        self.path = path
        self.store_id = ""
        self.schema_before = 0
        self._recipe = recipe
        self._lock_seconds = lock_seconds
        self._busy_seconds = busy_seconds
        self._reader_count = readers
        self._index = Fts5Index()
        self._lock: FileLock | None = None
        self._writer: _Connection | None = None
        self._readers: asyncio.Queue[_Connection] = asyncio.Queue()
        self._all_readers: list[_Connection] = []
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file, creating or migrating the schema.

        Raises:
            SchemaTooNewError, StoreCorruptError, StoreFailure.
        """
        if sqlite.sqlite_version_info < SAFE_SQLITE:
            raise StoreFailure(
                f"SQLite {sqlite.sqlite_version} can corrupt files that several processes write",
                hint="Install sqlcipher3>=0.6.4.",
            )
        try:
            self._lock = FileLock(self.path.with_suffix(".lock"))
        except OSError as error:
            raise StoreFailure(f"cannot open the lock file: {error}") from error
        try:
            self._writer = await self._connect()
            await self._writer.unit(self._prepare)
            for _ in range(self._reader_count):
                reader = await self._connect()
                await reader.unit(lambda session: session.run("PRAGMA query_only = ON"))
                self._all_readers.append(reader)
                self._readers.put_nowait(reader)
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish the writes under way and close all connections."""
        if self._flushing is not None:
            await asyncio.wait([self._flushing])
        for reader in self._all_readers:
            await reader.close()
        self._all_readers.clear()
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run a reading unit of work on a reader's thread; it sees one consistent snapshot.

        Raises:
            StoreFailure: the database failed.
        """
        reader = await self._readers.get()
        try:
            return await reader.unit(lambda session: _snapshot(session, work))
        finally:
            self._readers.put_nowait(reader)

    async def write(self, command: Command, *, replayed: bool = False) -> Written:
        """Carry out a command; returns when it is durable. Commands that arrive together share a transaction.

        With `replayed`, a command whose `write_id` is in the ledger already is not carried out again.

        Raises:
            MemoryMCPError: the command was refused and changed nothing.
            StoreFailure: the database failed; whether the write is durable is not known.
        """
        if self._writer is None:
            raise StoreFailure("the store is not open")
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command, replayed, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(), name="group-commit")
        return await asyncio.shield(future)

    async def data_version(self) -> int:
        """A number that changes when another connection or process has committed."""
        reader = self._all_readers[0]
        row = await reader.unit(lambda session: session.one("PRAGMA data_version"))
        return int(row[0]) if row else 0

    async def _connect(self) -> _Connection:
        connection = _Connection(self._connector, iter_chunk_size=64)
        try:
            await connection
        except sqlite.Error as error:
            raise failure(error) from error
        return connection

    def _connector(self) -> Any:
        connection = sqlite.connect(str(self.path), timeout=self._busy_seconds, isolation_level=None)
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "trusted_schema = OFF",
            "cache_size = -8000",
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _prepare(self, session: SqliteSession) -> None:
        assert self._lock is not None
        with self._lock.held(self._lock_seconds):
            session.run("BEGIN IMMEDIATE")
            try:
                fresh = session.one("SELECT 1 FROM sqlite_schema LIMIT 1") is None
                self.schema_before = migrations.migrate(session, self.name, uuid4().hex, fresh=fresh)
                row = session.one("SELECT value FROM meta WHERE key = 'store_id'")
                session.run("COMMIT")
            except BaseException:
                _rollback(session)
                raise
        assert row is not None
        self.store_id = str(row[0])

    async def _flush(self) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            assert self._writer is not None
            outcomes: Sequence[Written | Exception]
            try:
                outcomes = await self._writer.unit(lambda session, group=group: self._commit(session, group))  # type: ignore[misc]
            except Exception as error:  # noqa: BLE001 - every waiting caller must hear of it
                outcomes = [error] * len(group)
            for waiting, outcome in zip(group, outcomes, strict=True):
                if waiting.future.cancelled():
                    continue
                if isinstance(outcome, BaseException):
                    waiting.future.set_exception(outcome)
                    # the caller may be gone; its error is not news for the event loop
                    waiting.future.exception()
                else:
                    waiting.future.set_result(outcome)

    def _commit(self, session: SqliteSession, group: list[_Waiting]) -> list[Written | MemoryMCPError]:
        assert self._lock is not None
        outcomes: list[Written | MemoryMCPError] = []
        with self._lock.held(self._lock_seconds) as in_turn:
            if not in_turn:
                _log.warning("no turn to write within %s s; relying on SQLite's own lock", self._lock_seconds)
            session.run("BEGIN IMMEDIATE")
            try:
                for waiting in group:
                    outcomes.append(self._carry_out(session, waiting))
                session.run("COMMIT")
            except BaseException:
                _rollback(session)
                raise
        return outcomes

    def _carry_out(self, session: SqliteSession, waiting: _Waiting) -> Written | MemoryMCPError:
        command = waiting.command
        if waiting.replayed and (known := queries.written(session, command.write_id)):
            return Written(result_of(known), known)
        transaction = Transaction(session, command, self._recipe, self._index)
        session.run("SAVEPOINT command")
        try:
            result = _HANDLERS[command.operation](transaction, command.payload)
        except MemoryMCPError as error:
            _undo_savepoint(session)
            return error
        except sqlite.IntegrityError as error:
            _undo_savepoint(session)
            _log.exception("command %s broke a rule of the schema", command.operation)
            return InternalError(f"{command.operation} broke a rule of the schema: {error}")
        except sqlite.Error:
            raise
        except Exception:  # noqa: BLE001 - a defect in one command must not take down those that share its group
            _undo_savepoint(session)
            _log.exception("command %s failed", command.operation)
            return InternalError(f"{command.operation} failed because of a defect")
        session.run("RELEASE command")
        return Written(result, transaction.entries)


def failure(error: Exception) -> StorageError:
    """The error of ours for an error of the driver."""
    text = str(error)
    if "malformed" in text or "not a database" in text or "encrypted" in text:
        return StoreCorruptError(f"the database file is damaged or not a database: {text}")
    return StoreFailure(f"the database failed: {text}")


def _bind(values: Sequence[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values, 1)}


def _snapshot(session: Session, work: Callable[[Session], T]) -> T:
    session.run("BEGIN")
    try:
        return work(session)
    finally:
        session.run("COMMIT")


def _rollback(session: SqliteSession) -> None:
    try:
        session.run("ROLLBACK")
    except sqlite.Error as error:
        # a failed COMMIT may have ended the transaction by itself
        _log.debug("rollback: %s", error)


def _undo_savepoint(session: SqliteSession) -> None:
    session.run("ROLLBACK TO command")
    session.run("RELEASE command")
