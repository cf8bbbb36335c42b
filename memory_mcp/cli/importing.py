"""The work of `memory-mcp import`: read, write, learn, report."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from memory_mcp.errors import MemoryMCPError
from memory_mcp.evaluation.importers import Problem, read
from memory_mcp.memory import Memory
from memory_mcp.records.episode import ImportedEpisode
from memory_mcp.settings import Settings

# as many at once as share a transaction well
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
    bar = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}"),
        TimeElapsedColumn(),
    )
    with Progress(*bar, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        async with Memory(settings) as memory:
            batch: list[ImportedEpisode] = []
            for item in items:
                if isinstance(item, Problem):
                    totals["problems"] += 1
                    console.print(
                        f"[yellow]{escape(item.where)}[/yellow]: {item.error.code}: {escape(item.error.message)}"
                    )
                    continue
                batch.append(item)
                if len(batch) == _AT_ONCE:
                    await _write(memory, settings.namespace, batch, totals)
                    progress.update(task, description="writing", completed=totals["imported"] + totals["already_there"])
                    batch = []
            await _write(memory, settings.namespace, batch, totals)
            progress.update(task, description="learning", completed=totals["imported"] + totals["already_there"])
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


async def _write(memory: Memory, namespace: str, batch: list[ImportedEpisode], totals: dict[str, int]) -> None:
    results = await asyncio.gather(
        *(memory.episodes.import_episode(item, namespace) for item in batch), return_exceptions=True
    )
    for result in results:
        if isinstance(result, MemoryMCPError):
            raise result
        if isinstance(result, BaseException):
            raise result
        totals["imported" if result else "already_there"] += 1
