"""The same agent at the same tasks twice, with and without memory, through two real servers.

Each arm has a `memory-mcp serve` process of its own with an empty data directory and talks to it with the official
client. Both record everything; only one arm reads what comes back. Which arm does a task first is random. Both get
the same agent (the same random numbers) for the same task, so that the pairs can be compared.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from mcp import Client, StdioServerParameters

from memory_mcp.evaluation.workbench.agent import Advice, Agent
from memory_mcp.evaluation.workbench.menu import Action
from memory_mcp.evaluation.workbench.tasks import Task
from memory_mcp.evaluation.workbench.tools import ToolResult
from memory_mcp.records.base import Json

DOMAIN = "data repair"


@dataclass(frozen=True)
class Attempt:
    """One arm's attempt at a task. `followed` counts steps that came from memory."""

    succeeded: bool
    steps: int
    followed: int
    had_plan: bool


@dataclass(frozen=True)
class Lesson:
    """A lesson that came back at a failed step and was taken, and how the next step went."""

    task: str
    failed: str
    error: str
    advice: str
    text: str
    resolved: int
    worked: bool


@dataclass
class Match:
    """All attempts of both arms, in the order of the tasks."""

    families: int
    with_memory: list[Attempt] = field(default_factory=list)
    without: list[Attempt] = field(default_factory=list)
    lessons: list[Lesson] = field(default_factory=list)
    failed_steps: int = 0
    answered_steps: int = 0
    playbook: Json | None = None
    """What the memory recommends at the end for the last task that it solved with a plan."""
    playbook_for: str = ""
    calls: int = 0


class Server:
    """A server process and the calls that the match makes of it."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.calls = 0

    async def call(self, tool: str, /, **arguments: Any) -> Json:
        """Call a tool; an error ends the match, because nothing here is expected to be refused."""
        self.calls += 1
        result = await self._client.call_tool(tool, arguments)
        if result.is_error or result.structured_content is None:
            raise RuntimeError(f"{tool} was refused: {result.content}")
        return dict(result.structured_content)


async def connect(stack: AsyncExitStack, data_dir: Path) -> Server:
    """Start a server process on a data directory and connect to it; both end with the stack."""
    parameters = StdioServerParameters(
        command=sys.executable,
        args=["-m", "memory_mcp", "serve", "--data-dir", str(data_dir)],
        env=dict(os.environ),
    )
    return Server(await stack.enter_async_context(Client(parameters)))


async def play_match(
    tasks: Sequence[Task], root: Path, seed: int, progress: Callable[[int, Match], None] = lambda done, match: None
) -> Match:
    """Play all tasks in both arms; `progress` is told after each task."""
    match = Match(families=len({task.family for task in tasks}))
    rng = Random(seed)
    async with AsyncExitStack() as stack:
        remembering = await connect(stack, root / "with-memory")
        plain = await connect(stack, root / "without-memory")
        for done, task in enumerate(tasks, 1):
            luck = rng.getrandbits(32)
            order = [True, False] if rng.random() < 0.5 else [False, True]
            for advised in order:
                if advised:
                    match.with_memory.append(await attempt(remembering, task, Agent(luck), match))
                else:
                    match.without.append(await attempt(plain, task, Agent(luck), None))
            progress(done, match)
        solved = [
            task.description
            for task, mine in zip(tasks, match.with_memory, strict=True)
            if mine.succeeded and mine.had_plan
        ]
        if solved:
            match.playbook_for = solved[-1]
            answer = await remembering.call(
                "recommend_playbook", task_description=solved[-1], domain=DOMAIN, max_steps=12, token_budget=4000
            )
            match.playbook = answer["playbook"]
        match.calls = remembering.calls + plain.calls
    return match


async def attempt(server: Server, task: Task, agent: Agent, match: Match | None) -> Attempt:
    """One attempt, recorded step by step. With a match the agent is given what the server answers."""
    columns = ", ".join(f"{column.name} ({column.kind})" for column in task.schema)
    started = await server.call(
        "create_episode",
        task_description=task.description,
        domain=DOMAIN,
        task_type="other",
        metadata={"columns": columns},
    )
    plan = started.get("playbook", {}).get("steps", []) if match is not None else []
    agent.offer_plan([_advice(step, "playbook") for step in plan])
    workspace = task.open()
    result: ToolResult | None = None
    steps = followed = 0
    # lessons not tried yet, with the failed step and its error; newest first
    offered: list[tuple[Json, str, str]] = []
    while (action := agent.next_action(result)) is not None:
        result = workspace.call(action.tool, action.parameters)
        steps += 1
        followed += bool(action.source)
        taken = next((one for one in offered if action.source == "lesson" and _follows(action, one[0]["advice"])), None)
        if match is not None and taken is not None:
            offered.remove(taken)
            lesson, failed, error = taken
            told = _shown(action.tool, action.parameters)
            match.lessons.append(
                Lesson(task.description, failed, error, told, lesson["text"], lesson["resolved"], result.ok)
            )
        answer = await server.call(
            "add_episode_step",
            episode_id=started["episode_id"],
            tool=action.tool,
            action=action.stage.name.lower(),
            parameters=dict(action.parameters),
            result={"type": "success", "output": result.output}
            if result.ok
            else {"type": "error", "message": result.text},
            latency_ms=result.latency_ms,
        )
        if match is not None and not result.ok:
            match.failed_steps += 1
            lessons = answer.get("lessons", [])
            if lessons:
                match.answered_steps += 1
                failed_step = _shown(action.tool, action.parameters)
                offered = [*((lesson, failed_step, result.text) for lesson in lessons), *offered]
                agent.offer_lessons([_advice(lesson["advice"], "lesson") for lesson in lessons])
    outcome = (
        {"outcome_type": "success", "verdict": "the table was accepted"}
        if workspace.accepted
        else {"outcome_type": "failure", "reason": "no accepted table within the step budget"}
    )
    await server.call("complete_episode", episode_id=started["episode_id"], **outcome)
    return Attempt(workspace.accepted, steps, followed, bool(plan))


def _advice(step: Json, source: str) -> Advice:
    return Advice(step["tool"], step.get("parameters", {}), source)


def _follows(action: Action, advice: Json) -> bool:
    """Whether an action is the advised one; what the advice leaves open, the agent fills in."""
    given = advice.get("parameters", {})
    return bool(action.tool == advice["tool"]) and all(action.parameters.get(name) == given[name] for name in given)


def _shown(tool: str, parameters: Any) -> str:
    inside = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
    return f"{tool}({inside})"
