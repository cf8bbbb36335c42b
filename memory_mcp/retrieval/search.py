"""Hybrid search for episodes and patterns: words and meaning, fused, then moved a little by what else is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from memory_mcp.clock import Clock
from memory_mcp.errors import StorageUnavailableError
from memory_mcp.records.base import Json
from memory_mcp.records.ledger import namespace_hash
from memory_mcp.retrieval import lexical
from memory_mcp.retrieval.lexical import Filter, LexicalHit
from memory_mcp.retrieval.ranking import Boosts, Credit, boosts, fuse
from memory_mcp.retrieval.semantic import Semantic
from memory_mcp.retrieval.text import content_terms
from memory_mcp.retrieval.vectors import best_rows
from memory_mcp.storage import queries
from memory_mcp.storage.session import Session, placeholders
from memory_mcp.storage.store import Store

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Leg = Literal["hybrid", "lexical", "semantic", "cache"]

SEMANTIC_CANDIDATES = 200
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
        vector = await self._semantic.query_vector(query.text)
        try:
            words, fresh = await self._store.read(lambda session: self._words(session, query))
        except StorageUnavailableError:
            return self._without_store(query, vector)
        index = self._semantic.index
        if index is not None:
            index.extend(fresh)
        lexical_scores, steps, patterns = _by_episode(words)
        semantic_scores = self._similar(query, vector, set(lexical_scores))
        candidates = {
            episode_id for episode_id in {*lexical_scores, *semantic_scores} if episode_id not in query.exclude
        }
        headers, credits = await self._store.read(lambda session: self._known(session, query, candidates))
        fused = fuse(
            {name: score for name, score in lexical_scores.items() if name in headers},
            {name: score for name, score in semantic_scores.items() if name in headers},
        )
        now = self._clock.now()
        hits = []
        for episode_id, (relevance, from_words, from_meaning) in fused.items():
            if episode_id not in lexical_scores and semantic_scores[episode_id] < MIN_SIMILARITY:
                continue
            header = headers[episode_id]
            moved = boosts(header, query.domain, query.task_type, credits.get(episode_id), now)
            hits.append(
                Hit(
                    episode_id=episode_id,
                    header=header,
                    score=relevance + moved.total,
                    relevance=relevance,
                    lexical=from_words,
                    semantic=from_meaning,
                    similarity=semantic_scores.get(episode_id),
                    boosts=moved,
                    matched_steps=tuple(steps.get(episode_id, ())),
                )
            )
        hits.sort(key=lambda hit: (-hit.score, hit.episode_id))
        leg: Leg = "lexical" if vector is None else "hybrid" if lexical_scores else "semantic"
        return Found(hits[: query.limit], patterns, leg, content_terms(query.text), self._store.degraded)

    def _words(self, session: Session, query: Query) -> tuple[list[LexicalHit], list[tuple[object, ...]]]:
        hits = lexical.search(session, query.namespace, query.text, query.where)
        index = self._semantic.index
        # vectors that another process has stored come along in the same hop
        return hits, index.refresh(session) if index is not None else []

    def _similar(self, query: Query, vector: NDArray[np.float32] | None, also: set[str]) -> dict[str, float]:
        """Best similarity of the nearest episodes, and of those that the words found."""
        index = self._semantic.index
        if vector is None or index is None or not len(index):
            return {}
        scores = index.similarities(vector, namespace_hash(query.namespace))
        # under a filter the nearest rows may all be excluded, so every row stays a candidate until the filter has run
        nearest = best_rows(scores, len(index) if query.where else SEMANTIC_CANDIDATES)
        names = dict.fromkeys(index.units[row][2] for row in nearest)
        found: dict[str, float] = {}
        for name in {*names, *also}:
            best = max((float(scores[row]) for row in index.rows_of.get(name, ())), default=-1.0)
            if best > -1.0:
                found[name] = best
        return found

    def _known(self, session: Session, query: Query, candidates: set[str]) -> tuple[dict[str, Json], dict[str, Credit]]:
        """Headers of the candidates that exist and pass the filter, and the credit that they have earned."""
        ids = sorted(candidates)
        if query.where and ids:
            condition, values = query.where.sql(2)
            allowed = session.all(
                f"SELECT e.episode_id FROM episodes e WHERE e.ns_hash = $1 AND {condition}",
                namespace_hash(query.namespace),
                *values,
            )
            ids = sorted(candidates & {row[0] for row in allowed})
        credits = {}
        if ids:
            credits = {
                row[0]: Credit(*row[1:])
                for row in session.all(
                    "SELECT memory_id, shown, shown_successes, used, used_successes FROM credits WHERE ns_hash = $1"
                    f" AND memory_kind = 'episode' AND memory_id IN ({placeholders(len(ids), 2)})",
                    namespace_hash(query.namespace),
                    *ids,
                )
            }
        return queries.headers(session, query.namespace, ids), credits

    def _without_store(self, query: Query, vector: NDArray[np.float32] | None) -> Found:
        """Search the cached headers: by meaning where vectors are at hand, by shared words where not."""
        headers = self._store.from_cache(
            lambda: self._store.cache.scan_headers(query.namespace, _SCANNED_WHEN_DEGRADED)
        )
        if headers is None:
            raise StorageUnavailableError("the store and the cache are both out of order")
        wanted = set(content_terms(query.text))
        similar = self._similar(query, vector, {header["episode_id"] for header in headers})
        shared: dict[str, float] = {}
        for header in headers:
            overlap = len(wanted & set(content_terms(header["task_description"])))
            if overlap:
                shared[header["episode_id"]] = float(overlap)
        known = {header["episode_id"]: header for header in headers if header["episode_id"] not in query.exclude}
        fused = fuse(
            {name: score for name, score in shared.items() if name in known},
            {name: score for name, score in similar.items() if name in known},
        )
        none = Boosts()
        hits = [
            Hit(name, known[name], score, score, words, meaning, similar.get(name), none)
            for name, (score, words, meaning) in fused.items()
        ]
        hits.sort(key=lambda hit: (-hit.score, hit.episode_id))
        return Found(hits[: query.limit], [], "cache", sorted(wanted), degraded=True)


def _by_episode(words: list[LexicalHit]) -> tuple[dict[str, float], dict[str, list[int]], list[str]]:
    """Scores of episodes from the scores of their units: the best unit, and a little of the second."""
    units: dict[str, list[float]] = {}
    steps: dict[str, list[int]] = {}
    patterns = []
    for hit in words:
        if hit.kind == "pattern":
            patterns.append(hit.subject_id)
            continue
        units.setdefault(hit.episode_id, []).append(hit.score)
        if hit.kind == "step":
            steps.setdefault(hit.episode_id, []).append(hit.step_number)
    scores = {name: found[0] + 0.1 * (found[1] if len(found) > 1 else 0.0) for name, found in units.items()}
    return scores, steps, patterns
