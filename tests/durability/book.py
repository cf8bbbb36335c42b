"""What clients asked for and what they were told, so that it can be compared with what is there afterwards.

Every call has a name that no other call has, and all that it writes follows from the name: so a reader can tell from
a stored step which call wrote it, and what else belongs to it.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

Json = dict[str, Any]

_TOOLS = ("read_file", "edit_file", "run_tests", "search_code", "shell")
_ERRORS = ("TimeoutError: waited 30 s", "KeyError: 'total'", "AssertionError: expected 3, got 0")
_OUTCOMES = ("success", "success", "failure", "partial_success", "abstained")


class State(Enum):
    """What is known about a call."""

    IN_FLIGHT = "in flight"
    ACKNOWLEDGED = "acknowledged"
    REFUSED = "refused"


@dataclass(slots=True, eq=False)
class Call:
    """One writing call. `numbers` are the step numbers that the answer named; none where it was only accepted.

    `seen` is what became of it when it was looked for: what was found once may not vanish, nor the other way round.
    """

    kind: str
    name: str
    parts: int = 0
    state: State = State.IN_FLIGHT
    numbers: list[int] = field(default_factory=list)
    seen: bool | None = None

    def steps(self) -> list[Json]:
        return [step(f"{self.name}.{part}") for part in range(self.parts)]


@dataclass(slots=True, eq=False)
class Entry:
    """An episode as its writers know it; without an id as long as nobody was told one."""

    create: Call
    episode_id: str = ""
    calls: list[Call] = field(default_factory=list)

    @property
    def task(self) -> Json:
        return task(self.create.name)

    @property
    def closing(self) -> list[Call]:
        return [call for call in self.calls if call.kind == "complete"]


class Book:
    """All episodes of a run."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def calls(self) -> Iterable[Call]:
        for entry in self.entries:
            yield entry.create
            yield from entry.calls

    def count(self, state: State) -> int:
        return sum(call.state is state for call in self.calls())

    def compare(self, told: Iterable[Json]) -> tuple[list[str], dict[str, int]]:
        """Problems, and numbers of calls found, with all episodes that there are.

        The numbers: `acknowledged`, `found` (of those), `in_flight_found`, `in_flight_absent`, `refused`.
        """
        by_task: dict[str, list[Json]] = {}
        for episode in told:
            by_task.setdefault(episode["task_description"], []).append(episode)
        problems: list[str] = []
        figures = dict.fromkeys(("acknowledged", "found", "in_flight_found", "in_flight_absent", "refused"), 0)
        for entry in self.entries:
            stored = by_task.pop(entry.task["task_description"], [])
            if len(stored) > 1:
                problems.append(f"{entry.create.name}: is there {len(stored)} times")
            problems += compare(entry, stored[0] if stored else None)
            present = presence(entry, stored[0] if stored else None)
            for call in (entry.create, *entry.calls):
                if call.state is State.ACKNOWLEDGED:
                    figures["acknowledged"] += 1
                    figures["found"] += present[call.name]
                elif call.state is State.REFUSED:
                    figures["refused"] += 1
                else:
                    if call.seen not in (None, present[call.name]):
                        problems.append(f"{call.name}: was {'' if call.seen else 'not '}there and is not any more so")
                    call.seen = present[call.name]
                    figures["in_flight_found" if present[call.name] else "in_flight_absent"] += 1
        problems += [f"an episode that nobody has written: {description}" for description in by_task]
        return problems, figures


def task(name: str) -> Json:
    rng = random.Random(name)
    verb, thing = rng.choice(("repair", "extend", "measure")), rng.choice(("index", "form"))
    return {
        "task_description": f"{verb} the {thing} ({name})",
        "domain": rng.choice(("billing", "search")),
        "task_type": rng.choice(("debugging", "testing")),
    }


def step(name: str) -> Json:
    """A step as it is sent; its name stands in its action."""
    rng = random.Random(name)
    failed = rng.random() < 0.3
    said = rng.choice(_ERRORS) if failed else f"{name} said " + "lorem ipsum dolor " * rng.choice((0, 2, 60))
    return {
        "tool": rng.choice(_TOOLS),
        "action": f"{name} looks at it",
        "parameters": {"path": f"src/{rng.randint(1, 9)}.py", "name": name},
        "result": {"type": "error", "message": said} if failed else {"type": "success", "output": said},
        "latency_ms": float(rng.randint(1, 900)),
    }


def outcome(name: str) -> Json:
    rng = random.Random(name)
    kind = rng.choice(_OUTCOMES)
    return {"type": kind, "verdict": f"{name} ends as {kind}"}


def compare(entry: Entry, told: Json | None) -> list[str]:
    """What is wrong with an episode as it is told; an empty list if it is what its writers were promised."""
    name = entry.create.name
    if told is None:
        written = [call.name for call in (entry.create, *entry.calls) if call.state is State.ACKNOWLEDGED]
        return [f"{name}: the episode is lost, and with it {', '.join(written)}"] if written else []
    if entry.create.state is State.REFUSED:
        return [f"{name}: was refused and is there all the same"]
    problems = [f"{name}: {key} was changed" for key, value in entry.task.items() if told[key] != value]
    problems += [f"{name}: {problem}" for problem in _steps(entry, told["steps"])]
    return problems + [f"{name}: {problem}" for problem in _outcome(entry, told)]


def presence(entry: Entry, told: Json | None) -> dict[str, bool]:
    """For each call whether what it wrote is there."""
    actions = {item["action"] for item in told["steps"]} if told else set()
    verdict = ((told or {}).get("outcome") or {}).get("verdict")
    present = {entry.create.name: told is not None}
    for call in entry.calls:
        if call.kind == "complete":
            present[call.name] = verdict == outcome(call.name)["verdict"]
        else:
            present[call.name] = all(item["action"] in actions for item in call.steps())
    return present


def _steps(entry: Entry, told: list[Json]) -> Iterable[str]:
    where: dict[str, list[int]] = {}
    for at, item in enumerate(told, 1):
        if item["step_number"] != at:
            yield f"step {item['step_number']} stands where step {at} belongs"
        where.setdefault(item["action"], []).append(item["step_number"])
    by_number = {item["step_number"]: item for item in told}
    for call in entry.calls:
        if call.kind != "steps":
            continue
        numbers = [where.pop(sent["action"], []) for sent in call.steps()]
        missing, twice = sum(not found for found in numbers), sum(len(found) > 1 for found in numbers)
        if twice:
            yield f"{call.name}: {twice} steps are there more than once"
        elif missing == call.parts:
            if call.state is State.ACKNOWLEDGED:
                yield f"{call.name}: all {call.parts} steps are lost"
        elif missing:
            yield f"{call.name} ({call.state.value}): {missing} of {call.parts} steps are missing"
        elif call.state is State.REFUSED:
            yield f"{call.name}: was refused and is there all the same"
        else:
            yield from _whole(call, [found[0] for found in numbers], by_number)
    for action in where:
        yield f"a step that nobody has written: {action}"


def _whole(call: Call, numbers: list[int], by_number: dict[int, Json]) -> Iterable[str]:
    if numbers != list(range(numbers[0], numbers[0] + call.parts)):
        yield f"{call.name}: its steps have the numbers {numbers}"
    if call.numbers and call.numbers != numbers:
        yield f"{call.name}: its steps were promised the numbers {call.numbers} and have {numbers}"
    for number, sent in zip(numbers, call.steps(), strict=True):
        if any(_same(by_number[number].get(key), value) is False for key, value in sent.items()):
            yield f"{call.name}: step {number} was changed"


def _same(told: Any, sent: Any) -> bool:
    if isinstance(sent, dict) and isinstance(told, dict):
        return all(_same(told.get(key), value) for key, value in sent.items())
    return bool(told == sent)


def _outcome(entry: Entry, told: Json) -> Iterable[str]:
    possible = {outcome(call.name)["verdict"]: call for call in entry.closing if call.state is not State.REFUSED}
    promised = [call for call in entry.closing if call.state is State.ACKNOWLEDGED]
    if told["status"] == "open":
        if told.get("outcome"):
            yield "is open and has an outcome"
        yield from (f"{call.name}: its outcome is lost" for call in promised)
        return
    found = told.get("outcome") or {}
    call = possible.get(found.get("verdict", ""))
    if call is None:
        yield f"has an outcome that nobody has written: {found}"
    elif found["type"] != outcome(call.name)["type"]:
        yield f"{call.name}: its outcome was changed"
    yield from (f"{other.name}: its outcome is lost" for other in promised if other is not call)
