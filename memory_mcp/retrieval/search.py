"""Hybrid search for episodes and patterns: words and meaning, fused, then moved a little by what else is known."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from memory_mcp.clock import Clock
from memory_mcp.errors import StorageUnavailableError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import namespace_hash
from memory_mcp.retrieval import lexical
from memory_mcp.retrieval.lexical import Filter, LexicalHit
from memory_mcp.retrieval.ranking import Boosts, Credit, Place, boosts, fuse
from memory_mcp.retrieval.semantic import Semantic
from memory_mcp.retrieval.text import content_terms
from memory_mcp.retrieval.vectors import VectorIndex, best_rows
from memory_mcp.storage import queries
from memory_mcp.storage.session import Row, Session, placeholders
from memory_mcp.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vector = NDArray[np.float32]

Places = dict[str, Place]
Leg = Literal["hybrid", "lexical", "semantic", "cache"]

LEXICAL_CANDIDATES = 300
SEMANTIC_CANDIDATES = 200
# so many episodes are looked for on each leg before the search for more is given up
MIN_EPISODES = 50
_ALL_UNITS = 20_000
_PLACE = "episode_id, domain, task_type, outcome_type, started_at, ended_at"
# unrelated texts have a cosine similarity around 0.05; below this, and without a common word, nothing is found
MIN_SIMILARITY = 0.15
_SCANNED_WHEN_DEGRADED = 2_000


@dataclass(frozen=True, slots=True)
class Query:
    """A question. `domain` and `task_type` pull; `where` excludes."""

    text: str
    namespace: str
    domain: str = ""
    task_type: str = ""
    where: Filter = field(default_factory=Filter)
    limit: int = 10
    exclude: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Hit:
    """An episode that answers a question. `relevance` is fused and relative to the best candidate; `similarity` is
    the cosine of the better of its vectors, comparable between questions."""

    episode_id: str
    header: Json
    score: float
    relevance: float
    lexical: float
    semantic: float
    similarity: float | None
    boosts: Boosts
    matched_steps: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Found:
    """What a search brought. `patterns` are ids of patterns whose own words matched."""

    hits: list[Hit]
    patterns: list[str]
    leg: Leg
    terms: list[str]
    degraded: bool = False


class Search:
    """Searches one store."""

    def __init__(self, store: Store, semantic: Semantic, clock: Clock) -> None:
        self._store = store
        self._semantic = semantic
        self._clock = clock

    async def find(self, query: Query) -> Found:
        """The best episodes for a question, best first.

        Raises:
            StorageUnavailableError: the store is out of order and the cache too.
        """
        # the model and the database each have a core to themselves
        meaning = asyncio.create_task(self._semantic.query_vector(query.text))
        index = self._semantic.index
        try:
            # vectors that another process has stored come along in the same hop
            words, places, fresh = await self._store.read(
                lambda session: (*_words(session, query), index.refresh(session) if index is not None else None)
            )
            vector = await meaning
        except StorageUnavailableError:
            return self._without_store(query, await meaning)
        finally:
            meaning.cancel()
        scores = None
        if index is not None and fresh is not None:
            index.extend(fresh)
            scores = _similarities(index, query, vector)
        hits = await self._store.read(lambda session: self._ranked(session, query, words, places, index, scores))
        leg: Leg = "lexical" if vector is None else "hybrid" if words else "semantic"
        patterns = [hit.subject_id for hit in words if hit.kind == "pattern"]
        return Found(hits, patterns, leg, content_terms(query.text), self._store.degraded)

    def _ranked(
        self,
        session: Session,
        query: Query,
        words: list[LexicalHit],
        places: Places,
        index: VectorIndex | None,
        scores: Vector | None,
    ) -> list[Hit]:
        """The best episodes by both legs; `places` are those that the words have found."""
        worded = {name: score for name, score in lexical.by_episode(words).items() if name in places}
        similar: dict[str, float] = {}
        if scores is not None and index is not None:
            places = places | _nearest(session, query, index, scores)
            similar = index.best_of(scores, places)
        fused = fuse(worded, similar)
        credits = _credits(session, query.namespace, list(fused))
        now = self._clock.now()
        moves = {
            name: boosts(places[name], query.domain, query.task_type, credits.get(name), now)
            for name in fused
            if name in worded or similar[name] >= MIN_SIMILARITY
        }
        best = sorted(moves, key=lambda name: (-fused[name][0] - moves[name].total, name))[: query.limit]
        headers = queries.headers(session, query.namespace, best)
        steps = _matched_steps(words)
        hits = []
        for name in best:
            if name not in headers:
                # forgotten since it was found, or the store was replaced
                continue
            relevance, from_words, from_meaning = fused[name]
            hits.append(
                Hit(
                    episode_id=name,
                    header=headers[name],
                    score=relevance + moves[name].total,
                    relevance=relevance,
                    lexical=from_words,
                    semantic=from_meaning,
                    similarity=similar.get(name),
                    boosts=moves[name],
                    matched_steps=steps.get(name, ()),
                )
            )
        return hits

    def _without_store(self, query: Query, vector: Vector | None) -> Found:
        """Search the cached headers: by meaning where vectors are at hand, by shared words where not."""
        headers = self._store.from_cache(
            lambda: self._store.cache.scan_headers(query.namespace, _SCANNED_WHEN_DEGRADED)
        )
        if headers is None:
            raise StorageUnavailableError("the store and the cache are both out of order")
        known = {
            header["episode_id"]: header
            for header in headers
            if header["episode_id"] not in query.exclude and query.where.allows(header)
        }
        index = self._semantic.index
        scores = _similarities(index, query, vector)
        similar = {} if scores is None or index is None else index.best_of(scores, known)
        wanted = set(content_terms(query.text))
        shared: dict[str, float] = {}
        for name, header in known.items():
            overlap = len(wanted & set(content_terms(header["task_description"])))
            if overlap:
                shared[name] = float(overlap)
        none = Boosts()
        hits = [
            Hit(name, known[name], score, score, words, meaning, similar.get(name), none)
            for name, (score, words, meaning) in fuse(shared, similar).items()
            if name in shared or similar[name] >= MIN_SIMILARITY
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.episode_id))
        return Found(hits[: query.limit], [], "cache", sorted(wanted), degraded=True)


def _similarities(index: VectorIndex | None, query: Query, vector: Vector | None) -> Vector | None:
    if vector is None or index is None or not len(index):
        return None
    return index.similarities(vector, namespace_hash(query.namespace))


def _words(session: Session, query: Query) -> tuple[list[LexicalHit], Places]:
    """The best units by words, and their episodes, as far as they pass the filter."""
    terms = lexical.deciding_terms(session, query.text)
    hits = lexical.search(session, query.namespace, terms, LEXICAL_CANDIDATES)
    places = _places(session, query, _episodes(hits))
    if len(hits) < LEXICAL_CANDIDATES or len(places) >= MIN_EPISODES:
        return hits, places
    # others may stand behind the many units of a long episode, or behind those that the filter excludes
    hits = lexical.search(session, query.namespace, terms, _ALL_UNITS)
    names = _episodes(hits)
    if not query.where:
        return hits, _places(session, query, names[:LEXICAL_CANDIDATES])
    passing = _passing(session, query)
    return hits, {name: passing[name] for name in names if name in passing}


def _nearest(session: Session, query: Query, index: VectorIndex, scores: Vector) -> Places:
    """The nearest episodes; under a filter at least so many of them, or all that pass it."""
    found = _places(session, query, _episodes_of(index, best_rows(scores, SEMANTIC_CANDIDATES)))
    if query.where and len(found) < MIN_EPISODES:
        found = _places(session, query, _episodes_of(index, best_rows(scores, 8 * SEMANTIC_CANDIDATES)))
    if query.where and len(found) < MIN_EPISODES:
        return _passing(session, query)
    return found


def _episodes(hits: list[LexicalHit]) -> list[str]:
    return list(dict.fromkeys(hit.episode_id for hit in hits if hit.episode_id))


def _episodes_of(index: VectorIndex, rows: list[int]) -> list[str]:
    return list(dict.fromkeys(index.units[row][2] for row in rows))


def _places(session: Session, query: Query, names: list[str]) -> Places:
    """Those of some episodes that exist and that the caller wants. They are found by their ids, and only then
    filtered: by itself SQLite would read all episodes of a status first."""
    names = [name for name in names if name not in query.exclude]
    if not names:
        return {}
    condition, values = query.where.sql(2)
    rows = session.all(
        f"WITH e AS MATERIALIZED (SELECT {_PLACE}, status, context FROM episodes WHERE ns_hash = $1"
        f" AND episode_id IN ({placeholders(len(names), 2 + len(values))}))"
        f" SELECT {_PLACE} FROM e {'WHERE ' + condition if condition else ''}",
        namespace_hash(query.namespace),
        *values,
        *names,
    )
    return {row[0]: _place(row) for row in rows}


def _passing(session: Session, query: Query) -> Places:
    """All episodes that pass the filter."""
    condition, values = query.where.sql(2)
    rows = session.all(
        f"SELECT {_PLACE} FROM episodes e WHERE ns_hash = $1 AND {condition}",
        namespace_hash(query.namespace),
        *values,
    )
    return {row[0]: _place(row) for row in rows if row[0] not in query.exclude}


def _place(row: Row) -> Place:
    _, domain, task_type, outcome, started_at, ended_at = row
    return Place(domain, task_type, outcome or "", started_at if ended_at is None else ended_at)


def _credits(session: Session, namespace: str, names: list[str]) -> dict[str, Credit]:
    if not names:
        return {}
    rows = session.all(
        "SELECT memory_id, shown, shown_successes, used, used_successes FROM credits WHERE ns_hash = $1"
        f" AND memory_kind = 'episode' AND memory_id IN ({placeholders(len(names), 2)})",
        namespace_hash(namespace),
        *names,
    )
    return {row[0]: Credit(*row[1:]) for row in rows}


def _matched_steps(words: list[LexicalHit]) -> dict[str, tuple[int, ...]]:
    """The steps of each episode that share words with the question, best first."""
    found: dict[str, tuple[int, ...]] = {}
    for hit in words:
        if hit.kind == "step":
            found[hit.episode_id] = (*found.get(hit.episode_id, ()), hit.step_number)
    return found
