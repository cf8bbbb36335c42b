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

_log = logging.getLogger(__name__)

MAX_ARGUMENT_BYTES = 4 * 1024 * 1024


class MemoryServer(MCPServer[Any]):
    """An MCP server whose tools answer `{…}` and whose errors are `{code, message, hint}`, as text and structured."""

    def __init__(self, tools: Sequence[Tool], metrics: Metrics) -> None:
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
            self._metrics.count(f"errors.{error.code}")
            return _result(error.as_dict(), is_error=True)
        except Exception:  # noqa: BLE001 - its text is for the log, not for the model
            _log.exception("%s failed", name)
            self._metrics.count(f"errors.{InternalError.code}")
            return _result(InternalError(f"{name} failed because of a defect").as_dict(), is_error=True)

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
    tool.parameters = _without_titles(tool.parameters)
    return tool


def _without_titles(schema: Any, *, names: bool = False) -> Any:
    """A JSON schema without pydantic's generated titles, which only repeat the names and cost tokens."""
    if isinstance(schema, dict):
        return {
            key: _without_titles(value, names=key in ("properties", "$defs") and not names)
            for key, value in schema.items()
            if names or key != "title"
        }
    if isinstance(schema, list):
        return [_without_titles(item) for item in schema]
    return schema


def _result(answer: Json, *, is_error: bool = False) -> CallToolResult:
    # hosts differ in which of the two the model sees, so both say the same
    return CallToolResult(
        content=[TextContent(type="text", text=dumps(answer))], structured_content=answer, is_error=is_error
    )
