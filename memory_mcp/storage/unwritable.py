"""A database that cannot be written: how to find out, and how to read it all the same.

SQLite reads a database with a write-ahead log only together with the log's shared memory, which it makes where it is
missing. Where it cannot, and there is no log either (the last process has closed the store), the file alone is the
whole store, and `immutable=1` reads it without locks. Somebody may still write through another mount, so whoever
reads like that compares what it saw of the file before and after.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.storage.engine import StoreBusyError, StoreFailure

_REFUSALS = (errno.EROFS, errno.EACCES, errno.EPERM)
_READ_ONLY, _CANNOT_OPEN = 8, 14


@dataclass(frozen=True, slots=True)
class Sight:
    """What was seen of a database file without a log."""

    device: int
    inode: int
    size: int
    modified_ns: int


def sight(path: Path) -> Sight | None:
    """How the file lies there now; None where a log belongs to it, or it is missing."""
    try:
        log = _beside(path, "-wal").stat().st_size
    except FileNotFoundError:
        log = 0
    except OSError:
        return None
    try:
        seen = path.stat()
    except OSError:
        return None
    return None if log else Sight(seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns)


def look(path: Path, busy_seconds: float) -> Sight | None:
    """Find out how a database has to be read: None where SQLite reads it as usual; else it has to be `immutable`, and
    is whole as long as it looks as is told here.

    Raises:
        sqlite.Error: it cannot be read.
        StoreFailure: there is a log that cannot be read.
    """
    seen = sight(path)
    try:
        with closing(connect(path, busy_seconds)) as connection:
            connection.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchall()
    except sqlite.OperationalError as error:
        if _code(error) not in (_READ_ONLY, _CANNOT_OPEN):
            raise
        if seen is None and path.exists():
            raise StoreFailure(
                f"{path.name}-wal holds writes, which cannot be read without {path.name}-shm: {error}",
                hint="Make the directory writable once, or copy it to a place that is, and start again.",
            ) from error
        return seen
    return None


def connect(path: Path, busy_seconds: float, *, immutable: bool = False) -> Any:
    """A driver's connection that cannot write."""
    uri = f"file:{quote(str(path))}?mode=ro{'&immutable=1' if immutable else ''}"
    connection = sqlite.connect(uri, uri=True, timeout=busy_seconds, isolation_level=None)
    connection.execute("PRAGMA trusted_schema = OFF").fetchall()
    return connection


@contextmanager
def reading(path: Path, busy_seconds: float) -> Iterator[Any]:
    """A driver's connection that cannot write, in whatever way the file can be read.

    Raises:
        sqlite.Error, StoreFailure: it cannot be read.
        StoreBusyError: at the end, where somebody has written meanwhile and could not be seen.
    """
    seen = look(path, busy_seconds)
    with closing(connect(path, busy_seconds, immutable=seen is not None)) as connection:
        try:
            yield connection
        finally:
            if seen is not None and sight(path) != seen:
                # whatever was found, errors too, counts for nothing
                raise StoreBusyError(f"{path} was written to while it was read", hint="Repeat the command.")


def refusal(error: Exception, path: Path) -> str:
    """Why a database that could not be opened for writing can only be read; empty where that was not the cause."""
    if isinstance(error, OSError):
        return _told(error)
    if _code(error.__cause__) == _READ_ONLY:
        return hindrance(path) or str(error)
    # SQLite says no more than that something cannot be opened
    return hindrance(path) if _code(error.__cause__) == _CANNOT_OPEN else ""


def hindrance(path: Path) -> str:
    """Why a database cannot be written now; empty where nothing seems to be in the way. Harmless while it is open."""
    try:
        for lock in (path.with_suffix(".open"), path.with_suffix(".lock")):
            os.close(os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        return _told(error)
    return hindrance_to(path, _beside(path, "-wal"), _beside(path, "-shm"))


def hindrance_to(*files: Path) -> str:
    """Why files that belong together, in one directory, cannot be written or made now; empty where they can.

    They are only asked about: closing a descriptor of a file of SQLite or LMDB would end this process's locks on it.
    """
    present = [file for file in files if file.exists()]
    try:
        if len(present) < len(files):
            with tempfile.TemporaryFile(dir=files[0].parent):
                pass
        for file in present:
            if not os.access(file, os.W_OK, effective_ids=os.access in os.supports_effective_ids):
                number = errno.EROFS if _mounted_read_only(file) else errno.EACCES
                raise OSError(number, os.strerror(number), str(file))
    except OSError as error:
        return _told(error)
    return ""


def _mounted_read_only(file: Path) -> bool:
    return hasattr(os, "statvfs") and bool(os.statvfs(file).f_flag & os.ST_RDONLY)


def _told(error: OSError) -> str:
    return f"{error.strerror} ({Path(error.filename or '').name})" if error.errno in _REFUSALS else ""


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _code(error: BaseException | None) -> int:
    return (getattr(error, "sqlite_errorcode", None) or 0) & 0xFF
