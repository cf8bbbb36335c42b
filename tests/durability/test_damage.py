"""Damaged files under a real server: the cache is made anew, the store's damage is told, and nothing is lost."""

from __future__ import annotations

import random
import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from tests.durability.audit import audit
from tests.durability.support import begin, healthy, names, server, tools_of, wait_until
from tests.server.wire import Wire
from tests.services.support import start, took

TOLD = "lorem ipsum dolor sit amet " * 20


def a_store(home: Path) -> dict[str, list[str]]:
    """Thirty episodes with three steps each, by their ids."""
    with server(home) as wire:
        episodes = {begin(wire, f"task {number}"): ["t0", "t1", "t2"] for number in range(30)}
        for episode, tools in episodes.items():
            steps = [{"tool": tool, "result": {"output": f"{tool} {TOLD}"}} for tool in tools]
            wire.call("add_episode_step", episode_id=episode, steps=steps)
        wire.end()
    return episodes


def check(wire: Wire, episodes: dict[str, list[str]]) -> None:
    """Every episode is told as it was written, and takes another step."""
    for episode, tools in episodes.items():
        steps = wire.call("get_episode", episode_id=episode, token_budget=1_000_000)["steps"]
        assert [step["tool"] for step in steps] == tools
        assert all(step["result"]["output"] == f"{step['tool']} {TOLD}" for step in steps)
        tool = f"t{len(tools)}"
        told = wire.call("add_episode_step", episode_id=episode, tool=tool, result={"output": f"{tool} {TOLD}"})
        assert told["step_numbers"] == [len(tools) + 1]
        tools.append(tool)


def random_bytes(file: Path, rng: random.Random) -> None:
    """Other bytes at several places in the values.

    LMDB follows what its own pages say through memory. Where damage makes one of those point outside of the file, the
    process ends by a signal; no check of ours comes before that.
    """
    content = file.read_bytes()
    places = [match.start() for match in re.finditer(b"lorem", content) if match.start() >= 8_192]
    with file.open("r+b") as damaged:
        # a cache that is just being made anew has no values yet
        for _ in range(rng.choice((1, 5, 40)) if places else 0):
            damaged.seek(rng.choice(places))
            damaged.write(rng.randbytes(rng.choice((1, 4, 8))))


@pytest.mark.parametrize("while_running", [True, False])
def test_random_bytes_in_the_cache_change_no_answer(tmp_path: Path, while_running: bool) -> None:
    episodes = a_store(tmp_path)
    rng = random.Random(7)
    cache = tmp_path / "data" / "cache" / "data.mdb"
    for _ in range(3):
        if not while_running:
            random_bytes(cache, rng)
        with server(tmp_path) as wire:
            for _ in range(3):
                check(wire, episodes)
                if while_running:
                    random_bytes(cache, rng)
            check(wire, episodes)
            wait_until(lambda: healthy(wire))
            wire.end()
    with server(tmp_path) as wire:
        wait_until(lambda: healthy(wire) and wire.call("health_check")["cache_storage"]["lag"] == 0)
        check(wire, episodes)
        assert audit(tmp_path / "data").problems == []


@pytest.mark.parametrize("table", ["steps", "episodes", "ledger", "meta", "units_fts_data"])
def test_a_damaged_page_of_the_store_is_told_and_writes_wait_until_it_is_mended(tmp_path: Path, table: str) -> None:
    episodes = a_store(tmp_path)
    file = tmp_path / "data" / "memory.db"
    whole = tmp_path / "whole.db"
    shutil.copyfile(file, whole)
    with closing(sqlite.connect(str(file))) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
    with file.open("r+b") as damaged:
        damaged.seek((page - 1) * 4096)
        damaged.write(random.Random(1).randbytes(4096))
    known = next(iter(episodes))
    with server(tmp_path) as wire:
        assert wire.call("add_episode_step", episode_id=known, tool="t3")["pending"]
        new = wire.call("create_episode", task_description="begun over a damaged store")
        assert new["pending"]
        health = wire.call("health_check")
        assert health["overall"] == "unhealthy"
        assert health["primary_storage"]["status"] == "unhealthy"
        assert health["primary_storage"]["code"] == "store_corrupt"
        assert "backup restore" in health["primary_storage"]["hint"]
        assert health["journal"]["pending_writes"] == 2
        # what the cache knows is told all the same
        assert tools_of(wire, known) == names(4)
        wire.end()
    # put back, as a backup is
    shutil.copyfile(whole, file)
    with server(tmp_path) as wire:
        wait_until(lambda: healthy(wire))
        assert tools_of(wire, known) == names(4)
        assert wire.call("get_episode", episode_id=new["episode_id"])["status"] == "open"
        wait_until(lambda: wire.call("health_check")["cache_storage"]["lag"] == 0)
    assert audit(tmp_path / "data").problems == []


def test_what_only_a_damaged_page_holds_is_refused_by_its_name(tmp_path: Path) -> None:
    episodes = a_store(tmp_path)
    file = tmp_path / "data" / "memory.db"
    with closing(sqlite.connect(str(file))) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'steps'").fetchone()
    with file.open("r+b") as damaged:
        damaged.seek((page - 1) * 4096)
        damaged.write(random.Random(1).randbytes(4096))
    shutil.rmtree(tmp_path / "data" / "cache")
    with server(tmp_path) as wire:
        refusal = wire.refused("get_episode", episode_id=next(iter(episodes)))
        assert refusal["code"] == "store_corrupt"
        assert "storage verify" in refusal["hint"]
        # the breaker has opened by then, and the reason is still the same
        for _ in range(10):
            assert wire.refused("get_episode", episode_id=next(iter(episodes)))["code"] == "store_corrupt"


async def test_a_cache_with_hardly_any_room_grows_by_itself(settings: Settings) -> None:
    one, other = Memory(settings), Memory(settings)
    for memory in (one, other):
        # room for some pages: the first episodes fill it
        memory.store.cache._files._map_size = 64 << 10
    async with one, other:
        episodes: dict[str, list[str]] = {}
        for number in range(20):
            memory = (one, other)[number % 2]
            episode = str((await start(memory, f"task {number}"))["episode_id"])
            episodes[episode] = [f"{number} {TOLD[:180]}", "t1"]
            await took(memory, episode, *episodes[episode])
        assert one.store.cache.size()["limit"] > 64 << 10
        assert one.store.cache_breaker.state == other.store.cache_breaker.state == "closed"
        assert one.store.cache.rebuilds == other.store.cache.rebuilds == 0
        for memory in (one, other):
            for episode, tools in episodes.items():
                told = await memory.episodes.get(episode, "default")
                assert [step["tool"] for step in told["steps"]] == tools
        await one.settle()
        await one.store.catch_up()
        assert audit(settings.data_dir).problems == []
