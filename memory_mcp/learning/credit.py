"""Credit: which of the memories that were shown were used, told from the steps that followed.

Nobody is asked for feedback: agents do not give it. A memory that was shown earns an observation; one that was used
earns it more strongly, and memories used together share it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from memory_mcp.learning.trace import choice, error_of
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Episode, Step

# an advice for a failed step is followed soon or not at all
LESSON_REACH = 3
PLAN_SHARE = 0.5


def was_used(receipt: Json, steps: Sequence[Step]) -> bool:
    """Whether the steps after a receipt do what the memory advised.

    An advice is `{"choice": …}` (a step to take), `{"plan": [choice, …]}` (steps to take in order) or
    `{"avoid": {"tool", "template"}}` (an error not to run into). Anything else was only information: not used.
    """
    behind = [step for step in steps if step.step_number > receipt["shown_after"]]
    advice = receipt["advice"]
    if "choice" in advice:
        reach = behind[:LESSON_REACH] if receipt["shown_after"] else behind
        return any(follows(advice["choice"], step) for step in reach)
    if "plan" in advice:
        plan = advice["plan"]
        return bool(plan) and bool(behind) and _in_order(plan, behind) >= PLAN_SHARE * len(plan)
    if "avoid" in advice:
        # who never called the tool had nothing to avoid
        called = [step for step in behind if step.tool == advice["avoid"]["tool"]]
        return bool(called) and not any(not step.result.ok and error_of(step) == advice["avoid"] for step in called)
    return False


def follows(advised: Json, step: Step) -> bool:
    """Whether a step is the advised one: the same tool, with the advised parameters."""
    if step.tool != advised["tool"]:
        return False
    taken = choice(step).get("parameters", {})
    return all(taken.get(name, _MISSING) == value for name, value in advised.get("parameters", {}).items())


def settle(episode: Episode) -> tuple[list[Json], list[Json]]:
    """`(receipts with used, credits)` of a completed episode; no credits where the outcome is no evidence."""
    receipts = [{**receipt, "used": was_used(receipt, episode.steps)} for receipt in episode.receipts]
    assert episode.outcome is not None
    success = episode.outcome.succeeded
    if success is None:
        return receipts, []
    shown: dict[tuple[str, str], bool] = {}
    for receipt in receipts:
        key = (receipt["memory_kind"], receipt["memory_id"])
        shown[key] = shown.get(key, False) or receipt["used"]
    together = sum(shown.values())
    credits = []
    for (kind, memory_id), used in shown.items():
        share = 1.0 / together if used else 0.0
        credits.append(
            {
                "memory_kind": kind,
                "memory_id": memory_id,
                "shown": 1.0,
                "shown_successes": float(success),
                "used": share,
                "used_successes": share * success,
            }
        )
    return receipts, credits


_MISSING: Any = object()


def _in_order(plan: list[Json], steps: list[Step]) -> int:
    """How many choices of a plan occur in the steps in the plan's order (longest common subsequence)."""
    best = [0] * (len(steps) + 1)
    for advised in plan:
        before = best.copy()
        for position, step in enumerate(steps, 1):
            taken = before[position - 1] + 1 if follows(advised, step) else 0
            best[position] = max(taken, before[position], best[position - 1])
    return best[-1]
