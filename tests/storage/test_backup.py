"""Backups: one moment of a store that is written to, complete or not there, and checked to the last byte."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from memory_mcp.clock import SystemClock
from memory_mcp.errors import BackupError, BackupNotFoundError
from memory_mcp.storage import backup, backup_files, queries
from memory_mcp.storage.backup_files import Backup, find, retain, scan
from memory_mcp.storage.journal import Journal
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE, ManualClock
from tests.storage.support import add, create, step


def saved(engine: SqliteEngine, clock: ManualClock | SystemClock, reason: str = "manual", **more: object) -> Backup:
    place = engine.path.parent / "backups"
    return backup.create(engine.path, place, clock=clock, reason=reason, **more)  # type: ignore[arg-type]


async def test_a_backup_says_what_is_in_it(engine: SqliteEngine, clock: ManualClock) -> None:
    await engine.write(create("e1"))
    await engine.write(add("e1", step(), step()))
    await engine.write(create("e2", namespace="team/other"))
    made = saved(engine, clock, pending=[add("e2", namespace="team/other")])
    told = made.manifest
    assert told["created_at"] == "2023-11-14T22:13:20.000Z"
    assert made.name.startswith("20231114T221320Z-")
    assert (told["store_id"], told["ledger_position"]) == (engine.store_id, await engine.read(queries.head_position))
    assert (told["episodes"], told["steps"], told["pending"], told["checked"]) == (2, 2, 1, "full")
    assert told["heads"].keys() == {"default", "team/other"}
    assert told["files"].keys() == {"memory.db", "pending.jsonl"}
    assert [item.payload["episode_id"] for item in backup.pending_of(made)] == ["e2"]
    assert backup.verify(made) == []
    assert sorted(path.name for path in made.directory.iterdir()) == ["manifest.json", "memory.db", "pending.jsonl"]


async def test_a_backup_ends_and_is_one_moment_while_others_write(engine: SqliteEngine, clock: ManualClock) -> None:
    await engine.write(create("e1"))
    over = asyncio.Event()

    async def keep_writing() -> int:
        written = 0
        while not over.is_set():
            written += len((await engine.write(add("e1", step(), step(), step()))).entries)
        return written

    writing = asyncio.create_task(keep_writing())
    made = []
    for _ in range(5):
        before = await engine.read(queries.head_position)
        made.append(await asyncio.to_thread(saved, engine, clock))
        assert before <= made[-1].position <= await engine.read(queries.head_position)
    over.set()
    assert await writing > 0
    for item in made:
        assert backup.verify(item) == []
        # steps come three at a time, and none of them without the others
        assert item.manifest["steps"] % 3 == 0


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def rewrite(made: Backup, **changes: object) -> Backup:
    (made.directory / "manifest.json").write_text(json.dumps({**made.manifest, **changes}), encoding="utf-8")
    return backup_files.load(made.directory)


@pytest.mark.parametrize("name", ["memory.db", "pending.jsonl"])
async def test_a_changed_byte_is_found_and_the_file_is_named(
    engine: SqliteEngine, clock: ManualClock, name: str
) -> None:
    await engine.write(create("e1"))
    made = saved(engine, clock, pending=[add("e1")])
    flip(made.directory / name)
    assert [finding.problem for finding in backup.verify(made)] == [
        f"{name} has another checksum than its manifest says"
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [("episodes", 7), ("steps", 7), ("ledger_position", 7), ("store_id", "x"), ("heads", {}), ("schema_version", 7)],
)
async def test_a_manifest_that_says_something_else_is_found(
    engine: SqliteEngine, clock: ManualClock, name: str, value: object
) -> None:
    await engine.write(create("e1"))
    made = rewrite(saved(engine, clock), **{name: value})
    assert [name in finding.problem for finding in backup.verify(made)] == [True]


async def test_a_store_whose_history_was_rewritten_gives_no_full_backup(
    engine: SqliteEngine, clock: ManualClock
) -> None:
    await engine.write(create("e1"))
    await engine.write(add("e1"))
    await engine._writer.unit(lambda session: session.run("UPDATE ledger SET actor = 'else' WHERE position = 1"))  # type: ignore[union-attr]
    with pytest.raises(BackupError, match="a field was changed"):
        saved(engine, clock)
    assert list(scan(engine.path.parent / "backups").backups) == []
    assert list((engine.path.parent / "backups").iterdir()) == []
    made = saved(engine, clock, quick=True)
    assert ["a field was changed" in finding.problem for finding in backup.verify(made)] == [True]


async def test_retention_deletes_the_oldest_but_never_what_was_saved_before_a_change(
    engine: SqliteEngine, clock: ManualClock
) -> None:
    await engine.write(create("e1"))
    place, names = engine.path.parent / "backups", []
    for reason in ("manual", "before-restore", "scheduled", "before-migration-1-to-2", "manual", "scheduled"):
        names.append(saved(engine, clock, reason).name)
        clock.advance(1)
    assert sorted(retain(place, 2)) == sorted([names[0], names[2]])
    assert [item.name for item in scan(place).backups] == [names[5], names[4], names[3], names[1]]
    assert retain(place, 2) == []


async def test_only_complete_backups_are_listed_and_the_rest_is_named(engine: SqliteEngine, clock: ManualClock) -> None:
    await engine.write(create("e1"))
    place = engine.path.parent / "backups"
    whole, cut, bare, future = (saved(engine, clock) for _ in range(4))
    (cut.directory / "memory.db").write_bytes(b"")
    (bare.directory / "manifest.json").unlink()
    rewrite_format = {**future.manifest, "format": 99}
    (future.directory / "manifest.json").write_text(json.dumps(rewrite_format), encoding="utf-8")
    (place / "holiday").mkdir()
    (place / "notes.txt").write_text("mine", encoding="utf-8")
    listing = scan(place)
    assert [item.name for item in listing.backups] == [whole.name]
    assert listing.others.keys() == {cut.name, bare.name, future.name, "holiday", "notes.txt"}
    assert "0 bytes" in listing.others[cut.name]
    assert find(whole.name, place).name == find(str(whole.directory), Path("elsewhere")).name == whole.name
    for name in (cut.name, "nothing", ""):
        with pytest.raises(BackupNotFoundError):
            find(name, place)


HALF = """
import os, signal, sys
from pathlib import Path
from memory_mcp.clock import SystemClock
from memory_mcp.storage import backup, backup_files

def killed(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

moments = {
    "copied": (backup, "_problems"),
    "checked": (backup_files, "sha256"),
    "synced": (backup_files.Path, "rename"),
}
setattr(*moments[sys.argv[2]], killed)
backup.create(Path(sys.argv[1]), Path(sys.argv[1]).parent / "backups", clock=SystemClock(), reason="manual")
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize("moment", ["copied", "checked", "synced"])
async def test_a_backup_that_was_killed_leaves_none_and_the_next_one_cleans_up(
    engine: SqliteEngine, clock: ManualClock, moment: str
) -> None:
    await engine.write(create("e1"))
    place = engine.path.parent / "backups"
    killed = [sys.executable, "-c", HALF, str(engine.path), moment]
    done = await asyncio.to_thread(subprocess.run, killed, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    listing = scan(place)
    assert listing.backups == []
    assert ["not complete" in problem for problem in listing.others.values()] == [True]
    made = saved(engine, clock)
    assert [path.name for path in place.iterdir()] == [made.name]


async def test_a_backup_under_way_is_not_cleaned_up_by_another_one(engine: SqliteEngine, clock: ManualClock) -> None:
    await engine.write(create("e1"))
    place = engine.path.parent / "backups"
    with backup_files.partial(place) as under_way:
        made = saved(engine, clock)
        assert under_way.is_dir()
    assert [path.name for path in place.iterdir()] == [made.name]


async def test_where_there_is_no_room_nothing_is_left(engine: SqliteEngine, clock: ManualClock) -> None:
    resource = pytest.importorskip("resource", reason="this platform has no limit on the size of files")
    await engine.write(create("e1"))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(BackupError, match="cannot be copied"):
            saved(engine, clock)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert list((engine.path.parent / "backups").iterdir()) == []


def test_what_waits_in_the_journal_is_read_without_making_one(tmp_path: Path) -> None:
    assert backup.waiting_in(tmp_path) == []
    assert list(tmp_path.iterdir()) == []
    journal = Journal(tmp_path / "pending")
    journal.open()
    journal.append(create("e1"))
    assert [item.operation for item in backup.waiting_in(tmp_path)] == ["episode.create"]
    journal.close()
