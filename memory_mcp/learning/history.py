"""What is usual: steps and time of earlier episodes, and how often tools fail, by domain and task type."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from memory_mcp.records.base import Json
from memory_mcp.storage import pattern_queries
from memory_mcp.storage.session import Session

# below this many episodes a scope says nothing, and the next wider one is asked
MIN_EPISODES = 5
_EVERYWHERE = "all episodes"


@dataclass(frozen=True, slots=True)
class Usual:
    """The usual episode of a scope: geometric means, because effort is skewed. `scope` says how wide it is.

    `judged` episodes have an outcome that counts; of too few of them there is no success rate.
    """

    scope: str
    episodes: int
    judged: int
    success_rate: float | None
    steps: float | None
    seconds: float | None

    @property
    def told(self) -> str:
        """The episodes with an outcome, in words."""
        wide = self.scope == _EVERYWHERE
        return f"all {self.judged} episodes" if wide else f"{self.judged} episodes of this {self.scope}"


@dataclass(frozen=True, slots=True)
class ToolRecord:
    """Calls of a tool so far."""

    calls: int
    errors: int
    mean_latency_ms: float | None

    @property
    def error_rate(self) -> float:
        return self.errors / self.calls if self.calls else 0.0


class History:
    """Running totals of a namespace at one moment."""

    def __init__(self, scopes: list[Json], tools: list[Json]) -> None:
        self._scopes = scopes
        self._tools = tools

    @classmethod
    def load(cls, session: Session, namespace: str) -> History:
        return cls(pattern_queries.scopes(session, namespace), pattern_queries.tools(session, namespace))

    @classmethod
    def rates(cls, session: Session, namespace: str) -> History:
        """Without the tools."""
        return cls(pattern_queries.scopes(session, namespace), [])

    def usual(self, domain: str, task_type: str) -> Usual | None:
        """The usual episode of the narrowest scope with enough episodes, or None."""
        for scope, match in _widening(domain, task_type):
            rows = [row for row in self._scopes if match(row)]
            episodes = sum(row["episodes"] for row in rows)
            if episodes < MIN_EPISODES:
                continue
            timed = sum(row["timed"] for row in rows)
            judged = sum(row["successes"] + row["failures"] for row in rows)
            return Usual(
                scope=scope,
                episodes=episodes,
                judged=judged,
                success_rate=sum(row["successes"] for row in rows) / judged if judged >= MIN_EPISODES else None,
                steps=math.exp(sum(row["log_steps_sum"] for row in rows) / episodes),
                seconds=math.exp(sum(row["log_seconds_sum"] for row in rows) / timed) if timed else None,
            )
        return None

    def tool(self, tool: str, domain: str) -> ToolRecord:
        """A tool's record in a domain, or everywhere if the domain has too few calls."""
        named = [row for row in self._tools if row["tool"] == tool]
        local = [row for row in named if row["domain"] == domain]
        rows = local if sum(row["calls"] for row in local) >= MIN_EPISODES else named
        timed = sum(row["timed"] for row in rows)
        return ToolRecord(
            calls=sum(row["calls"] for row in rows),
            errors=sum(row["errors"] for row in rows),
            mean_latency_ms=sum(row["latency_ms_sum"] for row in rows) / timed if timed else None,
        )

    def base_rate(self, domain: str, task_type: str) -> tuple[float, int] | None:
        """`(share of successes, episodes with a verdict)` of the narrowest scope with enough episodes."""
        for _, match in _widening(domain, task_type):
            rows = [row for row in self._scopes if match(row)]
            judged = sum(row["successes"] + row["failures"] for row in rows)
            if judged >= MIN_EPISODES:
                return sum(row["successes"] for row in rows) / judged, judged
        return None


def _widening(domain: str, task_type: str) -> list[tuple[str, Any]]:
    return [
        (
            "domain and task type",
            lambda row: row["domain"] == domain and row["task_type"] == task_type,
        ),
        ("domain", lambda row: row["domain"] == domain),
        (_EVERYWHERE, lambda row: True),
    ]
