"""What all commands share: the options of every group, settings, and how an error looks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from memory_mcp.errors import MemoryMCPError
from memory_mcp.settings import PREFIX, Settings, load_settings

errors = Console(stderr=True, highlight=False)

DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="Directory of the data.", envvar=f"{PREFIX}DATA_DIR", show_envvar=True)
]
Namespace = Annotated[str | None, typer.Option("--namespace", help="Namespace to work in.")]


def settings_from(**flags: Any) -> Settings:
    """The settings of this command; a wrong one ends the program with code 2."""
    try:
        return load_settings(**flags)
    except MemoryMCPError as error:
        raise stop(error, 2) from None


def stop(error: MemoryMCPError, code: int = 1) -> typer.Exit:
    """An error as a sentence with its hint."""
    text = f"[red]{error.code}[/red]: {escape(error.message)}. [dim]{escape(error.hint)}[/dim]"
    errors.print(text, soft_wrap=True)
    return typer.Exit(code)
