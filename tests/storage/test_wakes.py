"""Wakes: a byte to every other process after a commit, which may be lost, doubled, or sent to nobody."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from memory_mcp.storage import wakes as module
from memory_mcp.storage.wakes import Wakes
from tests.conftest import PATIENCE, ManualClock, Open
from tests.storage.support import create
from tests.storage.test_followers import Scripted, eventually, first_look_is_over

Start = Callable[[], "Ear"]


class Ear:
    """Wakes of one process, and what they told it."""

    def __init__(self, directory: Path) -> None:
        self.bursts = 0
        self.asked = 0
        self.wakes = Wakes(directory)
        assert self.wakes.open(self.listen), self.wakes.error

    def listen(self, asked: bool) -> None:
        self.bursts += 1
        self.asked += asked


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    started: list[Ear] = []

    def new() -> Ear:
        started.append(Ear(tmp_path))
        return started[-1]

    yield new
    for ear in started:
        ear.wakes.close()


def sockets(directory: Path) -> set[str]:
    return {path.stem for path in (directory / "run").iterdir()}


def killed(directory: Path, owner: str) -> None:
    """What a process that was killed leaves."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as left:
        left.bind(str(directory / "run" / f"{owner}.sock"))


async def test_all_others_are_woken_and_oneself_is_not(start: Start) -> None:
    one, two, three = start(), start(), start()
    one.wakes.send()
    await eventually(lambda: two.bursts and three.bursts)
    assert (one.bursts, one.wakes.sent, two.wakes.received, two.asked) == (0, 2, 1, 0)
    assert one.wakes.numbers() == {"sent": 2, "received": 0, "peers": 2}


async def test_whoever_comes_later_is_found(start: Start) -> None:
    one = start()
    for number in range(1, 6):
        late = start()
        one.wakes.send()
        await eventually(lambda late=late: late.bursts)  # type: ignore[misc]
        assert one.wakes.numbers()["peers"] == number


async def test_many_commits_at_once_share_few_wakes_and_the_last_one_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    # so long that a slow machine does not spread the commits over several
    monkeypatch.setattr(module, "_SPACING", 0.2)
    one, two = start(), start()
    for _ in range(50):
        one.wakes.send()
        await asyncio.sleep(0)
    assert one.wakes.sent == 1
    await eventually(lambda: two.wakes.received == 2)
    assert one.wakes.sent == 2


async def test_the_leader_is_asked_and_nobody_else(start: Start) -> None:
    one, leader, other = start(), start(), start()
    one.wakes.ask(leader.wakes.owner)
    await eventually(lambda: leader.asked == 1)
    assert other.wakes.received == 0


async def test_the_socket_of_a_killed_process_is_removed_by_the_next_wake(start: Start, tmp_path: Path) -> None:
    one, two = start(), start()
    dead = one.wakes.owner[:4] + "deadbeef"
    killed(tmp_path, dead)
    assert one.wakes.gone(dead)
    assert not one.wakes.gone(two.wakes.owner)
    one.wakes.send()
    await eventually(lambda: two.bursts)
    assert sockets(tmp_path) == {one.wakes.owner, two.wakes.owner}
    assert one.wakes.gone(dead)


async def test_nothing_is_said_about_an_owner_whose_sockets_lie_elsewhere(start: Start) -> None:
    one = start()
    assert one.wakes.gone(one.wakes.owner[:4] + "deadbeef")
    assert not one.wakes.gone("zzzzdeadbeef")
    assert not one.wakes.gone("nonedeadbeef")


async def test_a_full_queue_loses_wakes_and_blocks_nobody(start: Start) -> None:
    one, two = start(), start()
    asyncio.get_running_loop().remove_reader(two.wakes._socket.fileno())  # type: ignore[union-attr]
    for _ in range(5_000):
        one.wakes.ask(two.wakes.owner)
    assert 0 < one.wakes.sent < 5_000
    two.wakes._receive()
    assert (two.bursts, two.wakes.received) == (1, one.wakes.sent)
    # nobody took it for dead
    one.wakes.ask(two.wakes.owner)
    two.wakes._receive()
    assert two.bursts == 2


async def test_who_leaves_takes_its_socket_away_and_says_so(start: Start, tmp_path: Path) -> None:
    one, two = start(), start()
    owner = one.wakes.owner
    one.wakes.close()
    await eventually(lambda: two.bursts)
    assert sockets(tmp_path) == {two.wakes.owner}
    assert two.wakes.gone(owner)
    one.wakes.send()
    one.wakes.close()


async def test_a_socket_that_was_swept_away_is_bound_again(start: Start, tmp_path: Path) -> None:
    one, two = start(), start()
    for path in (tmp_path / "run").iterdir():
        path.unlink()
    (tmp_path / "run").rmdir()
    one.wakes.ensure()
    two.wakes.ensure()
    assert sockets(tmp_path) == {one.wakes.owner, two.wakes.owner}
    one.wakes.send()
    await eventually(lambda: two.bursts)


def inside(directory: Path) -> list[Path]:
    return list(directory.iterdir())


def deep(directory: Path) -> Path:
    path = directory
    while len(os.fsencode(path)) < 200:
        path = path / "a-long-name-for-a-directory"
    path.mkdir(parents=True)
    return path


async def test_a_long_path_has_its_sockets_in_the_temporary_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        data = deep(tmp_path)
        one, two = Ear(data), Ear(data)
        (directory,) = inside(Path(short))
        assert directory.stat().st_mode & 0o777 == 0o700
        assert len(inside(directory)) == 2
        one.wakes.send()
        await eventually(lambda: two.bursts)
        other = Ear(deep(tmp_path / "other"))
        assert other.wakes.numbers()["peers"] == 0
        for ear in (one, two, other):
            ear.wakes.close()


async def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory() as short:
        monkeypatch.setattr(tempfile, "tempdir", short)
        data = deep(tmp_path)
        Ear(data).wakes.close()
        (directory,) = inside(Path(short))
        directory.chmod(0o777)
        wakes = Wakes(data)
        assert not wakes.open(lambda _: None)
        assert "PermissionError" in wakes.numbers()["error"]
        directory.rmdir()
        directory.symlink_to(tmp_path)
        assert not wakes.open(lambda _: None)
        assert not wakes.working


async def test_without_sockets_the_poll_finds_what_others_write(
    open_memory: Open, clock: ManualClock, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "run").write_text("no directory")
    memory, other = await open_memory(clock=clock), await open_memory()
    assert not memory.wakes.working
    assert (await memory.status.metrics("default", "storage"))["storage"]["wakes"]["error"]
    await first_look_is_over(clock)
    follower = Scripted()
    memory.upkeep.add(follower)
    await eventually(lambda: follower.steps == 1)
    await other.store.write(create("e1"))
    await eventually(lambda: clock.advance(0.25) or follower.steps == 2)


async def test_a_commit_is_heard_of_in_the_other_memory_although_no_time_passes_for_its_poll(
    open_memory: Open, clock: ManualClock
) -> None:
    memory, other = await open_memory(clock=clock), await open_memory()
    await first_look_is_over(clock)
    follower = Scripted()
    memory.upkeep.add(follower)
    await eventually(lambda: follower.steps == 1)
    await other.store.write(create("e1"))
    await eventually(lambda: follower.steps == 2)
    numbers = (await other.status.metrics("default", "storage"))["storage"]["wakes"]
    assert numbers["sent"] >= 1
    assert numbers["peers"] == 1


async def test_a_wake_brings_up_a_cache_that_the_writer_could_not_write_to(
    open_memory: Open, clock: ManualClock
) -> None:
    memory, other = await open_memory(clock=clock), await open_memory()
    await first_look_is_over(clock)
    assert await other.store.write(create("e1"))
    await eventually(lambda: memory.store.cache.applied() == 1)
    # it commits, and its own cache does not hear of it
    await other.store.engine.write(create("e2"))
    other.wakes.send()
    async with asyncio.timeout(PATIENCE):
        await eventually(lambda: memory.store.cache.applied() == 2)
