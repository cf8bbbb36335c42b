"""Backups by the clock: one process makes them, and the newest backup itself says when the next one is due."""

from __future__ import annotations

import asyncio
from pathlib import Path

from memory_mcp.clock import Clock, iso
from memory_mcp.errors import BackupError
from memory_mcp.records.base import Json
from memory_mcp.storage import backup, backup_files, queries
from memory_mcp.storage.backup_files import DATABASE, RETAINED_BY_NUMBER, Backup
from memory_mcp.storage.filelock import Presence
from memory_mcp.storage.store import Store

_HOUR = 3_600_000_000
# a full disk does not get better by the second
_PAUSE_AFTER_FAILURE = 300.0


class ScheduledBackups:
    """A follower that makes a backup when the newest one is old enough and something was written since.

    What it needs to know lies in the directory, so it goes on rightly after a restart and in another process. A lock
    that the kernel frees with its holder keeps two processes from doing the same.

    Args:
        hours: between two backups; 0: never.
        keep: how many stay, those made by hand included.
    """

    name = "backup"

    def __init__(self, store: Store, data_dir: Path, clock: Clock, *, hours: float, keep: int) -> None:
        self._store = store
        self._data_dir = data_dir
        self._place = backup.place_of(data_dir)
        self._clock = clock
        self._hours = hours
        self._keep = keep
        self._not_before = 0.0

    async def step(self) -> bool:
        """Make a backup if one is due; there is never more to do at once.

        Raises:
            BackupError: it could not be made.
            StorageUnavailableError: the store or the journal is out of order.
        """
        if not self._hours or self._store.read_only or self._clock.monotonic() < self._not_before:
            return False
        newest = await asyncio.to_thread(self._newest)
        if not self._due(newest):
            return False
        position = await self._store.read(queries.head_position)
        if position == 0 or (newest is not None and self._holds(newest, position)):
            return False
        try:
            await asyncio.to_thread(self._make)
        except BaseException:
            self._not_before = self._clock.monotonic() + _PAUSE_AFTER_FAILURE
            raise
        return False

    def health(self) -> Json | None:
        """`{last_at, position, age_seconds, due}`; None where none is scheduled and none is there.

        Raises:
            OSError: the directory cannot be read.
        """
        newest = self._newest()
        if newest is None:
            return {"due": True} if self._hours else None
        age = max(0, self._clock.now() - newest.created_at)
        told = {"last_at": iso(newest.created_at), "position": newest.position, "age_seconds": age // 1_000_000}
        return {**told, "due": self._due(newest)}

    def _due(self, newest: Backup | None) -> bool:
        if not self._hours:
            return False
        # a clock that was put back must not stop the backups for as long
        return newest is None or not 0 <= self._clock.now() - newest.created_at < self._hours * _HOUR

    def _holds(self, newest: Backup, position: int) -> bool:
        return newest.position == position and newest.manifest["store_id"] == self._store.engine.store_id

    def _newest(self) -> Backup | None:
        made = (item for item in backup_files.scan(self._place).backups if item.reason in RETAINED_BY_NUMBER)
        return next(made, None)

    def _make(self) -> None:
        try:
            self._place.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = Presence(self._place / ".schedule.lock")
        except OSError as error:
            raise BackupError(f"backups cannot be kept in {self._place}: {error}") from error
        try:
            # whoever had it may just have made the backup
            if lock.alone(0.0) and self._due(self._newest()):
                waiting = backup.waiting_in(self._data_dir)
                database = self._data_dir / DATABASE
                # quick: walking the whole chain would keep the server's tools waiting
                backup.create(database, self._place, clock=self._clock, reason="scheduled", pending=waiting, quick=True)
                backup_files.retain(self._place, self._keep)
        finally:
            lock.close()
