"""Where the real data is, and short ways to import a file."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from memory_mcp.evaluation.importers import Problem, read
from memory_mcp.records.episode import ImportedEpisode

ROOT = Path(__file__).parents[3]
Imported = tuple[list[ImportedEpisode], list[Problem]]


@pytest.fixture
def shared_data() -> Path:
    """The directory of real agent logs; the data may not be part of the project."""
    root = Path(os.environ.get("MEMORY_MCP_SHARED_DATA", ROOT / ".." / "shared" / "data"))
    if not (root / "agent").is_dir():
        pytest.skip("the shared data is not on this machine (set MEMORY_MCP_SHARED_DATA to its directory)")
    return root / "agent"


@pytest.fixture
def data() -> Path:
    return Path(__file__).parent / "data"


@pytest.fixture
def imported() -> Callable[[str, Path], Imported]:
    """Import a file: the episodes and the problems."""

    def run(name: str, path: Path) -> Imported:
        items = list(read(name, path))
        problems = [item for item in items if isinstance(item, Problem)]
        return [item for item in items if isinstance(item, ImportedEpisode)], problems

    return run


@pytest.fixture
def import_value(tmp_path: Path, imported: Callable[[str, Path], Imported]) -> Callable[..., Imported]:
    """Import a value, written as JSON, from a file called `name`."""

    def run(format: str, value: object, name: str = "results.json") -> Imported:
        path = tmp_path / name
        path.write_text(json.dumps(value), encoding="utf-8")
        return imported(format, path)

    return run


@pytest.fixture
def import_lines(tmp_path: Path, imported: Callable[[str, Path], Imported]) -> Callable[..., Imported]:
    """Import lines: values are written as JSON, bytes as they are."""

    def run(format: str, *lines: object) -> Imported:
        path = tmp_path / "lines.jsonl"
        path.write_bytes(b"\n".join(li if isinstance(li, bytes) else json.dumps(li).encode() for li in lines))
        return imported(format, path)

    return run
