"""The commands. Each one parses its arguments, calls a service, and prints."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

import typer

from memory_mcp import __version__
from memory_mcp.cli import past
from memory_mcp.cli.backup import backups
from memory_mcp.cli.common import DataDir, Namespace, settings_from, stop
from memory_mcp.cli.storage import storage
from memory_mcp.errors import MemoryMCPError

app = typer.Typer(
    name="memory-mcp",
    help="Memory for AI agents that learns from outcomes, as an MCP server.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(backups, name="backup")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"memory-mcp {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Memory for AI agents that learns from outcomes, as an MCP server."""


@app.command()
def serve(
    data_dir: DataDir = None,
    namespace: Namespace = None,
    actor: Annotated[str | None, typer.Option("--actor", help="Who writes, as noted in the ledger.")] = None,
    embedder: Annotated[str | None, typer.Option("--embedder", help="minilm, sentence-transformers or none.")] = None,
    embedding_model: Annotated[
        str | None, typer.Option("--embedding-model", help="Name or path of a sentence-transformers model.")
    ] = None,
    log_level: Annotated[str | None, typer.Option("--log-level", help="DEBUG, INFO, WARNING or ERROR.")] = None,
    fast_start: Annotated[
        bool | None, typer.Option("--fast-start/--no-fast-start", help="Answer the handshake before all is loaded.")
    ] = None,
) -> None:
    """Serve MCP over stdin and stdout, until stdin ends."""
    from memory_mcp.server.frontend import run
    from memory_mcp.server.streams import claim_streams

    given: dict[str, Any] = {
        "data_dir": data_dir,
        "namespace": namespace,
        "actor": actor,
        "embedder": embedder,
        "embedding_model": embedding_model,
        "log_level": log_level,
        "fast_start": fast_start,
    }
    run({name: value for name, value in given.items() if value is not None}, claim_streams())


@app.command("import")
def import_(
    format_name: Annotated[str, typer.Argument(metavar="FORMAT", help="jsonl, tau-bench, tau2-bench or claude-code.")],
    file: Annotated[Path, typer.Argument(help="The file to read.")],
    data_dir: DataDir = None,
    namespace: Namespace = None,
) -> None:
    """Bring in episodes from a file and learn from them. What is there already is left as it is."""
    from memory_mcp.cli.importing import run_import

    settings = settings_from(data_dir=data_dir, namespace=namespace)
    try:
        failed = asyncio.run(run_import(settings, format_name, file))
    except MemoryMCPError as error:
        raise stop(error) from None
    if failed:
        raise typer.Exit(1)


app.add_typer(storage)
app.add_typer(past.history, name="history")
app.add_typer(past.snapshot, name="snapshot")
app.command()(past.export)
app.command()(past.forget)
