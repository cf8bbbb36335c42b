"""Fixtures of the storage layer's tests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage.sqlite import SqliteEngine
from tests.storage.sound import copied, live

OpenEngine = Callable[..., Awaitable[SqliteEngine]]


@pytest.fixture
async def open_engine(tmp_path: Path) -> AsyncIterator[OpenEngine]:
    """Opens engines that are closed at the end."""
    opened: list[SqliteEngine] = []

    async def open_one(path: Path = tmp_path / "memory.db", **arguments: Any) -> SqliteEngine:
        engine = SqliteEngine(path, arguments.pop("recipe", TextRecipe()), **arguments)
        await engine.open()
        opened.append(engine)
        return engine

    yield open_one
    for engine in opened:
        await engine.close()


@pytest.fixture
async def engine(open_engine: OpenEngine) -> SqliteEngine:
    return await open_engine()


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that has lived, and that nobody may change."""
    directory = tmp_path_factory.mktemp("lived") / "data"
    asyncio.run(live(directory))
    return directory


@pytest.fixture
def store(lived: Path, tmp_path: Path) -> Path:
    """A copy of a store that has lived, to be spoiled."""
    return copied(lived, tmp_path / "spoiled")
