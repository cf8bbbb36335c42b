"""Big stores, made in a short time: by the engine's group commit, without embedding, and without learning.

Learning from a hundred thousand episodes takes hours, and what is measured here does not depend on it: the cursor of
learning is moved behind them, as if it had been done.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.common import synthetic_episode

NOTE = "seeded by the engine's group commit: words and rows, no learning, no vectors; servers run with --embedder none"
_GROUP = 256


def seed(data_dir: Path, episodes: int) -> dict[str, Any]:
    """Fill a data directory with completed episodes; what it took."""
    started = time.perf_counter()
    data_dir.mkdir(parents=True, exist_ok=True)
    asyncio.run(_seed(data_dir, episodes))
    size = (data_dir / "memory.db").stat().st_size
    return {
        "episodes": episodes,
        "seconds": round(time.perf_counter() - started, 1),
        "database_mb": round(size / 1e6, 1),
    }


def copy(seeded: Path, data_dir: Path) -> None:
    """A directory with the same store and nothing else."""
    data_dir.mkdir(parents=True)
    shutil.copyfile(seeded / "memory.db", data_dir / "memory.db")


async def _seed(data_dir: Path, episodes: int) -> None:
    from memory_mcp.records.ledger import Command
    from memory_mcp.retrieval.recipe import TextRecipe
    from memory_mcp.storage import queries
    from memory_mcp.storage.learned import LEARNING
    from memory_mcp.storage.sqlite import SqliteEngine

    rng = random.Random(1)
    now = time.time_ns() // 1000
    engine = SqliteEngine(data_dir / "memory.db", TextRecipe())
    await engine.open()
    try:
        for first in range(0, episodes, _GROUP):
            numbers = range(first, min(first + _GROUP, episodes))
            payloads = [_payload(synthetic_episode(rng, number), now) for number in numbers]
            commands = [
                Command("episode.import", "default", payload, f"seed-{number}", now, "seed")
                for number, payload in zip(numbers, payloads, strict=True)
            ]
            await asyncio.gather(*(engine.write(command) for command in commands))
        head = await engine.read(queries.head_position)
        cursor = {"name": LEARNING, "from": 0, "to": head}
        await engine.write(Command("cursor.move", "default", {"cursor": cursor}, "seed-cursor", now, "seed"))
    finally:
        await engine.close()


def _payload(draft: dict[str, Any], now: int) -> dict[str, Any]:
    from memory_mcp.records.episode import EpisodeDraft, ImportedEpisode

    episode = ImportedEpisode.model_validate(draft)
    header = {
        **episode.model_dump(include=set(EpisodeDraft.model_fields)),
        "episode_id": episode.source_id,
        "namespace": "default",
        "actor": "seed",
        "started_at": now,
    }
    assert episode.outcome is not None
    steps = [{**step.model_dump(), "at": now} for step in episode.steps]
    return {"episode": header, "steps": steps, "outcome": episode.outcome.model_dump(), "ended_at": now}
