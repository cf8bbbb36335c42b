"""Importers: logs of agents as episodes. docs/formats.md describes the formats.

An item that cannot be imported never stops the others: it comes as a `Problem` in its place.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from memory_mcp.errors import ImportFormatError
from memory_mcp.evaluation.importers import claude_code, jsonl, tau2_bench, tau_bench
from memory_mcp.evaluation.importers._files import Problem, check_file
from memory_mcp.records.episode import ImportedEpisode

__all__ = ["FORMATS", "Format", "Problem", "read"]


@dataclass(frozen=True)
class Format:
    """How to read a format, and one line about it for people."""

    read: Callable[[Path], Iterator[ImportedEpisode | Problem]]
    description: str


FORMATS = {
    "jsonl": Format(jsonl.read, "Episodes of memory-mcp, one JSON object per line"),
    "tau-bench": Format(tau_bench.read, "Results of tau-bench: a JSON list of trajectories"),
    "tau2-bench": Format(tau2_bench.read, "Results of tau2-bench: a JSON object with tasks and simulations"),
    "claude-code": Format(
        claude_code.read, "A transcript of Claude Code: ~/.claude/projects/<project>/<session>.jsonl"
    ),
}


def read(format: str, path: Path) -> Iterator[ImportedEpisode | Problem]:
    """The episodes of the file, and in the place of each item that cannot be imported the problem with it.

    Raises:
        ImportFormatError: there is no such format, or the file as a whole cannot be read. A file that can be opened
            but breaks while it is read raises during the iteration.
    """
    chosen = FORMATS.get(format)
    if chosen is None:
        near = difflib.get_close_matches(format.lower(), FORMATS, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Known formats: {', '.join(FORMATS)}."
        raise ImportFormatError(f"there is no format {format!r}", hint=hint)
    check_file(path)
    return chosen.read(path)
