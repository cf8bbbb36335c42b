"""Serving MCP over stdio: opens the memory behind the handshake, and closes it however the end comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
from typing import Any, cast

from mcp.server.stdio import stdio_server

from memory_mcp.errors import MemoryMCPError, SettingsError
from memory_mcp.logs import configure_logging
from memory_mcp.memory import Memory
from memory_mcp.server.app import MemoryServer
from memory_mcp.server.frontend import Handover
from memory_mcp.server.tools.core import core_tools
from memory_mcp.server.transport import Wire
from memory_mcp.settings import Settings, load_settings

_log = logging.getLogger(__name__)

_CLOSE_SECONDS = 0.8


def main(options: dict[str, Any], handover: Handover) -> None:
    """Serve until the client leaves or a signal comes; does not return."""
    code = 0
    try:
        asyncio.run(_serve(load_settings(**options), handover))
    except SettingsError as error:
        print(f"memory-mcp: {error.message} {error.hint}", file=sys.stderr)  # noqa: T201 - there is no log yet
        code = 2
    except Exception:  # noqa: BLE001 - the process ends here, and says why
        _log.exception("the server failed")
        code = 1
    sys.stderr.flush()
    # threads that wait for a dead client or a stopped process must not hold up the end; all that matters is on disk
    os._exit(code)


async def _serve(settings: Settings, handover: Handover) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    configure_logging(settings)
    memory = Memory(settings)
    opening = asyncio.create_task(memory.open(), name="open")
    opening.add_done_callback(_report)

    async def opened() -> Memory:
        return await asyncio.shield(opening)

    server = MemoryServer(core_tools(opened), memory.metrics)
    wire = cast("Any", Wire(handover))
    low = server._lowlevel_server

    async def talk() -> None:
        async with stdio_server(wire, wire) as (reading, writing):
            await low.run(reading, writing, low.create_initialization_options())

    talking = asyncio.create_task(talk(), name="talk")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([talking, stopping], return_when=asyncio.FIRST_COMPLETED)
    for task in (talking, stopping):
        task.cancel()
    await asyncio.wait([talking], timeout=_CLOSE_SECONDS / 4)
    if talking.done() and not talking.cancelled() and (error := talking.exception()):
        _log.error("the connection failed", exc_info=error)
    opening.cancel()
    with contextlib.suppress(TimeoutError, asyncio.CancelledError, MemoryMCPError):
        await asyncio.wait_for(memory.close(), _CLOSE_SECONDS)


def _report(opening: asyncio.Task[Memory]) -> None:
    """A memory that cannot be opened is reported by every call; the log says it once."""
    if not opening.cancelled() and (error := opening.exception()):
        _log.error("the memory cannot be opened: %s", error)
