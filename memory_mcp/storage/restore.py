"""Putting a backup in the place of a store, also under running servers.

The copy is prepared beside the store: newest schema, and an identity of its own, by which every process notices that
what it remembers is of another store. Then it takes the store's place in one step:

    the store can be read     its pages are replaced in one transaction; other processes see the old or the new content
    the store is damaged      the file is replaced, while no other process has it open
"""

from __future__ import annotations

import shutil
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.clock import Clock
from memory_mcp.errors import (
    BackupDamagedError,
    BackupError,
    MemoryMCPError,
    RestoreRefusedError,
    StorageError,
    StoreInUseError,
)
from memory_mcp.records.ledger import Command, namespace_hash
from memory_mcp.storage import backup, backup_files, migrations, queries
from memory_mcp.storage.backup_files import DAMAGED, DATABASE, Backup
from memory_mcp.storage.filelock import FileLock, Presence
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.sqlite_session import SqliteSession

_TURN_SECONDS = 30.0
# running servers let go of a file that was taken away as soon as they look, which they do every moment
_ALONE_SECONDS = 3.0
_LOCKED = {5, 6}


@dataclass(slots=True)
class Restored:
    """What a restore has done. `saved` is the copy of what was replaced, None where there was nothing."""

    backup: Backup
    store_id: str
    saved: Backup | None = None
    replaced: str = "nothing"
    pending: int = 0
    resurrected: list[str] = field(default_factory=list)


def restore(wanted: Backup, data_dir: Path, *, clock: Clock, force: bool = False) -> Restored:
    """Give a data directory the content of a backup.

    Raises:
        BackupDamagedError: the backup is not whole; nothing was changed.
        RestoreRefusedError: there is a store, and `force` is not given.
        StoreInUseError: the store is damaged and other processes have it open, or one does not let go of it.
        BackupError: what would be replaced could not be saved; nothing was changed.
        SchemaTooNewError: the backup is of a newer version of this program.
    """
    if wanted.reason == DAMAGED:
        raise BackupDamagedError(
            f"{wanted.name} holds the raw files of a damaged store",
            hint="It is kept for salvage (see docs/backup.md); restore another backup.",
        )
    findings = backup.verify(wanted)
    if findings:
        raise BackupDamagedError(f"{wanted.name}: {'; '.join(finding.problem for finding in findings)}")
    database = data_dir / DATABASE
    present = [file for file in _files_of(database) if file.exists() and file.stat().st_size]
    if present and not force:
        raise RestoreRefusedError(
            f"{data_dir} holds a store that would be replaced: {_described(database)}",
            hint=RestoreRefusedError.default_hint,
        )
    data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    place = backup.place_of(data_dir)
    try:
        with backup_files.partial(place) as directory:
            prepared = directory / DATABASE
            forgotten = _forgotten_since(database, wanted.position)
            done = Restored(wanted, _prepare(wanted.directory / DATABASE, prepared, database))
            _swap(prepared, database, place, clock, done)
            done.resurrected = _that_are_back(forgotten, database)
            done.pending = _put_back(backup.pending_of(wanted), data_dir)
            return done
    except (sqlite.Error, OSError) as error:
        raise BackupError(f"{wanted.name} cannot be restored: {error}", hint="Repeat the command.") from error


def _forgotten_since(database: Path, position: int) -> list[tuple[str, str]]:
    """`(namespace, episode_id)` of what was forgotten after a backup; nothing where the store cannot be read."""
    try:
        with backup.reading(database) as session:
            rows = session.all(
                "SELECT DISTINCT namespace, subject_id FROM ledger WHERE operation = 'episode.forgotten'"
                " AND position > $1 ORDER BY namespace, subject_id",
                position,
            )
    except (sqlite.Error, OSError, MemoryMCPError):
        # what is damaged is replaced all the same
        return []
    return [(str(namespace), str(name)) for namespace, name in rows]


def _that_are_back(forgotten: list[tuple[str, str]], database: Path) -> list[str]:
    if not forgotten:
        return []
    with backup.reading(database) as session:
        return [
            f"{namespace}/{name}"
            for namespace, name in forgotten
            if session.one(
                "SELECT 1 FROM episodes WHERE ns_hash = $1 AND episode_id = $2", namespace_hash(namespace), name
            )
        ]


def _prepare(source: Path, prepared: Path, database: Path) -> str:
    """Make the copy that is to take the store's place; returns its identity."""
    shutil.copyfile(source, prepared)
    store_id = uuid4().hex
    with closing(sqlite.connect(str(prepared), isolation_level=None)) as connection:
        session = SqliteSession(connection)
        session.run("PRAGMA foreign_keys = ON")
        session.run("BEGIN IMMEDIATE")
        migrations.migrate(session, "sqlite", store_id, before=migrations.known_version(session))
        session.run("UPDATE meta SET value = $1 WHERE key = 'store_id'", store_id)
        # the numbers of units stay unique over both stores, so that a vector made for the one is none of the other
        last = _last_unit(database)
        if not session.run("UPDATE sqlite_sequence SET seq = max(seq, $1) WHERE name = 'units'", last):
            session.run("INSERT INTO sqlite_sequence (name, seq) VALUES ('units', $1)", last)
        session.run("COMMIT")
    backup_files.sync(prepared)
    return store_id


def _swap(prepared: Path, database: Path, place: Path, clock: Clock, done: Restored) -> None:
    lock, sign = FileLock(database.with_suffix(".lock")), Presence(database.with_suffix(".restore"))
    try:
        saved = _save(database, place, clock)
        with lock.held(_TURN_SECONDS) as in_turn:
            # the sign is for writers that no longer wait for their turn: between the last look at the store and its
            # replacement a write would be in neither copy
            if not in_turn or not sign.alone(_TURN_SECONDS):
                raise StoreInUseError("another process does not let go of the store's lock")
            if saved is not None and saved.reason != DAMAGED and _head(database) != saved.position:
                # somebody has written meanwhile; now nobody can
                outdated, saved = saved, _save(database, place, clock)
                shutil.rmtree(outdated.directory)
            done.saved = saved
            if database.exists() and database.stat().st_size and _replace_pages(prepared, database):
                done.replaced = "content"
            else:
                done.replaced = "file" if saved is not None else "nothing"
                _replace_file(prepared, database)
    finally:
        sign.close()
        lock.close()


def _save(database: Path, place: Path, clock: Clock) -> Backup | None:
    """Save what will be replaced: as a backup where it can be read, else as raw files."""
    files = [file for file in _files_of(database) if file.exists() and file.stat().st_size]
    if not files:
        return None
    pending = backup.waiting_in(database.parent)
    if database in files:
        try:
            return backup.create(database, place, clock=clock, reason="before-restore", pending=pending, quick=True)
        except BackupError as error:
            if _no_room(error):
                raise
    journal = database.parent / "pending" / "data.mdb"
    return backup.save_files([*files, *([journal] if journal.exists() else [])], place, clock=clock)


def _replace_pages(prepared: Path, database: Path) -> bool:
    """Replace the content of the store in one transaction; False where SQLite cannot write into the file.

    Killed at any instant it leaves the old or the new content: the pages go through the write-ahead log.
    """
    deadline = time.monotonic() + _TURN_SECONDS

    def bounded(_status: int, _remaining: int, _total: int) -> None:
        # the driver repeats for ever while somebody holds the database
        if time.monotonic() >= deadline:
            raise StoreInUseError("another process does not let go of the database")

    with (
        closing(sqlite.connect(str(prepared), isolation_level=None)) as source,
        closing(sqlite.connect(str(database), isolation_level=None, timeout=1.0)) as target,
    ):
        try:
            # in the old journal mode other processes could not go on reading, and a kill would need a hot journal
            if target.execute("PRAGMA journal_mode = WAL").fetchone() != ("wal",):
                return False
            target.execute("PRAGMA synchronous = FULL")
            source.backup(target, pages=-1, progress=bounded, sleep=0.05)
        except sqlite.DatabaseError as error:
            code = (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
            if code in _LOCKED:
                raise StoreInUseError(f"another process does not let go of the database: {error}") from error
            if code in (11, 26):
                return False
            raise
        # the log has grown by the whole store; whoever still reads the old content keeps it from being cut
        target.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return True


def _replace_file(prepared: Path, database: Path) -> None:
    presence = Presence(database.with_suffix(".open"))
    try:
        if not presence.alone(_ALONE_SECONDS):
            raise StoreInUseError(
                "the database file must be replaced as a whole, and other processes have it open; nothing was changed"
            )
        for beside in _files_of(database)[1:]:
            # a log of the old file would be taken for one of the new file
            beside.unlink(missing_ok=True)
        backup_files.sync(database.parent)
        prepared.replace(database)
        backup_files.sync(database.parent)
    finally:
        presence.close()


def _put_back(commands: list[Command], data_dir: Path) -> int:
    """Have the backup's pending commands wait again, behind what waits already."""
    if not commands:
        return 0
    journal = Journal(data_dir / "pending")
    journal.open()
    try:
        known = {command.write_id for _, command in journal.first()}
        missing = [command for command in commands if command.write_id not in known]
        for command in missing:
            journal.append(command)
        return len(missing)
    finally:
        journal.close()


def _described(database: Path) -> str:
    try:
        with backup.reading(database) as session:
            episodes = session.one("SELECT count(*) FROM episodes")
            assert episodes is not None
            return f"{episodes[0]} episodes, ledger position {queries.head_position(session)}"
    except (sqlite.Error, OSError, StorageError) as error:
        return f"{database.name}, which cannot be read ({error})"


def _head(database: Path) -> int:
    with backup.reading(database) as session:
        return queries.head_position(session)


def _last_unit(database: Path) -> int:
    try:
        with backup.reading(database) as session:
            row = session.one("SELECT seq FROM sqlite_sequence WHERE name = 'units'")
            return int(row[0]) if row else 0
    except (sqlite.Error, OSError):
        # nobody works with a store that cannot be read
        return 0


def _no_room(error: BackupError) -> bool:
    cause = error.__cause__
    return isinstance(cause, OSError) or "disk is full" in str(cause) or "disk I/O" in str(cause)


def _files_of(database: Path) -> list[Path]:
    """The database first, then what SQLite keeps beside it."""
    return [database, *(database.with_name(f"{database.name}-{end}") for end in ("wal", "shm", "journal"))]
