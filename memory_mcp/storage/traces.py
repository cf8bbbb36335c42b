"""What is left of a store whose database file is empty or gone: then a new one in its place would hide the loss."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path

import lmdb

from memory_mcp.errors import StorageUnavailableError, StoreCorruptError
from memory_mcp.storage import backup_files, environment
from memory_mcp.storage.journal import Journal

_MAP_SIZE = 1 << 28
_NUMBER = struct.Struct(">Q")


def check_absent(database: Path, *, known: bool = False) -> None:
    """Refuse to begin anew where something tells of an earlier store.

    Args:
        known: this process has had the store open.

    Raises:
        StoreCorruptError: the file is empty or missing, and was not.
    """
    if _has_content(database):
        return
    found = ["this process had it open"] if known else list(_traces(database))
    # another process may have made the store since, and then these are its own
    if found and not _has_content(database):
        state = "empty" if database.exists() else "missing"
        raise StoreCorruptError(
            f"{database} is {state}, but there was a store: {'; '.join(found)}",
            hint="Restore the newest backup (memory-mcp backup list, memory-mcp backup restore NAME --force);"
            " to begin anew instead, delete the rest of the data directory.",
        )


def _traces(database: Path) -> Iterator[str]:
    log = database.with_name(f"{database.name}-wal")
    if _has_content(log):
        yield f"{log.name} holds writes"
    position = _cached_position(database.parent / "cache")
    if position:
        yield f"the cache knows of {position} ledger entries"
    waiting = _orphans(database.parent / "pending")
    if waiting:
        yield f"{waiting} pending writes belong to episodes of it"
    try:
        backups = len(backup_files.scan(database.parent / "backups").backups)
    except OSError:
        backups = 0
    if backups:
        yield f"there are {backups} backups of it"


def _cached_position(directory: Path) -> int:
    """How much of a ledger the cache has seen; 0 where it cannot be read, and so tells nothing."""
    if not (directory / "data.mdb").exists():
        return 0
    try:
        opened = environment.acquire(directory, map_size=_MAP_SIZE, sync=False)
        try:
            with opened.mapped, opened.lmdb.begin() as txn:
                signature, applied, floor = (txn.get(name) for name in (b"\x00meta", b"\x00applied", b"\x00floor"))
        finally:
            environment.release(opened)
        if not signature or not json.loads(signature).get("store"):
            return 0
        return max(int(_NUMBER.unpack(value)[0]) if value else 0 for value in (applied, floor))
    except (lmdb.Error, OSError, ValueError, AttributeError, struct.error):
        return 0


def _orphans(directory: Path) -> int:
    """Pending commands to episodes that none of the pending commands creates: they need the store that is gone."""
    if not (directory / "data.mdb").exists():
        return 0
    journal = Journal(directory)
    try:
        journal.open()
        commands = [command for _, command in journal.first()]
    except StorageUnavailableError:
        return 0
    finally:
        journal.close()
    created = {command.payload.get("episode", {}).get("episode_id") for command in commands}
    wanted = [command.payload["episode_id"] for command in commands if "episode_id" in command.payload]
    return sum(episode_id not in created for episode_id in wanted)


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except OSError:
        return False
