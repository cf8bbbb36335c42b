"""What a unit of work sees of a database: plain SQL with `$1, $2, …`, the same on every engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Protocol

Row = tuple[Any, ...]


class Session(Protocol):
    """A database connection inside one unit of work. Units run on a database thread, so they block freely."""

    DatabaseError: type[Exception]

    def all(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a query."""
        ...

    def one(self, sql: str, *values: Any) -> Row | None:
        """The first row of a query, or None."""
        ...

    def each(self, sql: str, *values: Any) -> Iterator[Row]:
        """The rows of a query one by one, where all at once would be too many."""
        ...

    def run(self, sql: str, *values: Any) -> int:
        """Execute a statement; returns the number of rows it changed."""
        ...

    def many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Execute a statement once for every row of values."""
        ...


def placeholders(count: int, start: int = 1) -> str:
    """`$1, $2, …`: a list of `count` placeholders for an IN clause."""
    return ", ".join(f"${number}" for number in range(start, start + count))
