"""LMDB environments, opened once per process however many owners share them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import lmdb

_PATIENCE = 1.0


@dataclass(slots=True, eq=False)
class Environment:
    """An open environment.

    `writing` is held by whoever writes and `mapped` by whoever reads, so that nobody replaces the map or takes it away
    under them, which LMDB forbids. Where both are needed, `writing` comes first.
    """

    lmdb: lmdb.Environment
    file: tuple[int, int]
    owners: int = 1
    writing: threading.Lock = field(default_factory=threading.Lock)
    mapped: threading.Lock = field(default_factory=threading.Lock)

    def resize(self, map_size: int) -> None:
        """Give the map another size; 0: the size that another process has given it.

        Raises:
            lmdb.LockError: a write does not end.
        """
        with self._alone():
            self.lmdb.set_mapsize(map_size)

    def close(self) -> None:
        """Close it for all owners.

        Raises:
            lmdb.LockError: a write does not end.
        """
        with self._alone():
            self.lmdb.close()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self.writing.acquire(timeout=_PATIENCE):
            raise lmdb.LockError("a write does not end")
        try:
            with self.mapped:
                yield
        finally:
            self.writing.release()


# by device and inode: a file that was deleted and made anew is another environment
_open: dict[tuple[int, int], Environment] = {}
_guard = threading.Lock()


def acquire(directory: Path, *, map_size: int, sync: bool) -> Environment:
    """Open an environment, or share the one that this process has open already (LMDB forbids a second opening).

    Raises:
        lmdb.Error, OSError: it cannot be opened; lmdb.CorruptedError also where the file is shorter than it says.
    """
    with _guard:
        shared = _open.get(identify(directory))
        if shared is not None:
            shared.owners += 1
            return shared
        directory.mkdir(parents=True, exist_ok=True)
        opened = lmdb.open(
            str(directory), map_size=map_size, sync=sync, metasync=sync, max_readers=1024, max_dbs=0, mode=0o600
        )
        try:
            environment = Environment(opened, _check(directory, opened))
        except BaseException:
            opened.close()
            raise
        _open[environment.file] = environment
        return environment


def release(environment: Environment) -> None:
    """Give an environment back; the last owner closes it.

    Raises:
        lmdb.LockError: a write does not end; the environment is still open and owned.
    """
    with _guard:
        if environment.owners == 1:
            environment.close()
            _open.pop(environment.file, None)
        environment.owners -= 1


def identify(directory: Path) -> tuple[int, int]:
    """Device and inode of an environment's data file; zeros where there is none."""
    try:
        stat = (directory / "data.mdb").stat()
    except OSError:
        return (0, 0)
    return (stat.st_dev, stat.st_ino)


def _check(directory: Path, opened: lmdb.Environment) -> tuple[int, int]:
    stat = (directory / "data.mdb").stat()
    info = opened.info()
    # reading a page behind the end of a mapped file kills the process (SIGBUS)
    if info["last_txnid"] and stat.st_size < (info["last_pgno"] + 1) * opened.stat()["psize"]:
        raise lmdb.CorruptedError(f"{directory / 'data.mdb'} is shorter than its own header says")
    opened.reader_check()
    return (stat.st_dev, stat.st_ino)
