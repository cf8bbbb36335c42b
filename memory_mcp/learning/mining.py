"""What one episode contributes to patterns. Pure: the same episode always gives the same contributions.

A contribution has a canonical body, whose hash is the pattern's id, so that evidence from all episodes merges into
one pattern whatever their order. Its group is what the pattern is compared with: all episodes (""), or those that met
the same situation.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

from memory_mcp.learning.templates import template
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.episode import Episode, Step

Kind = Literal["tool_sequence", "decision_point", "error_recovery", "context_pattern", "pitfall"]
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]

MAX_SEQUENCE = 4
MAX_SEQUENCES = 500
MAX_ATTEMPTS = 8
MAX_VALUE = 24
REPEATS = 3


@dataclass(slots=True)
class Contribution:
    """A pattern seen in an episode. `tried` and `resolved` count attempts of the advised step inside the episode."""

    kind: Kind
    body: Json
    group: Json | None
    steps: list[int]
    tried: int = 0
    resolved: int = 0

    @property
    def pattern_id(self) -> str:
        return identify(self.kind, self.body)

    @property
    def group_id(self) -> str:
        return "" if self.group is None else identify("group", self.group)


@dataclass(slots=True)
class Mined:
    """Everything that an episode contributes; `groups` are the contrast groups that it belongs to."""

    contributions: dict[str, Contribution] = field(default_factory=dict)
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, contribution: Contribution) -> None:
        """Note a pattern; a pattern that occurs again in the same episode is still one observation."""
        known = self.contributions.get(contribution.pattern_id)
        if known is None:
            self.contributions[contribution.pattern_id] = contribution
        else:
            known.steps = sorted({*known.steps, *contribution.steps})[:20]
            known.tried += contribution.tried
            known.resolved += contribution.resolved
        group_id = contribution.group_id
        tried, resolved = self.groups.get(group_id, (0, 0))
        self.groups[group_id] = (tried + contribution.tried, resolved + contribution.resolved)


def identify(kind: str, body: Json) -> str:
    """Id of a pattern or group: a hash of its canonical form."""
    return hashlib.sha256(f"{kind}\x1f{dumps(body)}".encode()).hexdigest()[:24]


def mine(episode: Episode) -> Mined:
    """All contributions of a completed episode."""
    mined = Mined()
    # every episode is part of the group of all, also one without steps
    mined.groups[""] = (0, 0)
    _sequences(episode.steps, mined)
    _decisions(episode.steps, mined)
    _recoveries(episode, mined)
    _contexts(episode, mined)
    _pitfalls(episode.steps, mined)
    return mined


def choice(step: Step, *, with_parameters: bool = True) -> Json:
    """What was done, in a form that can repeat: the tool, and those of its parameters that are short values."""
    chosen: Json = {"tool": step.tool}
    parameters = {name: value for name, value in step.parameters.items() if _is_option(value)}
    if with_parameters and parameters:
        chosen["parameters"] = parameters
    return chosen


def error_of(step: Step) -> Json:
    """The class of a failed step: its tool and the template of its error."""
    message = step.result.observation or ("timeout" if step.result.type == "timeout" else "")
    return {"tool": step.tool, "template": template(message)}


def situation_after(step: Step | None) -> Json:
    """Where the agent stands: at the start, behind a tool that worked, or before an error."""
    if step is None:
        return {"after": "", "result": "start"}
    if step.result.ok:
        return {"after": step.tool, "result": "success"}
    return {"after": step.tool, "result": "error", "template": error_of(step)["template"]}


def collapsed(steps: list[Step]) -> list[tuple[str, int]]:
    """`(tool, step_number)` with runs of the same tool as one."""
    found: list[tuple[str, int]] = []
    for step in steps:
        if not found or found[-1][0] != step.tool:
            found.append((step.tool, step.step_number))
    return found


def _same_call(one: Step, other: Step) -> bool:
    return one.tool == other.tool and one.parameters == other.parameters and one.action == other.action


def _is_option(value: Any) -> bool:
    if isinstance(value, bool) or value is None:
        return True
    if isinstance(value, int | float):
        return abs(value) < 10_000
    return isinstance(value, str) and len(value) <= MAX_VALUE


def _sequences(steps: list[Step], mined: Mined) -> None:
    tools = collapsed(steps)
    seen = 0
    for length in range(2, MAX_SEQUENCE + 1):
        for start in range(len(tools) - length + 1):
            if seen == MAX_SEQUENCES:
                return
            window = tools[start : start + length]
            names = [tool for tool, _ in window]
            mined.add(Contribution("tool_sequence", {"tools": names}, None, [number for _, number in window]))
            seen += 1


def _decisions(steps: list[Step], mined: Mined) -> None:
    before: Step | None = None
    met: set[str] = set()
    for step in steps:
        situation = situation_after(before)
        # what leads out of an error is the business of recoveries
        if situation["result"] != "error" and dumps(situation) not in met:
            met.add(dumps(situation))
            for chosen in _granularities(step):
                body = {"situation": situation, "choice": chosen}
                group = {"situation": situation, "detail": "parameters" in chosen}
                trial = Contribution("decision_point", body, group, [step.step_number], 1, int(step.result.ok))
                mined.add(trial)
        before = step


def _recoveries(episode: Episode, mined: Mined) -> None:
    steps = episode.steps
    succeeded = episode.outcome is not None and episode.outcome.succeeded is True
    met: set[str] = set()
    for at, failed in enumerate(steps):
        if failed.result.ok:
            continue
        error = error_of(failed)
        if dumps(error) in met:
            continue
        met.add(dumps(error))
        behind = steps[at + 1 : at + 1 + MAX_ATTEMPTS]
        # the way out ends where the tool that failed works
        out = next((index for index, step in enumerate(behind) if step.tool == failed.tool and step.result.ok), None)
        attempts = behind if out is None else behind[: out + 1]
        got_out = out is not None or succeeded
        if out and _same_call(behind[out], failed) and any(step.result.ok for step in attempts[:-1]):
            # the call that failed works now because of what was done in between: that is the way out
            attempts = attempts[:-1]
        tried: set[str] = set()
        for step in attempts:
            for chosen in _granularities(step):
                if dumps(chosen) in tried:
                    continue
                tried.add(dumps(chosen))
                resolved = int(step.result.ok and got_out)
                group = {"error": error, "detail": "parameters" in chosen}
                body = {"error": error, "recovery": chosen}
                numbers = [failed.step_number, step.step_number]
                mined.add(Contribution("error_recovery", body, group, numbers, 1, resolved))


def _contexts(episode: Episode, mined: Mined) -> None:
    context = episode.context
    features: list[Json] = [{"task_type": episode.task_type}] if episode.task_type != "other" else []
    for name in ("language", "framework", "complexity"):
        value = getattr(context, name)
        if value:
            features.append({name: value})
    features += [{"tag": tag} for tag in context.tags]
    tools: dict[str, int] = {}
    for step in episode.steps:
        tools.setdefault(step.tool, step.step_number)
    for feature in features:
        mined.add(Contribution("context_pattern", {"context": feature}, None, []))
        for tool, number in tools.items():
            body = {"context": feature, "tool": tool}
            mined.add(Contribution("context_pattern", body, {"context": feature}, [number]))


def _pitfalls(steps: list[Step], mined: Mined) -> None:
    for step in steps:
        if not step.result.ok:
            mined.add(Contribution("pitfall", {"error": error_of(step)}, None, [step.step_number]))
    repeated: dict[str, list[int]] = {}
    for step in steps:
        repeated.setdefault(dumps([step.tool, step.action, step.parameters]), []).append(step.step_number)
    for numbers in repeated.values():
        if len(numbers) >= REPEATS:
            tool = steps[numbers[0] - 1].tool
            mined.add(Contribution("pitfall", {"repeats": tool}, None, numbers[:20]))
    for earlier, later in pairwise(steps):
        if not earlier.result.ok and _same_call(earlier, later):
            body = {"retries_unchanged": earlier.tool}
            mined.add(Contribution("pitfall", body, None, [earlier.step_number, later.step_number]))


def _granularities(step: Step) -> list[Json]:
    plain = choice(step, with_parameters=False)
    detailed = choice(step)
    return [plain] if detailed == plain else [plain, detailed]
