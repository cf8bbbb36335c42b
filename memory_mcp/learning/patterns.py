"""The pattern book: all patterns of a namespace with their evidence, kept until something new was learned."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from memory_mcp.learning.evidence import Evidence, Judged, judge_counts
from memory_mcp.learning.tally import Known, Tally
from memory_mcp.learning.templates import error_name, words_of
from memory_mcp.learning.wording import describe_choice as describe_choice
from memory_mcp.learning.wording import sentence as sentence
from memory_mcp.records.base import Json
from memory_mcp.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# errors that share so many words, and so much of them, are the same error about something else
MIN_COMMON_WORDS = 3
MIN_WORDS_SHARED = 0.6
_BOOKS = 16
_TALLIES = 8


@dataclass(slots=True)
class Pattern:
    """A pattern with its evidence. `tried` and `resolved` count attempts of the advised step, inside episodes."""

    known: Known
    evidence: Evidence
    tried: int
    resolved: int

    @property
    def pattern_id(self) -> str:
        return self.known.pattern_id

    @property
    def kind(self) -> str:
        return self.known.kind

    @property
    def body(self) -> Json:
        return self.known.body

    @property
    def text(self) -> str:
        """The pattern as a sentence fragment."""
        return sentence(self.kind, self.body)

    @property
    def resolution(self) -> float:
        """Share of attempts that worked, shrunk towards one half (Laplace)."""
        return (self.resolved + 1) / (self.tried + 2)


class Book:
    """All patterns of a namespace at one moment. They are made one by one where they are asked for."""

    def __init__(self, tally: Tally, numbers: NDArray[np.int64], judged: Judged, attempts: NDArray[np.int64]) -> None:
        self.version = tally.version
        self._known, self._numbers, self._recoveries = tally.patterns, tally.numbers, tally.recoveries
        self._present = numbers
        self._judged = judged
        self._attempts = attempts

    def __len__(self) -> int:
        return len(self._present)

    def __iter__(self) -> Iterator[Pattern]:
        return (self._pattern(place) for place in range(len(self)))

    def some(self, pattern_ids: Iterable[str], *, proven: bool = False) -> list[Pattern]:
        """Patterns by their ids, as far as they are in the book; only those with a verdict if they must be proven."""
        numbers = [number for name in pattern_ids if (number := self._numbers.get(name)) is not None]
        return self._among(numbers, proven=proven)

    def pitfalls(self) -> list[Pattern]:
        """Pitfalls that are proven to go before failure."""
        places = (int(place) for place in (self._judged.verdicts == "hurts").nonzero()[0])
        return [self._pattern(at) for at in places if self._known[self._present[at]].kind == "pitfall"]

    def recoveries(self, group_id: str) -> list[Pattern]:
        """Ways out of an error that were tried by the group of those who met it."""
        return self._among(self._recoveries.get(group_id, []))

    def similar_recoveries(self, error: Json) -> list[Pattern]:
        """Ways out of errors of the same tool that have the same exception, or nearly the same words."""
        tool, exception, words = error["tool"], error_name(error["template"]), words_of(error["template"])
        return self._among(
            [
                number
                for numbers in list(self._recoveries.values())
                for number in numbers
                if self._known[number].body["error"]["tool"] == tool
                and (
                    (exception and self._known[number].error_kind == (tool, exception))
                    or _alike(words, self._known[number].error_words)
                )
            ]
        )

    def _among(self, numbers: list[int], *, proven: bool = False) -> list[Pattern]:
        places = self._present.searchsorted(numbers).tolist()
        return [
            self._pattern(place)
            for place, number in zip(places, numbers, strict=True)
            if place < len(self)
            and self._present[place] == number
            and not (proven and self._judged.verdicts[place] == "unproven")
        ]

    def _pattern(self, place: int) -> Pattern:
        tried, resolved = (int(count) for count in self._attempts[:, place])
        return Pattern(self._known[self._present[place]], self._judged[place], tried, resolved)


def _alike(words: frozenset[str], others: frozenset[str]) -> bool:
    """Whether two errors say the same of something else, by their common words (Jaccard)."""
    common = len(words & others)
    return common >= MIN_COMMON_WORDS and common >= MIN_WORDS_SHARED * len(words | others)


class PatternBooks:
    """Books of the namespaces in use, renewed when the learning follower has moved on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._tallies: OrderedDict[str, Tally] = OrderedDict()
        self._books: OrderedDict[tuple[str, str, str], Book] = OrderedDict()
        self._loading = asyncio.Lock()
        store.on_replaced(self._forget)

    async def book(self, namespace: str, domain: str = "", task_type: str = "") -> Book:
        """The patterns of a namespace; with a domain or task type, evidence from those episodes only.

        Raises:
            StorageUnavailableError: the store is out of order and no book has been read before.
        """
        key = (namespace, domain, task_type)
        async with self._loading:
            books = self._books
            known = books.get(key)
            if known is not None and self._store.store_breaker.state != "closed":
                return known
            tally = await self._tally(namespace)
            if self._books is not books:
                books, known = self._books, None
            if known is None or known.version != tally.version:
                known = await asyncio.to_thread(compile_book, tally, domain, task_type)
            _keep(books, key, known, _BOOKS)
            return known

    def _forget(self) -> None:
        # new ones, because a reader may be about to add to the old ones
        self._tallies, self._books = OrderedDict(), OrderedDict()

    async def _tally(self, namespace: str) -> Tally:
        tallies = self._tallies
        tally = tallies.get(namespace) or Tally()
        change = await self._store.read(lambda session: tally.changes(session, namespace))
        if self._tallies is not tallies:
            # the change was counted from what another store had learned
            return await self._tally(namespace)
        if change is not None:
            if change.whole:
                tally = Tally()
            await asyncio.to_thread(tally.take, change)
        _keep(tallies, namespace, tally, _TALLIES)
        return tally


def compile_book(tally: Tally, domain: str = "", task_type: str = "") -> Book:
    """A book from counts: the same whatever the order in which the episodes came."""
    from memory_mcp.numerics import np

    counts, attempts = tally.table(domain, task_type)
    numbers, counts[0] = np.unique(counts[0], return_inverse=True)
    sums = np.array([np.bincount(counts[0], column, len(numbers)) for column in attempts])
    return Book(tally, numbers, judge_counts(len(numbers), counts), sums)


def _keep(kept: OrderedDict[Any, Any], key: Any, value: Any, limit: int) -> None:
    """Keep a value as the one used last; what was used longest ago goes."""
    kept[key] = value
    kept.move_to_end(key)
    if len(kept) > limit:
        kept.popitem(last=False)
