"""A memory whose store fails when it is told to."""

from __future__ import annotations

import pytest

from memory_mcp.memory import Memory
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.settings import Settings
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import ManualClock, Open
from tests.services.support import ready
from tests.storage.support import FailingEngine


@pytest.fixture
def engine(settings: Settings) -> FailingEngine:
    return FailingEngine(SqliteEngine(settings.data_dir / "memory.db", TextRecipe()))


@pytest.fixture
async def memory(open_memory: Open, engine: FailingEngine, clock: ManualClock) -> Memory:
    """A memory whose store fails when it is told to, and whose background work waits for the clock."""
    opened = await open_memory(engine=engine, clock=clock)
    await ready(opened)
    return opened
