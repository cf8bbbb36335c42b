"""A first forecast of a task: how likely it succeeds, and what it will take.

The success rate of the narrowest scope with enough episodes is the prior, worth `PRIOR_STRENGTH` episodes; the
nearest precedents add their outcomes, weighted by their relevance. Below `MIN_EPISODES` episodes nothing is claimed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory_mcp.learning.evidence import beta_interval
from memory_mcp.learning.history import MIN_EPISODES, History
from memory_mcp.records.base import Json

PRIOR_STRENGTH = 4.0
NEAREST = 10


@dataclass(frozen=True, slots=True)
class Precedent:
    """An earlier episode like this one: relevance in 0..1, success or not, and what it took."""

    relevance: float
    success: bool
    steps: int
    seconds: float | None


def forecast(precedents: Sequence[Precedent], history: History, domain: str, task_type: str) -> Json:
    """`{success_probability, interval, steps, seconds, base_rate, basis}` or `{insufficient_evidence, …}`."""
    base = history.base_rate(domain, task_type)
    if base is None:
        return {"insufficient_evidence": True, "needed_episodes": MIN_EPISODES}
    rate, episodes = base
    nearest = sorted(precedents, key=lambda precedent: -precedent.relevance)[:NEAREST]
    successes = sum(precedent.relevance for precedent in nearest if precedent.success)
    failures = sum(precedent.relevance for precedent in nearest if not precedent.success)
    mean, low, high = beta_interval(successes, failures, rate, PRIOR_STRENGTH)
    answer: Json = {
        "success_probability": round(mean, 3),
        "interval": [round(low, 3), round(high, 3)],
        "base_rate": round(rate, 3),
        "basis": {"precedents": len(nearest), "episodes": episodes},
    }
    steps = [precedent.steps for precedent in nearest if precedent.success]
    seconds = [precedent.seconds for precedent in nearest if precedent.success and precedent.seconds]
    usual = history.usual(domain, task_type)
    if steps:
        answer["steps"] = _spread(steps)
    elif usual is not None and usual.steps:
        answer["steps"] = {"median": round(usual.steps, 1)}
    if seconds:
        answer["seconds"] = _spread(seconds)
    return answer


def _spread(values: Sequence[float]) -> Json:
    """Median and the range between the first and the last decile, by linear interpolation."""
    ordered = sorted(values)

    def quantile(share: float) -> float:
        at = share * (len(ordered) - 1)
        low = int(at)
        high = min(low + 1, len(ordered) - 1)
        return round(ordered[low] + (ordered[high] - ordered[low]) * (at - low), 1)

    return {"median": quantile(0.5), "low": quantile(0.1), "high": quantile(0.9)}
