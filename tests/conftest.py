"""What all tests share: a clock that tests move, memories in fresh directories, and the real server as a process."""

from __future__ import annotations

import asyncio
import heapq
import os
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from mcp import Client, StdioServerParameters

from memory_mcp.memory import Memory
from memory_mcp.settings import Settings

PROGRAM = Path(sys.executable).with_name("memory-mcp")

# the same examples in every run, so that a red run is the change's doing; `--hypothesis-profile default` explores
hypothesis.settings.register_profile("repeatable", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("repeatable")

# every wait in a test is bounded by this; nothing here takes that long on a healthy machine
PATIENCE = 30.0


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: int = 1_700_000_000_000_000) -> None:
        self._now = now
        self._monotonic = 1_000.0
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> int:
        return self._now

    def monotonic(self) -> float:
        return self._monotonic

    async def sleep(self, seconds: float) -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._sleepers, (self._monotonic + seconds, id(future), future))
        await future

    @property
    def sleepers(self) -> int:
        """How many are asleep."""
        return len(self._sleepers)

    def advance(self, seconds: float) -> None:
        """Let time pass; whoever slept less long wakes up."""
        self._now += round(seconds * 1_000_000)
        self._monotonic += seconds
        while self._sleepers and self._sleepers[0][0] <= self._monotonic:
            _, _, future = heapq.heappop(self._sleepers)
            if not future.done():
                future.set_result(None)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A database connection left behind would keep its process alive for ever."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and "connection" in thread.name]
    for thread in left:
        thread.join(PATIENCE)
    assert not [thread.name for thread in left if thread.is_alive()]


@pytest.fixture(autouse=True)
def own_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's own data, cache or settings."""
    for name in [name for name in os.environ if name.startswith("MEMORY_MCP_") and name != "MEMORY_MCP_SHARED_DATA"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MEMORY_MCP_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("MEMORY_MCP_CACHE_DIR", str(tmp_path / "user-cache"))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings for a fresh directory: words only (the model is loaded where a test is about meaning), no retries."""
    return Settings(data_dir=tmp_path / "data", embedder="none", retry_attempts=1)


Open = Callable[..., Awaitable[Memory]]


@pytest.fixture
async def open_memory(settings: Settings) -> AsyncIterator[Open]:
    """Opens memories that are closed at the end; keyword arguments go to `Memory`, `settings` may be replaced."""
    async with AsyncExitStack() as stack:

        async def opened(**arguments: Any) -> Memory:
            return await stack.enter_async_context(Memory(arguments.pop("settings", settings), **arguments))

        yield opened


@asynccontextmanager
async def connected(data_dir: Path, *arguments: str, mode: str = "auto", **environment: str) -> AsyncIterator[Client]:
    """The official client, connected over stdio to the real program in a process of its own."""
    parameters = StdioServerParameters(
        command=str(PROGRAM),
        args=["serve", "--data-dir", str(data_dir), *arguments],
        env={**os.environ, **environment},
    )
    async with asyncio.timeout(PATIENCE), Client(parameters, mode=mode) as client:
        yield client


async def call(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The answer of a tool that is expected to succeed."""
    result = await client.call_tool(tool, arguments)
    assert not result.is_error, result.content
    assert result.structured_content is not None
    return dict(result.structured_content)


async def refused(client: Client, tool: str, /, **arguments: Any) -> dict[str, Any]:
    """The error of a tool that is expected to refuse: `{code, message, hint}`."""
    result = await client.call_tool(tool, arguments)
    assert result.is_error, result.structured_content
    assert result.structured_content is not None
    return dict(result.structured_content)


def in_repository(*parts: str) -> Path:
    """A path in this repository."""
    return Path(__file__).parent.parent.joinpath(*parts)
