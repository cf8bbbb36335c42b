"""Opening and closing the connections of an engine, each on a thread of its own."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.storage.sqlite_session import Connection, SqliteSession, failure

Synchronous = Literal["FULL", "NORMAL"]

_log = logging.getLogger(__name__)


async def opened(connector: Callable[[], Any]) -> Connection:
    """A connection on a new thread, which calls `connector` first.

    Raises:
        StoreFailure, StoreBusyError, StoreCorruptError: it could not be opened.
    """
    connection = Connection(connector, iter_chunk_size=64)
    try:
        await connection
    except sqlite.Error as error:
        raise failure(error) from error
    return connection


async def closed(connection: Connection) -> None:
    """Close a connection, once the work under way has ended."""
    try:
        await connection.close()
    except (sqlite.Error, ValueError) as error:
        _log.warning("a connection did not close: %s", error)


def to_write(path: Path, busy_seconds: float, synchronous: Synchronous) -> Any:
    """A driver's connection that may write."""
    connection = sqlite.connect(str(path), timeout=busy_seconds, isolation_level=None)
    for pragma in (
        f"synchronous = {synchronous}",
        "foreign_keys = ON",
        "trusted_schema = OFF",
        "cache_size = -8000",
        "journal_size_limit = 67108864",
    ):
        connection.execute(f"PRAGMA {pragma}").fetchall()
    return connection


def only_read(session: SqliteSession) -> None:
    """Make a connection one that never writes."""
    session.run("PRAGMA query_only = ON")
    # a search over 10,000 episodes looks at more pages than the writer ever keeps (measured: a tenth faster)
    session.run("PRAGMA cache_size = -32000")


def identity(path: Path) -> tuple[int, int]:
    """Device and inode of a file; zeros where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0)
    return (stat.st_dev, stat.st_ino)
