"""The program's entry point: `memory-mcp serve` starts before anything heavy is imported."""

from __future__ import annotations

import sys
from typing import Any

# flags of `serve` that need no more than this to be understood; anything else goes through the full command line
_VALUES = {
    "--data-dir": "data_dir",
    "--namespace": "namespace",
    "--actor": "actor",
    "--embedder": "embedder",
    "--embedding-model": "embedding_model",
    "--log-level": "log_level",
}


def main() -> None:
    """Run the command line."""
    arguments = sys.argv[1:]
    if arguments[:1] == ["serve"]:
        options = serve_options(arguments[1:])
        if options is not None:
            from memory_mcp.server.streams import claim_streams

            # before anything else is imported: it might print
            streams = claim_streams()
            from memory_mcp.server.frontend import run

            run(options, streams)
    from memory_mcp.cli.app import app

    app(prog_name="memory-mcp")


def serve_options(arguments: list[str]) -> dict[str, Any] | None:
    """The settings that the flags of `serve` give, or None where a flag is unknown or incomplete."""
    options: dict[str, Any] = {}
    rest = list(arguments)
    while rest:
        flag, separator, value = rest.pop(0).partition("=")
        if flag in ("--fast-start", "--no-fast-start") and not separator:
            options["fast_start"] = flag == "--fast-start"
        elif flag in _VALUES and (separator or rest):
            options[_VALUES[flag]] = value if separator else rest.pop(0)
        else:
            return None
    return options
