"""Copies of a store: made while any number of processes write to it, and checked before they count."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp import __version__
from memory_mcp.clock import Clock
from memory_mcp.errors import BackupError, MemoryMCPError, StorageUnavailableError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command
from memory_mcp.storage import backup_files, ledger, migrations, queries, unwritable
from memory_mcp.storage.backup_files import DAMAGED, DATABASE, PENDING, Backup
from memory_mcp.storage.journal import commands_in
from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_session import SqliteSession

_log = logging.getLogger(__name__)

_BUSY_SECONDS = 60.0
_MOST_FINDINGS = 20


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a backup."""

    backup: str
    problem: str

    def told(self) -> Json:
        return asdict(self)


def place_of(data_dir: Path) -> Path:
    """Where the backups of a data directory lie, if no other place is named."""
    return data_dir / "backups"


def create(
    database: Path, place: Path, *, clock: Clock, reason: str, pending: Sequence[Command] = (), quick: bool = False
) -> Backup:
    """Copy a store into a new directory of `place`. Writers go on meanwhile; the copy is one moment of the store.

    Args:
        pending: commands that wait in the journal. Read them before this call: then each one that was acknowledged
            before is in the copy, or among them, or both, which a replay tells apart.
        quick: leave the ledger's chain unchecked.

    Raises:
        BackupError: the copy could not be made, or is not whole; nothing is left of it.
    """
    try:
        with backup_files.partial(place) as directory:
            copy = directory / DATABASE
            _copy(database, copy)
            (directory / PENDING).write_bytes(b"".join(command.to_json() + b"\n" for command in pending))
            with reading(copy) as session:
                problems = _problems(session, quick=quick)
                if problems:
                    raise BackupError(
                        f"the copy is not whole: {'; '.join(problems)}",
                        hint="The store itself is damaged: see docs/backup.md.",
                    )
                content = _content(session)
            told = {"reason": reason, "program": __version__, **content, "pending": len(pending)}
            return backup_files.publish(directory, clock, {**told, "checked": "quick" if quick else "full"})
    except (sqlite.Error, OSError) as error:
        raise BackupError(f"the store cannot be copied to {place}: {error}") from error


def save_files(files: Sequence[Path], place: Path, *, clock: Clock) -> Backup:
    """Copy the files of a store that cannot be read as one, as they are.

    Raises:
        BackupError: they could not be copied; nothing is left of the copy.
    """
    try:
        with backup_files.partial(place) as directory:
            for file in files:
                # the journal's data file has a name that says nothing
                name = file.name if file.suffix != ".mdb" else f"{file.parent.name}-{file.name}"
                with file.open("rb") as source, (directory / name).open("wb") as target:
                    while chunk := source.read(1 << 20):
                        target.write(chunk)
            return backup_files.publish(directory, clock, {"reason": DAMAGED, "program": __version__})
    except OSError as error:
        raise BackupError(f"the damaged files cannot be saved in {place}: {error}") from error


def verify(backup: Backup) -> list[Finding]:
    """Compare a backup with its manifest and check the database in it from end to end. Changes nothing."""
    problems = [
        f"{name} has another checksum than its manifest says"
        for name, file in backup.manifest["files"].items()
        if backup_files.sha256(backup.directory / name) != file["sha256"]
    ]
    if backup.reason != DAMAGED and not problems:
        try:
            with reading(backup.directory / DATABASE) as session:
                problems = _problems(session, quick=False)
                told = _content(session)
            problems += [
                f"{name} is {told[name]!r} and not {backup.manifest.get(name)!r}"
                for name in told
                if told[name] != backup.manifest.get(name)
            ]
            if len(pending_of(backup)) != backup.manifest["pending"]:
                problems.append("other commands wait than its manifest says")
        except (sqlite.Error, OSError, MemoryMCPError, LookupError) as error:
            problems.append(f"it cannot be read: {error}")
    return [Finding(backup.name, problem) for problem in problems]


def pending_of(backup: Backup) -> list[Command]:
    """The commands that waited in the journal when the backup was made.

    Raises:
        BackupError: they cannot be read.
    """
    try:
        lines = (backup.directory / PENDING).read_bytes().splitlines()
        return [Command.from_json(line) for line in lines]
    except (OSError, ValueError, TypeError) as error:
        raise BackupError(f"the pending commands of {backup.name} cannot be read: {error}") from error


def waiting_in(data_dir: Path) -> list[Command]:
    """The commands that wait in the journal of a data directory.

    Raises:
        StorageUnavailableError: the journal cannot be read.
    """
    if not (data_dir / "pending" / "data.mdb").exists():
        return []
    return [command for _, command in commands_in(data_dir / "pending")]


def save_before_migration(database: Path, before: int, after: int, clock: Clock) -> Backup | None:
    """Save a store of an older schema; None where an attempt that was killed has left a copy of the same content.

    Raises:
        BackupError: it could not be saved.
    """
    place = place_of(database.parent)
    reason = f"before-migration-{before}-to-{after}"
    with reading(database) as session:
        content = _content(session)
    for known in backup_files.scan(place).backups:
        if known.reason == reason and all(known.manifest.get(name) == value for name, value in content.items()):
            return None
    try:
        pending = waiting_in(database.parent)
    except StorageUnavailableError as error:
        # it stays where it is; a migration does not touch it
        _log.warning("the copy before the migration is without what waits in the journal: %s", error)
        pending = []
    return create(database, place, clock=clock, reason=reason, pending=pending, quick=True)


@contextmanager
def reading(database: Path) -> Iterator[SqliteSession]:
    """A session on a database file that changes nothing in it."""
    with unwritable.reading(database, _BUSY_SECONDS) as connection:
        session = SqliteSession(connection)
        session.run("PRAGMA query_only = ON")
        session.run("BEGIN")
        yield session


def _copy(database: Path, copy: Path) -> None:
    if not database.is_file():
        raise BackupError(f"there is no store at {database}", hint="Name its directory with --data-dir.")
    with unwritable.reading(database, _BUSY_SECONDS) as connection:
        # one read transaction over all; a page-wise backup would begin again with every write of somebody else
        connection.execute("VACUUM INTO ?", (str(copy),))


def _problems(session: Session, *, quick: bool) -> list[str]:
    rows = session.all(f"PRAGMA {'quick_check' if quick else 'integrity_check'}({_MOST_FINDINGS})")
    problems = [str(row[0]) for row in rows if row[0] != "ok"]
    if problems:
        return problems
    entries, heads = queries.ledger_entries(session), sum(head for _, head, _ in queries.chain_heads(session))
    if len({queries.head_position(session), entries, heads}) > 1:
        problems.append("the ledger does not end where its chains do")
    if not quick:
        tables = session.all("PRAGMA foreign_key_check")
        problems += [f"a row of {table} belongs to nothing" for table in sorted({str(row[0]) for row in tables})]
        found = ledger.verify(session)[:_MOST_FINDINGS]
        problems += [f"ledger of {item.namespace!r}, entry {item.sequence}: {item.problem}" for item in found]
    return problems


def _content(session: Session) -> Json:
    meta: dict[str, Any] = dict(session.all("SELECT key, value FROM meta"))
    count = session.one("SELECT (SELECT count(*) FROM episodes), (SELECT count(*) FROM steps)")
    assert count is not None
    return {
        "store_id": meta["store_id"],
        "schema_version": migrations.known_version(session),
        "ledger_position": queries.head_position(session),
        "heads": {
            namespace: {"sequence": sequence, "hash": head.hex()}
            for namespace, sequence, head in queries.chain_heads(session)
        },
        "episodes": count[0],
        "steps": count[1],
    }
