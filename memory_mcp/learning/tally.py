"""The counts of a namespace's patterns, in memory, kept level with the store by what has changed since."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from memory_mcp.learning.templates import error_name, words_of
from memory_mcp.records.base import Json
from memory_mcp.storage import pattern_queries, queries
from memory_mcp.storage.learned import LEARNING
from memory_mcp.storage.pattern_queries import GroupCounts, Scope
from memory_mcp.storage.session import Row, Session

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# from this many episodes or patterns on, reading everything is cheaper
_MOST_EPISODES = 256
_MOST_PATTERNS = 4_000
# names of exceptions that say nothing about the kind of an error
_NO_KIND = frozenset({"RuntimeError", "AssertionError"})


@dataclass
class Known:
    """A pattern, whatever its counts, and the domains in which it was seen."""

    pattern_id: str
    kind: str
    group_id: str
    text: str
    domains: set[str] = field(default_factory=set)

    @cached_property
    def body(self) -> Json:
        body: Json = json.loads(self.text)
        return body

    @cached_property
    def error_kind(self) -> tuple[str, str]:
        """Of a way out: the tool that failed and the name of its exception, empty where that says nothing."""
        error = self.body["error"]
        name = error_name(error["template"])
        return error["tool"], "" if name in _NO_KIND else name

    @cached_property
    def error_words(self) -> frozenset[str]:
        """Of a way out: the words of the error that it was tried on."""
        return words_of(self.body["error"]["template"])


@dataclass(slots=True)
class Change:
    """What the store has counted anew. `whole` says that it is everything, not only what has changed."""

    cursor: int
    learned: int
    whole: bool = False
    rows: list[Row] = field(default_factory=list)
    groups: GroupCounts = field(default_factory=dict)


class Tally:
    """Counts by pattern and scope, in columns. A cell holds the counts of a contrast group in a scope.

    A pattern keeps its number; books of an earlier moment go on reading what was known then.
    """

    def __init__(self) -> None:
        self.version = 0
        self.patterns: list[Known] = []
        self.numbers: dict[str, int] = {}
        # ways out of an error, by the group of those who met it
        self.recoveries: dict[str, list[int]] = {}
        self._cursor = -1
        self._learned = -1
        self._scopes: dict[Scope, int] = {}
        self._cells: dict[tuple[str, int], int] = {}
        self._cell_counts = (array("q"), array("q"))
        self._lines: dict[tuple[int, int], int] = {}
        # pattern, scope, cell, successes, failures, tried, resolved
        self._columns = tuple(array("q") for _ in range(7))

    def changes(self, session: Session, namespace: str) -> Change | None:
        """What has changed in the store since the last change taken; None if nothing was learned at all."""
        learned_until = pattern_queries.last_change(session)
        cursor = max(queries.cursor(session, LEARNING), learned_until)
        if cursor == self._cursor:
            return None
        change = Change(cursor, learned_until)
        changed: list[str] | None = None
        if self._learned >= 0:
            learned = pattern_queries.learned_since(session, namespace, self._learned, _MOST_EPISODES)
            if learned == []:
                return change
            changed = sorted({pattern_id for ids in learned or () for pattern_id in ids})
            if learned is None or len(changed) > _MOST_PATTERNS:
                changed = None
        change.whole = changed is None
        change.rows = pattern_queries.pattern_counts(session, namespace, changed)
        change.groups = pattern_queries.group_counts(session, namespace, changed)
        return change

    def take(self, change: Change) -> None:
        """Replace the counts that have changed."""
        self._cursor, self._learned = change.cursor, change.learned
        if change.groups or change.whole:
            self.version = change.learned
        for group_id, by_scope in change.groups.items():
            for scope, totals in by_scope.items():
                self._set_cell(group_id, self._scope(scope), *totals)
        for pattern_id, kind, group_id, text, domain, task_type, *counts in change.rows:
            number = self.numbers.get(pattern_id)
            if number is None:
                number = len(self.patterns)
                self.patterns.append(Known(pattern_id, kind, group_id, text))
                self.numbers[pattern_id] = number
                if kind == "error_recovery":
                    self.recoveries.setdefault(group_id, []).append(number)
            self.patterns[number].domains.add(domain)
            place = self._scope((domain, task_type))
            self._set_line(number, place, self._cells[group_id, place], counts)

    def table(self, domain: str, task_type: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """`(counts, attempts)` of the scopes asked for, by pattern and scope: as `judge_counts` takes them, and
        `tried` and `resolved`. Empty names ask for every domain or task type."""
        from memory_mcp.numerics import np

        names = sorted(self._scopes)
        # scopes in the order of their names: sums of fractions come out the same whatever was counted first
        rank = np.zeros(len(names), np.int64)
        rank[[self._scopes[name] for name in names]] = np.arange(len(names))
        wanted = np.zeros(len(names), np.bool_)
        for scope, place in self._scopes.items():
            wanted[place] = (not domain or scope[0] == domain) and (not task_type or scope[1] == task_type)
        number, scopes, cells, *counts = (np.array(column, np.int64) for column in self._columns)
        chosen = np.flatnonzero(wanted[scopes])
        chosen = chosen[np.lexsort((rank[scopes[chosen]], number[chosen]))]
        group = [np.array(column, np.int64)[cells[chosen]] for column in self._cell_counts]
        successes, failures, tried, resolved = (column[chosen] for column in counts)
        return np.array([number[chosen], successes, failures, *group]), np.array([tried, resolved])

    def _scope(self, scope: Scope) -> int:
        return self._scopes.setdefault(scope, len(self._scopes))

    def _set_cell(self, group_id: str, scope: int, successes: int, failures: int) -> None:
        cell = self._cells.setdefault((group_id, scope), len(self._cells))
        _put(self._cell_counts, cell, (successes, failures))

    def _set_line(self, number: int, scope: int, cell: int, counts: list[int]) -> None:
        line = self._lines.setdefault((number, scope), len(self._lines))
        _put(self._columns, line, (number, scope, cell, *counts))


def _put(columns: tuple[array[int], ...], line: int, values: Iterable[int]) -> None:
    for column, value in zip(columns, values, strict=True):
        if line == len(column):
            column.append(value)
        else:
            column[line] = value
