"""Looking at a database file before it is opened for writing, so that what is not ours stays as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from memory_mcp.errors import StoreCorruptError
from memory_mcp.storage import unwritable
from memory_mcp.storage.session import Session

# above this many free pages and this share of them the file is rewritten
MIN_FREE_PAGES, MIN_FREE_SHARE = 4_096, 0.25

_MAGIC = b"SQLite format 3\x00"


def compact(session: Session) -> bool:
    """Rewrite the file: deleted words leave the index, free pages and what stood in them are gone.

    Returns whether the log could be emptied too.
    """
    session.run("INSERT INTO units_fts (units_fts) VALUES ('optimize')")
    session.run("VACUUM")
    return empty_log(session)


def empty_log(session: Session) -> bool:
    """Move the log into the file, and cut it to nothing; False when somebody still reads from it."""
    row = session.one("PRAGMA wal_checkpoint(TRUNCATE)")
    return row is not None and row[0] == 0


def wasteful(session: Session) -> bool:
    """Whether so much of the file is free that rewriting it pays."""
    free, pages = (session.one(f"PRAGMA {name}") for name in ("freelist_count", "page_count"))
    assert free is not None
    assert pages is not None
    return bool(free[0] >= MIN_FREE_PAGES and free[0] >= MIN_FREE_SHARE * pages[0])


@contextmanager
def reading(path: Path, busy_seconds: float) -> Iterator[Any]:
    """A connection that cannot write; None where there is no file yet, or an empty one.

    Raises:
        StoreCorruptError: the file is not a database, or its end is missing.
        OSError, sqlite.Error, StoreFailure, StoreBusyError: it cannot be read.
    """
    if not _check_header(path):
        yield None
        return
    with unwritable.reading(path, busy_seconds) as connection:
        yield connection


def _check_header(path: Path) -> bool:
    """Whether there is a database; fields as in sqlite.org/fileformat.html#the_database_header."""
    log = path.with_name(f"{path.name}-wal")
    # asked before and after, because somebody may be just moving pages from the log to the file
    had_log = _has_content(log)
    try:
        with path.open("rb") as file:
            header = file.read(100)
            size = file.seek(0, 2)
    except FileNotFoundError:
        return False
    if not header:
        return False
    if len(header) < 100 or not header.startswith(_MAGIC):
        raise StoreCorruptError(f"{path} is not a SQLite database")
    page_size = int.from_bytes(header[16:18])
    needed = int.from_bytes(header[28:32]) * (65_536 if page_size == 1 else page_size)
    count_is_valid = header[24:28] == header[92:96]
    if count_is_valid and size < needed and not had_log and not _has_content(log):
        raise StoreCorruptError(f"the end of {path} is missing: it has {size} of {needed} bytes")
    return True


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False
