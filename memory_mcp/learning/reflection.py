"""The reflection on an episode: what worked, what to do better, what it shows. No item without steps or numbers."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

from memory_mcp.learning.history import MIN_EPISODES, History, Usual
from memory_mcp.learning.mining import REPEATS
from memory_mcp.learning.templates import error_name, telling_line
from memory_mcp.learning.trace import repeated_calls, same_call, same_object
from memory_mcp.learning.wording import describe, first_line, said
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Episode, Step

MAX_ITEMS = 5


def reflect(episode: Episode, usual: Usual | None, history: History) -> Json:
    """`{successes, improvements, insights}`; every item is `{text, steps, base_rate?}`."""
    successes = [*_recovered(episode.steps), *_effort(episode, usual, better=True)]
    improvements = [
        *_unresolved(episode.steps),
        *_repeated(episode.steps),
        *_slow(episode.steps),
        *_effort(episode, usual, better=False),
    ]
    return {
        "successes": successes[:MAX_ITEMS],
        "improvements": improvements[:MAX_ITEMS],
        "insights": [*_against_base(episode, usual), *_tools(episode, history)][:MAX_ITEMS],
    }


def _item(text: str, steps: list[int], base_rate: Json | None = None) -> Json:
    item: Json = {"text": text, "steps": steps}
    if base_rate is not None:
        item["base_rate"] = base_rate
    return item


def _recovered(steps: Sequence[Step]) -> list[Json]:
    found = []
    seen: set[str] = set()
    for at, failed in enumerate(steps):
        out = None if failed.result.ok or failed.tool in seen else _worked_later(steps, at)
        if out is None:
            continue
        seen.add(failed.tool)
        between = [step for step in steps[at + 1 : out.step_number - 1] if step.result.ok][-2:]
        way = " then ".join([*(describe(step) for step in between), _last_step_out(failed, out)])
        text = f"{describe(failed)} failed with {_error(failed)}; {way} led out of it"
        found.append(_item(text, [failed.step_number, *(step.step_number for step in between), out.step_number]))
    return found


def _last_step_out(failed: Step, out: Step) -> str:
    if same_call(failed, out):
        return "the same call again"
    return f"{out.tool} with other arguments" if describe(out) == describe(failed) else describe(out)


def _unresolved(steps: Sequence[Step]) -> list[Json]:
    worked = {step.tool for step in steps if step.result.ok}
    unresolved: dict[str, list[Step]] = {}
    for at, step in enumerate(steps):
        if not step.result.ok and _worked_later(steps, at) is None:
            unresolved.setdefault(step.tool, []).append(step)
    found = []
    for tool, failures in unresolved.items():
        times = f" {len(failures)} times" if len(failures) > 1 else ""
        end = "did not work again" if tool in worked else "never worked"
        text = f"{tool} failed{times} and {end}: {_error(failures[0])}"
        found.append(_item(text, [step.step_number for step in failures[:10]]))
    return found


def _repeated(steps: Sequence[Step]) -> list[Json]:
    return [
        _item(f"{steps[numbers[0] - 1].tool} was called {len(numbers)} times with the same arguments", numbers[:10])
        for numbers in repeated_calls(steps, REPEATS)
    ]


def _slow(steps: Sequence[Step]) -> list[Json]:
    timed = [(step, step.latency_ms) for step in steps if step.latency_ms is not None]
    if len(timed) < MIN_EPISODES:
        return []
    usual = median(latency for _, latency in timed)
    return [
        _item(f"{describe(step)} took {latency / 1000:.1f} s, {latency / usual:.0f} times the median step", [number])
        for step, latency in timed
        if (number := step.step_number) and latency > 1_000 and usual > 0 and latency > 3 * usual
    ]


def _effort(episode: Episode, usual: Usual | None, *, better: bool) -> list[Json]:
    if usual is None or not usual.steps or not episode.steps:
        return []
    own, numbers = len(episode.steps), [step.step_number for step in episode.steps]
    base: dict[str, Any] = {"usual_steps": round(usual.steps, 1), "episodes": usual.episodes, "scope": usual.scope}
    ends = [numbers[0], numbers[-1]]
    if better and episode.outcome is not None and episode.outcome.succeeded and own <= 0.75 * usual.steps:
        return [_item(f"done in {own} steps where {round(usual.steps, 1):g} are usual", ends, base)]
    if not better and own >= 1.5 * usual.steps:
        return [_item(f"took {own} steps where {round(usual.steps, 1):g} are usual", ends, base)]
    return []


def _against_base(episode: Episode, usual: Usual | None) -> list[Json]:
    assert episode.outcome is not None
    last = [episode.steps[-1].step_number] if episode.steps else []
    rate = None if usual is None else usual.success_rate
    base = None
    suffix = ""
    if usual is not None and rate is not None:
        base = {"success_rate": round(rate, 3), "episodes": usual.judged, "scope": usual.scope}
        suffix = f", where {rate:.0%} of {usual.told} succeed"
    if episode.outcome.succeeded is False:
        reason = first_line(episode.outcome.reason)
        text = f"the task failed{f' ({reason})' if reason else ''}{suffix}"
        errors = [step for step in episode.steps if not step.result.ok]
        if errors:
            name = error_name(errors[-1].result.observation)
            text += f"; the last error was {f'{name} in ' if name else 'in '}{errors[-1].tool}"
            last = [errors[-1].step_number]
        # what rests on nothing is not told
        return [_item(text, last, base)] if last or base else []
    if episode.outcome.succeeded and rate is not None and rate < 0.5:
        return [_item("the task succeeded" + suffix, last, base)]
    return []


def _tools(episode: Episode, history: History) -> list[Json]:
    calls: dict[str, list[Step]] = {}
    for step in episode.steps:
        calls.setdefault(step.tool, []).append(step)
    found = []
    for tool, made in calls.items():
        failed = [step.step_number for step in made if not step.result.ok]
        if len(failed) < 2:
            continue
        record = history.tool(tool, episode.domain)
        if record.calls >= MIN_EPISODES and len(failed) / len(made) >= 2 * record.error_rate:
            text = (
                f"{tool} failed in {len(failed)} of {len(made)} calls, against {record.error_rate:.0%} of"
                f" {record.calls} calls before"
            )
            base = {"error_rate": round(record.error_rate, 3), "calls": record.calls}
            found.append(_item(text, failed[:10], base))
    return found


def _worked_later(steps: Sequence[Step], at: int) -> Step | None:
    """The step at which a tool that failed worked, if it was about the same thing."""
    failed = steps[at]
    later = (step for step in steps[at + 1 :] if step.tool == failed.tool and step.result.ok)
    return next((step for step in later if same_object(failed, step)), None)


def _error(failed: Step) -> str:
    return said(telling_line(failed.result.observation))
