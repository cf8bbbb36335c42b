"""A store where nothing can be written: on a read-only mount, beside others who write, without permission."""

from __future__ import annotations

import asyncio
import json
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memory_mcp.clock import SystemClock
from memory_mcp.errors import MigrationRefusedError, StorageUnavailableError
from memory_mcp.memory import Memory
from memory_mcp.retrieval.embedders.minilm import MiniLMEmbedder
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.settings import Settings
from memory_mcp.storage import backup, queries
from memory_mcp.storage.engine import StoreFailure, StoreMovedError, StoreReadOnlyError
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE, PROGRAM, ManualClock, Open, in_repository
from tests.durability.support import file_system, remount, unmount
from tests.learning.play import live
from tests.retrieval.test_search import asked
from tests.services.support import eventually, start, took, tools_of
from tests.storage.conftest import OpenEngine
from tests.storage.support import add, complete, create, step

NOBODY = 65534
LOOK = 0.25


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that can be made read-only."""
    with file_system(tmp_path / "data", "32m") as directory:
        yield directory


@contextmanager
def bound(directory: Path, place: Path) -> Iterator[Path]:
    """A directory under another name, where nothing can be written."""
    place.mkdir()
    done = subprocess.run(["mount", "--bind", str(directory), str(place)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("bind mounts are not allowed here")
    try:
        remount(place, "bind,ro")
        yield place
    finally:
        unmount(place)


@contextmanager
def somebody_else() -> Iterator[None]:
    """Be a user for whom permissions count."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory whose path any user can follow."""
    directory = Path(tempfile.mkdtemp(prefix="memory-mcp-test-"))
    directory.chmod(0o777)
    yield directory
    directory.chmod(0o777)
    shutil.rmtree(directory)


async def lived(directory: Path) -> None:
    """A store with one episode of two steps, closed by its last process."""
    engine = SqliteEngine(directory / "memory.db", TextRecipe())
    await engine.open()
    for command in (create("e1"), add("e1"), add("e1")):
        await engine.write(command)
    await engine.close()
    assert not (directory / "memory.db-wal").exists()


def left_behind(directory: Path, to: Path) -> None:
    """What is there after a kill: the files as they lie while a process has them open."""
    for file in directory.glob("memory.db*"):
        shutil.copyfile(file, to / file.name)


def touched(directory: Path) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in directory.iterdir()}


def permit(directory: Path, mode: int, *, files: int, database: int | None = None) -> None:
    """Set the permissions of a directory and of the files in it."""
    for file in directory.iterdir():
        file.chmod(database if database is not None and file.name == "memory.db" else files)
    directory.chmod(mode)


async def steps(engine: SqliteEngine) -> int:
    found = await engine.read(lambda session: queries.episode(session, "default", "e1"))
    assert found is not None
    return len(found["steps"])


@pytest.mark.parametrize("ending", ["closed", "killed"])
async def test_a_store_on_a_read_only_file_system_is_read_and_refuses_writes(
    disk: Path, tmp_path: Path, open_engine: OpenEngine, ending: str
) -> None:
    if ending == "closed":
        await lived(disk)
    else:
        engine = await open_engine(tmp_path / "elsewhere.db")
        for command in (create("e1"), add("e1"), add("e1")):
            await engine.write(command)
        for suffix in ("", "-wal", "-shm"):
            shutil.copyfile(f"{engine.path}{suffix}", disk / f"memory.db{suffix}")
    remount(disk, "ro")
    before = touched(disk)
    engine = await open_engine(disk / "memory.db", readers=3)
    assert "Read-only file system" in engine.read_only
    assert engine.store_id
    assert await asyncio.gather(*(steps(engine) for _ in range(9))) == [2] * 9
    assert await engine.data_version() == await engine.data_version()
    for attempt in (engine.write(add("e1")), engine.compact(), engine.empty_log()):
        with pytest.raises(StoreReadOnlyError, match="Read-only file system") as caught:
            await attempt
        assert caught.value.code == "storage_unavailable"
        assert "read-only" in caught.value.hint
    await engine.close()
    assert touched(disk) == before


async def test_a_log_that_cannot_be_read_is_never_passed_over(
    disk: Path, tmp_path: Path, open_engine: OpenEngine
) -> None:
    engine = await open_engine()
    for command in (create("e1"), add("e1"), add("e1")):
        await engine.write(command)
    left_behind(tmp_path, disk)
    (disk / "memory.db-shm").unlink()
    remount(disk, "ro")
    refused = SqliteEngine(disk / "memory.db", TextRecipe())
    with pytest.raises(StoreFailure, match=r"memory\.db-wal holds writes"):
        await refused.open()
    remount(disk, "rw")
    engine = await open_engine(disk / "memory.db")
    assert not engine.read_only
    assert await steps(engine) == 2


async def test_an_engine_looks_from_time_to_time_whether_it_can_write_again(
    disk: Path, open_engine: OpenEngine, clock: ManualClock
) -> None:
    await lived(disk)
    remount(disk, "ro")
    engine = await open_engine(disk / "memory.db", clock=clock)
    clock.advance(LOOK)
    assert not engine.writable_again()
    remount(disk, "rw")
    assert not engine.writable_again()
    clock.advance(LOOK)
    assert engine.writable_again()
    await engine.close()
    await engine.open()
    assert engine.read_only == ""
    assert not engine.writable_again()
    await engine.write(add("e1"))
    assert await steps(engine) == 3


async def test_a_store_of_an_older_schema_is_refused_and_left_as_it_is(disk: Path) -> None:
    packed = in_repository("tests", "storage", "data", "schema-1.db.xz").read_bytes()
    (disk / "memory.db").write_bytes(lzma.decompress(packed))
    before = (disk / "memory.db").stat()
    remount(disk, "ro")
    engine = SqliteEngine(disk / "memory.db", TextRecipe())
    with pytest.raises(MigrationRefusedError, match=r"version 1 and cannot get version 2: Read-only") as caught:
        await engine.open()
    assert "writable" in caught.value.hint
    assert (disk / "memory.db").stat() == before
    remount(disk, "rw")
    await engine.open()
    assert await engine.read(queries.head_position) > 0
    await engine.close()


async def test_where_there_is_no_store_none_can_be_made_until_the_directory_is_writable(
    disk: Path, settings: Settings
) -> None:
    remount(disk, "ro")
    often = settings.model_copy(update={"breaker_reset_seconds": 0.1, "poll_seconds": 0.02})
    async with Memory(often) as memory:
        with pytest.raises(StorageUnavailableError, match=r"no store at .* none can be made: Read-only file system"):
            await memory.store.read(queries.head_position)
        remount(disk, "rw")
        await eventually(lambda: not memory.upkeep._ailing() and memory.upkeep.last_sync)
        assert (await start(memory))["status"] == "open"


async def test_what_is_written_through_another_mount_is_seen_and_never_half(
    disk: Path, tmp_path: Path, open_engine: OpenEngine
) -> None:
    await lived(disk)
    with bound(disk, tmp_path / "bound") as place:
        reader = await open_engine(place / "memory.db")
        assert await steps(reader) == 2
        version = await reader.data_version()
        writer = await open_engine(disk / "memory.db")
        await writer.write(add("e1"))
        assert await reader.data_version() != version
        with pytest.raises(StoreMovedError, match="another mount"):
            await steps(reader)
        # now there is a log, and SQLite itself keeps reader and writer apart
        await reader.close()
        await reader.open()
        assert await steps(reader) == 3
        for count in range(4, 8):
            version = await reader.data_version()
            await writer.write(add("e1"))
            assert await reader.data_version() != version
            assert await steps(reader) == count
        await writer.close()
        assert await steps(reader) == 7
        await reader.close()


async def test_a_read_during_which_somebody_writes_counts_for_nothing(
    disk: Path, tmp_path: Path, open_engine: OpenEngine
) -> None:
    await lived(disk)
    with bound(disk, tmp_path / "bound") as place:
        reader = await open_engine(place / "memory.db")

        def disturbed(session: object) -> None:
            os.utime(disk / "memory.db")

        with pytest.raises(StoreMovedError):
            await reader.read(disturbed)
        await reader.close()


async def test_a_memory_follows_one_that_writes_through_another_mount(
    disk: Path, tmp_path: Path, settings: Settings
) -> None:
    often = {"retry_attempts": 3, "poll_seconds": 0.02}
    async with Memory(settings.model_copy(update={"data_dir": disk})) as writer:
        episode_id = str((await start(writer))["episode_id"])
        await took(writer, episode_id, "git")
    with bound(disk, tmp_path / "bound") as place:
        async with Memory(settings.model_copy(update={"data_dir": place, **often})) as reader:
            assert await tools_of(reader, episode_id) == ["git"]
            for tool in ("make", "pytest"):
                # each one closes the store behind it
                async with Memory(settings.model_copy(update={"data_dir": disk})) as writer:
                    await took(writer, episode_id, tool)
                assert (await tools_of(reader, episode_id))[-1] == tool
            assert reader.store.read_only
            assert reader.upkeep.failures == {}


async def test_followers_rest_where_they_cannot_write_and_go_on_when_they_can(
    disk: Path, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    often = settings.model_copy(update={"poll_seconds": 0.02, "backup_hours": 1.0, "breaker_reset_seconds": 0.1})
    async with Memory(settings) as memory:
        await memory.upkeep.stop()
        episode_id = str((await start(memory))["episode_id"])
        await took(memory, episode_id, "git")
        await memory.store.write(complete(episode_id))
    remount(disk, "ro")
    caplog.clear()
    async with Memory(often) as memory:
        assert await tools_of(memory, episode_id) == ["git"]
        before = memory.upkeep.last_sync
        await eventually(lambda: memory.upkeep.last_sync > before + 500_000)
        assert memory.upkeep.failures == {}
        assert len([record for record in caplog.records if record.levelname in ("WARNING", "ERROR")]) == 3
        with pytest.raises(StorageUnavailableError, match="learning cannot go on"):
            await asyncio.wait_for(memory.settle(), PATIENCE)
        health = await memory.status.health()
        assert health["memory_system"]["learning_lag"] == 1
        remount(disk, "rw")
        await eventually(lambda: not memory.store.read_only and memory.learner.learned == 1)
        await eventually(lambda: list((disk / "backups").glob("2*")))
        await eventually(lambda: memory.wakes.working)


async def test_questions_are_answered_by_meaning_from_the_vectors_that_are_stored(
    disk: Path, open_memory: Open, settings: Settings
) -> None:
    async with Memory(settings, embedder=MiniLMEmbedder) as memory:
        assert await memory.semantic.loaded(PATIENCE)
        found = await live(memory, "Stop the kettle from boiling over", "turn")
        await memory.settle()
    remount(disk, "ro")
    async with Memory(settings, embedder=MiniLMEmbedder) as memory:
        assert await memory.semantic.loaded(PATIENCE)
        [hit] = await asked(memory, "hot water spills out of a pot")
        assert hit["episode_id"] == found
        assert hit["why"]["meaning"] > 0


async def test_writes_that_wait_in_a_journal_that_cannot_be_written_are_told_and_backed_up(
    disk: Path, tmp_path: Path, settings: Settings
) -> None:
    await lived(disk)
    journal = Journal(disk / "pending")
    journal.open()
    journal.append(add("e1", step("make")))
    journal.close()
    remount(disk, "ro")
    often = settings.model_copy(update={"poll_seconds": 0.02})
    async with Memory(often) as memory:
        told = await memory.episodes.get("e1", "default")
        assert len(told["steps"]) == 3
        assert told["pending_writes"] == 1
        assert (await memory.status.health())["journal"]["pending_writes"] == 1
        made = backup.create(
            disk / "memory.db",
            tmp_path / "backups",
            clock=SystemClock(),
            reason="manual",
            pending=backup.waiting_in(disk),
        )
        assert made.manifest["pending"] == 1
        assert backup.verify(made) == []
        remount(disk, "rw")
        await eventually(lambda: memory.store.writes["replayed"] == 1)
        told = await memory.episodes.get("e1", "default")
        assert len(told["steps"]) == 3
        assert "pending_writes" not in told


@pytest.mark.parametrize(
    ("directory", "files", "database"), [(0o555, 0o444, 0o444), (0o555, 0o666, 0o666), (0o777, 0o666, 0o444)]
)
async def test_where_permission_is_missing_the_store_is_read(
    shared: Path, open_engine: OpenEngine, directory: int, files: int, database: int
) -> None:
    await lived(shared)
    permit(shared, directory, files=files, database=database)
    with somebody_else():
        engine = await open_engine(shared / "memory.db")
        assert "Permission denied" in engine.read_only
        assert await steps(engine) == 2
        with pytest.raises(StoreReadOnlyError):
            await engine.write(add("e1"))
        assert not engine.writable_again()
        await engine.close()
    permit(shared, 0o777, files=0o666)
    with somebody_else():
        await engine.open()
        assert not engine.read_only
        await engine.write(add("e1"))
        assert await steps(engine) == 3
        await engine.close()


async def test_a_user_without_permission_reads_beside_one_who_writes(shared: Path, open_engine: OpenEngine) -> None:
    await lived(shared)
    writer = await open_engine(shared / "memory.db")
    permit(shared, 0o555, files=0o444)
    with somebody_else():
        reader = await open_engine(shared / "memory.db")
        assert "Permission denied" in reader.read_only
    for count in (3, 4, 5):
        await writer.write(add("e1"))
        assert await steps(reader) == count


@pytest.mark.parametrize("ending", ["closed", "killed"])
async def test_commands_that_only_read_work_and_the_others_say_why_not(
    disk: Path, tmp_path: Path, settings: Settings, ending: str
) -> None:
    async with Memory(settings) as memory:
        found = await live(memory, "answer the mail", "read", "write")
        await memory.settle()
        if ending == "killed":
            kept = tmp_path / "kept"
            kept.mkdir()
            left_behind(disk, kept)
    if ending == "killed":
        for file in kept.iterdir():
            shutil.copyfile(file, disk / file.name)
    remount(disk, "ro")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(PROGRAM), *arguments, "--data-dir", str(disk)],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    def printed(*arguments: str) -> str:
        done = run(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    report = json.loads(printed("storage", "verify"))
    assert report["sound"]
    assert [item["check"] for item in report["findings"]] == ["cache"]
    assert "Read-only file system" in report["findings"][0]["problem"]
    made = json.loads(printed("backup", "create", "--to", str(tmp_path / "backups")))
    assert (made["episodes"], made["steps"]) == (1, 2)
    printed("backup", "verify", "--all", "--from", str(tmp_path / "backups"))
    assert json.loads(printed("export", "episodes"))["task_description"] == "answer the mail"
    entries = json.loads(printed("history", "list"))["entries"]
    assert entries[-1]["operation"] == "episode.learned"
    assert found in printed("forget", found)
    assert json.loads(printed("storage", "salvage", "--to", str(tmp_path / "salvaged")))["episodes"] == 1
    for arguments in (
        ("snapshot", "create", "now"),
        ("history", "undo", "1"),
        ("forget", found, "--yes"),
        ("backup", "create"),
        ("storage", "checkpoint"),
    ):
        done = run(*arguments)
        assert done.returncode == 1
        assert "Read-only file system" in done.stderr
        assert "Traceback" not in done.stderr
