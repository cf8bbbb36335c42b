"""`python -m memory_mcp.evaluation.demo [LOG]`: what `scripts/demo` runs."""

from __future__ import annotations

import argparse
import asyncio
import sys
from pathlib import Path

from rich.console import Console

from memory_mcp.errors import MemoryMCPError


def main() -> int:
    """Run the demonstration; the exit code is 0 when it went as it should."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description="Show what memory-mcp does, on real work.")
    parser.add_argument("log", nargs="?", type=Path, help="a real log: tau-bench, tau2-bench, claude-code or jsonl")
    parser.add_argument("--tasks", type=int, default=120, help="tasks for each arm of the workbench (default 120)")
    parser.add_argument("--families", type=int, default=12, help="kinds of damage in the workbench (default 12)")
    parser.add_argument("--seed", type=int, default=1, help="which tasks, and all other chance (default 1)")
    parser.add_argument("--out", type=Path, default=Path("out"), help="directory for the picture (default out)")
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    try:
        if options.log is not None:
            from memory_mcp.evaluation.demo.log import walk

            asyncio.run(walk(options.log, console))
        else:
            from memory_mcp.evaluation.demo.workbench import show

            asyncio.run(show(options.tasks, options.families, options.seed, options.out, console))
    except MemoryMCPError as error:
        console.print(f"[red]{error.code}[/red]: {error.message} {error.hint}")
        return 1
    return 0


sys.exit(main())
