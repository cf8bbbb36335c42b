"""SQLite as the source of truth: one writer with group commit, a few readers, all on threads of their own.

The driver is sqlcipher3, because the SQLite inside it has no WAL-reset bug (sqlite.org/wal.html#walresetbug), which
corrupts files that several processes write; aiosqlite supplies the threads. A unit of work is one thread hop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import InternalError, MemoryMCPError
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage import migrations, queries, sqlite_file
from memory_mcp.storage.engine import StoreFailure
from memory_mcp.storage.erasure import ERASURE
from memory_mcp.storage.filelock import FileLock
from memory_mcp.storage.learned import FOLLOWER_OPERATIONS
from memory_mcp.storage.operations import OPERATIONS, result_of
from memory_mcp.storage.revisions import REVISIONS
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_session import DEFECTS, Connection, Fts5Index, SqliteSession, failure
from memory_mcp.storage.transaction import Recipe, Transaction

T = TypeVar("T")

SAFE_SQLITE = (3, 51, 3)
MAX_GROUP = 256

_HANDLERS = OPERATIONS | FOLLOWER_OPERATIONS | REVISIONS | ERASURE

_log = logging.getLogger(__name__)


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
        self._recipe = recipe
        self._lock_seconds = lock_seconds
        self._busy_seconds = busy_seconds
        self._reader_count = readers
        self._index = Fts5Index()
        self._lock: FileLock | None = None
        self._writer: Connection | None = None
        self._readers: asyncio.Queue[Connection] = asyncio.Queue()
        self._all_readers: list[Connection] = []
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
            await asyncio.to_thread(self._inspect)
            self._lock = FileLock(self.path.with_suffix(".lock"))
            self._writer = await self._connect()
            await self._writer.unit(self._prepare)
            self._readers = asyncio.Queue()
            for _ in range(self._reader_count):
                reader = await self._connect()
                self._all_readers.append(reader)
                await reader.unit(_only_read)
                self._readers.put_nowait(reader)
        except OSError as error:
            await self.close()
            raise StoreFailure(f"cannot open {self.path}: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def close(self) -> None:
        """Finish the writes under way and close all connections."""
        # from here on no write is taken any more
        writer, self._writer = self._writer, None
        readers, self._all_readers = self._all_readers, []
        lock, self._lock = self._lock, None
        try:
            if self._flushing is not None:
                await asyncio.wait([self._flushing])
            for connection in (*readers, writer):
                if connection is not None:
                    await _close(connection)
        finally:
            if lock is not None:
                lock.close()

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run a reading unit of work on a reader's thread; it sees one consistent snapshot.

        Raises:
            StoreFailure: the database failed.
        """
        if not self._all_readers:
            raise StoreFailure("the store is not open")
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
        if self._writer is None or self._lock is None:
            raise StoreFailure("the store is not open")
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command, replayed, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(self._writer, self._lock), name="group-commit")
        return await asyncio.shield(future)

    async def compact(self) -> bool:
        """Rewrite the file without free pages and without deleted words; False when the log could not be emptied.

        Raises:
            StoreFailure: the database failed, or is not open.
        """
        return await self._alone(sqlite_file.compact)

    async def empty_log(self) -> bool:
        """Empty the write-ahead log; False when another process still reads from it."""
        return await self._alone(sqlite_file.empty_log)

    async def _alone(self, work: Callable[[Session], bool]) -> bool:
        """Run work on the writing connection that is no transaction of its own, while no other process writes."""
        writer, lock = self._writer, self._lock
        if writer is None or lock is None:
            raise StoreFailure("the store is not open")

        def call(session: SqliteSession) -> bool:
            with lock.held(self._lock_seconds):
                return work(session)

        return await writer.unit(call)

    async def data_version(self) -> int:
        """A number that changes when another connection or process has committed."""
        if not self._all_readers:
            raise StoreFailure("the store is not open")
        row = await self._all_readers[0].unit(lambda session: session.one("PRAGMA data_version"))
        return int(row[0]) if row else 0

    async def _connect(self) -> Connection:
        connection = Connection(self._connector, iter_chunk_size=64)
        try:
            await connection
        except sqlite.Error as error:
            raise failure(error) from error
        return connection

    def _connector(self) -> Any:
        connection = sqlite.connect(str(self.path), timeout=self._busy_seconds, isolation_level=None)
        for pragma in (
            "synchronous = FULL",
            "foreign_keys = ON",
            "trusted_schema = OFF",
            "cache_size = -8000",
            "journal_size_limit = 67108864",
        ):
            connection.execute(f"PRAGMA {pragma}").fetchall()
        return connection

    def _inspect(self) -> None:
        """Refuse a file that is not ours or too new, before anything is written to it."""
        try:
            with sqlite_file.reading(self.path, self._busy_seconds) as connection:
                if connection is not None:
                    migrations.check(_schema_version(SqliteSession(connection)), self.name)
        except sqlite.Error as error:
            raise failure(error) from error

    def _prepare(self, session: SqliteSession) -> None:
        assert self._lock is not None
        with self._lock.held(self._lock_seconds):
            # two processes must not switch at once: this statement does not wait for a lock
            mode = session.one("PRAGMA journal_mode = WAL")
            if mode is None or mode[0] != "wal":
                raise StoreFailure("the file system of the data directory cannot do write-ahead logging")
            session.run("BEGIN IMMEDIATE")
            try:
                migrations.migrate(session, self.name, uuid4().hex, before=_schema_version(session))
                row = session.one("SELECT value FROM meta WHERE key = 'store_id'")
                session.run("COMMIT")
            except BaseException:
                _rollback(session)
                raise
        assert row is not None
        self.store_id = str(row[0])

    async def _flush(self, writer: Connection, lock: FileLock) -> None:
        while self._waiting:
            group, self._waiting = self._waiting[:MAX_GROUP], self._waiting[MAX_GROUP:]
            outcomes: Sequence[Written | Exception]
            try:
                outcomes = await writer.unit(partial(self._commit, lock, group))
            except Exception as error:  # noqa: BLE001 - every waiting caller must hear of it
                outcomes = [error] * len(group)
            except BaseException:
                # the event loop ends; nobody may be left waiting for an answer that does not come
                for waiting in (*group, *self._waiting):
                    waiting.future.cancel()
                self._waiting = []
                raise
            for waiting, outcome in zip(group, outcomes, strict=True):
                if waiting.future.cancelled():
                    continue
                if isinstance(outcome, BaseException):
                    waiting.future.set_exception(outcome)
                    # the caller may be gone; its error is not news for the event loop
                    waiting.future.exception()
                else:
                    waiting.future.set_result(outcome)

    def _commit(self, lock: FileLock, group: list[_Waiting], session: SqliteSession) -> list[Written | MemoryMCPError]:
        outcomes: list[Written | MemoryMCPError] = []
        with lock.held(self._lock_seconds) as in_turn:
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
            _HANDLERS[command.operation](transaction, command.payload)
        except MemoryMCPError as error:
            _undo_savepoint(session)
            return error
        except Exception as error:
            if isinstance(error, sqlite.Error) and not isinstance(error, DEFECTS):
                raise
            # a defect in one command must not take down those that share its group
            _undo_savepoint(session)
            _log.exception("command %s failed", command.operation)
            return InternalError(f"{command.operation} failed because of a defect: {error}")
        session.run("RELEASE command")
        return Written(result_of(transaction.entries), transaction.entries)


def _schema_version(session: SqliteSession) -> int:
    empty = session.one("SELECT 1 FROM sqlite_schema LIMIT 1") is None
    return 0 if empty else migrations.known_version(session)


async def _close(connection: Connection) -> None:
    try:
        await connection.close()
    except (sqlite.Error, ValueError) as error:
        _log.warning("a connection did not close: %s", error)


def _only_read(session: SqliteSession) -> None:
    session.run("PRAGMA query_only = ON")
    # a search over 10,000 episodes looks at more pages than the writer ever keeps (measured: a tenth faster)
    session.run("PRAGMA cache_size = -32000")


def _snapshot(session: Session, work: Callable[[Session], T]) -> T:
    session.run("BEGIN")
    try:
        return work(session)
    finally:
        # nothing was written; a rollback works also where the work failed
        _rollback(session)


def _rollback(session: Session) -> None:
    try:
        session.run("ROLLBACK")
    except sqlite.Error as error:
        # a failed COMMIT may have ended the transaction by itself
        _log.debug("rollback: %s", error)


def _undo_savepoint(session: SqliteSession) -> None:
    session.run("ROLLBACK TO command")
    session.run("RELEASE command")
