"""The reflection on an episode: what worked, what to do better, what it shows. No item without steps or numbers."""

from __future__ import annotations

from statistics import median
from typing import Any

from memory_mcp.learning.history import MIN_EPISODES, History, Usual
from memory_mcp.learning.mining import REPEATS, choice
from memory_mcp.learning.templates import error_name
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.episode import Episode, Step

MAX_ITEMS = 5


def reflect(episode: Episode, usual: Usual | None, history: History) -> Json:
    """`{successes, improvements, insights}`; every item is `{text, steps, base_rate?}`."""
    successes = [*_recovered(episode.steps), *_effort(episode, usual, better=True)]
    improvements = [
        *_unresolved(episode),
        *_repeated(episode.steps),
        *_slow(episode.steps),
        *_effort(episode, usual, better=False),
    ]
    return {
        "successes": successes[:MAX_ITEMS],
        "improvements": improvements[:MAX_ITEMS],
        "insights": [*_against_base(episode, usual), *_tools(episode, history)][:MAX_ITEMS],
    }


def describe(step: Step) -> str:
    """A step in a few words: its tool, and its parameters where they are short."""
    chosen = choice(step)
    parameters = ", ".join(f"{name}={_short(value)}" for name, value in chosen.get("parameters", {}).items())
    return f"{step.tool}({parameters})" if parameters else step.tool


def first_line(text: str, limit: int = 160) -> str:
    """The first line of a text, shortened visibly."""
    line = text.strip().splitlines()[0] if text.strip() else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _item(text: str, steps: list[int], base_rate: Json | None = None) -> Json:
    item: Json = {"text": text, "steps": steps}
    if base_rate is not None:
        item["base_rate"] = base_rate
    return item


def _recovered(steps: list[Step]) -> list[Json]:
    found = []
    seen: set[str] = set()
    for at, failed in enumerate(steps):
        if failed.result.ok or failed.tool in seen:
            continue
        out = next((step for step in steps[at + 1 :] if step.tool == failed.tool and step.result.ok), None)
        if out is None:
            continue
        seen.add(failed.tool)
        between = [step for step in steps[at + 1 : out.step_number - 1] if step.result.ok]
        way = " then ".join(describe(step) for step in [*between, out][-3:])
        text = f"{describe(failed)} failed ({first_line(failed.result.observation, 120)}); {way} led out of it"
        found.append(_item(text, [failed.step_number, *(step.step_number for step in between[-2:]), out.step_number]))
    return found


def _unresolved(episode: Episode) -> list[Json]:
    steps = episode.steps
    found = []
    seen: set[str] = set()
    for at, failed in enumerate(steps):
        if failed.result.ok or failed.tool in seen:
            continue
        if any(step.tool == failed.tool and step.result.ok for step in steps[at + 1 :]):
            continue
        seen.add(failed.tool)
        numbers = [step.step_number for step in steps if step.tool == failed.tool and not step.result.ok]
        times = f"{len(numbers)} times and never worked" if len(numbers) > 1 else "and was not repaired"
        text = f"{failed.tool} failed {times}: {first_line(failed.result.observation, 120)}"
        found.append(_item(text, numbers[:10]))
    return found


def _repeated(steps: list[Step]) -> list[Json]:
    calls: dict[str, list[int]] = {}
    for step in steps:
        calls.setdefault(dumps([step.tool, step.action, step.parameters]), []).append(step.step_number)
    return [
        _item(f"{steps[numbers[0] - 1].tool} was called {len(numbers)} times with the same arguments", numbers[:10])
        for numbers in calls.values()
        if len(numbers) >= REPEATS
    ]


def _slow(steps: list[Step]) -> list[Json]:
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
        return [_item(f"done in {own} steps where {usual.steps:.1f} are usual", ends, base)]
    if not better and own >= 1.5 * usual.steps:
        return [_item(f"took {own} steps where {usual.steps:.1f} are usual", ends, base)]
    return []


def _against_base(episode: Episode, usual: Usual | None) -> list[Json]:
    assert episode.outcome is not None
    last = [episode.steps[-1].step_number] if episode.steps else []
    base = None
    suffix = ""
    if usual is not None:
        base = {"success_rate": round(usual.success_rate, 3), "episodes": usual.episodes, "scope": usual.scope}
        suffix = f", where {usual.success_rate:.0%} of {usual.episodes} episodes ({usual.scope}) succeed"
    if episode.outcome.succeeded is False:
        reason = first_line(episode.outcome.reason)
        text = f"the task failed{f' ({reason})' if reason else ''}"
        errors = [step for step in episode.steps if not step.result.ok]
        if errors:
            text += f"; the last error was {error_name(errors[-1].result.observation) or 'in ' + errors[-1].tool}"
            last = [errors[-1].step_number]
        return [_item(text + suffix, last, base)]
    if episode.outcome.succeeded and usual is not None and usual.success_rate < 0.5:
        return [_item("the task succeeded" + suffix, last, base)]
    return []


def _tools(episode: Episode, history: History) -> list[Json]:
    found = []
    for tool in dict.fromkeys(step.tool for step in episode.steps):
        calls = [step for step in episode.steps if step.tool == tool]
        failed = [step.step_number for step in calls if not step.result.ok]
        record = history.tool(tool, episode.domain)
        if len(failed) >= 2 and record.calls >= MIN_EPISODES and len(failed) / len(calls) >= 2 * record.error_rate:
            text = (
                f"{tool} failed in {len(failed)} of {len(calls)} calls, against {record.error_rate:.0%} of"
                f" {record.calls} calls before"
            )
            base = {"error_rate": round(record.error_rate, 3), "calls": record.calls}
            found.append(_item(text, failed[:10], base))
    return found


def _short(value: Any) -> str:
    return value if isinstance(value, str) else dumps(value)
