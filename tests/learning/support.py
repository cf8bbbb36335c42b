"""Episodes for the tests of learning, and the counts that a store would keep of them."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from memory_mcp.learning.mining import Mined
from memory_mcp.learning.tally import Change, Tally
from memory_mcp.records.base import dumps
from memory_mcp.records.episode import Context, Episode, Outcome, Step, StepResult
from memory_mcp.storage.pattern_queries import GroupCounts, Scope
from memory_mcp.storage.session import Row

SCOPE = ("", "other")


def step(number: int, tool: str, error: str | None = None, **parameters: Any) -> Step:
    """A step that worked, or with an error one that did not."""
    result = StepResult() if error is None else StepResult(type="error", message=error)
    return Step(step_number=number, at=number, tool=tool, parameters=parameters, result=result)


def steps(*calls: Any) -> list[Step]:
    """Steps from tools, or `(tool, error)`, or `(tool, error, parameters)`."""
    made = []
    for number, call in enumerate(calls, 1):
        tool, error, parameters = (call, None, {}) if isinstance(call, str) else (*call, {})[:3]
        made.append(step(number, tool, error, **parameters))
    return made


def episode(made: Sequence[Step] = (), outcome: str | None = "success", **fields: Any) -> Episode:
    """A completed episode."""
    known = {
        "episode_id": "e",
        "task_description": "a task",
        "status": "completed",
        "steps": list(made),
        "outcome": None if outcome is None else Outcome(type=outcome, **fields.pop("ending", {})),
        "ended_at": 2_000_000,
        "started_at": 1_000_000,
    }
    return Episode(**{**known, **fields})


def work(rng: Random, *, domains: Sequence[str] = ("payments", "search")) -> Episode:
    """What an agent might have done: steps, errors and ways out of them, however it may have ended."""
    plan = rng.choices(("read", "edit", "run", "search", "ask"), weights=(5, 4, 3, 2, 1), k=rng.randrange(2, 12))
    calls: list[Any] = []
    for tool in plan:
        if tool in ("run", "edit") and rng.random() < 0.4:
            calls.append(
                (tool, f"{rng.choice(('ValueError', 'OSError'))}: line {rng.randrange(99)} of 'f{rng.random()}'")
            )
            calls.append((rng.choice(("read", "fix", "search")), None, {"depth": rng.randrange(3)}))
        calls.append((tool, None, {"mode": rng.choice(("fast", "slow"))}))
    return episode(
        steps(*calls),
        domain=rng.choice(domains),
        task_type=rng.choice(("debugging", "testing")),
        context=Context(language=rng.choice(("python", "go")), tags=rng.sample(["ci", "urgent", "backend"], 1)),
    )


class Counted:
    """What episodes show, ready to be counted with any outcomes of theirs as the store would keep and load it."""

    def __init__(self, mined: Sequence[Mined], scopes: Sequence[Scope] | None = None) -> None:
        self._scopes = list(scopes or [SCOPE] * len(mined))
        self._patterns: dict[str, tuple[str, str, str]] = {}
        self._lines: dict[tuple[str, Scope], list[tuple[int, int, int]]] = {}
        self._cells: dict[tuple[str, Scope], list[int]] = {}
        for number, (seen, scope) in enumerate(zip(mined, self._scopes, strict=True)):
            for group_id in seen.groups:
                self._cells.setdefault((group_id, scope), []).append(number)
            for pattern_id, one in seen.contributions.items():
                self._patterns[pattern_id] = (one.kind, one.group_id, dumps(one.body))
                self._lines.setdefault((pattern_id, scope), []).append((number, one.tried, one.resolved))

    def tally(self, outcomes: Sequence[bool | None]) -> Tally:
        """The counts with these outcomes; None is evidence for neither side."""
        groups: GroupCounts = {}
        for (group_id, scope), members in self._cells.items():
            groups.setdefault(group_id, {})[scope] = _counted(outcomes, members)
        counts: dict[str, list[Row]] = {}
        support: dict[str, int] = {}
        for (pattern_id, scope), seen in self._lines.items():
            judged = [one for one in seen if outcomes[one[0]] is not None]
            ends = _counted(outcomes, [number for number, _, _ in judged])
            if judged:
                attempts = sum(tried for _, tried, _ in judged), sum(resolved for _, _, resolved in judged)
                row = (pattern_id, *self._patterns[pattern_id], *scope, *ends, *attempts)
                counts.setdefault(pattern_id, []).append(row)
                support[pattern_id] = support.get(pattern_id, 0) + len(judged)
        loaded = [
            row
            for pattern_id, rows in counts.items()
            if support[pattern_id] >= 2 or self._patterns[pattern_id][0] == "error_recovery"
            for row in rows
        ]
        tally = Tally()
        tally.take(Change(1, 1, True, loaded, groups))
        return tally


def _counted(outcomes: Sequence[bool | None], members: list[int]) -> tuple[int, int]:
    ends = [outcomes[number] for number in members]
    return ends.count(True), ends.count(False)


def tallied(mined: Sequence[Mined], outcomes: Sequence[bool | None], scopes: Sequence[Scope] | None = None) -> Tally:
    """The counts of episodes as the store keeps and loads them."""
    return Counted(mined, scopes).tally(outcomes)
