"""Backups by the clock: due by the newest manifest, made by one process, counted when they fail, seen in health."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.errors import BackupError
from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from memory_mcp.storage import backup
from memory_mcp.storage.backup_files import Backup, scan
from memory_mcp.storage.backup_schedule import ScheduledBackups
from memory_mcp.storage.filelock import Presence
from tests.conftest import PATIENCE, ManualClock, Open, call, connected
from tests.services.support import eventually, ready, start

HOUR = 3600.0


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"backup_hours": 6.0, "backup_keep": 3})


def made(settings: Settings) -> list[Backup]:
    return scan(backup.place_of(settings.data_dir)).backups


def by_hand(memory: Memory, settings: Settings, clock: ManualClock) -> ScheduledBackups:
    """One that nobody steps but the test."""
    return ScheduledBackups(memory.store, settings.data_dir, clock, hours=6.0, keep=3)


async def test_a_backup_is_made_when_one_is_due_and_something_was_written(
    settings: Settings, clock: ManualClock
) -> None:
    quiet = settings.model_copy(update={"backup_hours": 0.0})
    async with Memory(quiet, clock=clock) as memory:
        backups = by_hand(memory, settings, clock)
        await backups.step()
        assert made(settings) == [], "there is nothing to save yet"
        await start(memory)
        await backups.step()
        assert [item.reason for item in made(settings)] == ["scheduled"]
        await start(memory)
        clock.advance(5.9 * HOUR)
        await backups.step()
        assert len(made(settings)) == 1
        clock.advance(0.2 * HOUR)
        await backups.step()
        assert len(made(settings)) == 2
        clock.advance(7 * HOUR)
        await backups.step()
        assert len(made(settings)) == 2, "nothing was written since"


async def test_the_directory_knows_what_is_due_after_a_restart(settings: Settings, clock: ManualClock) -> None:
    quiet = settings.model_copy(update={"backup_hours": 0.0})
    for expected in (1, 1, 2):
        async with Memory(quiet, clock=clock) as memory:
            await start(memory)
            await by_hand(memory, settings, clock).step()
        assert len(made(settings)) == expected
        clock.advance(3.1 * HOUR)


async def test_a_clock_that_was_put_back_does_not_stop_the_backups(settings: Settings, clock: ManualClock) -> None:
    async with Memory(settings.model_copy(update={"backup_hours": 0.0}), clock=clock) as memory:
        await start(memory)
        clock.advance(1000 * HOUR)
        await by_hand(memory, settings, clock).step()
        await start(memory)
        earlier = ManualClock()
        await by_hand(memory, settings, earlier).step()
        assert len(made(settings)) == 2


async def test_the_newest_stay_and_a_copy_before_a_restore_is_not_counted(
    settings: Settings, clock: ManualClock
) -> None:
    async with Memory(settings.model_copy(update={"backup_hours": 0.0}), clock=clock) as memory:
        await start(memory)
        database, place = settings.data_dir / "memory.db", backup.place_of(settings.data_dir)
        backup.create(database, place, clock=clock, reason="before-restore")
        for _ in range(5):
            clock.advance(7 * HOUR)
            await start(memory)
            await by_hand(memory, settings, clock).step()
    assert [item.reason for item in made(settings)] == ["scheduled"] * 3 + ["before-restore"]


async def test_while_another_process_makes_it_nobody_else_does(settings: Settings, clock: ManualClock) -> None:
    async with Memory(settings.model_copy(update={"backup_hours": 0.0}), clock=clock) as memory:
        await start(memory)
        place = backup.place_of(settings.data_dir)
        place.mkdir()
        other = Presence(place / ".schedule.lock")
        assert other.alone(0.0)
        await by_hand(memory, settings, clock).step()
        assert made(settings) == []
        other.close()
        await by_hand(memory, settings, clock).step()
        assert len(made(settings)) == 1


async def test_the_clock_alone_makes_a_backup_due_in_an_open_memory(
    settings: Settings, clock: ManualClock, open_memory: Open
) -> None:
    memory = await open_memory(settings=settings, clock=clock)
    await ready(memory)
    await start(memory)
    await eventually(lambda: made(settings))
    await start(memory)
    position = made(settings)[0].position
    # nothing happens any more but time
    await eventually(lambda: memory.store.cache.applied() > position, clock)
    clock.advance(7 * HOUR)
    await eventually(lambda: len(made(settings)) == 2, clock)
    assert memory.upkeep.failures == {}


async def test_a_backup_that_fails_is_counted_once_in_a_while_and_health_says_it_is_due(
    settings: Settings, clock: ManualClock, open_memory: Open
) -> None:
    settings.data_dir.mkdir(parents=True)
    blocked = settings.data_dir / "backups"
    blocked.write_text("a file where the directory should be", encoding="utf-8")
    memory = await open_memory(settings=settings, clock=clock)
    await ready(memory)
    await start(memory)
    await eventually(lambda: memory.upkeep.failures.get("backup"), clock)
    assert "BackupError" in memory.upkeep.last_errors["backup"]
    failed = memory.upkeep.failures["backup"]
    for _ in range(20):
        clock.advance(5.0)
        await asyncio.sleep(0)
    assert memory.upkeep.failures["backup"] == failed
    health = await memory.status.health()
    assert health["backup"] == {"due": True}
    assert "backup" in health["memory_system"]["background_failures"]
    blocked.unlink()
    clock.advance(301.0)
    await eventually(lambda: made(settings), clock)


async def test_health_tells_the_newest_backup(settings: Settings, clock: ManualClock) -> None:
    quiet = settings.model_copy(update={"backup_hours": 0.0})
    async with Memory(quiet, clock=clock) as memory:
        assert "backup" not in await memory.status.health()
        await start(memory)
        await by_hand(memory, settings, clock).step()
        clock.advance(90)
        told = (await memory.status.health())["backup"]
        assert told == {"last_at": "2023-11-14T22:13:20.000Z", "position": 1, "age_seconds": 90, "due": False}


async def test_a_place_that_cannot_be_made_is_an_error(settings: Settings, clock: ManualClock) -> None:
    async with Memory(settings.model_copy(update={"backup_hours": 0.0}), clock=clock) as memory:
        await start(memory)
        (settings.data_dir / "backups").write_text("x", encoding="utf-8")
        with pytest.raises(BackupError, match="cannot be kept"):
            await by_hand(memory, settings, clock).step()


async def test_of_two_servers_one_makes_the_backup(tmp_path: Path) -> None:
    data = tmp_path / "data"
    arguments: tuple[Any, ...] = ("--embedder", "none")
    own = {"MEMORY_MCP_BACKUP_HOURS": "1"}
    async with connected(data, *arguments, **own) as one, connected(data, *arguments, **own) as two:
        await call(one, "create_episode", task_description="Worth keeping")
        await call(two, "create_episode", task_description="Worth keeping too")
        async with asyncio.timeout(PATIENCE):
            while True:
                health = await call(one, "health_check")
                if "last_at" in health.get("backup", {}):
                    break
                await asyncio.sleep(0.02)
        assert health["backup"]["due"] is False
    assert [item.reason for item in scan(data / "backups").backups] == ["scheduled"]
