"""`memory-mcp backup`: copies of the store, made and checked while servers run, and put back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from memory_mcp.cli.common import DataDir, errors, settings_from, stop
from memory_mcp.errors import BackupError, MemoryMCPError, SettingsError

if TYPE_CHECKING:
    from memory_mcp.storage.backup_files import Backup

backups = typer.Typer(help="Back up the store and restore it.", no_args_is_help=True, rich_markup_mode=None)

Place = Annotated[Path | None, typer.Option("--to", help="Directory of the backups, in place of <data-dir>/backups.")]
From = Annotated[Path | None, typer.Option("--from", help="Directory of the backups, in place of <data-dir>/backups.")]


@backups.command()
def create(
    data_dir: DataDir = None,
    to: Place = None,
    keep: Annotated[
        int | None, typer.Option("--keep", min=1, help="Delete all but so many backups made by hand or by schedule.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Leave the chain of the ledger unchecked.")] = False,
) -> None:
    """Make a backup; servers go on reading and writing meanwhile."""
    from memory_mcp.clock import SystemClock
    from memory_mcp.storage import backup, backup_files

    home = settings_from(data_dir=data_dir).data_dir
    place = to or backup.place_of(home)
    try:
        pending = backup.waiting_in(home)
        made = backup.create(
            home / backup_files.DATABASE, place, clock=SystemClock(), reason="manual", pending=pending, quick=quick
        )
        deleted = backup_files.retain(place, keep) if keep is not None else []
    except MemoryMCPError as error:
        raise stop(error) from None
    except OSError as error:
        raise stop(BackupError(f"older backups cannot be deleted: {error}")) from None
    _print({**made.told(), "checked": made.manifest["checked"], "deleted": deleted})


@backups.command("list")
def list_(data_dir: DataDir = None, place: From = None) -> None:
    """Show the complete backups, newest first."""
    listing = _scan(settings_from(data_dir=data_dir).data_dir, place)
    _print({"backups": [backup.told() for backup in listing]})


@backups.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="Name or path of a backup.")] = None,
    data_dir: DataDir = None,
    place: From = None,
    every: Annotated[bool, typer.Option("--all", help="All backups of the directory.")] = False,
) -> None:
    """Check backups from end to end: checksums, database, ledger, manifest. Exit code 1 when one is not whole."""
    from memory_mcp.storage import backup

    home = settings_from(data_dir=data_dir).data_dir
    if (name is None) != every:
        raise stop(SettingsError("name one backup, or give --all"), 2)
    chosen = _scan(home, place) if every else [_find(name or "", home, place)]
    try:
        findings = [finding for item in chosen for finding in backup.verify(item)]
    except OSError as error:
        raise stop(BackupError(f"a backup cannot be read: {error}")) from None
    _print({"checked": [item.name for item in chosen], "findings": [finding.told() for finding in findings]})
    if findings:
        raise typer.Exit(1)


@backups.command()
def restore(
    name: Annotated[str, typer.Argument(help="Name or path of a backup.")],
    data_dir: DataDir = None,
    place: From = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the store that is there; a copy of it is saved first.")
    ] = False,
) -> None:
    """Give the data directory the content of a backup. Servers may run meanwhile, and go on with the new content."""
    from memory_mcp.clock import SystemClock
    from memory_mcp.storage import filesystem
    from memory_mcp.storage.restore import restore as put_back

    settings = settings_from(data_dir=data_dir)
    wanted = _find(name, settings.data_dir, place)
    try:
        if not settings.allow_network_file_system:
            filesystem.refuse_network(settings.data_dir)
        done = put_back(wanted, settings.data_dir, clock=SystemClock(), force=force)
    except MemoryMCPError as error:
        raise stop(error) from None
    saved = done.saved.told() if done.saved is not None else None
    _print(
        {
            "restored": done.backup.name,
            "ledger_position": done.backup.position,
            "store_id": done.store_id,
            "replaced": done.replaced,
            "saved": saved,
            "pending": done.pending,
            "resurrected": done.resurrected,
        }
    )
    if done.resurrected:
        text = f"{len(done.resurrected)} episodes that were forgotten after this backup are back: forget them again."
        errors.print(f"[yellow]{text}[/yellow]", soft_wrap=True)


def _scan(home: Path, place: Path | None) -> list[Backup]:
    """The complete backups; whatever else lies there is named on stderr."""
    from memory_mcp.storage import backup, backup_files

    try:
        listing = backup_files.scan(place or backup.place_of(home))
    except OSError as error:
        raise stop(BackupError(f"the backups cannot be read: {error}")) from None
    for name, problem in listing.others.items():
        errors.print(f"[yellow]{escape(name)}[/yellow]: {escape(problem)}", soft_wrap=True)
    return listing.backups


def _find(name: str, home: Path, place: Path | None) -> Backup:
    from memory_mcp.storage import backup, backup_files

    try:
        return backup_files.find(name, place or backup.place_of(home))
    except MemoryMCPError as error:
        raise stop(error) from None


def _print(answer: dict[str, Any]) -> None:
    typer.echo(json.dumps(answer, ensure_ascii=False))
