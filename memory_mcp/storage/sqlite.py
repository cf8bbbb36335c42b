"""SQLite as the source of truth: one writer with group commit, a few readers, all on threads of their own.

The driver is sqlcipher3, because the SQLite inside it has no WAL-reset bug (sqlite.org/wal.html#walresetbug), which
corrupts files that several processes write; aiosqlite supplies the threads. A unit of work is one thread hop.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.clock import Clock, SystemClock
from memory_mcp.errors import BackupError, InternalError, MemoryMCPError, MigrationRefusedError
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage import backup, migrations, queries, sqlite_connections, sqlite_file, traces, unwritable
from memory_mcp.storage.engine import StoreBusyError, StoreFailure, StoreMovedError, StoreReadOnlyError
from memory_mcp.storage.erasure import ERASURE
from memory_mcp.storage.filelock import FileLock, Presence
from memory_mcp.storage.learned import FOLLOWER_OPERATIONS, CursorMovedError
from memory_mcp.storage.operations import OPERATIONS, result_of
from memory_mcp.storage.revisions import REVISIONS
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_connections import Synchronous, identity
from memory_mcp.storage.sqlite_session import DEFECTS, Connection, Fts5Index, SqliteSession, failure, rollback
from memory_mcp.storage.transaction import Recipe, Transaction
from memory_mcp.storage.unwritable import Sight

T = TypeVar("T")

SAFE_SQLITE = (3, 51, 3)
MAX_GROUP = 256

_MIGRATION_SECONDS = 600.0
# how often a store that can only be read is asked whether it could be written by now
_LOOK_SECONDS = 0.2

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
        synchronous: FULL keeps every commit through a power cut; NORMAL may lose the last ones, and nothing else.
        clock: what the copy before a migration is dated by.
    """

    name = "sqlite"

    def __init__(
        self,
        path: Path,
        recipe: Recipe,
        *,
        lock_seconds: float = 5.0,
        busy_seconds: float = 5.0,
        readers: int = 2,
        synchronous: Synchronous = "FULL",
        clock: Clock | None = None,
    ) -> None:
        self.path = path
        self.store_id = ""
        self._recipe = recipe
        self._lock_seconds = lock_seconds
        self._busy_seconds = busy_seconds
        self._reader_count = readers
        self._synchronous = synchronous
        self._clock = clock or SystemClock()
        self._presence: Presence | None = None
        self._file = (0, 0)
        self.read_only = ""
        # what an immutable file must still look like
        self._seen: Sight | None = None
        self._openings, self._next_look = 0, 0.0
        self._version = 0
        self._foreign = False
        self._index = Fts5Index()
        self._lock: FileLock | None = None
        self._writer: Connection | None = None
        self._readers: asyncio.Queue[Connection] = asyncio.Queue()
        self._all_readers: list[Connection] = []
        self._waiting: list[_Waiting] = []
        self._flushing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Open the file, creating or migrating the schema. Where nothing can be written there it is only read, and
        `read_only` says why.

        Raises:
            SchemaTooNewError, StoreCorruptError, StoreFailure.
            MigrationRefusedError: the schema is older, and no copy can be saved or nothing be written.
        """
        if sqlite.sqlite_version_info < SAFE_SQLITE:
            raise StoreFailure(
                f"SQLite {sqlite.sqlite_version} can corrupt files that several processes write",
                hint="Install sqlcipher3>=0.6.4.",
            )
        self._openings += 1
        try:
            await asyncio.to_thread(self._inspect)
            try:
                await self._open_to_write()
            except (OSError, StoreFailure) as error:
                reason = unwritable.refusal(error, self.path)
                if not reason:
                    raise
                await self.close()
                await self._open_to_read(reason)
            self._readers = asyncio.Queue()
            for _ in range(self._reader_count):
                reader = await self._connect()
                self._all_readers.append(reader)
                await reader.unit(sqlite_connections.only_read)
                self._readers.put_nowait(reader)
            if self.read_only:
                await self.read(lambda session: None)
        except (sqlite.Error, OSError) as error:
            await self.close()
            if isinstance(error, sqlite.Error):
                raise failure(error) from error
            raise StoreFailure(f"cannot open {self.path}: {error}") from error
        except BaseException:
            await self.close()
            raise

    async def _appear(self, *, read_only: bool = False) -> None:
        presence = self._presence = Presence(self.path.with_suffix(".open"), read_only=read_only)
        if not await asyncio.to_thread(presence.share, self._lock_seconds):
            raise StoreBusyError(f"{self.path} is being replaced by another process")

    async def _open_to_write(self) -> None:
        await self._appear()
        self._lock = FileLock(self.path.with_suffix(".lock"))
        self.read_only, self._seen = "", None
        self._writer = await self._connect()
        await self._writer.unit(self._prepare)

    async def _open_to_read(self, reason: str) -> None:
        if self._version == 0:
            raise StoreFailure(f"there is no store at {self.path}, and none can be made: {reason}")
        migrations.check_newest(self._version, self.name, reason)
        with suppress(OSError):
            # who replaces the store waits for those who read it, as far as they can be seen
            await self._appear(read_only=True)
        self._file = identity(self.path)
        self._seen = await asyncio.to_thread(unwritable.look, self.path, self._busy_seconds)
        self.read_only = reason
        self._next_look = self._clock.monotonic() + _LOOK_SECONDS

    def writable_again(self) -> bool:
        """Whether it was opened to be read only, and could be opened for writing now. Looked up from time to time."""
        now = self._clock.monotonic()
        if not self.read_only or now < self._next_look:
            return False
        self._next_look = now + _LOOK_SECONDS
        return not unwritable.hindrance(self.path)

    async def close(self) -> None:
        """Finish the writes under way and close all connections."""
        # from here on no write is taken any more
        writer, self._writer = self._writer, None
        readers, self._all_readers = self._all_readers, []
        lock, self._lock = self._lock, None
        presence, self._presence = self._presence, None
        try:
            if self._flushing is not None:
                await asyncio.wait([self._flushing])
            for connection in (*readers, writer):
                if connection is not None:
                    await sqlite_connections.closed(connection)
        finally:
            for held in (lock, presence):
                if held is not None:
                    held.close()

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run a reading unit of work on a reader's thread; it sees one consistent snapshot.

        Raises:
            StoreFailure: the database failed.
        """
        if not self._all_readers:
            raise StoreFailure("the store is not open")
        # whoever closes and opens the engine meanwhile gets readers of its own
        readers = self._readers
        reader = await readers.get()
        try:
            return await reader.unit(lambda session: self._snapshot(session, work))
        finally:
            readers.put_nowait(reader)

    async def write(self, command: Command, *, replayed: bool = False) -> Written:
        """Carry out a command; returns when it is durable. Commands that arrive together share a transaction.

        With `replayed`, a command whose `write_id` is in the ledger already is not carried out again.

        Raises:
            MemoryMCPError: the command was refused and changed nothing.
            StoreFailure: the database failed; whether the write is durable is not known.
        """
        writer, lock = self._to_write()
        future: asyncio.Future[Written] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(command, replayed, future))
        if self._flushing is None or self._flushing.done():
            self._flushing = asyncio.create_task(self._flush(writer, lock), name="group-commit")
        return await asyncio.shield(future)

    async def compact(self) -> bool:
        """Rewrite the file without free pages and without deleted words; False when the log could not be emptied.

        Raises:
            StoreFailure: the database failed, or is not open.
        """
        return await self._alone(sqlite_file.compact)

    def wasteful(self, session: Session) -> bool:
        """Whether a quarter of the file is free pages, and not only a few of them."""
        return sqlite_file.wasteful(session)

    async def empty_log(self) -> bool:
        """Empty the write-ahead log; False when another process still reads from it."""
        return await self._alone(sqlite_file.empty_log)

    async def _alone(self, work: Callable[[Session], bool]) -> bool:
        """Run work on the writing connection that is no transaction of its own, while no other process writes."""
        writer, lock = self._to_write()

        def call(session: SqliteSession) -> bool:
            with lock.held(self._lock_seconds):
                return work(session)

        return await writer.unit(call)

    async def data_version(self) -> int:
        """A number that changes when another connection or process has committed."""
        if not self._all_readers:
            raise StoreFailure("the store is not open")
        if self._seen is not None:
            # whoever reads next opens it anew
            return hash((self._openings, unwritable.sight(self.path)))
        self._check_in_place()
        # connections count each for themselves
        return hash(
            (self._openings, await self._all_readers[0].unit(lambda session: session.one("PRAGMA data_version")))
        )

    def _to_write(self) -> tuple[Connection, FileLock]:
        if self._writer is not None and self._lock is not None:
            return self._writer, self._lock
        if self._all_readers:
            raise StoreReadOnlyError(f"the store can only be read: {self.read_only}")
        raise StoreFailure("the store is not open")

    async def _connect(self) -> Connection:
        return await sqlite_connections.opened(self._connector)

    def _connector(self) -> Any:
        if self.read_only:
            return unwritable.connect(self.path, self._busy_seconds, immutable=self._seen is not None)
        return sqlite_connections.to_write(self.path, self._busy_seconds, self._synchronous)

    def _inspect(self) -> None:
        """Refuse a file that is not ours or too new, before anything is written to it."""
        self._version = 0
        with sqlite_file.reading(self.path, self._busy_seconds) as connection:
            if connection is None:
                traces.check_absent(self.path, known=bool(self.store_id))
            else:
                self._version = migrations.version(SqliteSession(connection))
                migrations.check(self._version, self.name)

    def _prepare(self, session: SqliteSession) -> None:
        assert self._lock is not None
        # a migration copies the store first, which takes as long as the store is large: all others wait for it
        # rather than fail, and only a process that was stopped in the middle of it lets them give up
        outdated = 0 < self._version < migrations.newest(self.name)
        patience = max(self._lock_seconds, _MIGRATION_SECONDS if outdated else 0.0)
        session.run(f"PRAGMA busy_timeout = {int(1000 * max(patience, self._busy_seconds))}")
        with self._lock.held(patience):
            # two processes must not switch at once: this statement does not wait for a lock
            mode = session.one("PRAGMA journal_mode = WAL")
            if mode is None or mode[0] != "wal":
                raise StoreFailure("the file system of the data directory cannot do write-ahead logging")
            session.run("BEGIN IMMEDIATE")
            try:
                before = migrations.version(session)
                if before:
                    # such a transaction begins also where nothing can be written
                    session.run("UPDATE meta SET value = value WHERE key IS NULL")
                self._save_before_migration(before)
                migrations.migrate(session, self.name, uuid4().hex, before=before)
                self._identify(session)
                session.run("COMMIT")
            except BaseException:
                rollback(session)
                raise
        session.run(f"PRAGMA busy_timeout = {int(1000 * self._busy_seconds)}")
        self._file = identity(self.path)

    def _save_before_migration(self, before: int) -> None:
        after = migrations.newest(self.name)
        if not 0 < before < after:
            return
        try:
            backup.save_before_migration(self.path, before, after, self._clock)
        except (BackupError, OSError) as error:
            raise MigrationRefusedError(
                f"the store has schema version {before} and is left so: no copy can be saved before it gets version"
                f" {after}: {error}"
            ) from error

    def _identify(self, session: Session) -> None:
        row = session.one("SELECT value FROM meta WHERE key = 'store_id'")
        if row is None:
            raise StoreFailure("the store has no identity")
        self.store_id = str(row[0])

    def _check_in_place(self) -> None:
        """What is written to a file that somebody has deleted or replaced would be gone with this process."""
        if identity(self.path) != self._file:
            raise StoreMovedError(f"{self.path} was deleted or replaced while it was open")
        if self._seen is not None and unwritable.sight(self.path) != self._seen:
            raise StoreMovedError(f"{self.path} was written to through another mount, or by another user")

    def _snapshot(self, session: Session, work: Callable[[Session], T]) -> T:
        self._check_in_place()
        session.run("BEGIN")
        try:
            self._identify(session)
            return work(session)
        finally:
            # nothing was written; a rollback works also where the work failed
            rollback(session)
            if self._seen is not None:
                # whatever came of it counts only when nobody has written meanwhile
                self._check_in_place()

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
        with lock.held(self._lock_seconds) as in_turn, self._out_of_turn(in_turn):
            self._check_in_place()
            session.run("BEGIN IMMEDIATE")
            try:
                known = self.store_id
                self._identify(session)
                # what a follower has worked out of another store does not belong in this one
                self._foreign = self.store_id != known
                for waiting in group:
                    outcomes.append(self._carry_out(session, waiting))
                session.run("COMMIT")
            except BaseException:
                rollback(session)
                raise
        return outcomes

    @contextmanager
    def _out_of_turn(self, in_turn: bool) -> Iterator[None]:
        """Without a turn SQLite's own lock keeps a write safe, but a restore has to be over."""
        if in_turn:
            yield
            return
        _log.warning("no turn to write within %s s; relying on SQLite's own lock", self._lock_seconds)
        sign = Presence(self.path.with_suffix(".restore"))
        try:
            if not sign.share(0.0):
                raise StoreBusyError("a backup is being restored")
            yield
        finally:
            sign.close()

    def _carry_out(self, session: SqliteSession, waiting: _Waiting) -> Written | MemoryMCPError:
        command = waiting.command
        if self._foreign and command.operation in FOLLOWER_OPERATIONS:
            return CursorMovedError("the store was replaced by another one")
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


def _undo_savepoint(session: SqliteSession) -> None:
    session.run("ROLLBACK TO command")
    session.run("RELEASE command")
