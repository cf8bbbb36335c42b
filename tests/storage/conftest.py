"""One store that has lived, for all tests that spoil a copy of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.storage.sound import copied, live


@pytest.fixture(scope="session")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store that nobody may change."""
    directory = tmp_path_factory.mktemp("lived") / "data"
    asyncio.run(live(directory))
    return directory


@pytest.fixture
def store(lived: Path, tmp_path: Path) -> Path:
    """A copy of a store that has lived, to be spoiled."""
    return copied(lived, tmp_path / "spoiled")
