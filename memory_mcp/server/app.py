"""The MCP server: the SDK's server class with our way of checking arguments and telling errors."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Callable, Sequence
from typing import Any

from mcp.server import MCPServer
from mcp.server.mcpserver.tools import Tool
from mcp_types import CallToolResult, InputRequiredResult, TextContent, ToolAnnotations
from pydantic import ValidationError

from memory_mcp import __version__
from memory_mcp.errors import (
    InternalError,
    InvalidInputError,
    InvalidTextError,
    MemoryMCPError,
    TooLargeError,
    UnknownArgumentError,
    UnknownToolError,
)
from memory_mcp.metrics import Metrics
from memory_mcp.records.base import Json, dumps, raise_invalid
from memory_mcp.server.instructions import INSTRUCTIONS
from memory_mcp.settings import Settings

_log = logging.getLogger(__name__)

MAX_ARGUMENT_BYTES = 4 * 1024 * 1024
_MAX_SENTENCE = 1_000


class MemoryServer(MCPServer[Any]):
    """An MCP server whose tools answer `{…}` and whose errors are `{code, message, hint}`, as text and structured."""

    def __init__(self, tools: Sequence[Tool], metrics: Metrics, settings: Settings) -> None:
        # what the SDK reports about tools is reported here already
        logging.getLogger("mcp").setLevel(logging.ERROR)
        super().__init__(
            "memory-mcp",
            title="Memory that learns",
            instructions=INSTRUCTIONS,
            version=__version__,
            tools=list(tools),
            log_level="WARNING",
        )
        self._by_name = {tool.name: tool for tool in tools}
        self._metrics = metrics
        self._data_dir = str(settings.data_dir)

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Any = None
    ) -> CallToolResult | InputRequiredResult:
        """Check the arguments, call the tool, and answer; an error is an answer too."""
        try:
            tool = self._tool(name)
            with self._metrics.timed(name):
                validated = self._checked(tool, arguments)
                answer = await tool.fn(**validated)
            return _result(answer)
        except MemoryMCPError as error:
            return self._error(error)
        except Exception:  # noqa: BLE001 - its text is for the log, not for the model
            _log.exception("%s failed", name)
            return self._error(InternalError(f"{name} failed because of a defect"))

    def _error(self, error: MemoryMCPError) -> CallToolResult:
        """An error as an answer. It repeats neither where this machine keeps its files nor all of what was sent."""
        self._metrics.count(f"errors.{error.code}")
        told = {name: _shortened(text.replace(self._data_dir, "<data_dir>")) for name, text in error.as_dict().items()}
        return _result(told, is_error=True)

    def _tool(self, name: str) -> Tool:
        tool = self._by_name.get(name)
        if tool is None:
            near = difflib.get_close_matches(name, self._by_name, n=1)
            raise UnknownToolError(
                f"there is no tool {name[:100]!r}",
                hint=f"Did you mean {near[0]!r}?" if near else f"Tools: {', '.join(self._by_name)}.",
            )
        return tool

    def _checked(self, tool: Tool, arguments: dict[str, Any]) -> dict[str, Any]:
        known = list(tool.fn_metadata.arg_model.model_fields)
        for name in arguments:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise UnknownArgumentError(
                    f"{name[:100]}: {tool.name} has no such argument",
                    hint=f"Did you mean {near[0]!r}?" if near else f"Its arguments: {', '.join(known) or 'none'}.",
                )
        # hosts send null for what the model left out
        given = {name: value for name, value in arguments.items() if value is not None}
        try:
            size = len(dumps(given).encode())
        except UnicodeEncodeError:
            raise InvalidTextError("the arguments contain an unpaired surrogate") from None
        except RecursionError:
            raise TooLargeError("the arguments are nested too deep") from None
        except ValueError as error:
            raise InvalidInputError(f"the arguments contain a number that JSON does not have: {error}") from None
        if size > MAX_ARGUMENT_BYTES:
            raise TooLargeError(f"the arguments have {size} bytes; the limit is {MAX_ARGUMENT_BYTES}")
        for name, value in given.items():
            if isinstance(value, str) and "\x00" in value:
                raise InvalidTextError(f"{name}: contains a NUL character")
        try:
            return tool.fn_metadata.validate_arguments(given)
        except ValidationError as error:
            raise_invalid(error, known)


def make_tool(
    function: Callable[..., Any],
    *,
    title: str,
    description: str,
    read_only: bool,
    idempotent: bool = False,
) -> Tool:
    """A tool from an asynchronous function that returns JSON; its schema carries no generated titles."""
    tool = Tool.from_function(
        function,
        title=title,
        description=description,
        annotations=ToolAnnotations(
            read_only_hint=read_only,
            destructive_hint=False,
            idempotent_hint=idempotent or read_only,
            open_world_hint=False,
        ),
        structured_output=False,
    )
    tool.parameters = _compact(tool.parameters, tool.parameters.get("$defs", {}))
    return tool


def _compact(schema: Any, definitions: Json, *, names: bool = False) -> Any:
    """A JSON schema without what a reader does not need and every session pays for in tokens.

    Left out are generated titles, empty defaults, and `null` beside a type, which stands for leaving the argument
    out; references are resolved. `names` says that the keys are the names of arguments.
    """
    if isinstance(schema, list):
        return [_compact(item, definitions) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if names:
        return {name: _compact(item, definitions) for name, item in schema.items()}
    if "$ref" in schema:
        # the description beside the reference is the better one
        meant = {**definitions[schema["$ref"].rpartition("/")[2]], **_without(schema, "$ref")}
        return _compact(meant, definitions)
    told = _without(schema, "title", "$defs")
    if told.get("additionalProperties") is True:
        del told["additionalProperties"]
    default = told.get("default")
    if not (any(default.values()) if isinstance(default, dict) else default):
        told.pop("default", None)
    match told.get("anyOf"):
        case [kind, {"type": "null"}]:
            told = {**kind, **_without(told, "anyOf")}
    return {key: _compact(item, definitions, names=key == "properties") for key, item in told.items()}


def _without(schema: Json, *names: str) -> Json:
    return {key: value for key, value in schema.items() if key not in names}


def _shortened(text: str) -> str:
    return text if len(text) <= _MAX_SENTENCE else text[:_MAX_SENTENCE] + "…"


def _result(answer: Json, *, is_error: bool = False) -> CallToolResult:
    # hosts differ in which of the two the model sees, so both say the same
    return CallToolResult(
        content=[TextContent(type="text", text=dumps(answer))], structured_content=answer, is_error=is_error
    )
