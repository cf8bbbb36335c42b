"""`memory-mcp history`, `snapshot`, `export` and `forget`: the past of a namespace."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape

from memory_mcp.cli.common import DataDir, Namespace, errors, settings_from, stop
from memory_mcp.errors import InvalidTextError, MemoryMCPError
from memory_mcp.records.base import Json, dumps

if TYPE_CHECKING:
    from memory_mcp.memory import Memory

history = typer.Typer(help="What happened: entries of the ledger, states of the past, and undo.", no_args_is_help=True)
snapshot = typer.Typer(help="Named moments, and the way back to them.", no_args_is_help=True)

# no ledger gets there, and every database takes the number
LAST = 10**15

AsOf = Annotated[str, typer.Option("--as-of", help="A snapshot, an ISO 8601 time, or a ledger position.")]


@history.command("list")
def list_(
    data_dir: DataDir = None,
    namespace: Namespace = None,
    episode_id: Annotated[str, typer.Option("--episode", help="Only entries about this episode.")] = "",
    since: Annotated[
        int, typer.Option("--since", min=0, max=LAST, help="Only entries behind this ledger position.")
    ] = 0,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="How many, the oldest first.")] = 100,
) -> None:
    """List entries of the ledger, without their payloads."""

    async def call(memory: Memory, space: str) -> Json:
        found = await memory.history.entries(space, episode_id=episode_id, since=since, limit=limit)
        return {"entries": found}

    _print(data_dir, namespace, call)


@history.command("show")
def show(
    episode_id: Annotated[str, typer.Argument(help="The episode.")],
    as_of: AsOf,
    data_dir: DataDir = None,
    namespace: Namespace = None,
) -> None:
    """Print an episode as it was."""
    _print(data_dir, namespace, lambda memory, space: memory.episodes.get(episode_id, space, as_of=as_of or " "))


@history.command("patterns")
def patterns(
    as_of: AsOf,
    data_dir: DataDir = None,
    namespace: Namespace = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=200, help="How many, the best first.")] = 20,
) -> None:
    """Print the patterns as they were."""
    _print(
        data_dir,
        namespace,
        lambda memory, space: memory.patterns.analyze(space, min_success_rate=0.0, limit=limit, as_of=as_of or " "),
    )


@history.command("undo")
def undo(
    position: Annotated[
        int, typer.Argument(min=1, max=LAST, help="Ledger position of an entry of the command to undo.")
    ],
    data_dir: DataDir = None,
    namespace: Namespace = None,
) -> None:
    """Take back what one command wrote. That is an entry of the ledger too, and can be undone."""
    _print(data_dir, namespace, lambda memory, space: memory.history.undo(position, space))


@snapshot.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What the moment is called.")],
    data_dir: DataDir = None,
    namespace: Namespace = None,
) -> None:
    """Give the present state of a namespace a name. It takes no room: the ledger holds the past already."""
    _print(data_dir, namespace, lambda memory, space: memory.history.create_snapshot(name, space))


@snapshot.command("list")
def list_snapshots(data_dir: DataDir = None, namespace: Namespace = None) -> None:
    """List the snapshots of a namespace, the oldest first."""

    async def call(memory: Memory, space: str) -> Json:
        return {"snapshots": await memory.history.snapshots(space)}

    _print(data_dir, namespace, call)


@snapshot.command("rollback")
def rollback(
    moment: Annotated[str, typer.Argument(help="A snapshot, an ISO 8601 time, or a ledger position.")],
    data_dir: DataDir = None,
    namespace: Namespace = None,
) -> None:
    """Put all episodes of a namespace back to a moment. `history undo` of the printed position takes it back."""
    _print(data_dir, namespace, lambda memory, space: memory.history.roll_back(moment, space))


def export(
    what: Annotated[
        Literal["changes", "episodes"],
        typer.Argument(help="Ledger entries with payloads, or completed episodes in the format that import reads."),
    ],
    data_dir: DataDir = None,
    namespace: Namespace = None,
    since: Annotated[
        int, typer.Option("--since", min=0, max=LAST, help="Only what has changed behind this position.")
    ] = 0,
    out: Annotated[Path | None, typer.Option("--out", help="A file in place of stdout.")] = None,
) -> None:
    """Write what has changed since a ledger position, as JSON lines."""
    from memory_mcp.evaluation.importers import jsonl

    async def call(memory: Memory, space: str) -> Json:
        lines = 0
        with out.open("x", encoding="utf-8") if out else nullcontext(sys.stdout) as file:
            if what == "changes":
                async for change in memory.history.changes(space, since):
                    file.write(dumps(change) + "\n")
                    lines += 1
            else:
                async for episode in memory.history.changed_episodes(space, since):
                    file.write(jsonl.dump(episode) + "\n")
                    lines += 1
        return {"exported": lines, "position": await memory.history.head()}

    errors.print(json.dumps(_run(data_dir, namespace, call)))


def forget(
    episode_ids: Annotated[list[str], typer.Argument(metavar="EPISODE_ID...", help="What to forget.")],
    data_dir: DataDir = None,
    namespace: Namespace = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do it. Without this, only tell what would be erased.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Noted in the ledger.")] = "",
) -> None:
    """Erase episodes and all that was derived from them, from tables, ledger, index, cache and free pages."""

    async def call(memory: Memory, space: str) -> Json:
        if yes:
            return {"dry_run": False, **await memory.forgetting.forget(episode_ids, space, reason=reason)}
        return {"dry_run": True, **await memory.forgetting.preview(episode_ids, space)}

    done = _run(data_dir, namespace, call)
    typer.echo(json.dumps(done, ensure_ascii=False))
    if yes and not done["scrubbed"]:
        told = escape(done.get("scrub_error", "another process keeps reading an old page"))
        text = f"forgotten, but traces may be left in the files: {told}. `memory-mcp storage compact` removes them."
        errors.print(text, soft_wrap=True)
        raise typer.Exit(1)


def _print(data_dir: Path | None, namespace: str | None, call: Callable[[Memory, str], Awaitable[Json]]) -> None:
    typer.echo(json.dumps(_run(data_dir, namespace, call), ensure_ascii=False))


def _run(data_dir: Path | None, namespace: str | None, call: Callable[[Memory, str], Awaitable[Json]]) -> Json:
    from memory_mcp.memory import Memory

    settings = settings_from(data_dir=data_dir, namespace=namespace, embedder="none")
    space = settings.namespace.strip()

    async def work() -> Json:
        async with Memory(settings) as memory:
            return await call(memory, space)

    try:
        _check_text(sys.argv[1:])
        return asyncio.run(work())
    except MemoryMCPError as error:
        raise stop(error) from None
    except OSError as error:
        errors.print(f"[red]cannot write[/red]: {error}", soft_wrap=True)
        raise typer.Exit(1) from None


def _check_text(arguments: list[str]) -> None:
    """Refuse bytes that are no text, which Python hands over as lone surrogates."""
    for argument in arguments:
        if not argument.isascii() and any("\ud800" <= character <= "\udfff" for character in argument):
            raise InvalidTextError("an argument is not valid UTF-8", hint="Repeat the command with readable text.")
