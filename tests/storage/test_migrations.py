"""Stored directories of released versions: migrated once, saved before, and complete afterwards."""

from __future__ import annotations

import asyncio
import lzma
import os
import re
import signal
import subprocess
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import MigrationRefusedError
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import backup, migrations, queries
from memory_mcp.storage.backup_files import Backup, scan
from memory_mcp.storage.filelock import FileLock
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE, call, connected, in_repository

DATA = in_repository("tests", "storage", "data")
NEWEST = migrations.newest("sqlite")
RELEASED = range(1, NEWEST)
SERVER = ("--embedder", "none")
MINE, TEAM = "default", "team/other"


def unpacked(version: int, data: Path) -> Path:
    """A data directory as a program of that schema version has left it."""
    data.mkdir(parents=True, exist_ok=True)
    database = data / "memory.db"
    database.write_bytes(lzma.decompress((DATA / f"schema-{version}.db.xz").read_bytes()))
    return database


def rows(database: Path, sql: str) -> list[Any]:
    connection = sqlite.connect(f"file:{database}?mode=ro", uri=True)
    try:
        return list(connection.execute(sql).fetchall())
    finally:
        connection.close()


def copies(data: Path) -> list[Backup]:
    return scan(backup.place_of(data)).backups


def test_a_directory_of_every_released_schema_is_stored() -> None:
    stored = {int(match[1]) for path in DATA.iterdir() if (match := re.match(r"schema-(\d+)\.db\.xz$", path.name))}
    assert stored >= set(RELEASED)


@pytest.mark.parametrize("version", RELEASED)
async def test_a_server_takes_over_the_store_of_an_older_version(tmp_path: Path, version: int) -> None:
    data = tmp_path / "data"
    database = unpacked(version, data)
    episodes = rows(database, "SELECT namespace, episode_id, status, step_count, reward_total FROM episodes")
    patterns = rows(database, "SELECT ns_hash, pattern_id FROM patterns ORDER BY 1, 2")
    position = rows(database, "SELECT max(position) FROM ledger")[0][0]
    async with connected(data, *SERVER) as client:
        for namespace, episode_id, status, steps, reward in episodes:
            told = await call(client, "get_episode", episode_id=episode_id, namespace=namespace)
            assert (told["status"], len(told["steps"])) == (status, steps)
            assert told.get("reward", {}).get("total") == reward
            text = told["task_description"]
            found = await call(client, "query_memory", query=text, namespace=namespace)
            assert episode_id in [item["episode_id"] for item in found["episodes"]]
        assert (await call(client, "health_check"))["overall"] == "healthy"
        started = await call(client, "create_episode", task_description="After the migration", namespace=TEAM)
        await call(client, "add_episode_step", episode_id=started["episode_id"], tool="look", namespace=TEAM)
        episode = {"episode_id": started["episode_id"], "namespace": TEAM}
        done = await call(client, "complete_episode", **episode, outcome_type="success")
        assert done["reward"]["total"] > 0
    assert {namespace for namespace, *_ in episodes} == {MINE, TEAM}
    assert set(patterns) <= set(rows(database, "SELECT ns_hash, pattern_id FROM patterns"))
    assert rows(database, "SELECT value FROM meta WHERE key = 'schema_version'") == [(str(NEWEST),)]
    with backup.reading(database) as session:
        assert verify(session) == []
        assert queries.head_position(session) > position
    (copy,) = copies(data)
    assert copy.reason == f"before-migration-{version}-to-{NEWEST}"
    assert (copy.manifest["schema_version"], copy.position) == (version, position)
    assert copy.manifest["episodes"] == len(episodes)
    assert backup.verify(copy) == []


@pytest.mark.parametrize("version", RELEASED)
async def test_of_several_servers_that_start_at_once_one_migrates_and_saves_one_copy(
    tmp_path: Path, version: int
) -> None:
    data = tmp_path / "data"
    unpacked(version, data)
    async with AsyncExitStack() as stack:
        # a server opens its store behind the handshake, so all three are at it at the same time
        clients = [await stack.enter_async_context(connected(data, *SERVER)) for _ in range(3)]
        started = await asyncio.gather(
            *(
                call(client, "create_episode", task_description=f"Task {number}")
                for number, client in enumerate(clients)
            )
        )
        assert not [answer for answer in started if "pending" in answer]
        for client in clients:
            for answer in started:
                told = await call(client, "get_episode", episode_id=answer["episode_id"])
                assert told["status"] == "open"
    assert len(copies(data)) == 1


OPENER = """
import asyncio, sys
from pathlib import Path
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import backup, migrations
from memory_mcp.storage.sqlite import SqliteEngine

migrated = 0
migrate = migrations.migrate

def counted(session, engine, store_id, *, before):
    global migrated
    migrated += before < migrations.newest(engine)
    migrate(session, engine, store_id, before=before)

migrations.migrate = counted

async def main(path, slow):
    if slow:
        # a copy that takes longer than any process waits for its turn to write
        import time
        save = backup.save_before_migration
        def slowly(*arguments):
            save(*arguments)
            time.sleep(slow)
        backup.save_before_migration = slowly
    engine = SqliteEngine(path, TextRecipe(), lock_seconds=0.1, busy_seconds=0.1)
    print("ready", flush=True)
    sys.stdin.readline()
    await engine.open()
    await engine.close()
    print(migrated, flush=True)

asyncio.run(main(Path(sys.argv[1]), float(sys.argv[2])))
"""


def opener(database: Path, slow: float = 0.0, program: str = OPENER) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, str(database), str(slow)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("version", RELEASED)
def test_processes_wait_for_a_migration_that_takes_longer_than_a_write_may(tmp_path: Path, version: int) -> None:
    database = unpacked(version, tmp_path)
    started = [opener(database, 1.0) for _ in range(4)]
    try:
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        answers = [process.communicate(timeout=PATIENCE) for process in started]
    finally:
        for process in started:
            process.kill()
            process.wait()
    assert [error for _, error in answers] == [""] * 4
    assert sorted(int(told) for told, _ in answers) == [0, 0, 0, 1]
    assert len(copies(tmp_path)) == 1


KILLED = """
import asyncio, os, signal, sys
from pathlib import Path
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import backup, migrations
from memory_mcp.storage.sqlite import SqliteEngine

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def half(session, engine, store_id, *, before):
    for statement in migrations.statements(engine)[before + 1]:
        session.run(statement)
    die()

def whole(session, engine, store_id, *, before):
    migrate(session, engine, store_id, before=before)
    die()

migrate = migrations.migrate
match sys.argv[2]:
    case "before": backup.save_before_migration = die
    case "half": migrations.migrate = half
    case "whole": migrations.migrate = whole
asyncio.run(SqliteEngine(Path(sys.argv[1]), TextRecipe()).open())
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize("moment", ["before", "half", "whole"])
@pytest.mark.parametrize("version", RELEASED)
async def test_a_migration_that_was_killed_is_done_by_the_next_start(tmp_path: Path, version: int, moment: str) -> None:
    data = tmp_path / "data"
    database = unpacked(version, data)
    killed = [sys.executable, "-c", KILLED, str(database), moment]
    for _ in range(2):
        done = await asyncio.to_thread(subprocess.run, killed, timeout=PATIENCE, check=False)
        assert done.returncode == -signal.SIGKILL
        assert rows(database, "SELECT value FROM meta WHERE key = 'schema_version'") == [(str(version),)]
    async with connected(data, *SERVER) as client:
        assert (await call(client, "health_check"))["overall"] == "healthy"
        assert "pending" not in await call(client, "create_episode", task_description="After the kill")
    assert rows(database, "SELECT value FROM meta WHERE key = 'schema_version'") == [(str(NEWEST),)]
    # attempts that come to nothing must not fill the disk
    assert len(copies(data)) == 1


async def test_without_room_for_a_copy_the_store_stays_as_it_is(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource", reason="this platform has no limit on the size of files")
    database = unpacked(1, tmp_path)
    engine = SqliteEngine(database, TextRecipe())
    handled = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(MigrationRefusedError) as caught:
            await engine.open()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handled)
    assert "Make room" in caught.value.hint
    assert rows(database, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]
    await engine.open()
    await engine.close()
    assert len(copies(tmp_path)) == 1


async def test_a_store_of_the_newest_schema_is_not_copied_and_does_not_wait(tmp_path: Path) -> None:
    engine = SqliteEngine(tmp_path / "memory.db", TextRecipe(), lock_seconds=0.05)
    await engine.open()
    await engine.close()
    holder = FileLock(tmp_path / "memory.lock")
    with holder.held(1.0):
        async with asyncio.timeout(PATIENCE):
            await engine.open()
    await engine.close()
    holder.close()
    assert copies(tmp_path) == []
