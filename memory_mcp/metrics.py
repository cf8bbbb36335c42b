"""Counters and latency histograms of this process."""

from __future__ import annotations

import bisect
import time
from collections.abc import Iterator
from contextlib import contextmanager

from memory_mcp.records.base import Json

# upper bounds in seconds, four to a doubling: a quantile is at most 19 % too high
_BOUNDS = [1e-5 * 2 ** (step / 4) for step in range(96)]


class Histogram:
    """Durations in buckets of fixed bounds, so that a million calls take no more room than ten."""

    def __init__(self) -> None:
        self.count = 0
        self.total = 0.0
        self.greatest = 0.0
        self._buckets = [0] * (len(_BOUNDS) + 1)

    def record(self, seconds: float) -> None:
        self.count += 1
        self.total += seconds
        self.greatest = max(self.greatest, seconds)
        self._buckets[bisect.bisect_left(_BOUNDS, seconds)] += 1

    def quantile(self, share: float) -> float:
        """Seconds below which this share of the durations lies, as the upper bound of its bucket."""
        wanted, seen = share * self.count, 0
        for index, count in enumerate(self._buckets):
            seen += count
            if count and seen >= wanted:
                return min(self.greatest, _BOUNDS[index]) if index < len(_BOUNDS) else self.greatest
        return 0.0

    def summary(self) -> Json:
        """`{count, mean_ms, p50_ms, p95_ms, p99_ms, max_ms}`."""
        if not self.count:
            return {"count": 0}
        return {
            "count": self.count,
            "mean_ms": round(1000 * self.total / self.count, 3),
            "p50_ms": round(1000 * self.quantile(0.50), 3),
            "p95_ms": round(1000 * self.quantile(0.95), 3),
            "p99_ms": round(1000 * self.quantile(0.99), 3),
            "max_ms": round(1000 * self.greatest, 3),
        }


class Metrics:
    """What this process has done since it started."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.counters: dict[str, int] = {}
        self.latencies: dict[str, Histogram] = {}

    def count(self, name: str, amount: int = 1) -> None:
        self.counters[name] = self.counters.get(name, 0) + amount

    @contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record how long the body took, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.latencies.setdefault(name, Histogram()).record(time.perf_counter() - start)

    @property
    def uptime_seconds(self) -> float:
        return time.monotonic() - self.started
