"""Playbooks: the steps that led earlier tasks of this kind to success, with the evidence for each of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from memory_mcp.learning.evidence import beta_interval
from memory_mcp.learning.patterns import Pattern
from memory_mcp.learning.templates import telling_line
from memory_mcp.learning.trace import choice, effective
from memory_mcp.learning.wording import describe, first_line, gist, said
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.episode import Episode, Step

# how much more a close precedent counts than a distant one
SHARPNESS = 4
MAX_STEPS = 12
# from so many successes with as many values on, an argument belongs to the task and not to the way
MIN_DIFFERENT = 3
_PRIOR_STRENGTH = 2.0


# arguments as `(tool, parameter)`
Own = frozenset[tuple[str, str]]


@dataclass(slots=True)
class Near:
    """An earlier episode like this one, with its relevance in 0..1."""

    episode: Episode
    relevance: float
    plan: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.plan = effective(self.episode.steps)

    @property
    def succeeded(self) -> bool:
        return self.episode.outcome is not None and self.episode.outcome.succeeded is True

    @property
    def failed(self) -> bool:
        return self.episode.outcome is not None and self.episode.outcome.succeeded is False

    @property
    def choices(self) -> list[Json]:
        return [choice(step) for step in self.plan]


def choose(near: Sequence[Near], own: Own = frozenset()) -> Near | None:
    """The precedent to follow: of the plan that the closest successes agree on, the closest one.

    `own` are arguments that each task has to itself; plans agree whatever they are.
    """
    agreeing: dict[str, list[Near]] = {}
    for precedent in near:
        if precedent.succeeded and precedent.plan:
            agreeing.setdefault(dumps(_shared(precedent.choices, own)), []).append(precedent)
    if not agreeing:
        return None
    votes = {plan: sum(one.relevance**SHARPNESS for one in those) for plan, those in agreeing.items()}
    best = max(votes, key=lambda plan: votes[plan])
    return max(agreeing[best], key=lambda precedent: precedent.relevance)


def own_arguments(near: Sequence[Near]) -> Own:
    """`(tool, parameter)` whose value is another one in each of the successes that have it: names, ids, objects."""
    values: dict[tuple[str, str], list[set[str]]] = {}
    for precedent in near:
        if precedent.succeeded:
            here: dict[tuple[str, str], set[str]] = {}
            for chosen in precedent.choices:
                for name, value in chosen.get("parameters", {}).items():
                    here.setdefault((chosen["tool"], name), set()).add(dumps(value))
            for key, seen in here.items():
                values.setdefault(key, []).append(seen)
    return frozenset(
        key
        for key, sets in values.items()
        if len(sets) >= MIN_DIFFERENT and sum(map(len, sets)) == len(set().union(*sets))
    )


def _shared(choices: Sequence[Json], own: Own) -> list[Json]:
    """Choices without the arguments that each task has to itself."""
    shared = []
    for chosen in choices:
        parameters = {
            name: value for name, value in chosen.get("parameters", {}).items() if (chosen["tool"], name) not in own
        }
        shared.append({"tool": chosen["tool"], **({"parameters": parameters} if parameters else {})})
    return shared


def write(near: Sequence[Near], pitfalls: Sequence[Pattern], base_rate: float | None, max_steps: int) -> Json | None:
    """A playbook from the episodes nearest to a task, or None when none of them succeeded."""
    own = own_arguments(near)
    chosen = choose(near, own)
    if chosen is None:
        return None
    plan = chosen.plan[: min(max_steps, MAX_STEPS)]
    calls = _shared([choice(step) for step in plan], own)
    ways = [(precedent, _shared(precedent.choices, own)) for precedent in near]
    followers = [precedent for precedent, way in ways if _contains(way, calls)]
    successes = sum(precedent.succeeded for precedent in followers)
    failures = sum(precedent.failed for precedent in followers)
    prior = 0.5 if base_rate is None else base_rate
    mean, low, high = beta_interval(successes, failures, prior, _PRIOR_STRENGTH)
    failed = [way for precedent, way in ways if precedent.failed]
    succeeded = [way for precedent, way in ways if precedent.succeeded]
    return {
        "steps": [
            _step(order, step, call, succeeded, failed)
            for order, (step, call) in enumerate(zip(plan, calls, strict=True), 1)
        ],
        "left_out": len(chosen.plan) - len(plan),
        "why": f"led to success in {successes} of {successes + failures} similar episodes that went this way",
        "evidence": {
            "successes": successes,
            "failures": failures,
            "success_rate": round(mean, 3),
            "interval": [round(low, 3), round(high, 3)],
            "base_rate": None if base_rate is None else round(base_rate, 3),
            "episodes": [precedent.episode.episode_id for precedent in followers][:5],
        },
        "when_to_apply": _when(chosen.episode),
        "when_not_to_apply": [_failure(precedent) for precedent in near if precedent.failed][:2],
        "pitfalls": [pitfall(pattern) for pattern in pitfalls],
        "source": chosen.episode.episode_id,
    }


def advice(playbook: Json) -> Json:
    """What a receipt keeps of a playbook: the plan, so that its use can be recognised."""
    return {
        "plan": [{name: step[name] for name in ("tool", "parameters") if name in step} for step in playbook["steps"]]
    }


def pitfall(pattern: Pattern) -> Json:
    """A pitfall with what it costs."""
    evidence = pattern.evidence
    return {
        "pattern_id": pattern.pattern_id,
        "text": pattern.text,
        "success_rate": round(evidence.posterior_mean, 3),
        "base_rate": round(evidence.base_rate, 3),
        "episodes": evidence.support,
        "verdict": evidence.verdict,
    }


def _step(order: int, step: Step, call: Json, succeeded: list[list[Json]], failed: list[list[Json]]) -> Json:
    """A step of the plan; `call` is what of it all tasks share, the lists are the ways of similar episodes."""
    with_it = sum(call in way for way in succeeded)
    failed_with_it = sum(call in way for way in failed)
    written: Json = {"order": order, **call}
    yours = [name for name in choice(step).get("parameters", {}) if name not in call.get("parameters", {})]
    if yours:
        written["your_own"] = yours
    purpose = first_line(step.action)
    # some importers know no more of an action than the call itself
    if purpose and purpose != step.tool and not purpose.startswith(f"{step.tool}("):
        written["purpose"] = purpose
    expected = gist(step.result.output)
    if expected:
        written["expect"] = expected
    written["evidence"] = f"in {with_it} of {len(succeeded)} similar successes"
    if failed:
        written["evidence"] += f", {failed_with_it} of {len(failed)} similar failures"
    return written


def _contains(choices: list[Json], plan: list[Json]) -> bool:
    """Whether the plan occurs in the choices in its order."""
    rest = iter(choices)
    return all(any(other == step for other in rest) for step in plan)


def _when(episode: Episode) -> str:
    context = episode.context
    parts = [f"domain {episode.domain}" if episode.domain else "", context.language, context.framework]
    where = ", ".join(part for part in parts if part)
    task = first_line(episode.task_description, 120)
    return f"tasks like “{task}”" + (f" ({where})" if where else "")


def _failure(precedent: Near) -> Json:
    episode = precedent.episode
    errors = [step for step in episode.steps if not step.result.ok]
    reason = first_line(episode.outcome.reason, 120) if episode.outcome else ""
    if errors:
        last = errors[-1]
        reason = reason or f"{describe(last)} failed with {said(telling_line(last.result.observation), 100)}"
    return {"episode_id": episode.episode_id, "reason": reason or "failed without an error"}
