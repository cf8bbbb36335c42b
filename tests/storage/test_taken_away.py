"""A database file that is empty, missing or replaced: never taken for a new store, never written to in vain."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from memory_mcp.clock import SystemClock
from memory_mcp.errors import StoreCorruptError
from memory_mcp.memory import Memory
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.settings import Settings
from memory_mcp.storage import backup, queries
from memory_mcp.storage.engine import StoreMovedError
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.restore import restore
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE, call, connected
from tests.services.support import eventually, ready, start, took
from tests.storage.conftest import OpenEngine
from tests.storage.support import add, create

SERVER = ("--embedder", "none")
OFTEN = {"MEMORY_MCP_BREAKER_RESET_SECONDS": "0.2", "MEMORY_MCP_POLL_SECONDS": "0.05"}


def lose(database: Path, how: str) -> None:
    """What an accident leaves: no database, and what SQLite keeps beside it gone too."""
    for beside in ("-wal", "-shm"):
        database.with_name(f"{database.name}{beside}").unlink(missing_ok=True)
    if how == "empty":
        database.write_bytes(b"")
    else:
        database.unlink()


async def refusal(database: Path) -> StoreCorruptError:
    engine = SqliteEngine(database, TextRecipe())
    with pytest.raises(StoreCorruptError) as caught:
        await engine.open()
    return caught.value


@pytest.mark.parametrize("how", ["empty", "missing"])
@pytest.mark.parametrize("trace", ["cache", "journal", "backup", "log"])
async def test_each_trace_of_a_store_keeps_a_new_one_from_taking_its_place(
    settings: Settings, how: str, trace: str
) -> None:
    data, database = settings.data_dir, settings.data_dir / "memory.db"
    async with Memory(settings) as memory:
        await ready(memory)
        episode_id = str((await start(memory))["episode_id"])
        await memory.store.catch_up()
    if trace == "backup":
        backup.create(database, backup.place_of(data), clock=SystemClock(), reason="manual")
    if trace != "cache":
        await asyncio.to_thread(shutil.rmtree, data / "cache")
    if trace == "journal":
        journal = Journal(data / "pending")
        journal.open()
        journal.append(add(episode_id))
        journal.close()
    lose(database, how)
    if trace == "log":
        database.with_name("memory.db-wal").write_bytes(bytes(4096))
    before = {path: path.stat().st_size for path in data.glob("memory.db*")}
    error = await refusal(database)
    assert {"cache": "cache knows of", "journal": "1 pending writes", "backup": "1 backups", "log": "holds writes"}[
        trace
    ] in error.message
    assert how in error.message
    assert "backup restore" in error.hint
    assert {path: path.stat().st_size for path in data.glob("memory.db*")} == before


@pytest.mark.parametrize("how", ["empty", "missing"])
async def test_a_first_start_that_was_killed_is_begun_again(settings: Settings, how: str) -> None:
    async with Memory(settings) as memory:
        await ready(memory)
    # cache, journal and locks are there, and have never heard of any write
    lose(settings.data_dir / "memory.db", how)
    async with Memory(settings) as memory:
        await ready(memory)
        assert (await start(memory))["status"] == "open"
        assert (await memory.status.health())["overall"] == "healthy"


async def test_writes_that_need_no_earlier_store_wait_for_a_new_one(settings: Settings) -> None:
    settings.data_dir.mkdir(parents=True)
    journal = Journal(settings.data_dir / "pending")
    journal.open()
    journal.append(create("e1"))
    journal.append(add("e1"))
    journal.close()
    async with Memory(settings) as memory:
        await ready(memory)
        told = await memory.episodes.get("e1", "default")
        assert len(told["steps"]) == 1


@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_nothing_is_written_to_a_file_that_is_no_longer_there(
    open_engine: OpenEngine, tmp_path: Path, how: str
) -> None:
    engine = await open_engine()
    await engine.write(create("e1"))
    away = tmp_path / "away.db"
    engine.path.rename(away)
    if how == "replaced":
        other = await open_engine(tmp_path / "other.db")
        await other.close()
        other.path.rename(engine.path)
    with pytest.raises(StoreMovedError):
        await engine.write(add("e1"))
    with pytest.raises(StoreMovedError):
        await engine.read(queries.head_position)
    with pytest.raises(StoreMovedError):
        await engine.data_version()
    if how == "replaced":
        engine.path.unlink()
    away.rename(engine.path)
    assert (await engine.write(add("e1"))).position == 2


async def test_a_process_that_had_the_store_open_makes_no_new_one_in_its_place(open_engine: OpenEngine) -> None:
    engine = await open_engine()
    await engine.close()
    lose(engine.path, "missing")
    with pytest.raises(StoreCorruptError, match="this process had it open"):
        await engine.open()


async def overall(client: Client, wanted: str) -> dict[str, Any]:
    async with asyncio.timeout(PATIENCE):
        while True:
            health = await call(client, "health_check")
            if health["overall"] == wanted:
                return health
            await asyncio.sleep(0.02)


async def test_a_server_whose_database_is_deleted_keeps_every_write_until_it_is_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = data / "memory.db"
    async with connected(data, *SERVER, **OFTEN) as client, connected(data, *SERVER, **OFTEN) as other:
        episode = {"episode_id": (await call(client, "create_episode", task_description="Survive"))["episode_id"]}
        await call(client, "add_episode_step", **episode, tool="before")
        made = backup.create(database, backup.place_of(data), clock=SystemClock(), reason="manual")
        lose(database, "missing")
        for number, server in enumerate((client, other, client)):
            answer = await call(server, "add_episode_step", **episode, tool=f"without {number}")
            assert answer["pending"] is True
        health = await overall(client, "unhealthy")
        assert health["primary_storage"]["code"] == "store_corrupt"
        assert "backup restore" in health["primary_storage"]["hint"]
        assert not database.exists()
        assert len((await call(other, "get_episode", **episode))["steps"]) == 4
        (made.directory / "memory.db").rename(database)
        await overall(client, "healthy")
        await overall(other, "healthy")
        for server in (client, other):
            told = await call(server, "get_episode", **episode)
            assert [step["tool"] for step in told["steps"]] == ["before", "without 0", "without 1", "without 2"]


async def test_servers_that_do_nothing_let_go_of_a_deleted_database_so_that_it_can_be_restored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    database = data / "memory.db"
    async with connected(data, *SERVER, **OFTEN) as one, connected(data, *SERVER, **OFTEN) as two:
        episode = {"episode_id": (await call(one, "create_episode", task_description="Survive"))["episode_id"]}
        assert (await call(two, "get_episode", **episode))["status"] == "open"
        made = backup.create(database, backup.place_of(data), clock=SystemClock(), reason="manual")
        lose(database, "missing")
        done = await asyncio.to_thread(restore, made, data, clock=SystemClock())
        assert done.replaced == "nothing"
        for server in (one, two):
            await overall(server, "healthy")
            assert "pending" not in await call(server, "add_episode_step", **episode, tool="afterwards")
        assert len((await call(one, "get_episode", **episode))["steps"]) == 2


async def test_a_server_that_starts_over_an_empty_database_says_so_and_keeps_writes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data, *SERVER) as client:
        episode = {"episode_id": (await call(client, "create_episode", task_description="Survive"))["episode_id"]}
        await call(client, "add_episode_step", **episode, tool="before")
    content = (data / "memory.db").read_bytes()
    lose(data / "memory.db", "empty")
    async with connected(data, *SERVER, **OFTEN) as client:
        health = await call(client, "health_check")
        assert health["primary_storage"]["code"] == "store_corrupt"
        assert (await call(client, "add_episode_step", **episode, tool="after"))["pending"] is True
        assert (data / "memory.db").read_bytes() == b""
        (data / "memory.db").write_bytes(content)
        await overall(client, "healthy")
        told = await call(client, "get_episode", **episode)
        assert [step["tool"] for step in told["steps"]] == ["before", "after"]


async def test_a_memory_goes_on_with_a_good_file_put_in_place_of_the_one_it_had(settings: Settings) -> None:
    often = settings.model_copy(update={"breaker_reset_seconds": 0.05, "poll_seconds": 0.02})
    database = settings.data_dir / "memory.db"
    async with Memory(often) as memory:
        await ready(memory)
        episode_id = str((await start(memory))["episode_id"])
        made = backup.create(database, backup.place_of(settings.data_dir), clock=SystemClock(), reason="manual")
        copy = settings.data_dir / "copy.db"
        shutil.copyfile(made.directory / "memory.db", copy)
        for beside in ("-wal", "-shm"):
            database.with_name(f"memory.db{beside}").unlink(missing_ok=True)
        copy.replace(database)
        await took(memory, episode_id, "afterwards")
        await eventually(lambda: not memory.store.degraded)
    async with Memory(settings) as memory:
        await ready(memory)
        assert len((await memory.episodes.get(episode_id, "default"))["steps"]) == 1
