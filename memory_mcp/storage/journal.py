"""The pending journal: where writes wait, durably and in order, while the store is out of order."""

from __future__ import annotations

import struct
from pathlib import Path

import lmdb

from memory_mcp.errors import StorageUnavailableError
from memory_mcp.records.ledger import Command
from memory_mcp.storage import environment
from memory_mcp.storage.filelock import FileLock

_SEQUENCE = struct.Struct(">Q")


class Journal:
    """Commands in an LMDB environment of their own, synced to disk before `append` returns.

    Several processes may append; `FileLock` lets one at a time replay.
    """

    def __init__(self, directory: Path, *, map_size: int = 1 << 30) -> None:
        self.directory = directory
        self._map_size = map_size
        self._environment: lmdb.Environment | None = None
        self.replay_lock: FileLock | None = None

    def open(self) -> None:
        """Open it.

        Raises:
            StorageUnavailableError: its files cannot be opened or are damaged. They are never deleted here, because
                they may hold writes that were acknowledged.
        """
        try:
            self._environment = environment.acquire(self.directory, map_size=self._map_size, sync=True)
            self.replay_lock = FileLock(self.directory / "replay.lock")
        except (lmdb.Error, OSError) as error:
            raise StorageUnavailableError(f"cannot open the pending journal in {self.directory}: {error}") from error

    def close(self) -> None:
        if self.replay_lock is not None:
            self.replay_lock.close()
            self.replay_lock = None
        if self._environment is not None:
            environment.release(self._environment)
            self._environment = None

    def append(self, command: Command) -> int:
        """Add a command behind all others; returns its sequence number once it is on disk."""
        try:
            with self._env.begin(write=True) as txn:
                with txn.cursor() as cursor:
                    sequence = _SEQUENCE.unpack(cursor.key())[0] + 1 if cursor.last() else 1
                txn.put(_SEQUENCE.pack(sequence), command.to_json())
        except lmdb.Error as error:
            raise StorageUnavailableError(f"the store is out of order and the pending journal too: {error}") from error
        return int(sequence)

    def first(self, limit: int = 10_000) -> list[tuple[int, Command]]:
        """The oldest commands with their sequence numbers."""
        found: list[tuple[int, Command]] = []
        try:
            with self._env.begin() as txn, txn.cursor() as cursor:
                if cursor.first():
                    for name, value in cursor:
                        found.append((_SEQUENCE.unpack(name)[0], Command.from_json(value)))
                        if len(found) >= limit:
                            break
        except lmdb.Error as error:
            raise StorageUnavailableError(f"cannot read the pending journal: {error}") from error
        return found

    def remove(self, sequence: int) -> None:
        """Drop a command that the store has taken."""
        try:
            with self._env.begin(write=True) as txn:
                txn.delete(_SEQUENCE.pack(sequence))
        except lmdb.Error as error:
            raise StorageUnavailableError(f"cannot write the pending journal: {error}") from error

    def __len__(self) -> int:
        try:
            return int(self._env.stat()["entries"])
        except lmdb.Error as error:
            raise StorageUnavailableError(f"cannot read the pending journal: {error}") from error

    @property
    def _env(self) -> lmdb.Environment:
        if self._environment is None:
            raise StorageUnavailableError("the pending journal is not open")
        return self._environment
