"""The two halves of a starting server inside the test's process: the front end alone, and the SDK behind its wire."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from mcp.server.stdio import stdio_server

from memory_mcp.memory import Memory
from memory_mcp.metrics import Metrics
from memory_mcp.server.app import MemoryServer
from memory_mcp.server.faststart import Answers
from memory_mcp.server.frontend import Handover, _Loader, _serve_early
from memory_mcp.server.tools.core import core_tools
from memory_mcp.server.transport import Wire
from memory_mcp.settings import Settings
from tests.conftest import PATIENCE
from tests.server.wire import Json, encoded


class _Never(_Loader):
    """A server that is never there, so that everything falls to the front end."""

    def start(self) -> None:
        pass


def front_end(kept: Path, *messages: Json | bytes) -> list[Json]:
    """What the front end answers to messages with the answers kept in a file, before the client closes its end."""
    stdin, client_out = os.pipe()
    client_in, stdout = os.pipe()
    os.write(client_out, encoded(*messages))
    os.close(client_out)
    handover = Handover(stdin, stdout)
    handover.answers = Answers(str(kept))
    loader = _Never()
    _serve_early(handover, loader)
    for descriptor in (stdin, stdout, loader.bell, loader._ring):
        os.close(descriptor)
    with os.fdopen(client_in, "rb") as file:
        return [json.loads(line) for line in file.read().splitlines()]


def sdk(settings: Settings, *messages: Json | bytes, kept: Path | None = None) -> list[Json]:
    """What the SDK behind our wire answers to messages that come one after the other.

    With `kept`, its answers are kept in that file.
    """
    return asyncio.run(_sdk(settings, messages, kept))


async def _sdk(settings: Settings, messages: Sequence[Json | bytes], kept: Path | None) -> list[Json]:

    async def opened() -> Memory:
        raise AssertionError("no tool is called here")

    stdin, client_out = os.pipe()
    client_in, stdout = os.pipe()
    handover = Handover(stdin, stdout)
    handover.answers = Answers(str(kept)) if kept else None
    started: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    started.set_result(None)
    over = asyncio.Event()
    wire = cast("Any", Wire(handover, over.set, started))
    low = MemoryServer(core_tools(opened), Metrics(), settings)._lowlevel_server

    async def talk() -> None:
        async with stdio_server(wire, wire) as (reading, writing):
            await low.run(reading, writing, low.create_initialization_options())

    talking = asyncio.create_task(talk())
    answers = []
    with os.fdopen(client_in, "rb") as file, os.fdopen(client_out, "wb", buffering=0) as out:
        for message in messages:
            out.write(encoded(message))
            if isinstance(message, bytes) or "id" in message:
                async with asyncio.timeout(PATIENCE):
                    answers.append(json.loads(await asyncio.to_thread(file.readline)))
        out.close()
        async with asyncio.timeout(PATIENCE):
            await over.wait()
        talking.cancel()
        await asyncio.wait([talking])
        os.close(stdout)
        assert file.read() == b""
    with contextlib.suppress(OSError):
        os.close(stdin)
    return answers


def same(answers: list[Json]) -> list[str]:
    """Answers as texts that are equal where the answers are equal to the last byte."""
    return [json.dumps(answer, sort_keys=True) for answer in answers]
