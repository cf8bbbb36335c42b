"""The pattern book: all patterns of a namespace with their evidence, kept until something new was learned."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from memory_mcp.learning.evidence import Evidence, Stratum, judge
from memory_mcp.learning.templates import error_name
from memory_mcp.records.base import Json
from memory_mcp.storage import pattern_queries, queries
from memory_mcp.storage.learned import LEARNING
from memory_mcp.storage.session import Row, Session
from memory_mcp.storage.store import Store

_BOOKS = 16

Scope = tuple[str, str]
Groups = dict[str, dict[Scope, tuple[int, int, int, int]]]


@dataclass(slots=True)
class Pattern:
    """A pattern with its evidence. `tried` and `resolved` count attempts of the advised step, inside episodes."""

    pattern_id: str
    kind: str
    group_id: str
    body: Json
    first_at: int
    last_at: int
    evidence: Evidence
    tried: int
    resolved: int
    scopes: frozenset[Scope]

    @property
    def text(self) -> str:
        """The pattern as a sentence fragment."""
        return sentence(self.kind, self.body)

    @property
    def resolution(self) -> float:
        """Share of attempts that worked, shrunk towards one half (Laplace)."""
        return (self.resolved + 1) / (self.tried + 2)


@dataclass(slots=True)
class Book:
    """All patterns of a namespace at one moment."""

    position: int
    patterns: dict[str, Pattern] = field(default_factory=dict)
    by_group: dict[str, list[Pattern]] = field(default_factory=dict)
    by_error: dict[tuple[str, str], list[Pattern]] = field(default_factory=dict)

    def add(self, pattern: Pattern) -> None:
        self.patterns[pattern.pattern_id] = pattern
        self.by_group.setdefault(pattern.group_id, []).append(pattern)
        if pattern.kind == "error_recovery":
            error = pattern.body["error"]
            self.by_error.setdefault((error["tool"], error_name(error["template"])), []).append(pattern)


@dataclass(slots=True)
class _Raw:
    kind: str
    group_id: str
    body: str
    first_at: int
    last_at: int
    counts: dict[Scope, tuple[int, int]] = field(default_factory=dict)
    tried: int = 0
    resolved: int = 0


class PatternBooks:
    """Books of the namespaces in use, renewed when the learning follower has moved on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._books: OrderedDict[tuple[str, str, str], Book] = OrderedDict()
        self._loading = asyncio.Lock()

    async def book(self, namespace: str, domain: str = "", task_type: str = "") -> Book:
        """The patterns of a namespace; with a domain or task type, evidence from those episodes only.

        Raises:
            StorageUnavailableError: the store is out of order and no book has been read before.
        """
        key = (namespace, domain, task_type)
        async with self._loading:
            known = self._books.get(key)
            if known is not None and self._store.store_breaker.state != "closed":
                return known
            position = await self._store.read(lambda session: queries.cursor(session, LEARNING))
            if known is None or known.position != position:
                rows, groups = await self._store.read(lambda session: _load(session, namespace))
                known = await asyncio.to_thread(compile_book, rows, groups, position, domain, task_type)
                self._books[key] = known
                if len(self._books) > _BOOKS:
                    self._books.popitem(last=False)
            self._books.move_to_end(key)
            return known


def compile_book(rows: list[Row], groups: Groups, position: int, domain: str = "", task_type: str = "") -> Book:
    """A book from the counts in the store: the same whatever the order in which the episodes came."""

    def wanted(scope: Scope) -> bool:
        return (not domain or scope[0] == domain) and (not task_type or scope[1] == task_type)

    raw: dict[str, _Raw] = {}
    for pattern_id, kind, group_id, body, first_at, last_at, *rest in rows:
        scope, (successes, failures, tried, resolved) = (rest[0], rest[1]), rest[2:]
        if not wanted(scope):
            continue
        entry = raw.setdefault(pattern_id, _Raw(kind, group_id, body, first_at, last_at))
        entry.counts[scope] = (successes, failures)
        entry.tried += tried
        entry.resolved += resolved
    ids = sorted(raw)
    strata = [
        [
            Stratum(successes, failures, *groups[raw[pattern_id].group_id][scope][:2])
            for scope, (successes, failures) in sorted(raw[pattern_id].counts.items())
        ]
        for pattern_id in ids
    ]
    book = Book(position)
    for pattern_id, evidence in zip(ids, judge(strata), strict=True):
        entry = raw[pattern_id]
        book.add(
            Pattern(
                pattern_id=pattern_id,
                kind=entry.kind,
                group_id=entry.group_id,
                body=json.loads(entry.body),
                first_at=entry.first_at,
                last_at=entry.last_at,
                evidence=evidence,
                tried=entry.tried,
                resolved=entry.resolved,
                scopes=frozenset(entry.counts),
            )
        )
    return book


def sentence(kind: str, body: Json) -> str:
    """A pattern in words; tools and values are quoted as they are."""
    if kind == "tool_sequence":
        return " → ".join(body["tools"])
    if kind == "decision_point":
        situation = body["situation"]
        where = f"after {situation['after']}" if situation["after"] else "at the start"
        return f"{where}: {describe_choice(body['choice'])}"
    if kind == "error_recovery":
        error = body["error"]
        return f"{error['tool']} fails with “{error['template']}”: {describe_choice(body['recovery'])}"
    if kind == "context_pattern":
        name, value = next(iter(body["context"].items()))
        where = f"with {name.replace('_', ' ')} {value}"
        return f"{where}: {body['tool']}" if "tool" in body else where
    if "error" in body:
        return f"{body['error']['tool']} fails with “{body['error']['template']}”"
    if "repeats" in body:
        return f"{body['repeats']} called three times or more with the same arguments"
    return f"{body['retries_unchanged']} tried again unchanged after it failed"


def describe_choice(choice: Json) -> str:
    """A step to take, in words."""
    parameters = choice.get("parameters", {})
    inside = ", ".join(f"{name}={_value(value)}" for name, value in parameters.items())
    return f"{choice['tool']}({inside})" if inside else str(choice["tool"])


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _load(session: Session, namespace: str) -> tuple[list[Row], Groups]:
    return pattern_queries.pattern_counts(session, namespace), pattern_queries.group_counts(session, namespace)
