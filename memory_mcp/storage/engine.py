"""What the rest of the program expects of a source of truth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from memory_mcp.errors import StorageError, StorageUnavailableError, StoreCorruptError
from memory_mcp.records.ledger import Command, Written
from memory_mcp.storage.session import Session

T = TypeVar("T")


class StoreFailure(StorageError):
    """The database itself failed (I/O, full disk), as opposed to a command that was refused."""


class StoreMovedError(StoreFailure):
    """The database file was deleted or replaced while it was open: what is written to it would be lost."""


class StoreBusyError(StorageError):
    """Another process held the database for longer than a call waits. Waiting again would only double the wait."""


class StoreReadOnlyError(StorageUnavailableError):
    """The store can be read and not written. That is known beforehand, and no sign of anything failing."""

    default_hint = (
        "The data directory is read-only: mount it writable, or give this user permission to write there. Reading goes"
        " on, and writing too as soon as it is possible. Nothing was written, so the call can be repeated."
    )


STORE_FAILURES = (StoreFailure, StoreBusyError, StoreCorruptError)


class Engine(Protocol):
    """A database that carries out commands and answers questions."""

    name: str
    # as the last unit of work found it: another one means that the content was replaced by that of another store
    store_id: str
    # why it can only be read; empty where it can be written
    read_only: str

    async def open(self) -> None:
        """Open it, creating or migrating the schema."""
        ...

    def writable_again(self) -> bool:
        """Whether it was opened to be read only, and could be opened for writing now."""
        ...

    async def close(self) -> None:
        """Finish what is under way and close."""
        ...

    async def read(self, work: Callable[[Session], T]) -> T:
        """Run a unit of reading work against one consistent snapshot."""
        ...

    async def write(self, command: Command, *, replayed: bool = False) -> Written:
        """Carry out a command; returns when it is durable."""
        ...

    async def compact(self) -> bool:
        """Give free pages back, and leave nothing of what was erased; False when a part of that was hindered."""
        ...

    def wasteful(self, session: Session) -> bool:
        """Whether so much of the database is free that `compact` pays."""
        ...

    async def empty_log(self) -> bool:
        """Empty the write-ahead log; False when somebody still reads from it."""
        ...

    async def data_version(self) -> int:
        """A number that changes when somebody else has committed."""
        ...
