"""Listing patterns with their evidence, and the statistics around them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from memory_mcp.learning.evidence import FALSE_DISCOVERY_RATE
from memory_mcp.learning.past import Past
from memory_mcp.learning.patterns import Pattern, PatternBooks, compile_book
from memory_mcp.records.base import Json
from memory_mcp.retrieval.budget import check_fields, fit, project
from memory_mcp.services.history import position_of
from memory_mcp.services.recall import pattern_told
from memory_mcp.storage import pattern_queries
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

PATTERN_FIELDS = (
    *("pattern_id", "kind", "text", "support", "successes", "failures", "base_rate", "lift", "posterior_mean"),
    *("interval", "q_value", "verdict", "tried", "resolved", "body", "episodes"),
)
_SOURCES = 3


class PatternService:
    """`analyze_patterns` over one store."""

    def __init__(self, store: Store, books: PatternBooks) -> None:
        self._store = store
        self._books = books

    async def analyze(
        self,
        namespace: str,
        *,
        task_type: str = "",
        domain: str = "",
        kind: str = "",
        verdict: str = "",
        min_success_rate: float = 0.7,
        limit: int = 20,
        fields: Sequence[str] = (),
        token_budget: int = 0,
        as_of: str = "",
    ) -> Json:
        """`{patterns, statistics}`: patterns with at least this success rate, and pitfalls whatever their rate.

        Evidence comes from the episodes of the named domain and task type. The success rate of a pattern is its
        posterior mean, so a rate that rests on two lucky episodes does not pass for one. With `as_of` (a ledger
        position, a time, or a snapshot) the answer is what it was then.

        Raises:
            SnapshotNotFoundError: `as_of` names no moment.
            StorageUnavailableError: the store is out of order and nothing was read before.
        """
        check_fields(fields, PATTERN_FIELDS)
        past = await self._past(namespace, as_of) if as_of else None
        if past is None:
            book = await self._books.book(namespace, domain, task_type)
        else:
            book = await asyncio.to_thread(compile_book, past.tally(), domain, task_type)
        everything = list(book)
        wanted = [
            pattern
            for pattern in everything
            if (not kind or pattern.kind == kind)
            and (not verdict or pattern.evidence.verdict == verdict)
            and (pattern.kind == "pitfall" or pattern.evidence.posterior_mean >= min_success_rate)
        ]
        wanted.sort(key=_rank)
        chosen = wanted[:limit]
        ids = [pattern.pattern_id for pattern in chosen]
        degraded = self._store.store_breaker.state != "closed"
        if past is not None:
            sources = {name: past.sources[name][:_SOURCES] for name in ids}
        elif degraded:
            sources = {}
        else:
            sources = await self._store.read(lambda session: pattern_queries.sources(session, namespace, ids, _SOURCES))
        told = [
            project(
                {
                    **pattern_told(pattern),
                    "body": pattern.body,
                    "episodes": [source["episode_id"] for source in sources.get(pattern.pattern_id, [])],
                },
                list(fields),
            )
            for pattern in chosen
        ]
        kept, left_out, _ = fit(told, token_budget)
        if past is not None:
            statistics = _statistics(past.scopes, past.tools, domain, task_type, everything)
        elif degraded:
            statistics = {}
        else:
            scopes, tools = await self._store.read(partial(_totals, namespace=namespace))
            statistics = _statistics(scopes, tools, domain, task_type, everything)
        statistics["matching"] = len(wanted)
        answer: Json = {"patterns": kept, "statistics": statistics}
        if left_out:
            answer["left_out"] = left_out
        if degraded:
            answer["degraded"] = True
        return answer

    async def _past(self, namespace: str, as_of: str) -> Past:
        return await self._store.read(lambda session: Past(session, namespace, position_of(session, namespace, as_of)))


def _totals(session: Session, namespace: str) -> tuple[list[Json], list[Json]]:
    return pattern_queries.scopes(session, namespace), pattern_queries.tools(session, namespace)


def _statistics(scopes: list[Json], tools: list[Json], domain: str, task_type: str, patterns: list[Pattern]) -> Json:
    def inside(row: Json) -> bool:
        return (not domain or row["domain"] == domain) and (not task_type or row["task_type"] == task_type)

    scopes = [row for row in scopes if inside(row)]
    judged = sum(row["successes"] + row["failures"] for row in scopes)
    calls: dict[str, list[int]] = {}
    for row in tools:
        if inside(row):
            total = calls.setdefault(row["tool"], [0, 0])
            total[0] += row["calls"]
            total[1] += row["errors"]
    common = sorted(calls.items(), key=lambda item: (-item[1][0], item[0]))[:5]
    kinds: dict[str, int] = {}
    verdicts = {"helps": 0, "hurts": 0, "unproven": 0}
    for pattern in patterns:
        kinds[pattern.kind] = kinds.get(pattern.kind, 0) + 1
        verdicts[pattern.evidence.verdict] += 1
    return {
        "total_patterns": len(patterns),
        "by_kind": kinds,
        "by_verdict": verdicts,
        "false_discovery_rate": FALSE_DISCOVERY_RATE,
        "episodes": sum(row["episodes"] for row in scopes),
        "success_rate": round(sum(row["successes"] for row in scopes) / judged, 3) if judged else None,
        "most_common_tools": [
            {"tool": tool, "calls": total, "error_rate": round(errors / total, 3)} for tool, (total, errors) in common
        ],
    }


def _rank(pattern: Pattern) -> tuple[bool, float, float, int, str]:
    """Proven first, then by how far the rate lies from its base, then by support."""
    evidence = pattern.evidence
    return (
        evidence.verdict == "unproven",
        round(evidence.q_value, 6),
        -abs(evidence.posterior_mean - evidence.base_rate),
        -evidence.support,
        pattern.pattern_id,
    )
