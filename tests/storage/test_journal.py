"""The pending journal, and episodes as they are told while writes wait in it."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.errors import MemoryMCPError, StorageUnavailableError
from memory_mcp.records.base import Json
from memory_mcp.storage import queries
from memory_mcp.storage.fold import concerns, fold
from memory_mcp.storage.journal import Journal
from tests.conftest import PATIENCE
from tests.storage.support import (
    NOW,
    add,
    bare_session,
    carry_out,
    command,
    complete,
    create,
    header,
    outcome,
    receipt,
    show,
    step,
)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal(tmp_path / "pending")
    opened.open()
    with closing(opened):
        yield opened


def test_commands_come_back_whole_and_in_order(journal: Journal) -> None:
    commands = [
        create("e1", receipts=[receipt("m")]),
        add("e1", step(parameters={"ключ": ["ä", None, 1.5]})),
        complete("e1"),
    ]
    assert [journal.append(each) for each in commands] == [1, 2, 3]
    assert journal.first() == list(enumerate(commands, 1))
    assert journal.first(2) == list(enumerate(commands[:2], 1))
    assert len(journal) == 3
    journal.remove([1, 3])
    assert journal.first() == [(2, commands[1])]
    assert journal.append(commands[2]) == 3


def test_commands_survive_closing_and_are_shared_by_all_who_open_it(tmp_path: Path, journal: Journal) -> None:
    journal.append(create("e1"))
    other = Journal(tmp_path / "pending")
    other.open()
    assert len(other) == 1
    other.append(add("e1"))
    assert len(journal) == 2
    journal.close()
    assert len(other) == 2
    other.close()
    journal.open()
    assert [each.operation for _, each in journal.first()] == ["episode.create", "episode.add_steps"]


def test_commands_of_a_process_that_was_killed_are_there(tmp_path: Path, journal: Journal) -> None:
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from memory_mcp.storage.journal import Journal; from tests.storage.support import create\n"
        "journal = Journal(Path(sys.argv[1])); journal.open()\n"
        "for number in range(20): journal.append(create(f'e{number}'))\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", script, str(tmp_path / "pending")], check=False)
    assert killed.returncode == -9
    assert [each.payload["episode"]["episode_id"] for _, each in journal.first()] == [f"e{n}" for n in range(20)]


def test_threads_that_append_at_once_lose_nothing(journal: Journal) -> None:
    threads = [threading.Thread(target=lambda: [journal.append(create("e")) for _ in range(10)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [sequence for sequence, _ in journal.first()] == list(range(1, 41))


def test_closing_waits_for_the_write_under_way(tmp_path: Path) -> None:
    for _ in range(20):
        journal = Journal(tmp_path / "pending")
        journal.open()
        kept: list[int] = []

        def append(journal: Journal = journal, kept: list[int] = kept) -> None:
            try:
                while True:
                    kept.append(journal.append(create("e")))
            except StorageUnavailableError:
                return

        thread = threading.Thread(target=append)
        thread.start()
        while not kept:
            pass
        journal.close()
        thread.join(10)
        assert not thread.is_alive()
        journal.open()
        assert journal.first()[-1][0] == kept[-1]
        journal.close()


@pytest.mark.parametrize("content", [os.urandom(50_000), b"text"], ids=["garbage", "text"])
def test_a_damaged_journal_is_an_error_and_is_never_deleted(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pending").mkdir()
    file = tmp_path / "pending" / "data.mdb"
    file.write_bytes(content)
    journal = Journal(tmp_path / "pending")
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            journal.open()
        assert not journal.is_open
    assert file.read_bytes() == content
    file.unlink()
    journal.open()
    assert journal.append(create("e1")) == 1
    journal.close()


def test_a_journal_whose_replay_lock_cannot_be_opened_is_not_open(tmp_path: Path) -> None:
    (tmp_path / "pending" / "replay.lock").mkdir(parents=True)
    journal = Journal(tmp_path / "pending")
    with pytest.raises(StorageUnavailableError):
        journal.open()
    assert not journal.is_open
    with pytest.raises(StorageUnavailableError):
        journal.append(create("e1"))


def test_a_journal_that_is_not_open_says_so(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "pending")
    calls: list[Any] = [
        lambda: len(journal),
        journal.first,
        journal.probe,
        lambda: journal.append(create("e")),
        lambda: journal.remove([1]),
        lambda: journal.replay_lock,
    ]
    for call in calls:
        with pytest.raises(StorageUnavailableError):
            call()


def test_a_probe_writes_for_real_and_leaves_nothing(journal: Journal) -> None:
    assert journal._environment is not None
    before = journal._environment.lmdb.info()["last_txnid"]
    journal.probe()
    assert journal._environment.lmdb.info()["last_txnid"] == before + 1
    journal.append(create("e1"))
    journal.probe()
    assert [sequence for sequence, _ in journal.first()] == [1]


def test_a_full_journal_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "pending", map_size=1 << 17)
    journal.open()
    kept = 0

    def fill() -> None:
        nonlocal kept
        while True:
            journal.append(create("e", receipts=[receipt("x" * 3000)]))
            kept += 1

    with pytest.raises(StorageUnavailableError):
        fill()
    assert len(journal) == kept > 5
    journal.remove([sequence for sequence, _ in journal.first()])
    assert journal.append(create("e")) == 1
    journal.close()


def test_an_entry_that_cannot_be_read_is_an_error_and_stays(tmp_path: Path) -> None:
    with closing(lmdb.open(str(tmp_path / "pending"), map_size=1 << 20)) as env, env.begin(write=True) as txn:
        txn.put((1).to_bytes(8), b'{"operation":"from the future","surprise":1}')
    journal = Journal(tmp_path / "pending")
    journal.open()
    with pytest.raises(StorageUnavailableError):
        journal.first()
    assert len(journal) == 1
    journal.close()


commands = st.lists(
    st.one_of(
        st.builds(
            lambda receipts: create("e1", receipts=[receipt(each) for each in receipts]),
            st.lists(st.sampled_from("abc"), max_size=3),
        ),
        st.builds(
            lambda count, number, receipts: add(
                "e1",
                *[step(error="boom" if each % 2 else "") for each in range(count)],
                number=number,
                receipts=[receipt(each, after=count) for each in receipts],
            ),
            st.sampled_from([1, 1, 2, 3, 998]),
            st.sampled_from([0, 0, 0, 1, 2, 4]),
            st.lists(st.sampled_from("abc"), max_size=2),
        ),
        st.builds(lambda kind: complete("e1", kind), st.sampled_from(["success", "failure"])),
        st.builds(lambda name: show("e1", receipt(name)), st.sampled_from("abcd")),
        st.builds(
            lambda closed, count: command(
                "episode.import",
                {
                    "episode": header("e1"),
                    "steps": [step(at=NOW)] * count,
                    "outcome": outcome() if closed else None,
                    "ended_at": NOW + 3,
                },
            ),
            st.booleans(),
            st.integers(0, 2),
        ),
    ),
    max_size=7,
)


def essential(episode: Json | None) -> Json | None:
    if episode is None:
        return None
    return {name: value for name, value in episode.items() if name not in ("version", "step_count", "error_count")}


@settings(max_examples=150, deadline=None)
@given(stored=commands, waiting=commands)
def test_an_episode_with_pending_writes_is_told_as_the_replay_will_leave_it(
    stored: list[Any], waiting: list[Any]
) -> None:
    session = bare_session()

    def replay(each: Any) -> None:
        session.run("SAVEPOINT replay")
        try:
            carry_out(session, each)
        except MemoryMCPError:
            session.run("ROLLBACK TO replay")
        session.run("RELEASE replay")

    # no two commands are given in the same microsecond
    times = itertools.count(NOW)
    stored = [replace(each, at=next(times)) for each in stored]
    waiting = [replace(each, at=next(times)) for each in waiting]
    for each in stored:
        replay(each)
    told = queries.episode(session, "default", "e1")
    for each in waiting:
        told = fold(told, each)
        replay(each)
        stored_now = queries.episode(session, "default", "e1")
        assert essential(told) == essential(stored_now)
        # a commit that only seemed to fail: the store has it, and it waits all the same
        assert essential(fold(stored_now, each)) == essential(stored_now)


def test_a_pending_write_concerns_its_own_episode_only() -> None:
    for each in (create("e1"), add("e1"), complete("e1"), show("e1", receipt("m"))):
        assert concerns(each, "default", "e1")
        assert not concerns(each, "default", "e2")
        assert not concerns(each, "team/b", "e1")


def test_a_journal_made_anew_by_one_process_loses_nothing_of_another(tmp_path: Path) -> None:
    mine = Journal(tmp_path / "pending")
    mine.open()
    script = (
        "import sys; from pathlib import Path\n"
        "from memory_mcp.storage.journal import Journal\n"
        "from memory_mcp.errors import StorageUnavailableError\n"
        "from tests.storage.support import create\n"
        "journal = Journal(Path(sys.argv[1])); journal.open()\n"
        "for line in sys.stdin:\n"
        "    for _ in range(3):\n"
        "        try:\n"
        "            journal.append(create(line.strip())); break\n"
        "        except StorageUnavailableError: journal.open()\n"
        "    else: sys.exit('not kept')\n"
        "    print('kept', flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, str(mine.directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        for number in range(30):
            other.stdin.write(f"e{number}\n")
            other.stdin.flush()
            if number % 3 == 0:
                # now and then right while the other one writes
                mine.open()
                mine.renew()
            assert other.stdout.readline() == "kept\n"
            mine.open()
            kept = mine.first()
            assert [command.payload["episode"]["episode_id"] for _, command in kept] == [f"e{number}"]
            mine.remove([sequence for sequence, _ in kept])
        other.stdin.close()
        assert other.wait(PATIENCE) == 0
    assert list(tmp_path.iterdir()) == [mine.directory]
    mine.close()
