"""Reading the steps of an episode: what was chosen, what went wrong, which steps led somewhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from memory_mcp.learning.templates import template
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.episode import Step, StepDraft

MAX_VALUE = 24
# a path, an address, or the name of a file
_PLACE = re.compile(
    r"(?:~|\.{0,2})[/\\]\S|[A-Za-z]:[/\\]|\w+://|[\w@+-][\w@+./\\-]*\.[A-Za-z]\w{0,5}$|\w+(?:[/\\][\w.-]+)+$"
)
_LARGEST_NUMBER = 10_000


def choice(step: StepDraft, *, with_parameters: bool = True) -> Json:
    """What was done, in a form that can repeat: the tool, and those of its parameters that are short values."""
    chosen: Json = {"tool": step.tool}
    parameters = {name: _canonical(value) for name, value in step.parameters.items() if _is_option(value)}
    if with_parameters and parameters:
        chosen["parameters"] = parameters
    return chosen


def error_of(step: StepDraft) -> Json:
    """The class of a failed step: its tool and the template of its error."""
    message = step.result.observation or ("timeout" if step.result.type == "timeout" else "")
    return {"tool": step.tool, "template": template(message)}


def same_call(one: StepDraft, other: StepDraft) -> bool:
    """Whether two steps did the same thing."""
    return one.tool == other.tool and one.parameters == other.parameters and one.action == other.action


def same_object(one: StepDraft, other: StepDraft) -> bool:
    """Whether two calls of a tool may be about the same thing: no file, address or path of one differs in the other."""
    return all(
        value == other.parameters[name] or not (_is_place(value) and _is_place(other.parameters[name]))
        for name, value in one.parameters.items()
        if name in other.parameters
    )


def repeated_calls(steps: Sequence[Step], times: int) -> list[list[int]]:
    """The step numbers of each call that was made so many times or more."""
    calls: dict[str, list[int]] = {}
    for step in steps:
        calls.setdefault(dumps([step.tool, step.action, step.parameters]), []).append(step.step_number)
    return [numbers for numbers in calls.values() if len(numbers) >= times]


def collapsed(steps: Sequence[Step]) -> list[tuple[str, int]]:
    """`(tool, step_number)` with runs of the same tool as one."""
    found: list[tuple[str, int]] = []
    for step in steps:
        if not found or found[-1][0] != step.tool:
            found.append((step.tool, step.step_number))
    return found


def effective(steps: Sequence[Step]) -> list[Step]:
    """The steps of an episode that led somewhere.

    Left out are failed steps, steps that were taken back (behind them came an error, and behind that the same tool
    worked once more), and steps that only brought again what the one before had brought.
    """
    last_success = {step.tool: at for at, step in enumerate(steps) if step.result.ok}
    next_error = len(steps)
    standing: list[Step] = []
    for at in range(len(steps) - 1, -1, -1):
        if not steps[at].result.ok:
            next_error = at
        elif last_success[steps[at].tool] <= max(at, next_error):
            standing.append(steps[at])
    kept: list[Step] = []
    for step in reversed(standing):
        if not (kept and same_call(kept[-1], step) and kept[-1].result.output == step.result.output):
            kept.append(step)
    return kept


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and _PLACE.match(value) is not None


def _is_option(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return abs(value) < _LARGEST_NUMBER
    return isinstance(value, str) and len(value) <= MAX_VALUE


def _canonical(value: Any) -> Any:
    # clients differ in whether they write 1 or 1.0
    return int(value) if isinstance(value, float) and value.is_integer() else value
