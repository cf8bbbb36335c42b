"""Health from real probes, and metrics from real counters."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from pathlib import Path
from typing import Literal

from memory_mcp import __version__
from memory_mcp.errors import CacheUnavailableError, MemoryMCPError, StorageUnavailableError
from memory_mcp.learning.follower import Learner
from memory_mcp.metrics import Metrics
from memory_mcp.records.base import Json
from memory_mcp.retrieval.semantic import Semantic
from memory_mcp.services.retention import Retention
from memory_mcp.storage import pattern_queries, queries
from memory_mcp.storage.backup_schedule import ScheduledBackups
from memory_mcp.storage.engine import StoreReadOnlyError
from memory_mcp.storage.followers import Upkeep
from memory_mcp.storage.learned import LEARNING
from memory_mcp.storage.leases import Leases
from memory_mcp.storage.session import Session
from memory_mcp.storage.store import Store

Status = Literal["healthy", "degraded", "unhealthy"]
METRIC_TYPES = ("all", "episodes", "patterns", "performance", "storage")

# a follower this far behind for a moment is at work, not ill
_LAG_TOLERATED = 100


class StatusService:
    """`health_check` and `get_metrics` of one process."""

    def __init__(
        self,
        store: Store,
        semantic: Semantic,
        learner: Learner,
        upkeep: Upkeep,
        leases: Leases,
        metrics: Metrics,
        data_dir: Path,
        backups: ScheduledBackups,
        retention: Retention,
    ) -> None:
        self._retention = retention
        self._store = store
        self._semantic = semantic
        self._learner = learner
        self._upkeep = upkeep
        self._leases = leases
        self._metrics = metrics
        self._data_dir = data_dir
        self._backups = backups

    async def health(self) -> Json:
        """`{overall, primary_storage, cache_storage, journal, memory_system}`; probes every part now. `backup` comes
        with them where backups are scheduled or there are some."""
        primary, head = await self._primary()
        cache = self._cache(head)
        journal = self._journal()
        system = await self._system(primary["status"])
        parts: list[Status] = [part["status"] for part in (primary, cache, journal, system)]
        overall: Status = "healthy" if all(part == "healthy" for part in parts) else "degraded"
        helpers = (cache["status"], journal["status"])
        if self._store.damage is not None or (primary["status"] == "unhealthy" and "unhealthy" in helpers):
            overall = "unhealthy"
        answer: Json = {
            "overall": overall,
            "version": __version__,
            "primary_storage": primary,
            "cache_storage": cache,
            "journal": journal,
            "memory_system": system,
        }
        try:
            backup = await asyncio.to_thread(self._backups.health)
        except OSError as error:
            backup = {"error": f"the backups cannot be read: {error}"}
        if backup is not None:
            answer["backup"] = backup
        return answer

    async def metrics(self, namespace: str, metric_type: str = "all") -> Json:
        """`{episodes, patterns, performance, storage}`, or the one that is asked for.

        Raises:
            StorageUnavailableError: the store is out of order and its numbers were asked for.
        """
        wanted = METRIC_TYPES[1:] if metric_type == "all" else (metric_type,)
        answer: Json = {}
        if "episodes" in wanted:
            answer["episodes"] = await self._store.read(lambda session: queries.counts(session, namespace))
            effect = await self._store.read(lambda session: pattern_queries.memory_effect(session, namespace))
            answer["episodes"]["memory"] = effect
        if "patterns" in wanted:
            answer["patterns"] = await self._store.read(lambda session: _pattern_numbers(session, namespace))
        if "performance" in wanted:
            answer["performance"] = self._performance()
        if "storage" in wanted:
            answer["storage"] = self._storage()
        return answer

    async def _primary(self) -> tuple[Json, int | None]:
        breaker = self._store.store_breaker
        started = time.perf_counter()
        head: int | None = None
        try:
            head = await self._store.read(queries.head_position)
        except MemoryMCPError as error:
            return {"status": "unhealthy", "breaker": breaker.state, **_told(error)}, None
        if self._store.damage is not None:
            # the probe looks at one page, and another one is damaged
            told = {**_told(self._store.damage), "ledger_position": head}
            return {"status": "unhealthy", "breaker": breaker.state, **told}, head
        answer: Json = {
            "status": "healthy",
            "engine": self._store.engine.name,
            "breaker": breaker.state,
            "probe_ms": round(1000 * (time.perf_counter() - started), 3),
            "ledger_position": head,
        }
        if self._store.read_only:
            told = {"code": StoreReadOnlyError.code, "hint": StoreReadOnlyError.default_hint}
            answer |= {"status": "degraded", "read_only": True, "error": self._store.read_only, **told}
        return answer, head

    def _cache(self, head: int | None) -> Json:
        breaker = self._store.cache_breaker
        applied = self._store.from_cache(self._store.cache.applied)
        if applied is None:
            return {"status": "unhealthy", "breaker": breaker.state, "error": breaker.last_error}
        answer: Json = {"status": "healthy", "breaker": breaker.state, "ledger_position": applied}
        if head is not None:
            answer["lag"] = max(0, head - applied)
            if answer["lag"] > _LAG_TOLERATED:
                answer["status"] = "degraded"
        return answer

    def _journal(self) -> Json:
        try:
            pending = self._store.pending()
        except StorageUnavailableError as error:
            return {"status": "unhealthy", "error": error.message}
        answer: Json = {"status": "healthy"}
        if self._store.journal_error:
            answer = {"status": "unhealthy", "error": self._store.journal_error}
        elif pending:
            answer["status"] = "degraded"
        if pending or not self._store.journal_error:
            answer["pending_writes"] = pending
        if conflicts := self._store.writes["conflicts"]:
            # of this process; all of them are in the ledger
            answer["conflicts"] = conflicts
        return answer

    async def _system(self, store_status: Status) -> Json:
        status: Status = "healthy"
        answer: Json = {
            "semantic_search": self._semantic.state,
            "uptime_seconds": round(self._metrics.uptime_seconds, 1),
        }
        if self._semantic.state == "failed":
            status = "degraded"
            answer["semantic_error"] = self._semantic.error
        if self._semantic.embedder is not None:
            answer["model"] = self._semantic.embedder.model_id
        if self._upkeep.failures:
            answer["background_failures"] = self._upkeep.last_errors
        if store_status != "unhealthy":
            try:
                answer["learning_lag"], answer["leaders"] = await self._store.read(
                    lambda session: (_learning_lag(session), self._leases.leaders(session))
                )
            except StorageUnavailableError as error:
                return {"status": "unhealthy", **answer, "error": error.message}
            if answer["learning_lag"] > _LAG_TOLERATED:
                status = "degraded"
        return {"status": status, **answer}

    def _performance(self) -> Json:
        import psutil

        return {
            "latency": {name: histogram.summary() for name, histogram in sorted(self._metrics.latencies.items())},
            "counters": dict(sorted(self._metrics.counters.items())),
            "writes": dict(self._store.writes),
            "cache": {"hits": self._store.cache.hits, "misses": self._store.cache.misses},
            "learned": self._learner.learned,
            "learning_refused": self._learner.refused,
            "uptime_seconds": round(self._metrics.uptime_seconds, 1),
            "resident_mb": round(psutil.Process().memory_info().rss / 1e6, 1),
            "process_id": os.getpid(),
        }

    def _storage(self) -> Json:
        answer: Json = {
            "bytes": _sizes(self._data_dir),
            "retention": {"forgotten": self._retention.forgotten, "compacted": self._retention.compacted},
            "breakers": {
                breaker.name: {"state": breaker.state, "failures": breaker.failures, "transitions": breaker.transitions}
                for breaker in (self._store.store_breaker, self._store.cache_breaker)
            },
            "wakes": self._leases.wakes.numbers(),
        }
        try:
            answer["cache"] = {**self._store.cache.size(), "rebuilds": self._store.cache.rebuilds}
        except CacheUnavailableError as error:
            answer["cache"] = {"error": error.message}
        return answer


def _sizes(data_dir: Path) -> dict[str, int]:
    """Bytes of the database's files, and of what lies in each directory beside them."""
    sizes: dict[str, int] = {}
    for path in sorted(data_dir.rglob("*")):
        name = path.relative_to(data_dir).parts[0]
        # files come and go while they are counted
        with contextlib.suppress(OSError):
            if path.is_file() and (name.startswith("memory.db") or name != path.name):
                sizes[name] = sizes.get(name, 0) + path.stat().st_size
    return {**sizes, "total": sum(sizes.values())}


def not_open(error: MemoryMCPError) -> Json:
    """The health of a memory that could not be opened: what is wrong, and what to do about it."""
    return {
        "overall": "unhealthy",
        "version": __version__,
        "primary_storage": {"status": "unhealthy", **_told(error)},
    }


def _told(error: MemoryMCPError) -> Json:
    return {"code": error.code, "error": error.message, "hint": error.hint}


def _learning_lag(session: Session) -> int:
    cursor = queries.cursor(session, LEARNING)
    return len(queries.ledger(session, cursor, 10 * _LAG_TOLERATED, "episode.completed"))


def _pattern_numbers(session: Session, namespace: str) -> Json:
    rows = pattern_queries.pattern_counts(session, namespace)
    kinds: dict[str, set[str]] = {}
    for pattern_id, kind, *_ in rows:
        kinds.setdefault(kind, set()).add(pattern_id)
    return {
        "total": sum(len(ids) for ids in kinds.values()),
        "by_kind": {kind: len(ids) for kind, ids in kinds.items()},
    }
