"""A walk over a real log: import it, learn, and take one new task through its whole life."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from memory_mcp.errors import ImportFormatError, InternalError
from memory_mcp.evaluation.importers import FORMATS, Problem, read
from memory_mcp.evaluation.workbench.match import connect
from memory_mcp.learning.templates import template
from memory_mcp.records.base import Json
from memory_mcp.records.episode import ImportedEpisode, StepDraft

Call = Callable[..., Awaitable[Json]]

_PREFACE = "A new case, much like this one: "


async def walk(log: Path, console: Console) -> None:
    """Import the log with the real command, then work on a new task through two real servers.

    Raises:
        ImportFormatError: the file has none of the known formats, or no failed step to learn from.
        InternalError: the second process does not know what the first one has recorded.
    """
    name, episodes = recognise(log)
    model, failed_at = instructive(episodes)
    with tempfile.TemporaryDirectory(prefix="memory-mcp-demo-") as root:
        data_dir = Path(root)
        console.print(f"[bold]1. Import[/bold] of {escape(str(log))} as {name}, with learning")
        told = await _import(name, log, root)
        console.print(
            f"   {told['imported']} episodes, {told['steps']} steps, outcomes {told['outcomes']},"
            f" {told['patterns']} patterns with more than one source\n"
        )
        async with AsyncExitStack() as stack:
            server = await connect(stack, data_dir)
            episode_id = await _work(server.call, model, failed_at, console)
        async with AsyncExitStack() as stack:
            console.print("[bold]6. A second server process[/bold] is asked about it")
            server = await connect(stack, data_dir)
            question = f"How did we handle: {model.task_description[:200]}?"
            # the log may have many attempts at this very task
            answer = await server.call("query_memory", query=question, domain=model.domain, limit=10)
        for hit in answer["episodes"]:
            mark = "[green]the new one[/green]" if hit["episode_id"] == episode_id else ""
            console.print(f"   {hit['score']:.2f} {hit['outcome']:<8} {escape(hit['task'][:90])} {mark}")
        insights = answer["insights"]
        base = f", base rate {insights['base_rate']:.0%}" if "base_rate" in insights else ""
        console.print(f"   {insights['succeeded']} of these {insights['completed']} succeeded{base}")
        if all(hit["episode_id"] != episode_id for hit in answer["episodes"]):
            raise InternalError("the second process did not find the new episode")


async def _import(name: str, log: Path, data_dir: str) -> Json:
    """Run the real command; its summary."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "memory_mcp", "import", name, str(log), "--data-dir", data_dir),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    output, problems = await process.communicate()
    if not output.strip():
        raise ImportFormatError(problems.decode(errors="replace").strip())
    told: Json = json.loads(output)
    return told


async def _work(call: Call, model: ImportedEpisode, failed_at: int, console: Console) -> str:
    console.print("[bold]2. create_episode[/bold]: a new task, and what earlier ones say about it")
    started: Json = await call(
        "create_episode",
        task_description=_PREFACE + model.task_description,
        domain=model.domain,
        task_type=model.task_type,
    )
    console.print(f"   task: {escape(model.task_description[:200])}…")
    for precedent in started.get("precedents", []):
        console.print(f"   precedent ({precedent['outcome']}): {escape(precedent['path'][:160])}")
    if "playbook" in started:
        steps = [step["tool"] for step in started["playbook"]["steps"]]
        console.print(f"   playbook: {escape(' → '.join(steps))} ({escape(started['playbook']['why'])})")
    forecast = started.get("forecast", {})
    if "success_probability" in forecast:
        low, high = forecast["interval"]
        console.print(
            f"   forecast: success {forecast['success_probability']:.0%} ({low:.0%}–{high:.0%}),"
            f" base rate {forecast['base_rate']:.0%}"
        )
    episode_id = str(started["episode_id"])
    console.print("[bold]3. add_episode_step[/bold]: the steps of the log, up to one that fails")
    for step in model.steps[:failed_at]:
        await call("add_episode_step", episode_id=episode_id, **_arguments(step))
        console.print(f"   {escape(step.tool)} ok")
    failed = model.steps[failed_at]
    answer: Json = await call("add_episode_step", episode_id=episode_id, **_arguments(failed))
    console.print(f"   {escape(failed.tool)} [red]failed[/red]: {escape(failed.result.observation[:160])}")
    console.print("[bold]4. The answer to the failed step[/bold]")
    for lesson in answer.get("lessons", []):
        console.print(f"   lesson: {escape(lesson['text'])} (episodes {', '.join(lesson['episodes'])})")
    if not answer.get("lessons"):
        console.print("   no lesson: nothing is known to have led out of this error")
    for step in model.steps[failed_at + 1 :]:
        await call("add_episode_step", episode_id=episode_id, **_arguments(step))
    console.print("[bold]5. complete_episode[/bold]: what this one taught")
    ended: Json = await call("complete_episode", episode_id=episode_id, outcome_type="success", verdict="done")
    parts = ", ".join(f"{name} {value}" for name, value in ended["reward"].items() if name != "total")
    console.print(f"   reward {ended['reward']['total']} ({parts})")
    for kind, word in (("successes", "success"), ("improvements", "improvement"), ("insights", "insight")):
        for item in ended["reflection"][kind]:
            console.print(f"   {word}: {escape(item['text'])} (steps {item['steps']})")
    console.print(f"   evidence for {sum(ended['learned']['patterns'].values())} patterns\n")
    return episode_id


def recognise(log: Path) -> tuple[str, list[ImportedEpisode]]:
    """The format of a file, by reading it, and its episodes.

    Raises:
        ImportFormatError: none of the formats fits.
    """
    if not log.is_file():
        raise ImportFormatError(f"{log} is not a file")
    best: tuple[str, list[ImportedEpisode]] = ("", [])
    for name in FORMATS:
        try:
            episodes = [item for item in read(name, log) if not isinstance(item, Problem)]
        except ImportFormatError:
            continue
        if len(episodes) > len(best[1]):
            best = (name, episodes)
    if not best[1]:
        raise ImportFormatError(f"{log} has none of the formats {', '.join(FORMATS)}")
    return best


def instructive(episodes: list[ImportedEpisode]) -> tuple[ImportedEpisode, int]:
    """An episode with a failed step of a kind that occurs most often in others, and the index of that step.

    Raises:
        ImportFormatError: no step of the log failed.
    """
    errors = Counter(
        error for episode in episodes for error in {_error(step) for step in episode.steps if not step.result.ok}
    )
    candidates = [
        (errors[_error(step)], -at, number, episode, at)
        for number, episode in enumerate(episodes)
        for at, step in enumerate(episode.steps)
        if not step.result.ok and any(later.result.ok for later in episode.steps[at + 1 :])
    ]
    if not candidates:
        raise ImportFormatError("no failed step in this log was followed by one that worked; there is nothing to show")
    _, _, _, episode, at = max(candidates, key=lambda item: item[:3])
    return episode, at


def _error(step: StepDraft) -> tuple[str, str]:
    return step.tool, template(step.result.observation)


def _arguments(step: StepDraft) -> Json:
    told: Json = {"tool": step.tool, "action": step.action, "parameters": step.parameters}
    told["result"] = {name: value for name, value in step.result.model_dump().items() if name != "truncated" and value}
    return told
