"""Serving MCP over stdio: opens the memory behind the handshake, and closes it however the end comes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from typing import Any, NoReturn, cast

from mcp.server.stdio import stdio_server

from memory_mcp.errors import MemoryMCPError, StorageUnavailableError
from memory_mcp.logs import configure_logging
from memory_mcp.memory import Memory
from memory_mcp.server.app import MemoryServer
from memory_mcp.server.frontend import Handover, settings_from
from memory_mcp.server.tools.core import core_tools
from memory_mcp.server.transport import Wire
from memory_mcp.settings import Settings

_log = logging.getLogger(__name__)

# from the signal, or the last answer, to the end of the process
_END_SECONDS = 0.45
_TALK_SECONDS = 0.1


def main(options: dict[str, Any], handover: Handover) -> NoReturn:
    """Serve until the client leaves or a signal comes."""
    settings = settings_from(options)

    async def life() -> None:
        try:
            await _serve(settings, handover)
        except Exception:  # noqa: BLE001 - the process ends here, and says why
            _log.exception("the server failed")
            _exit(1)
        # here, not behind `asyncio.run`, which waits for threads that may wait for a client that is gone
        _exit(0)

    asyncio.run(life())
    raise AssertionError("not reached")


def _exit(code: int) -> NoReturn:
    """End the process at once: all that matters is on disk."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.flush()
    os._exit(code)


class Opening:
    """A memory that is being opened. Calls wait for it here; one that could not be opened is tried again."""

    def __init__(self, memory: Memory) -> None:
        self.memory = memory
        self.task = asyncio.create_task(self._open(), name="open")

    async def __call__(self) -> Memory:
        """The open memory.

        Raises:
            MemoryMCPError: why it cannot be opened.
        """
        if self.task.done() and isinstance(await self.task, StorageUnavailableError):
            # the directory may be there by now
            self.task = asyncio.create_task(self._open(), name="open")
        error = await asyncio.shield(self.task)
        if error is not None:
            raise error.with_traceback(None)
        return self.memory

    async def _open(self) -> Exception | None:
        try:
            await self.memory.open()
        except MemoryMCPError as error:
            _log.error("the memory cannot be opened: %s", error)
            return error
        except Exception as error:  # noqa: BLE001 - every call tells of it
            _log.exception("the memory cannot be opened")
            return error
        return None


async def _serve(settings: Settings, handover: Handover) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError):
            loop.add_signal_handler(number, stop.set)
    configure_logging(settings)
    memory = Memory(settings)
    opening = Opening(memory)
    server = MemoryServer(core_tools(opening), memory.metrics, settings)
    wire = cast("Any", Wire(handover, stop.set, opening.task))
    low = server._lowlevel_server

    async def talk() -> None:
        async with stdio_server(wire, wire) as (reading, writing):
            await low.run(reading, writing, low.create_initialization_options())

    talking = asyncio.create_task(talk(), name="talk")
    stopping = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait([talking, stopping], return_when=asyncio.FIRST_COMPLETED)
    # whatever holds up the end, a blocked event loop included
    limit = threading.Timer(_END_SECONDS, os._exit, (0,))
    limit.daemon = True
    limit.start()
    if talking.done() and (error := talking.exception()):
        _log.error("the connection failed", exc_info=error)
    for task in (talking, stopping):
        # what comes of being cut off is not news
        task.cancel()
    await asyncio.wait([talking], timeout=_TALK_SECONDS)
    if talking.done() and not talking.cancelled() and talking.exception():
        _log.debug("the connection was cut off: %r", talking.exception())
    opening.task.cancel()
    await asyncio.wait([opening.task])
    with contextlib.suppress(MemoryMCPError):
        await memory.close()
