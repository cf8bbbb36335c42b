"""The live match on the workbench, told as it goes."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from memory_mcp.evaluation.workbench.match import Match, play_match
from memory_mcp.evaluation.workbench.report import picture, summary
from memory_mcp.evaluation.workbench.tasks import make_tasks
from memory_mcp.records.base import Json


async def show(tasks: int, families: int, seed: int, out: Path, console: Console) -> None:
    """Play the match and tell its result; writes `workbench.svg` and `workbench.json` to `out`."""
    console.print(
        f"[bold]An agent repairs damaged data files[/bold]: {tasks} tasks, {families} kinds of damage, twice.\n"
        "It is a plain program without a language model: it tries tools until the table fits or its steps run out.\n"
        "Both arms talk to a [bold]memory-mcp serve[/bold] process of their own over stdio and record every step;\n"
        "one of them reads what comes back. Nothing is known at the start.\n"
    )
    started = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory(prefix="memory-mcp-demo-") as root,
        Progress(*columns, console=console) as progress,
    ):
        bar = progress.add_task("playing", total=tasks)

        def tell(done: int, match: Match) -> None:
            progress.update(bar, completed=done, description=_standing(match))

        match = await play_match(make_tasks(seed, tasks, families), Path(root), seed, tell)
    told = summary(match)
    told["seconds"] = round(time.monotonic() - started, 1)
    _curves(told, console)
    _lesson(match, console)
    _playbook(match, console)
    _keep(told, out)
    console.print(
        f"\n{told['tool_calls']} tool calls through two real servers in {told['seconds']} s."
        f" Picture: {out / 'workbench.svg'}, numbers: {out / 'workbench.json'}"
    )


def _keep(told: Json, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / "workbench.svg").write_text(picture(told), encoding="utf-8")
    (out / "workbench.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


def _standing(match: Match) -> str:
    recent = slice(max(0, len(match.with_memory) - 30), None)
    ours, theirs = match.with_memory[recent], match.without[recent]
    if not ours or not theirs:
        return "playing"
    share = [sum(attempt.succeeded for attempt in arm) / len(arm) for arm in (ours, theirs)]
    return f"last {len(ours)}: with memory {share[0]:.0%}, without {share[1]:.0%}"


def _curves(told: Json, console: Console) -> None:
    console.print("[bold]Share of tasks solved[/bold] in percent (95 % interval) and steps per task")
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("tasks", "with memory", "", "steps", "without", "", "steps"):
        table.add_column(name, justify="right" if name != "" else "left", no_wrap=True)
    for ours, theirs in zip(told["with_memory"], told["without_memory"], strict=True):
        table.add_row(f"{ours['from']}–{ours['to']}", *_cells(ours, "green"), *_cells(theirs, "white"))
    console.print(table)
    end, steps = told["success_difference_at_the_end"], told["steps_difference_at_the_end"]
    console.print(
        f"Last third ({end['pairs']} tasks): memory changes success by"
        f" [bold]{100 * end['value']:+.0f} points[/bold] ({100 * end['low']:+.0f} to {100 * end['high']:+.0f})"
        f" and steps per task by {steps['value']:+.1f} ({steps['low']:+.1f} to {steps['high']:+.1f})."
    )
    whole = told["success_difference"]
    console.print(
        f"Over all tasks: {100 * whole['value']:+.0f} points ({100 * whole['low']:+.0f} to {100 * whole['high']:+.0f})."
    )
    lessons = told["lessons"]
    console.print(
        f"Lessons came back at {lessons['answered']} of {lessons['failed_steps']} failed steps;"
        f" {lessons['followed']} were followed, {lessons['worked']} of those steps worked.\n"
    )


def _cells(block: Json, colour: str) -> tuple[str, str, str]:
    bar = "█" * round(10 * block["success"])
    share = f"{100 * block['success']:.0f} ({100 * block['low']:.0f}–{100 * block['high']:.0f})"
    return share, f"[{colour}]{bar:<10}[/{colour}]", f"{block['steps']:.1f}"


def _lesson(match: Match, console: Console) -> None:
    worked = [lesson for lesson in match.lessons if lesson.worked]
    if not worked:
        return
    # the one that rests on most, of those the last
    lesson = max(reversed(worked), key=lambda lesson: lesson.resolved)
    console.print("[bold]A lesson that came back at a failed step[/bold]")
    console.print(f"  task    {escape(lesson.task)}")
    console.print(f"  failed  {escape(lesson.failed)}: {escape(lesson.error[:160])}")
    console.print(f"  lesson  {escape(lesson.text)}")
    console.print(f"  next    {escape(lesson.advice)} [green]worked[/green]\n")


def _playbook(match: Match, console: Console) -> None:
    if match.playbook is None:
        return
    playbook = match.playbook
    evidence = playbook["evidence"]
    console.print("[bold]A playbook that it learned[/bold]")
    console.print(f"  for     {escape(match.playbook_for)}")
    for step in playbook["steps"]:
        parameters = ", ".join(f"{name}={value!r}" for name, value in step.get("parameters", {}).items())
        call = escape(f"{step['tool']}({parameters})")
        console.print(f"  {step['order']:>2}. {call}  [dim]{step.get('evidence', '')}[/dim]")
    low, high = evidence["interval"]
    console.print(
        f"  evidence: {evidence['successes']} successes and {evidence['failures']} failures of episodes like it;"
        f" success rate {evidence['success_rate']:.0%} ({low:.0%}–{high:.0%})"
        + (f", base rate {evidence['base_rate']:.0%}" if evidence["base_rate"] is not None else "")
    )
    console.print(f"  episodes: {', '.join(evidence['episodes'][:3])}")
