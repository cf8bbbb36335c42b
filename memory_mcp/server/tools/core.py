"""The tools of the `core` set."""

from __future__ import annotations

from mcp.server.mcpserver.tools import Tool

from memory_mcp.server.tools.arguments import Opened
from memory_mcp.server.tools.lifecycle import lifecycle_tools
from memory_mcp.server.tools.reading import reading_tools


def core_tools(opened: Opened) -> list[Tool]:
    """The tools of the `core` set, in the order in which they are listed."""
    return [*lifecycle_tools(opened), *reading_tools(opened)]
