"""`memory-mcp storage`: whether the store is sound, and what to do when it is not."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from memory_mcp.cli.common import DataDir, errors, settings_from, stop
from memory_mcp.errors import CheckpointError, MemoryMCPError
from memory_mcp.records.base import Json

storage = typer.Typer(
    name="storage", help="Check, repair, sign and salvage the store.", no_args_is_help=True, rich_markup_mode=None
)

_SHOWN = 50


@storage.command()
def verify(
    data_dir: DataDir = None,
    repair: Annotated[bool, typer.Option("--repair", help="Make right what follows from something sound.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what reads every row.")] = False,
    checkpoint: Annotated[Path | None, typer.Option(help="A checkpoint that the history must still contain.")] = None,
    public_key: Annotated[Path | None, typer.Option(help="Whose signature the checkpoint must bear (PEM).")] = None,
) -> None:
    """Check the store on one snapshot, beside running servers. Exit code 1: an error is left."""
    from memory_mcp.memory import boot_id
    from memory_mcp.services.verification import Verifier
    from memory_mcp.storage import checkpoint as checkpoints

    settings = settings_from(data_dir=data_dir)
    if public_key is not None and checkpoint is None:
        raise stop(CheckpointError("--public-key says whose a checkpoint must be", hint="Name one: --checkpoint."), 2)
    if repair and quick:
        raise stop(CheckpointError("--repair needs all checks", hint="Leave out --quick."), 2)
    try:
        verifier = Verifier(
            settings.data_dir,
            boot_id(),
            busy_seconds=settings.busy_seconds,
            lock_seconds=settings.lock_seconds,
            quick=quick,
            checkpoint=None if checkpoint is None else checkpoints.read(checkpoint),
            public_key=None if public_key is None else checkpoints.public_key(public_key),
            progress=lambda check: errors.print(f"[dim]{check} …[/dim]"),
        )
        report = verifier.repair() if repair else verifier.verify()
    except MemoryMCPError as error:
        raise stop(error) from None
    _tell(report.as_dict())
    if report.errors:
        raise typer.Exit(1)


@storage.command()
def compact(data_dir: DataDir = None) -> None:
    """Rewrite the database without free pages, and the cache with it. Servers may run; their writes wait meanwhile."""
    from memory_mcp.memory import Memory

    settings = settings_from(data_dir=data_dir, embedder="none")

    async def work() -> Json:
        async with Memory(settings) as memory:
            before = await memory.status.metrics(settings.namespace, "storage")
            scrubbed = await memory.forgetting.scrub()
            after = await memory.status.metrics(settings.namespace, "storage")
        return {
            "scrubbed": scrubbed,
            "bytes_before": before["storage"]["bytes"]["total"],
            "bytes_after": after["storage"]["bytes"]["total"],
        }

    try:
        typer.echo(json.dumps(asyncio.run(work())))
    except MemoryMCPError as error:
        raise stop(error) from None


@storage.command("checkpoint")
def checkpoint_(
    data_dir: DataDir = None,
    key: Annotated[
        Path | None,
        typer.Option(help="Private key (PEM), made on first use. Default: keys/checkpoint.pem in the data."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="File for the checkpoint, which is printed in any case.")] = None,
) -> None:
    """Sign the heads of all chains. Keep it elsewhere: with it, `storage verify` finds a rewritten history."""
    from memory_mcp.clock import SystemClock
    from memory_mcp.services.verification import checkpoint_of
    from memory_mcp.storage import checkpoint as checkpoints

    settings = settings_from(data_dir=data_dir)
    try:
        signed = checkpoint_of(
            settings.data_dir, key or settings.data_dir / "keys" / "checkpoint.pem", SystemClock().now()
        )
        if out is not None:
            checkpoints.write(out, signed)
    except MemoryMCPError as error:
        raise stop(error) from None
    typer.echo(json.dumps(signed, sort_keys=True))


@storage.command()
def salvage(
    to: Annotated[Path, typer.Option("--to", help="Directory for the new store; empty or not there yet.")],
    data_dir: DataDir = None,
) -> None:
    """Make a new store of all that can still be read of a damaged one, which stays as it is."""
    from memory_mcp.clock import SystemClock
    from memory_mcp.services.salvaging import salvage_store

    settings = settings_from(data_dir=data_dir)
    try:
        report = salvage_store(settings.data_dir, to, SystemClock())
    except MemoryMCPError as error:
        raise stop(error) from None
    typer.echo(json.dumps(report))
    lost = sum(last - first + 1 for first, last in report["lost_positions"])
    errors.print(f"{report['entries']} entries and {report['episodes']} episodes are in {escape(str(to))}; {lost} lost")
    for state in ("incomplete", "perhaps_incomplete", "lost_episodes"):
        for name in report[state][:_SHOWN]:
            errors.print(f"[yellow]{state.replace('_', ' ')}[/yellow]: {escape(name)}", soft_wrap=True)


def _tell(report: Json) -> None:
    typer.echo(json.dumps(report))
    for finding in report["findings"][:_SHOWN]:
        state = "repaired" if finding["repaired"] else finding["severity"]
        colour = {"repaired": "green", "warning": "yellow"}.get(state, "red")
        able = " (--repair makes it right)" if finding["repairable"] and not finding["repaired"] else ""
        text = f"{escape(finding['subject'])}: {escape(finding['problem'])}{able}"
        errors.print(f"[{colour}]{state}[/{colour}] {finding['check']}: {text}", soft_wrap=True)
    if len(report["findings"]) > _SHOWN:
        errors.print(f"and {len(report['findings']) - _SHOWN} more: all are on stdout")
    for hint in dict.fromkeys(item["hint"] for item in report["findings"] if item["hint"] and not item["repaired"]):
        errors.print(f"[dim]{escape(hint)}[/dim]", soft_wrap=True)
    errors.print("the store is sound" if report["sound"] else f"the store has {report['errors']} errors")
