"""Answering questions from memory: similar episodes, and the patterns that concern them."""

from __future__ import annotations

from collections.abc import Sequence

from memory_mcp.clock import iso
from memory_mcp.errors import StorageUnavailableError
from memory_mcp.learning.history import History
from memory_mcp.learning.patterns import Book, Pattern, PatternBooks
from memory_mcp.learning.trace import choice, effective
from memory_mcp.learning.wording import first_line, path_of
from memory_mcp.records.base import Json
from memory_mcp.records.episode import episode_from
from memory_mcp.retrieval.budget import check_fields, fit, project
from memory_mcp.retrieval.search import Found, Hit, Query, Search
from memory_mcp.retrieval.semantic import Semantic
from memory_mcp.storage import pattern_queries
from memory_mcp.storage.store import Store

EPISODE_FIELDS = (
    *("episode_id", "task", "status", "score", "domain", "task_type", "started_at", "outcome", "reason", "reward"),
    *("steps", "path", "lessons", "matched_steps", "why"),
)
MAX_PATTERNS = 5
_PATTERN_EPISODES = 5


class RecallService:
    """`query_memory` over one store."""

    def __init__(self, store: Store, search: Search, semantic: Semantic, books: PatternBooks) -> None:
        self._store = store
        self._search = search
        self._semantic = semantic
        self._books = books

    async def query(self, query: Query, *, fields: Sequence[str] = (), token_budget: int = 0) -> Json:
        """`{episodes, patterns, count, insights, provenance}`; episodes and patterns share the budget of tokens.

        Raises:
            StorageUnavailableError: the store is out of order and the cache too.
        """
        check_fields(fields, EPISODE_FIELDS)
        found = await self._search.find(query)
        episodes = [project(await self._told(query.namespace, hit), list(fields)) for hit in found.hits]
        degraded = found.degraded
        patterns: list[Json] = []
        insights: Json = {}
        try:
            book = await self._books.book(query.namespace)
            patterns = [pattern_told(pattern) for pattern in await self._patterns(query.namespace, found, book)]
            insights = await self._insights(query, found)
        except StorageUnavailableError:
            degraded = True
        kept, left_out, spent = fit(episodes, token_budget)
        kept_patterns, patterns_left_out, _ = fit(patterns, max(1, token_budget - spent) if token_budget else 0)
        answer: Json = {
            "episodes": kept,
            "patterns": kept_patterns,
            "count": len(kept),
            "insights": insights,
            "provenance": self._provenance(found),
        }
        if left_out or patterns_left_out:
            answer["left_out"] = {"episodes": left_out, "patterns": patterns_left_out}
        if degraded:
            answer["degraded"] = True
        return answer

    async def _told(self, namespace: str, hit: Hit) -> Json:
        """A hit in brief, with an id to read the whole."""
        header = hit.header
        told: Json = {
            "episode_id": hit.episode_id,
            "task": first_line(header["task_description"], 240),
            "status": header["status"],
            "score": round(hit.score, 4),
        }
        for name in ("domain", "task_type"):
            if header[name]:
                told[name] = header[name]
        told["started_at"] = iso(header["started_at"])
        if header["outcome"]:
            told["outcome"] = header["outcome"]["type"]
            if reason := first_line(header["outcome"]["reason"] or header["outcome"]["verdict"]):
                told["reason"] = reason
        if header["reward"]:
            told["reward"] = header["reward"]["total"]
        try:
            loaded = await self._store.episode(namespace, hit.episode_id)
        except StorageUnavailableError:
            return told
        if loaded.episode is not None:
            episode = episode_from(loaded.episode)
            told["steps"] = len(episode.steps)
            if path := path_of([choice(step) for step in effective(episode.steps)]):
                told["path"] = path
            reflection = episode.reflection or {}
            items = [
                item["text"] for name in ("successes", "improvements", "insights") for item in reflection.get(name, [])
            ]
            if items:
                told["lessons"] = items[:3]
        if hit.matched_steps:
            told["matched_steps"] = sorted(hit.matched_steps)[:5]
        told["why"] = {
            name: round(value, 3)
            for name, value in {
                "words": hit.lexical,
                "meaning": hit.semantic,
                "similarity": hit.similarity,
                "boosts": hit.boosts.total,
            }.items()
            if value
        }
        return told

    async def _patterns(self, namespace: str, found: Found, book: Book) -> list[Pattern]:
        """Patterns whose own words match, and those that the best episodes show; proven ones first."""
        best = [hit.episode_id for hit in found.hits[:_PATTERN_EPISODES]]
        shown = await self._store.read(lambda session: pattern_queries.patterns_of_episodes(session, namespace, best))
        named = found.patterns[:3]
        useful = {
            item.pattern_id: item
            for item in [*book.some(named), *book.some([*found.patterns[:20], *shown], proven=True)]
        }
        ranked = sorted(
            useful.values(),
            key=lambda item: (
                item.pattern_id not in named,
                item.evidence.q_value,
                -len(shown.get(item.pattern_id, ())),
                item.pattern_id,
            ),
        )
        return ranked[:MAX_PATTERNS]

    async def _insights(self, query: Query, found: Found) -> Json:
        history = await self._store.read(lambda session: History.rates(session, query.namespace))
        outcomes = [hit.header["outcome"]["type"] for hit in found.hits if hit.header["outcome"]]
        insights: Json = {"completed": len(outcomes), "succeeded": outcomes.count("success")}
        base = history.base_rate(query.domain, query.task_type)
        if base is not None:
            insights["base_rate"] = round(base[0], 3)
            insights["base_episodes"] = base[1]
        return insights

    def _provenance(self, found: Found) -> Json:
        provenance: Json = {"leg": found.leg, "terms": found.terms[:16], "semantic": self._semantic.state}
        if self._semantic.embedder is not None:
            provenance["model"] = self._semantic.embedder.model_id
        return provenance


def pattern_told(pattern: Pattern) -> Json:
    """A pattern as doors show it."""
    told: Json = {
        "pattern_id": pattern.pattern_id,
        "kind": pattern.kind,
        "text": pattern.text,
        **pattern.evidence.as_dict(),
    }
    if pattern.tried:
        told["tried"], told["resolved"] = pattern.tried, pattern.resolved
    return told
