"""The pending journal: where writes wait, durably and in order, while the store is out of order."""

from __future__ import annotations

import logging
import shutil
import struct
import tempfile
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

import lmdb

from memory_mcp.errors import StorageUnavailableError
from memory_mcp.records.ledger import Command
from memory_mcp.storage import environment
from memory_mcp.storage.environment import Environment
from memory_mcp.storage.filelock import FileLock

_DATA = "data.mdb"
_SEQUENCE = struct.Struct(">Q")
_PROBE = _SEQUENCE.pack(0)


_Stamp = tuple[int, int, int]
_ATTEMPTS = 3

_log = logging.getLogger(__name__)


class Journal:
    """Commands in an LMDB environment of their own, synced to disk before `append` returns.

    Several processes may append; `replay_lock` lets one at a time replay. All methods may raise
    `StorageUnavailableError`.
    """

    def __init__(self, directory: Path, *, map_size: int = 1 << 30) -> None:
        self.directory = directory
        self._map_size = map_size
        self._environment: Environment | None = None
        self._replay_lock: FileLock | None = None
        self._stranded: list[tuple[int, Command]] = []
        self._stranded_in: _Stamp | None = None

    def open(self) -> None:
        """Open it, if it is not open; make it anew, if it was taken away while it was.

        Files that are damaged are never deleted here, because they may hold writes that were acknowledged.
        """
        if self.is_open:
            if self._env.file != environment.identify(self.directory):
                self._put_back()
            return
        try:
            self._environment = environment.acquire(self.directory, map_size=self._map_size, sync=True)
            self._replay_lock = FileLock(self.directory / "replay.lock")
        except (lmdb.Error, OSError) as error:
            self.close()
            raise StorageUnavailableError(f"cannot open the pending journal in {self.directory}: {error}") from error

    def close(self) -> None:
        """Close it, once the writing under way has ended."""
        if self._replay_lock is not None:
            self._replay_lock.close()
            self._replay_lock = None
        if self._environment is not None:
            try:
                environment.release(self._environment)
            except lmdb.Error as error:
                raise StorageUnavailableError(f"cannot close the pending journal: {error}") from error
            self._environment = None

    @property
    def is_open(self) -> bool:
        return self._replay_lock is not None

    @property
    def replay_lock(self) -> FileLock:
        """Who holds it may replay."""
        if self._replay_lock is None:
            raise StorageUnavailableError("the pending journal is not open")
        return self._replay_lock

    def append(self, command: Command) -> int:
        """Add a command behind all others; returns its sequence number once it is on disk."""
        data = command.to_json()
        env = self._env
        try:
            with env.writing, env.lmdb.begin(write=True) as txn:
                # inside the transaction: from here on nobody takes it away
                self._check_in_place(env)
                with txn.cursor() as cursor:
                    sequence = _SEQUENCE.unpack(cursor.key())[0] + 1 if cursor.last() else 1
                txn.put(_SEQUENCE.pack(sequence), data)
        except lmdb.Error as error:
            raise StorageUnavailableError(f"the store is out of order and the pending journal too: {error}") from error
        return int(sequence)

    def first(self, limit: int = 0) -> list[tuple[int, Command]]:
        """The oldest commands with their sequence numbers; 0: all of them."""
        found: list[tuple[int, Command]] = []
        env = self._env
        try:
            with env.mapped, env.lmdb.begin() as txn, txn.cursor() as cursor:
                for name, value in cursor.iternext():
                    found.append((_SEQUENCE.unpack(name)[0], Command.from_json(value)))
                    if len(found) == limit:
                        break
        except (lmdb.Error, ValueError, TypeError, struct.error) as error:
            raise StorageUnavailableError(f"cannot read the pending journal: {error}") from error
        return found

    def stranded(self) -> list[tuple[int, Command]]:
        """The commands in a journal that cannot be opened here; none where they cannot be read either.

        Looked up anew when the file has changed.
        """
        stamp = _stamp(self.directory)
        if stamp != self._stranded_in:
            try:
                self._stranded = peek(self.directory)
            except StorageUnavailableError as error:
                _log.warning("%s", error)
                self._stranded = []
            self._stranded_in = stamp
        return self._stranded

    def remove(self, sequences: Iterable[int]) -> None:
        """Drop commands that the store has taken."""
        env = self._env
        try:
            with env.writing, env.lmdb.begin(write=True) as txn:
                for sequence in sequences:
                    txn.delete(_SEQUENCE.pack(sequence))
        except lmdb.Error as error:
            raise StorageUnavailableError(f"cannot write the pending journal: {error}") from error

    def renew(self) -> None:
        """Make an empty journal anew, so that its free pages hold nothing of commands carried out long ago.

        The directory is taken away as a whole while LMDB's lock is held; whoever appends later finds that inside
        its own transaction, and goes to the new one.
        """
        env = self._env
        old = self.directory.with_name(f".{self.directory.name}-{uuid4().hex[:8]}")
        try:
            with env.writing, env.lmdb.begin(write=True) as txn:
                self._check_in_place(env)
                if txn.stat()["entries"]:
                    return
                self.directory.rename(old)
            self.open()
            shutil.rmtree(old)
        except (lmdb.Error, OSError) as error:
            raise StorageUnavailableError(f"cannot make the pending journal anew: {error}") from error

    def probe(self) -> None:
        """Find out, by a real and synced write that leaves nothing, whether a command could be added."""
        env = self._env
        try:
            with env.writing, env.lmdb.begin(write=True) as txn:
                self._check_in_place(env)
                txn.put(_PROBE, b"")
                txn.delete(_PROBE)
        except lmdb.Error as error:
            raise StorageUnavailableError(f"cannot write the pending journal: {error}") from error

    def __len__(self) -> int:
        env = self._env
        if env.file != environment.identify(self.directory):
            # another process has made it anew, and writes to that one
            self.open()
            env = self._env
        try:
            with env.mapped:
                return int(env.lmdb.stat()["entries"])
        except lmdb.Error as error:
            raise StorageUnavailableError(f"cannot read the pending journal: {error}") from error

    def _check_in_place(self, env: Environment) -> None:
        """What is written to a file that somebody has deleted would be gone with this process."""
        if env.file != environment.identify(self.directory):
            raise StorageUnavailableError(f"the pending journal was taken away: {self.directory}")

    def _put_back(self) -> None:
        """Make a journal anew with all that this process still holds of the one that was taken away.

        Other processes do the same; a command that is there twice is carried out once, as its `write_id` tells.
        """
        waiting = self.first()
        taken, lock = self._env, self.replay_lock
        self._environment = self._replay_lock = None
        try:
            self.open()
            for _, command in waiting:
                self.append(command)
        except StorageUnavailableError:
            self.close()
            self._environment, self._replay_lock = taken, lock
            raise
        lock.close()
        environment.release(taken)

    @property
    def _env(self) -> Environment:
        if self._environment is None:
            raise StorageUnavailableError("the pending journal is not open")
        return self._environment


def commands_in(directory: Path) -> list[tuple[int, Command]]:
    """The commands of a journal that a command looks at, in whatever way they can be read.

    Raises:
        StorageUnavailableError: they cannot be read.
    """
    journal = Journal(directory)
    try:
        journal.open()
        return journal.first()
    except StorageUnavailableError as error:
        try:
            return peek(directory)
        except StorageUnavailableError:
            # what kept it from being opened says more
            raise error from None
    finally:
        journal.close()


def peek(directory: Path) -> list[tuple[int, Command]]:
    """The oldest commands first, with their sequence numbers, of a journal in a directory that cannot be written.

    LMDB would have to read without its lock, which others may hold through another mount: so a copy is read.

    Raises:
        StorageUnavailableError: they cannot be read.
    """
    if _stamp(directory) is None:
        return []
    try:
        with tempfile.TemporaryDirectory(prefix="memory-mcp-") as place:
            _copy_at_rest(directory, Path(place))
            copy = Journal(Path(place))
            copy.open()
            try:
                return copy.first()
            finally:
                copy.close()
    except OSError as error:
        raise StorageUnavailableError(f"cannot read the pending journal: {error}") from error


def _copy_at_rest(directory: Path, place: Path) -> None:
    for _ in range(_ATTEMPTS):
        before = _stamp(directory)
        shutil.copyfile(directory / _DATA, place / _DATA)
        if _stamp(directory) == before:
            return
    raise StorageUnavailableError("cannot read the pending journal: it is being written to")


def _stamp(directory: Path) -> _Stamp | None:
    """What changes with the data file; None where there is none."""
    try:
        found = (directory / _DATA).stat()
    except FileNotFoundError:
        return None
    except OSError:
        return (0, 0, 0)
    return (found.st_ino, found.st_size, found.st_mtime_ns)
