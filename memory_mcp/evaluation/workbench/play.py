"""One agent at one task in this process, without a memory in between: for calibration and tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from memory_mcp.evaluation.workbench.agent import Advice, Agent
from memory_mcp.evaluation.workbench.menu import Action
from memory_mcp.evaluation.workbench.tasks import Task
from memory_mcp.evaluation.workbench.tools import ToolResult


@dataclass(frozen=True)
class Turn:
    """A call and what it brought."""

    action: Action
    result: ToolResult


@dataclass(frozen=True)
class Game:
    """A finished attempt at a task."""

    task: Task
    turns: tuple[Turn, ...]
    succeeded: bool


Teacher = Callable[[Turn], Sequence[Advice]]


def play(task: Task, agent: Agent, plan: Sequence[Advice] = (), teacher: Teacher | None = None) -> Game:
    """Let the agent work on the task; a teacher gives lessons after each failed step."""
    workspace = task.open()
    agent.offer_plan(plan)
    turns: list[Turn] = []
    result: ToolResult | None = None
    while (action := agent.next_action(result)) is not None:
        result = workspace.call(action.tool, action.parameters)
        turns.append(Turn(action, result))
        if teacher is not None and not result.ok:
            agent.offer_lessons(teacher(turns[-1]))
    return Game(task, tuple(turns), workspace.accepted)


def as_plan(actions: Sequence[Action], source: str = "") -> list[Advice]:
    """Calls as a plan to offer."""
    return [Advice(action.tool, action.parameters, source) for action in actions]
