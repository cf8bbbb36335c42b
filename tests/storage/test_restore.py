"""Restoring: refused without force, saved before, atomic under kill -9, and noticed by whoever works with the store."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from memory_mcp.clock import SystemClock
from memory_mcp.errors import (
    BackupDamagedError,
    MemoryMCPError,
    RestoreRefusedError,
    StoreInUseError,
)
from memory_mcp.memory import Memory
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.retrieval.search import Query
from memory_mcp.settings import Settings
from memory_mcp.storage import backup, queries
from memory_mcp.storage import restore as restore_module
from memory_mcp.storage.backup_files import Backup, scan
from memory_mcp.storage.engine import StoreBusyError
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.restore import restore
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE, Open
from tests.services.support import NAMESPACE, a_life, eventually, finish, ready, start, took, tools_of, whole
from tests.storage.support import add, complete, create, learn, step


def save(data: Path) -> Backup:
    clock = SystemClock()
    pending = backup.waiting_in(data)
    return backup.create(data / "memory.db", backup.place_of(data), clock=clock, reason="manual", pending=pending)


async def a_store(data: Path, *episodes: str) -> None:
    await asyncio.to_thread(data.mkdir, exist_ok=True)
    engine = SqliteEngine(data / "memory.db", TextRecipe())
    await engine.open()
    for name in episodes:
        await engine.write(create(name))
        await engine.write(add(name, step(), step()))
    await engine.close()


async def content(data: Path) -> tuple[list[str], str]:
    """Episodes and identity, from a store that is whole."""
    engine = SqliteEngine(data / "memory.db", TextRecipe())
    await engine.open()
    try:
        assert await engine.read(verify) == []
        assert await engine.read(lambda session: session.all("PRAGMA integrity_check")) == [("ok",)]
        rows = await engine.read(lambda session: session.all("SELECT episode_id FROM episodes ORDER BY 1"))
        return [row[0] for row in rows], engine.store_id
    finally:
        await engine.close()


async def test_a_store_is_replaced_only_by_force_and_is_saved_first(tmp_path: Path) -> None:
    data, clock = tmp_path / "data", SystemClock()
    await a_store(data, "old")
    made = save(data)
    await a_store(data, "new")
    names, before = await content(data)
    assert names == ["new", "old"]
    with pytest.raises(RestoreRefusedError, match="2 episodes, ledger position 6"):
        restore(made, data, clock=clock)
    assert await content(data) == (names, before)
    done = restore(made, data, clock=clock, force=True)
    assert await content(data) == (["old"], done.store_id)
    assert done.store_id not in (before, made.manifest["store_id"])
    assert done.replaced == "content"
    assert done.saved is not None
    assert done.saved.reason == "before-restore"
    # and the way back
    restore(done.saved, data, clock=clock, force=True)
    assert (await content(data))[0] == ["new", "old"]
    assert {item.reason for item in scan(backup.place_of(data)).backups} == {"manual", "before-restore"}


async def test_an_empty_directory_takes_a_backup_without_force(tmp_path: Path) -> None:
    await a_store(tmp_path / "data", "old")
    made = save(tmp_path / "data")
    done = restore(made, tmp_path / "elsewhere", clock=SystemClock())
    assert (done.saved, done.replaced) == (None, "nothing")
    assert (await content(tmp_path / "elsewhere"))[0] == ["old"]


async def test_a_damaged_backup_is_not_restored(tmp_path: Path) -> None:
    data = tmp_path / "data"
    await a_store(data, "old")
    made = save(data)
    before = (data / "memory.db").read_bytes()
    (made.directory / "memory.db").write_bytes((made.directory / "memory.db").read_bytes()[:-1] + b"\xff")
    with pytest.raises(BackupDamagedError, match="checksum"):
        restore(made, data, clock=SystemClock(), force=True)
    assert (data / "memory.db").read_bytes() == before


@pytest.mark.parametrize("damage", ["garbage", "cut", "middle"])
async def test_a_damaged_store_is_kept_as_files_and_replaced(tmp_path: Path, damage: str) -> None:
    data = tmp_path / "data"
    await a_store(data, "old")
    made = save(data)
    path, intact = data / "memory.db", (data / "memory.db").read_bytes()
    spoilt = {
        "garbage": b"no database" * 1000,
        "cut": intact[: len(intact) // 2],
        "middle": intact[:8192] + b"\xa5" * (len(intact) - 8192),
    }[damage]
    path.write_bytes(spoilt)
    done = restore(made, data, clock=SystemClock(), force=True)
    assert (await content(data))[0] == ["old"]
    assert done.saved is not None
    assert done.saved.reason == "damaged"
    assert (done.saved.directory / "memory.db").read_bytes() == spoilt
    assert backup.verify(done.saved) == []
    with pytest.raises(BackupDamagedError, match="raw files"):
        restore(done.saved, data, clock=SystemClock(), force=True)


async def test_a_file_that_must_be_replaced_as_a_whole_is_not_while_others_have_it_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    await a_store(data, "old")
    made = save(data)
    monkeypatch.setattr("memory_mcp.storage.restore._ALONE_SECONDS", 0.1)
    engine = SqliteEngine(data / "memory.db", TextRecipe())
    await engine.open()
    (data / "memory.db").write_bytes(b"no database" * 1000)
    with pytest.raises(StoreInUseError) as caught:
        restore(made, data, clock=SystemClock(), force=True)
    assert "End the memory-mcp processes" in caught.value.hint
    assert (data / "memory.db").read_bytes() == b"no database" * 1000
    await engine.close()
    restore(made, data, clock=SystemClock(), force=True)
    assert (await content(data))[0] == ["old"]


async def test_what_waited_when_the_backup_was_made_waits_again_and_is_carried_out_once(settings: Settings) -> None:
    data = settings.data_dir
    async with Memory(settings) as memory:
        await ready(memory)
        episode_id = str((await start(memory))["episode_id"])
    waiting = [add(episode_id, step("waited")), add(episode_id, step("done"))]
    made = backup.create(
        data / "memory.db", backup.place_of(data), clock=SystemClock(), reason="manual", pending=waiting
    )
    done = restore(made, data, clock=SystemClock(), force=True)
    assert done.pending == 2
    # a second restore finds them waiting already
    assert restore(made, data, clock=SystemClock(), force=True).pending == 0
    async with Memory(settings) as memory:
        await ready(memory)
        assert memory.store.pending() == 0
        assert await tools_of(memory, episode_id) == ["waited", "done"]
        assert await whole(memory)
    # the copy that was made of it now holds the effects, and the commands of the first one change nothing in it
    again = save(data)
    assert restore(again, data, clock=SystemClock(), force=True).pending == 0


async def test_a_memory_that_is_open_forgets_the_store_that_was_replaced(open_memory: Open, settings: Settings) -> None:
    memory = await open_memory()
    await ready(memory)
    old = await a_life(memory)
    made = save(settings.data_dir)
    new = str((await start(memory, "repair the pump"))["episode_id"])
    await took(memory, new, "wrench")
    await finish(memory, new)
    known = memory.store.engine.store_id
    units = await memory.store.read(lambda session: session.all("SELECT max(unit_id) FROM units"))
    done = restore(made, settings.data_dir, clock=SystemClock(), force=True)
    await eventually(lambda: memory.store.cache.store_id == done.store_id)
    assert done.store_id != known
    assert memory.store.cache.store_id == done.store_id
    assert await tools_of(memory, old) == ["git", "make"]
    with pytest.raises(MemoryMCPError) as refused:
        await memory.episodes.get(new, NAMESPACE)
    assert refused.value.code == "episode_not_found"
    found = await memory.recall.query(Query(text="repair the pump", namespace=NAMESPACE))
    assert new not in [item["episode_id"] for item in found["episodes"]]
    # a write to what is gone is refused, and all else goes on
    with pytest.raises(MemoryMCPError):
        await took(memory, new, "hammer")
    await a_life(memory)
    first = await memory.store.read(
        lambda session: session.all("SELECT min(unit_id) FROM units WHERE unit_id > $1", units[0][0])
    )
    assert first[0][0] is not None, "numbers of units were used twice"
    assert await whole(memory)
    assert (await memory.status.health())["overall"] == "healthy"


async def test_what_is_kept_in_memory_is_that_of_the_restored_store(settings: Settings) -> None:
    words = settings.model_copy(update={"embedder": "minilm"})

    async def kept(memory: Memory) -> tuple[int, list[str], set[tuple[str, str, str, str]]]:
        await memory.settle()
        assert memory.semantic.index is not None
        book = await memory.patterns._books.book(NAMESPACE)
        stored = await memory.store.read(lambda session: session.all("SELECT count(*) FROM vectors"))
        evidence = {(item.pattern_id, item.kind, str(item.tried), str(item.evidence)) for item in book}
        assert len(memory.semantic.index) == stored[0][0]
        return stored[0][0], [name for _, _, name in memory.semantic.index.units], evidence

    async with Memory(words) as memory:
        await ready(memory)
        for _ in range(2):
            await a_life(memory)
        before = await kept(memory)
        made = save(settings.data_dir)
        for _ in range(3):
            await a_life(memory)
        assert (await kept(memory))[0] > before[0]
        restore(made, settings.data_dir, clock=SystemClock(), force=True)
        assert await kept(memory) == before
    async with Memory(words) as fresh:
        await ready(fresh)
        assert await kept(fresh) == before


async def test_a_write_notices_the_replacement_before_any_poll(settings: Settings) -> None:
    lazy = settings.model_copy(update={"poll_seconds": 60.0})
    async with Memory(lazy) as memory:
        await ready(memory)
        old = str((await start(memory))["episode_id"])
        made = save(settings.data_dir)
        for number in range(5):
            await took(memory, old, f"later {number}")
        heard: list[str] = []
        memory.store.on_replaced(lambda: heard.append(memory.store.engine.store_id))
        done = restore(made, settings.data_dir, clock=SystemClock(), force=True)
        assert (await took(memory, old, "first of the new time"))["step_numbers"] == [1]
        assert heard == [done.store_id]
        assert await tools_of(memory, old) == ["first of the new time"]


async def test_a_follower_cannot_write_what_it_worked_out_of_another_store(settings: Settings) -> None:
    data = settings.data_dir
    data.mkdir(parents=True)
    engine = SqliteEngine(data / "memory.db", TextRecipe())
    await engine.open()
    await engine.write(create("e1"))
    await engine.write(complete("e1"))
    made = save(data)
    restore(made, data, clock=SystemClock(), force=True)
    with pytest.raises(MemoryMCPError) as caught:
        await engine.write(learn("e1"))
    assert caught.value.code == "cursor_moved"
    assert (await engine.write(learn("e1"))).entries
    await engine.close()


async def test_a_write_that_waits_no_longer_for_its_turn_does_not_slip_in_before_the_replacement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "data"
    await a_store(data, "old")
    made = save(data)
    engine = SqliteEngine(data / "memory.db", TextRecipe(), lock_seconds=0.01, busy_seconds=0.01)
    await engine.open()
    await engine.write(create("new"))
    saving, going_on = threading.Event(), threading.Event()
    head = restore_module._head

    def slowly(database: Path) -> int:
        position = head(database)
        saving.set()
        assert going_on.wait(PATIENCE)
        return position

    monkeypatch.setattr(restore_module, "_head", slowly)
    restoring = asyncio.create_task(asyncio.to_thread(restore, made, data, clock=SystemClock(), force=True))
    assert await asyncio.to_thread(saving.wait, PATIENCE)
    with pytest.raises(StoreBusyError, match="being restored"):
        await engine.write(create("between"))
    going_on.set()
    done = await restoring
    assert done.saved is not None
    assert done.saved.manifest["episodes"] == 2
    await engine.write(create("between"))
    await engine.close()
    assert (await content(data))[0] == ["between", "old"]


KILLED = """
import os, signal, sys, threading, time
from pathlib import Path
from memory_mcp.clock import SystemClock
from memory_mcp.storage import backup, backup_files, restore

data, name, moment = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

def before(module, function):
    setattr(module, function, die)

def after(module, function):
    real = getattr(module, function)
    def wrapped(*arguments):
        real(*arguments)
        die()
    setattr(module, function, wrapped)

def when_the_log_has(size):
    log = data / "memory.db-wal"
    def watch():
        while not (log.exists() and log.stat().st_size > size):
            pass
        die()
    threading.Thread(target=watch, daemon=True).start()

if moment.isdecimal():
    real = restore._replace_pages
    def replaced(*arguments):
        when_the_log_has(int(moment))
        return real(*arguments)
    restore._replace_pages = replaced
else:
    {"prepared": lambda: after(restore, "_prepare"), "saved": lambda: after(restore, "_save"),
     "turn": lambda: before(restore, "_replace_pages"), "replaced": lambda: before(restore, "_put_back"),
     }[moment]()
restore.restore(backup_files.find(name, backup.place_of(data)), data, clock=SystemClock(), force=True)
"""


@pytest.mark.skipif(os.name == "nt", reason="there is no kill -9")
@pytest.mark.parametrize(
    ("moment", "possible"),
    [
        ("prepared", {"new"}),
        ("saved", {"new"}),
        ("turn", {"new"}),
        ("40000", {"new", "old"}),
        ("2000000", {"new", "old"}),
        ("5000000", {"new", "old"}),
        ("replaced", {"old"}),
    ],
)
async def test_a_restore_that_is_killed_leaves_the_old_or_the_new_content(
    tmp_path: Path, moment: str, possible: set[str]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    engine = SqliteEngine(data / "memory.db", TextRecipe())
    await engine.open()
    await engine.write(create("old"))
    for number in range(8):
        await engine.write(add("old", *(step(f"{number}.{part}", action="x" * 10_000) for part in range(64))))
    made = save(data)
    await engine.write(create("new"))
    # somebody has the store open all the time
    killed = [sys.executable, "-c", KILLED, str(data), made.name, moment]
    done = await asyncio.to_thread(subprocess.run, killed, timeout=PATIENCE, check=False)
    assert done.returncode == -signal.SIGKILL
    rows = await engine.read(lambda session: session.all("SELECT episode_id FROM episodes ORDER BY 1"))
    state = "new" if len(rows) == 2 else "old"
    assert state in possible
    await engine.write(add("old", step("afterwards")))
    await engine.close()
    names, _ = await content(data)
    assert names == (["new", "old"] if state == "new" else ["old"])
    # what was acknowledged is somewhere in any case
    if state == "old":
        saved = [item for item in scan(backup.place_of(data)).backups if item.reason == "before-restore"]
        assert [item.manifest["episodes"] for item in saved] == [2]
    restore(made, data, clock=SystemClock(), force=True)
    assert (await content(data))[0] == ["old"]
    assert not [path for path in backup.place_of(data).iterdir() if path.name.startswith(".partial")]
    assert await position(data) == made.position


async def position(data: Path) -> int:
    engine = SqliteEngine(data / "memory.db", TextRecipe())
    await engine.open()
    try:
        return await engine.read(queries.head_position)
    finally:
        await engine.close()
