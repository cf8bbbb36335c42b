"""Opening a store: what is ours is migrated once, what is not ours stays as it is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.errors import SchemaTooNewError, StorageError, StoreCorruptError
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import migrations, queries
from memory_mcp.storage.engine import StoreBusyError, StoreFailure
from memory_mcp.storage.filelock import FileLock
from memory_mcp.storage.sqlite import SqliteEngine
from tests.storage.conftest import OpenEngine
from tests.storage.support import add, create


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


async def refused(path: Path, error: type[StorageError]) -> StorageError:
    engine = SqliteEngine(path, TextRecipe())
    with pytest.raises(error) as caught:
        await engine.open()
    await engine.close()
    return caught.value


async def a_store(path: Path) -> None:
    """A store with some content, closed cleanly."""
    engine = SqliteEngine(path, TextRecipe())
    await engine.open()
    await engine.write(create("e1"))
    for _ in range(5):
        await engine.write(add("e1"))
    await engine.close()


async def test_a_fresh_directory_gets_the_newest_schema_and_an_identity(open_engine: OpenEngine) -> None:
    engine = await open_engine()
    rows = dict(await engine.read(lambda session: session.all("SELECT key, value FROM meta")))
    assert rows == {"schema_version": str(max(migrations.statements("sqlite"))), "store_id": engine.store_id}
    assert len(engine.store_id) == 32
    assert await engine.read(lambda session: session.all("PRAGMA journal_mode")) == [("wal",)]


async def test_a_store_that_is_reopened_keeps_content_and_identity(open_engine: OpenEngine) -> None:
    first = await open_engine()
    await first.write(create("e1"))
    identity = first.store_id
    await first.close()
    second = await open_engine()
    assert second.store_id == identity
    assert await second.read(queries.head_position) == 1


async def test_a_newer_schema_is_refused_and_left_untouched(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await a_store(path)
    connection = sqlite.connect(str(path), isolation_level=None)
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    connection.close()
    before = path.read_bytes()
    error = await refused(path, SchemaTooNewError)
    assert "999" in error.message
    assert "Upgrade" in error.hint
    assert path.read_bytes() == before


async def test_a_newer_schema_that_is_in_use_is_refused_and_its_log_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await a_store(path)
    connection = sqlite.connect(str(path), isolation_level=None)
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")
    before = path.read_bytes()
    log = path.with_name("memory.db-wal").read_bytes()
    assert log
    await refused(path, SchemaTooNewError)
    assert path.read_bytes() == before
    assert path.with_name("memory.db-wal").read_bytes() == log
    connection.close()


def of_somebody_else(path: Path) -> None:
    connection = sqlite.connect(str(path))
    connection.execute("CREATE TABLE invoices (id INTEGER PRIMARY KEY, amount REAL)")
    connection.execute("INSERT INTO invoices VALUES (1, 9.5)")
    connection.commit()
    connection.close()


def with_a_meta_table_of_its_own(path: Path) -> None:
    connection = sqlite.connect(str(path))
    connection.execute("CREATE TABLE meta (name TEXT)")
    connection.commit()
    connection.close()


def with_a_version_that_is_no_number(path: Path) -> None:
    connection = sqlite.connect(str(path))
    connection.execute("CREATE TABLE meta (key TEXT, value TEXT)")
    connection.execute("INSERT INTO meta VALUES ('schema_version', 'two')")
    connection.commit()
    connection.close()


def garbage(path: Path) -> None:
    path.write_bytes(bytes(range(256)) * 100)


def a_few_bytes(path: Path) -> None:
    path.write_bytes(b"SQLite format 3\x00")


def text(path: Path) -> None:
    path.write_text("not a database", encoding="utf-8")


FOREIGN = [of_somebody_else, with_a_meta_table_of_its_own, with_a_version_that_is_no_number, garbage, a_few_bytes, text]


@pytest.mark.parametrize("make", FOREIGN, ids=lambda make: make.__name__)
async def test_a_file_that_is_not_ours_is_refused_and_left_untouched(tmp_path: Path, make: object) -> None:
    path = tmp_path / "memory.db"
    assert callable(make)
    make(path)
    before = files(tmp_path)
    error = await refused(path, StoreCorruptError)
    assert error.code == "store_corrupt"
    assert files(tmp_path) == before


@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.999])
async def test_a_truncated_file_is_refused_and_left_untouched(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "memory.db"
    await a_store(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    before = files(tmp_path)
    error = await refused(path, StoreCorruptError)
    assert "missing" in error.message
    assert files(tmp_path) == before


async def test_damage_in_the_middle_of_the_file_is_an_error_and_not_a_wrong_answer(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    await a_store(path)
    content = bytearray(path.read_bytes())
    content[4096 * 2 :] = b"\xa5" * (len(content) - 4096 * 2)
    path.write_bytes(content)
    engine = SqliteEngine(path, TextRecipe())

    async def use() -> None:
        await engine.open()
        await engine.read(lambda session: queries.episode(session, "default", "e1"))

    with pytest.raises(StoreCorruptError):
        await use()
    await engine.close()


async def test_a_directory_in_place_of_the_file_is_a_failure_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "memory.db").mkdir()
    assert "memory.db" in (await refused(tmp_path / "memory.db", StoreFailure)).message


async def test_a_lock_file_that_cannot_be_opened_is_a_failure_and_can_be_tried_again(tmp_path: Path) -> None:
    path = tmp_path / "memory.db"
    (tmp_path / "memory.lock").mkdir()
    engine = SqliteEngine(path, TextRecipe())
    for _ in range(3):
        with pytest.raises(StoreFailure):
            await engine.open()
    (tmp_path / "memory.lock").rmdir()
    await engine.open()
    await engine.write(create("e1"))
    # a reading connection of a failed attempt must not be handed out
    for _ in range(4):
        assert await engine.read(queries.head_position) == 1
    await engine.close()


async def test_an_opening_that_fails_in_the_middle_can_be_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = SqliteEngine(tmp_path / "memory.db", TextRecipe(), readers=3)
    real, connected = engine._connector, iter([True, True, False] + [True] * 10)

    def connector() -> object:
        if not next(connected):
            raise sqlite.OperationalError("unable to open database file")
        return real()

    monkeypatch.setattr(engine, "_connector", connector)
    with pytest.raises(StoreFailure):
        await engine.open()
    await engine.open()
    await engine.write(create("e1"))
    assert await asyncio.gather(*(engine.read(queries.head_position) for _ in range(9))) == [1] * 9
    await engine.close()


async def test_a_database_that_another_process_does_not_let_go_of_is_busy_after_the_wait(
    open_engine: OpenEngine, tmp_path: Path
) -> None:
    engine = await open_engine(lock_seconds=0.05, busy_seconds=0.05)
    holder = FileLock(tmp_path / "memory.lock")
    stopped = sqlite.connect(str(engine.path), isolation_level=None)
    stopped.execute("BEGIN IMMEDIATE")
    with holder.held(1.0), pytest.raises(StoreBusyError):
        await engine.write(create("e1"))
    stopped.execute("ROLLBACK")
    stopped.close()
    # a holder of the ticket alone, which never comes back, does not block anybody
    with holder.held(1.0):
        assert (await engine.write(create("e1"))).entries
    holder.close()


OPENER = """
import asyncio, sys, time
from pathlib import Path
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage.sqlite import SqliteEngine

async def main(path):
    engine = SqliteEngine(path, TextRecipe())
    print("ready", flush=True)
    sys.stdin.readline()
    await engine.open()
    print(engine.store_id, flush=True)
    await engine.close()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture
def openers(tmp_path: Path) -> Iterator[list[subprocess.Popen[str]]]:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", OPENER, str(tmp_path / "memory.db")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    yield started
    for process in started:
        process.kill()
        process.communicate()


def test_processes_that_open_a_new_directory_at_once_migrate_it_once(
    openers: list[subprocess.Popen[str]], tmp_path: Path
) -> None:
    for process in openers:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in openers:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=30) for process in openers]
    assert [error for _, error in answers] == [""] * len(openers)
    assert len({identity for identity, _ in answers}) == 1
    connection = sqlite.connect(str(tmp_path / "memory.db"))
    assert connection.execute("SELECT count(*) FROM meta").fetchone() == (2,)
    connection.close()
