"""The cache's files: lost, damaged, foreign, full or shared by processes, they cost nobody an answer."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import lmdb
import pytest

from memory_mcp.storage.cache_files import CacheDamagedError
from memory_mcp.storage.cache_layout import HEADER, key
from tests.storage.support import add, create, step
from tests.storage.test_cache import STORE, opened, written


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def fill(directory: Path) -> None:
    with opened(directory) as cache:
        cache.apply(written(create("e1"), *[add("e1", step(action="x" * 3000)) for _ in range(40)]))


def truncated(directory: Path) -> None:
    os.truncate(directory / "data.mdb", (directory / "data.mdb").stat().st_size // 2)


def emptied(directory: Path) -> None:
    os.truncate(directory / "data.mdb", 0)


def garbage(directory: Path) -> None:
    (directory / "data.mdb").write_bytes(os.urandom(100_000))


def garbage_behind_the_header(directory: Path) -> None:
    with (directory / "data.mdb").open("r+b") as file:
        size = file.seek(0, 2)
        file.seek(8192)
        file.write(os.urandom(size - 8192))


def missing(directory: Path) -> None:
    shutil.rmtree(directory)


def a_file_in_its_place(directory: Path) -> None:
    shutil.rmtree(directory)
    directory.write_text("not a directory")


def unreadable_identity(directory: Path) -> None:
    with closing(lmdb.open(str(directory), map_size=1 << 28)) as env, env.begin(write=True) as txn:
        txn.put(b"\x00meta", b"{not json")


def somebody_elses(directory: Path) -> None:
    shutil.rmtree(directory)
    with closing(lmdb.open(str(directory), map_size=1 << 20)) as env, env.begin(write=True) as txn:
        txn.put(b"theirs", b"value")


DAMAGE = [
    truncated,
    emptied,
    garbage,
    garbage_behind_the_header,
    missing,
    a_file_in_its_place,
    unreadable_identity,
    somebody_elses,
]


@pytest.mark.parametrize("harm", DAMAGE, ids=lambda harm: harm.__name__)
def test_a_lost_or_damaged_cache_is_made_anew_when_it_is_opened(directory: Path, harm: Callable[[Path], None]) -> None:
    fill(directory)
    harm(directory)
    with opened(directory) as cache:
        assert cache.applied() == 0
        assert cache.episode("default", "e1") is None
        cache.apply(written(create("e1")))
        assert cache.episode("default", "e1")


@pytest.mark.parametrize("changed", [{"store_id": "other"}, {"boot_id": "later"}], ids=["store", "boot"])
def test_the_cache_of_another_store_or_boot_is_emptied(directory: Path, changed: dict[str, str]) -> None:
    fill(directory)
    with opened(directory, **changed) as cache:
        assert cache.episode("default", "e1") is None
        assert cache.rebuilds == 1
    with opened(directory, **changed) as cache:
        assert cache.rebuilds == 0


def test_the_cache_of_another_format_is_emptied(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(directory)
    monkeypatch.setattr("memory_mcp.storage.cache_files.FORMAT", 99)
    with opened(directory) as cache:
        assert cache.episode("default", "e1") is None


def test_a_cache_that_is_as_it_should_be_is_kept(directory: Path) -> None:
    fill(directory)
    with opened(directory) as cache:
        assert cache.rebuilds == 0
        assert cache.applied() == 41
        assert cache.episode("default", "e1")


def test_without_a_store_to_ask_the_cache_of_this_boot_is_taken_and_no_other(directory: Path) -> None:
    fill(directory)
    with opened(directory, store_id="") as cache:
        assert cache.store_id == STORE
        assert cache.episode("default", "e1")
    with opened(directory, store_id="", boot_id="later") as cache:
        assert cache.episode("default", "e1") is None


def test_a_cache_follows_another_one_that_was_made_anew(directory: Path) -> None:
    with opened(directory) as mine, opened(directory) as other:
        mine.apply(written(create("e1")))
        other.rebuild()
        other.start(0)
        other.apply(written(create("e1"), add("e1")))
        mine.refresh()
        found = mine.episode("default", "e1")
        assert found is not None
        assert len(found["steps"]) == 1
        assert mine.applied() == 2
        assert mine.rebuilds == 0


def test_two_that_rebuild_the_same_broken_cache_end_with_the_same_new_one(directory: Path) -> None:
    with opened(directory) as mine, opened(directory) as other:
        mine.rebuild()
        mine.start(0)
        mine.apply(written(create("e1")))
        other.rebuild()
        assert other.episode("default", "e1")
        assert other.rebuilds == 0


@pytest.mark.parametrize("harm", [truncated, emptied, missing], ids=lambda harm: harm.__name__)
def test_a_cache_that_is_lost_while_it_is_open_is_made_anew_at_the_next_refresh(
    directory: Path, harm: Callable[[Path], None]
) -> None:
    with opened(directory) as cache:
        cache.apply(written(create("e1"), *[add("e1", step(action="x" * 3000)) for _ in range(40)]))
        cache.refresh()
        harm(directory)
        cache.refresh()
        assert cache.applied() == 0
        cache.start(0)
        cache.apply(written(create("e1")))
        assert cache.episode("default", "e1")


def test_a_value_that_cannot_be_read_is_reported_as_damage(directory: Path) -> None:
    with opened(directory) as cache:
        cache.apply(written(create("e1")))
        for raw in (b"short", bytes(8) + b"{no json", bytes(8) + b"[]"):
            cache._files.write(lambda txn, raw=raw: txn.put(key(HEADER, "default", "e1"), raw))
            cache._decoded.clear()
            with pytest.raises(CacheDamagedError):
                cache.episode("default", "e1")
        with pytest.raises(CacheDamagedError):
            cache.scan_headers("default", 10)


def test_a_full_map_grows_and_loses_nothing(directory: Path) -> None:
    entries = written(create("e1"), *[add("e1", step(action="x" * 5000)) for _ in range(100)])
    with opened(directory, map_size=1 << 16) as cache:
        for entry in entries:
            cache.apply([entry])
        assert cache.applied() == len(entries)
        found = cache.episode("default", "e1")
        assert found is not None
        assert len(found["steps"]) == 100
        assert cache.size()["limit"] > 1 << 16


def test_a_map_grows_while_others_read(directory: Path) -> None:
    entries = written(create("e1"), *[add("e1", step(action="x" * 5000)) for _ in range(300)])
    problems: list[Exception] = []
    with opened(directory, map_size=1 << 16) as cache:

        def write() -> None:
            try:
                for entry in entries:
                    cache.apply([entry])
            except Exception as error:  # noqa: BLE001 - told below
                problems.append(error)

        writing = threading.Thread(target=write)
        writing.start()
        while writing.is_alive():
            found = cache.episode("default", "e1")
            assert found is None or found["episode_id"] == "e1"
        assert problems == []
        assert cache.applied() == len(entries)


CHILD = """
import sys
from contextlib import closing
from pathlib import Path
from memory_mcp.storage.cache import Cache
from tests.storage.support import add, create, step
from tests.storage.test_cache import BOOT, STORE, opened, written

cache = Cache(Path(sys.argv[1]), "store-1", "boot-1", map_size=1 << 16)
cache.open()
with closing(cache):
    cache.start(0)
    print("open", flush=True)
    for line in sys.stdin:
        order = line.strip()
        if order == "grow":
            for entry in written(create("big"), *[add("big", step(action="x" * 5000)) for _ in range(100)]):
                cache.apply([entry])
        elif order == "rebuild":
            cache.rebuild()
            cache.start(0)
            cache.apply(written(create("e1"), add("e1")))
        elif order == "look":
            cache.refresh()
        found = cache.episode("default", "e1")
        print(-1 if found is None else len(found["steps"]), flush=True)
"""


@pytest.fixture
def child(directory: Path) -> Iterator[Callable[[str], int]]:
    """Another process with the same cache open; called with an order, it tells how many steps of e1 it sees."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    stdin, stdout = process.stdin, process.stdout
    assert stdout.readline() == "open\n"

    def tell(order: str) -> int:
        stdin.write(f"{order}\n")
        stdin.flush()
        return int(stdout.readline())

    yield tell
    stdin.close()
    process.wait(10)
    stdout.close()


def test_two_processes_follow_each_other_through_growth_and_rebuilding(
    directory: Path, child: Callable[[str], int]
) -> None:
    with opened(directory, map_size=1 << 16) as cache:
        cache.apply(written(create("e1")))
        assert child("look") == 0
        child("grow")
        found = cache.episode("default", "big")
        assert found is not None
        assert len(found["steps"]) == 100
        cache.apply(written(*[create(f"more{number}") for number in range(200)]))
        assert cache.episode("default", "more150")
        child("rebuild")
        cache.refresh()
        assert cache.episode("default", "big") is None
        found = cache.episode("default", "e1")
        assert found is not None
        assert len(found["steps"]) == 1
        cache.rebuild()
        cache.start(0)
        assert child("look") == -1
        cache.apply(written(create("e1"), add("e1"), add("e1")))
        assert child("look") == 2


def test_processes_that_find_the_same_damage_at_once_end_with_one_cache(directory: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from memory_mcp.storage.cache import Cache\n"
        "from tests.storage.support import create\n"
        "from tests.storage.test_cache import written\n"
        "cache = Cache(Path(sys.argv[1]), 'store-1', 'boot-1'); print('ready', flush=True); sys.stdin.readline()\n"
        "cache.open(); cache.start(0); cache.apply(written(create(sys.argv[2]))); cache.close(); print('done')"
    )
    fill(directory)
    garbage(directory)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(directory), f"child{number}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.communicate(timeout=30) for process in processes] == [("done\n", "")] * 4
    with opened(directory) as cache:
        assert cache.rebuilds == 0
        assert [cache.episode("default", f"child{number}") is not None for number in range(4)] == [True] * 4
