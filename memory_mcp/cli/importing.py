"""The work of `memory-mcp import`: read, write, learn, report."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from memory_mcp.errors import ImportFormatError, MemoryMCPError, StorageError
from memory_mcp.evaluation.importers import Problem, read
from memory_mcp.memory import Memory
from memory_mcp.records.episode import ImportedEpisode
from memory_mcp.settings import Settings

_AT_ONCE = 32


async def run_import(settings: Settings, format_name: str, file: Path) -> int:
    """Import a file; prints a summary as JSON on stdout, problems on stderr. Returns the number of bad items.

    Raises:
        ImportFormatError: the file as a whole cannot be read.
        StorageError: the store cannot be opened, or takes no more.
    """
    console = Console(stderr=True, highlight=False)
    items = read(format_name, file)
    totals = {"imported": 0, "already_there": 0, "problems": 0}

    def report(problem: Problem) -> None:
        totals["problems"] += 1
        text = f"[yellow]{escape(problem.where)}[/yellow]: {problem.error.code}: {escape(problem.error.message)}"
        console.print(text, soft_wrap=True)

    bar = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}"),
        TimeElapsedColumn(),
    )
    with Progress(*bar, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("reading", total=None)
        async with Memory(settings) as memory:
            for batch in _batches(items, report):
                for problem in await _write(memory, settings.namespace, batch, totals):
                    report(problem)
                progress.update(task, description="writing", completed=totals["imported"] + totals["already_there"])
            progress.update(task, description="learning")
            await memory.settle()
            numbers = await memory.status.metrics(settings.namespace, "all")
    summary = {
        **totals,
        "episodes": numbers["episodes"]["total"],
        "steps": numbers["episodes"]["steps"],
        "outcomes": numbers["episodes"]["outcomes"],
        "patterns": numbers["patterns"]["total"],
    }
    typer.echo(json.dumps(summary))
    return totals["problems"]


def _batches(
    items: Iterable[ImportedEpisode | Problem], report: Callable[[Problem], None]
) -> Iterator[list[ImportedEpisode]]:
    """The episodes, as many at once as share a transaction well. What was read before a file breaks off counts."""
    batch: list[ImportedEpisode] = []
    broken = None
    try:
        for item in items:
            if isinstance(item, Problem):
                report(item)
                continue
            batch.append(item)
            if len(batch) == _AT_ONCE:
                yield batch
                batch = []
    except ImportFormatError as error:
        broken = error
    yield batch
    if broken is not None:
        raise broken


async def _write(memory: Memory, namespace: str, batch: list[ImportedEpisode], totals: dict[str, int]) -> list[Problem]:
    """Write episodes side by side; returns the problems with those that the store refused."""
    results = await asyncio.gather(
        *(memory.episodes.import_episode(item, namespace) for item in batch), return_exceptions=True
    )
    problems = []
    for item, result in zip(batch, results, strict=True):
        if isinstance(result, StorageError) or not isinstance(result, bool | MemoryMCPError):
            raise result
        if isinstance(result, MemoryMCPError):
            problems.append(Problem(item.source_id, result))
        else:
            totals["imported" if result else "already_there"] += 1
    return problems
