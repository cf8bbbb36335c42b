"""A page of the database that is destroyed under a running server: health_check tells it, with what to do."""

from __future__ import annotations

import random
from pathlib import Path

from tests.conftest import call, connected, refused
from tests.storage.sound import copied, opened


async def test_a_destroyed_page_shows_in_health_check_with_what_to_do(lived: Path, tmp_path: Path) -> None:
    data = copied(lived, tmp_path / "data")
    with opened(data) as session:
        row = session.one("SELECT rootpage FROM sqlite_schema WHERE name = 'patterns'")
        assert row is not None
    with (data / "memory.db").open("r+b") as file:
        file.seek((row[0] - 1) * 4096)
        file.write(random.Random(1).randbytes(4096))
    async with connected(data) as client:
        before = await call(client, "health_check")
        assert before["overall"] == "healthy"
        error = await refused(client, "get_metrics", metric_type="patterns")
        assert error["code"] == "store_corrupt"
        health = await call(client, "health_check")
        assert health["overall"] == "unhealthy"
        primary = health["primary_storage"]
        assert (primary["status"], primary["code"]) == ("unhealthy", "store_corrupt")
        for command in ("memory-mcp storage verify", "memory-mcp storage salvage", "memory-mcp backup restore"):
            assert command in primary["hint"].replace("`", "")
        # what does not need that page goes on working
        made = await call(client, "health_check")
        assert made["primary_storage"]["ledger_position"] == before["primary_storage"]["ledger_position"]
