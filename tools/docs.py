"""Makes docs/tools.md, docs/cli.md, docs/settings.md and config/default.toml from the code; `--check` only compares.

.venv/bin/python tools/docs.py [--check]
"""

from __future__ import annotations

import sys
import types
import typing
from pathlib import Path
from typing import Any

import typer

from memory_mcp.cli.app import app
from memory_mcp.errors import MemoryMCPError
from memory_mcp.server.instructions import INSTRUCTIONS
from memory_mcp.server.tools.core import core_tools
from memory_mcp.settings import PREFIX, Settings

ROOT = Path(__file__).parent.parent
MADE = "Made from the code by `tools/docs.py`; do not edit by hand."

# where a default depends on the machine, the document says how it is found
_PLACES = {"data_dir": "the platform's data directory", "cache_dir": "the platform's cache directory"}


def tools_page() -> str:
    """docs/tools.md."""

    async def never() -> Any:
        raise NotImplementedError("no tool is called to describe it")

    lines = [
        "# Tools",
        "",
        MADE,
        "",
        "What the server tells an agent about itself:",
        "",
        "```text",
        INSTRUCTIONS,
        "```",
    ]
    for tool in core_tools(never):
        annotations = tool.annotations
        assert annotations is not None
        kind = "reads" if annotations.read_only_hint else "writes"
        lines += ["", f"## {tool.name}", "", f"*{tool.title}; {kind}.* {tool.description}", ""]
        properties = tool.parameters.get("properties", {})
        if not properties:
            lines.append("No arguments.")
            continue
        required = set(tool.parameters.get("required", []))
        definitions = tool.parameters.get("$defs", {})
        lines += ["| argument | type | default | |", "|---|---|---|---|"]
        for name, schema in properties.items():
            default = f"`{_json(schema['default'])}`" if "default" in schema else "optional"
            default = "required" if name in required else default
            lines.append(f"| `{name}` | {_type(schema, definitions)} | {default} | {_about(schema)} |")
    lines += [
        "",
        "## Errors",
        "",
        "A refused call is a result with `isError: true` and `{code, message, hint}`, as text and as structured"
        " content. Codes are stable:",
        "",
        "| code | when |",
        "|---|---|",
    ]
    lines += [f"| `{error.code}` | {_first(error)} |" for error in _tree(MemoryMCPError)]
    lines += [
        "",
        "A line on stdin that is no JSON-RPC message is answered with a JSON-RPC error whose `data.code` is"
        " `parse_error`, `invalid_request`, `batch_unsupported`, `invalid_text` or `too_large`.",
        "",
    ]
    return "\n".join(lines)


def settings_page() -> str:
    """docs/settings.md."""
    lines = [
        "# Settings",
        "",
        MADE,
        "",
        "A setting comes from the first of: flag, environment variable, the TOML file that `MEMORY_MCP_CONFIG` names"
        " (an example with all defaults is `config/default.toml`), default.",
        "",
        "| setting | environment | type | default | |",
        "|---|---|---|---|---|",
    ]
    for name, field in Settings.model_fields.items():
        default = _PLACES.get(name) or f"`{_json(field.default)}`"
        kind = _python_type(field.annotation) + _range(field.metadata)
        lines.append(f"| `{name}` | `{PREFIX}{name.upper()}` | {kind} | {default} | {field.description} |")
    return "\n".join([*lines, ""])


def default_file() -> str:
    """config/default.toml."""
    lines = [f"# All settings of memory-mcp with their defaults. {MADE.replace('`', '')}"]
    lines.append("# To use a copy of this file: MEMORY_MCP_CONFIG=/path/to/it")
    for name, field in Settings.model_fields.items():
        lines += ["", f"# {field.description}"]
        if name in _PLACES:
            lines.append(f'# {name} = "…"  # default: {_PLACES[name]}')
        else:
            lines.append(f"{name} = {_json(field.default)}")
    return "\n".join([*lines, ""])


def cli_page() -> str:
    """docs/cli.md."""
    program = typer.main.get_command(app)
    assert isinstance(program, typer.core.TyperGroup)
    context = program.context_class(program, info_name="memory-mcp", terminal_width=100, max_content_width=100)
    lines = ["# The program", "", MADE, "", "```text", program.get_help(context), "```"]
    lines += _commands(program, context, "memory-mcp")
    lines += [
        "",
        "`import` prints a JSON summary on stdout, and on stderr what it could not read, with line numbers.",
        "Its exit code is 0 when all of the file was read, and 1 otherwise; 2 means a wrong option or setting.",
        "Formats: [formats.md](formats.md).",
    ]
    return "\n".join([*lines, ""])


def _commands(group: Any, context: Any, path: str) -> list[str]:
    """The help of every command of a group, and of the groups inside it."""
    lines = []
    for name, command in group.commands.items():
        inner = command.context_class(command, info_name=name, parent=context, terminal_width=100)
        lines += ["", f"## {path} {name}", "", "```text", command.get_help(inner), "```"]
        if isinstance(command, typer.core.TyperGroup):
            lines += _commands(command, inner, f"{path} {name}")
    return lines


PAGES = {
    "docs/tools.md": tools_page,
    "docs/cli.md": cli_page,
    "docs/settings.md": settings_page,
    "config/default.toml": default_file,
}


def main() -> int:
    """Write the pages, or with `--check` say which are out of date."""
    check = sys.argv[1:] == ["--check"]
    stale = []
    for name, make in PAGES.items():
        path, text = ROOT / name, make()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        print(("out of date: " if check else "wrote ") + ", ".join(stale))
    return 1 if check and stale else 0


def _tree(error: type[MemoryMCPError]) -> list[type[MemoryMCPError]]:
    found = []
    for child in error.__subclasses__():
        if child.__module__ == "memory_mcp.errors":
            found += [child, *_tree(child)]
    return found


def _first(error: type[MemoryMCPError]) -> str:
    return (error.__doc__ or "").strip().splitlines()[0]


def _json(value: Any) -> str:
    import json

    return json.dumps(value, ensure_ascii=False)


def _type(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    if "$ref" in schema:
        return _type(definitions[schema["$ref"].rsplit("/", 1)[-1]], definitions)
    if "anyOf" in schema:
        return " or ".join(_type(part, definitions) for part in schema["anyOf"])
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items', {}), definitions)}"
    if kind == "object" and "properties" in schema:
        return "object: " + ", ".join(f"`{name}`" for name in schema["properties"])
    return str(kind)


def _about(schema: dict[str, Any]) -> str:
    parts = [schema.get("description", "")]
    values = [value for value in schema.get("enum", []) if value]
    if values:
        parts.append("One of " + ", ".join(f"`{value}`" for value in values) + ".")
    if "minimum" in schema or "maximum" in schema:
        parts.append(f"{schema.get('minimum', '')} to {schema.get('maximum', 'any')}.")
    return " ".join(part for part in parts if part).replace("|", "\\|")


def _python_type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in typing.get_args(annotation))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_python_type(part) for part in typing.get_args(annotation))
    return {
        "Path": "path",
        "str": "text",
        "int": "whole number",
        "float": "number",
        "bool": "yes or no",
        "dict": "table",
    }.get(annotation.__name__, annotation.__name__)


def _range(metadata: list[Any]) -> str:
    bounds = {}
    for item in metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length"):
            if hasattr(item, name):
                bounds[name] = getattr(item, name)
    low = bounds.get("ge", bounds.get("min_length"))
    if low is None and "gt" in bounds:
        low = f"over {bounds['gt']}"
    high = bounds.get("le", bounds.get("max_length"))
    unit = " characters" if "max_length" in bounds else ""
    if low is None and high is None:
        return ""
    return f", {'' if low is None else low} to {high}{unit}".replace(",  to", ", up to")


if __name__ == "__main__":
    sys.exit(main())
