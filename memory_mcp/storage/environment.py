"""LMDB environments, opened once per process however many owners share them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

import lmdb


@dataclass(slots=True)
class _Shared:
    environment: lmdb.Environment
    owners: int = 1


# by device and inode: a file that was deleted and made anew is another environment
_open: dict[tuple[int, int], _Shared] = {}
_guard = threading.Lock()


def acquire(directory: Path, *, map_size: int, sync: bool) -> lmdb.Environment:
    """Open an environment, or share the one that this process has open already (LMDB forbids a second opening).

    Raises:
        lmdb.Error, OSError: it cannot be opened; lmdb.CorruptedError also where the file is shorter than it says.
    """
    with _guard:
        shared = _open.get(file_identity(directory))
        if shared is not None:
            shared.owners += 1
            return shared.environment
        directory.mkdir(parents=True, exist_ok=True)
        environment = lmdb.open(
            str(directory), map_size=map_size, sync=sync, metasync=sync, max_readers=1024, max_dbs=0, mode=0o600
        )
        try:
            info = environment.info()
            needed = (info["last_pgno"] + 1) * environment.stat()["psize"]
            # reading a page behind the end of a mapped file kills the process (SIGBUS)
            if info["last_txnid"] and (directory / "data.mdb").stat().st_size < needed:
                raise lmdb.CorruptedError(f"{directory / 'data.mdb'} is shorter than its own header says")
            environment.reader_check()
        except BaseException:
            environment.close()
            raise
        _open[file_identity(directory)] = _Shared(environment)
        return environment


def release(environment: lmdb.Environment) -> None:
    """Give an environment back; the last owner closes it."""
    with _guard:
        for identity, shared in list(_open.items()):
            if shared.environment is environment:
                shared.owners -= 1
                if shared.owners == 0:
                    del _open[identity]
                    environment.close()
                return


def file_identity(directory: Path) -> tuple[int, int]:
    """Device and inode of an environment's data file; zeros where there is none."""
    try:
        stat = (directory / "data.mdb").stat()
    except OSError:
        return (0, 0)
    return (stat.st_dev, stat.st_ino)
