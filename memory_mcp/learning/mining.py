"""What one episode contributes to patterns. Pure: the same episode always gives the same contributions.

A contribution has a canonical body, whose hash is the pattern's id, so that evidence from all episodes merges into
one pattern whatever their order. Its group is what the pattern is compared with: all episodes (""), or those that met
the same situation. Which patterns an episode shows never depends on how it ended: the evidence rests on that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

from memory_mcp.learning.trace import choice, collapsed, effective, error_of, repeated_calls, same_call, same_object
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.episode import Episode, Step

Kind = Literal["tool_sequence", "decision_point", "error_recovery", "context_pattern", "pitfall"]
KINDS: tuple[str, ...] = Kind.__args__  # type: ignore[attr-defined]

MAX_SEQUENCE = 4
MAX_ATTEMPTS = 8
REPEATS = 3
# where a tool is given up, what follows soon takes its place; what follows later has nothing to do with it
SUBSTITUTES = 3
# bounds on what a very long episode contributes; they cut at the same place whatever the outcome
MAX_CALLS = 200
MAX_SITUATIONS = 100
MAX_ERRORS = 50
MAX_TOOLS = 30
MAX_CITED = 20

Errors = list[Json | None]


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
        pattern_id, group_id = contribution.pattern_id, contribution.group_id
        known = self.contributions.get(pattern_id)
        if known is None:
            self.contributions[pattern_id] = contribution
        else:
            known.steps = sorted({*known.steps, *contribution.steps})[:MAX_CITED]
            known.tried += contribution.tried
            known.resolved += contribution.resolved
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
    errors = _errors(episode.steps)
    _sequences(episode.steps, mined)
    _decisions(episode.steps, errors, mined)
    _recoveries(episode, errors, mined)
    _contexts(episode, mined)
    _pitfalls(episode.steps, errors, mined)
    return mined


def _errors(steps: Sequence[Step]) -> Errors:
    """The error class of each failed step; classes beyond the first `MAX_ERRORS` are left out."""
    classes: dict[str, Json] = {}
    found: Errors = []
    for step in steps:
        error = None if step.result.ok else error_of(step)
        if error is not None:
            key = dumps(error)
            if key not in classes and len(classes) < MAX_ERRORS:
                classes[key] = error
            error = classes.get(key)
        found.append(error)
    return found


def _sequences(steps: Sequence[Step], mined: Mined) -> None:
    tools = collapsed(steps)[:MAX_CALLS]
    for length in range(2, MAX_SEQUENCE + 1):
        for start in range(len(tools) - length + 1):
            window = tools[start : start + length]
            names = [tool for tool, _ in window]
            mined.add(Contribution("tool_sequence", {"tools": names}, None, [number for _, number in window]))


def _decisions(steps: Sequence[Step], errors: Errors, mined: Mined) -> None:
    """What was done at the start and after a tool that worked; what leads out of an error is told by recoveries."""
    situation: Json | None = {"after": "", "result": "start"}
    met: set[str] = set()
    for step in steps:
        if situation is not None and situation["after"] not in met and len(met) < MAX_SITUATIONS:
            met.add(situation["after"])
            for chosen in _granularities(step):
                body = {"situation": situation, "choice": chosen}
                group = {"situation": situation, "detail": "parameters" in chosen}
                trial = Contribution("decision_point", body, group, [step.step_number], 1, int(step.result.ok))
                mined.add(trial)
        situation = {"after": step.tool, "result": "success"} if step.result.ok else None


def _recoveries(episode: Episode, errors: Errors, mined: Mined) -> None:
    """What was tried after each failure, and whether it led out of the error."""
    # what was done otherwise later on did not last
    lasting = {dumps(choice(step)) for step in effective(episode.steps)}
    for at, error in enumerate(errors):
        if error is None:
            continue
        attempts, out = _way_out(episode, errors, at)
        tried: set[str] = set()
        for step in attempts:
            resolved = int(out and step.result.ok and dumps(choice(step)) in lasting)
            for chosen in _granularities(step):
                key = dumps(chosen)
                if key in tried:
                    continue
                tried.add(key)
                group = {"error": error, "detail": "parameters" in chosen}
                body = {"error": error, "recovery": chosen}
                numbers = [episode.steps[at].step_number, step.step_number]
                mined.add(Contribution("error_recovery", body, group, numbers, 1, resolved))


def _way_out(episode: Episode, errors: Errors, at: int) -> tuple[list[Step], bool]:
    """`(attempts, whether they led out)` for the failure at `at`.

    Attempts last until the tool that failed works, or fails in the same way again. Where the tool is given up, success
    of the task means that what came next took its place.
    """
    steps, failed = episode.steps, episode.steps[at]
    last = min(len(steps), at + 1 + MAX_ATTEMPTS)
    for end in range(at + 1, last):
        attempts = steps[at + 1 : end + 1]
        if errors[end] == errors[at]:
            return attempts, False
        if steps[end].tool == failed.tool and steps[end].result.ok and same_object(failed, steps[end]):
            # the call that failed works now because of what was done in between: that is the way out
            helped = same_call(steps[end], failed) and any(step.result.ok for step in attempts[:-1])
            return (attempts[:-1] if helped else attempts), True
    given_up = all(step.tool != failed.tool for step in steps[at + 1 : last])
    if given_up:
        return steps[at + 1 : at + 1 + SUBSTITUTES], episode.outcome is not None and episode.outcome.succeeded is True
    return steps[at + 1 : last], False


def _contexts(episode: Episode, mined: Mined) -> None:
    context = episode.context
    # of the task type alone there is nothing to tell: base rates are those of domain and task type
    features: list[Json] = []
    for name in ("language", "framework", "complexity"):
        value = getattr(context, name)
        if value:
            features.append({name: value})
    features += [{"tag": tag} for tag in context.tags]
    for feature in features:
        mined.add(Contribution("context_pattern", {"context": feature}, None, []))
    if episode.task_type != "other":
        features.append({"task_type": episode.task_type})
    tools: dict[str, int] = {}
    for step in episode.steps:
        if len(tools) < MAX_TOOLS:
            tools.setdefault(step.tool, step.step_number)
    for feature in features:
        for tool, number in tools.items():
            body = {"context": feature, "tool": tool}
            mined.add(Contribution("context_pattern", body, {"context": feature}, [number]))


def _pitfalls(steps: Sequence[Step], errors: Errors, mined: Mined) -> None:
    for step, error in zip(steps, errors, strict=True):
        if error is not None:
            mined.add(Contribution("pitfall", {"error": error}, None, [step.step_number]))
    for numbers in repeated_calls(steps, REPEATS)[:MAX_ERRORS]:
        tool = steps[numbers[0] - 1].tool
        mined.add(Contribution("pitfall", {"repeats": tool}, None, numbers[:MAX_CITED]))
    retried: set[str] = set()
    for earlier, later in pairwise(steps):
        if not earlier.result.ok and same_call(earlier, later) and len(retried) < MAX_ERRORS:
            retried.add(earlier.tool)
            body = {"retries_unchanged": earlier.tool}
            mined.add(Contribution("pitfall", body, None, [earlier.step_number, later.step_number]))


def _granularities(step: Step) -> list[Json]:
    plain = choice(step, with_parameters=False)
    detailed = choice(step)
    return [plain] if detailed == plain else [plain, detailed]
