"""Leases: one process at a time leads, whoever hangs or dies is replaced, and who comes back late writes nothing."""

from __future__ import annotations

import asyncio

import pytest

from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.episode import EpisodeDraft, Outcome
from memory_mcp.records.ledger import Command, Written
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.learned import LEARNING
from memory_mcp.storage.leases import LeaseLostError, leases
from memory_mcp.storage.ledger import verify
from tests.conftest import PATIENCE, ManualClock, Open
from tests.storage.support import command, complete, create, seize
from tests.storage.test_followers import eventually, lessons


@pytest.fixture
async def two(open_memory: Open, clock: ManualClock) -> tuple[Memory, Memory]:
    """Two memories on one directory under one clock. Only what a test calls works: their own followers are stopped."""
    pair = await open_memory(clock=clock), await open_memory(clock=clock)
    for memory in pair:
        for follower in (memory.learner, memory.semantic):
            memory.upkeep._followers.remove(follower)
        memory.upkeep._bells.clear()
        for task in memory.upkeep._tasks:
            if task.get_name() in ("learning", "embedding"):
                task.cancel()
    return pair


async def completed(memory: Memory, count: int, *, first: int = 0) -> None:
    for number in range(first, first + count):
        await memory.store.write(create(f"e{number}"))
        await memory.store.write(complete(f"e{number}"))


async def stored(memory: Memory) -> Json:
    leaders = await memory.store.read(memory.leases.leaders)
    return dict(leaders[LEARNING])


async def test_the_leader_keeps_others_from_beginning_until_its_lease_expires(
    two: tuple[Memory, Memory], clock: ManualClock
) -> None:
    one, other = two
    await seize(one)
    await completed(one, 3)
    assert not await other.learner.step()
    assert other.learner.lead.look_again == 0.5
    clock.advance(2.9)
    assert not await other.learner.step()
    assert other.learner.lead.look_again == pytest.approx(0.1)
    clock.advance(0.2)
    assert await other.learner.step() is False
    assert other.learner.learned == 3
    # it has changed its owner, and was given back with the last piece of work
    told = await stored(other)
    assert told == {"owner": other.wakes.owner, "this_process": True, "fence": 2, "expires_in_seconds": 0.0}


async def test_a_leader_that_works_keeps_its_lease_and_its_fence(
    two: tuple[Memory, Memory], clock: ManualClock
) -> None:
    one, other = two
    for _ in range(10):
        await seize(one)
        clock.advance(1)
    await completed(one, 1)
    assert not await other.learner.step()
    assert other.learner.learned == 0
    assert (await stored(one))["fence"] == 1


async def test_jumps_of_the_wall_clock_change_nothing(two: tuple[Memory, Memory], clock: ManualClock) -> None:
    one, other = two
    await seize(one)
    await completed(one, 1)
    year = 365 * 86_400 * 1_000_000
    for jump in (year, -2 * year, year):
        clock._now += jump
        assert not await other.learner.step()
        assert other.learner.lead.leads is False
        assert (await stored(other))["expires_in_seconds"] == 3.0
    clock.advance(3)
    await other.learner.step()
    assert other.learner.learned == 1


async def test_a_lease_of_another_boot_or_under_another_clock_has_expired(
    two: tuple[Memory, Memory], clock: ManualClock
) -> None:
    one, other = two
    await seize(one)
    await completed(one, 1)
    other.leases._boot_id = "another boot"
    await other.learner.step()
    assert other.learner.learned == 1
    # a container with a clock of its own would seem to keep it for an hour
    other.leases._boot_id = one.leases._boot_id
    clock.advance(3_600)
    await seize(one)
    clock._monotonic -= 3_600
    await completed(one, 1, first=1)
    await other.learner.step()
    assert other.learner.learned == 2


async def test_a_leader_that_was_killed_is_replaced_at_once(two: tuple[Memory, Memory]) -> None:
    one, other = two
    await seize(one)
    await completed(other, 2)
    assert not await other.learner.step()
    # what the kernel does when a process is killed: nobody reads the socket, and its file stays
    asyncio.get_running_loop().remove_reader(one.wakes._socket.fileno())  # type: ignore[union-attr]
    one.wakes._socket.close()  # type: ignore[union-attr]
    await other.learner.step()
    assert other.learner.learned == 2
    assert (await stored(other))["fence"] == 2
    one.wakes._socket = None


async def test_a_leader_that_ends_is_replaced_at_once(two: tuple[Memory, Memory]) -> None:
    one, other = two
    await seize(one)
    await completed(one, 2)
    await one.upkeep.stop()
    await other.learner.step()
    assert other.learner.learned == 2


async def test_a_late_write_under_an_old_fence_is_refused_and_leaves_nothing(
    two: tuple[Memory, Memory], clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = two
    await completed(one, 6)
    stalled, go_on = asyncio.Event(), asyncio.Event()
    late: list[Exception] = []
    write, count = one.store.write_derived, 0

    async def stalls(prepared: Command) -> Written:
        nonlocal count
        count += 1
        if count == 3:
            stalled.set()
            await go_on.wait()
        try:
            return await write(prepared)
        except Exception as error:
            late.append(error)
            raise

    monkeypatch.setattr(one.store, "write_derived", stalls)
    working = asyncio.create_task(one.learner.step())
    async with asyncio.timeout(PATIENCE):
        await stalled.wait()
    assert (await stored(one))["fence"] == 1
    clock.advance(3)
    await other.learner.step()
    assert other.learner.learned == 4
    before = await lessons(other)
    go_on.set()
    async with asyncio.timeout(PATIENCE):
        assert await working
    assert [type(error) for error in late] == [LeaseLostError]
    assert one.learner.refused == 1
    assert await lessons(one) == before
    assert len(before["learned"]) == 6
    assert await one.store.read(verify) == []


async def test_a_write_under_an_old_fence_is_refused_also_where_the_cursor_would_let_it_pass(
    two: tuple[Memory, Memory], clock: ManualClock
) -> None:
    one, other = two
    late = await seize(one)
    clock.advance(3)
    new = await seize(other)
    assert (late.fence, new.fence) == (1, 2)
    move = {"name": LEARNING, "from": 0, "to": 7, "claim": late.claim()}
    with pytest.raises(LeaseLostError, match="fence 2"):
        await one.store.write_derived(command("cursor.move", {"cursor": move}))
    assert await one.store.read(lambda session: queries.cursor(session, LEARNING)) == 0
    move["claim"] = new.claim()
    await other.store.write_derived(command("cursor.move", {"cursor": move}))
    assert await one.store.read(lambda session: queries.cursor(session, LEARNING)) == 7


async def test_a_hanging_leader_that_comes_back_in_time_is_not_replaced(
    two: tuple[Memory, Memory], clock: ManualClock
) -> None:
    one, other = two
    await seize(one)
    clock.advance(3)
    lead = other.learner.lead
    turn = lead.turn(await other.store.read(lead.look), waiting=True)
    assert turn is not None
    # between the look and the write
    await seize(one)
    move = {"name": LEARNING, "from": 0, "to": 1, "claim": turn.claim()}
    with pytest.raises(LeaseLostError):
        await other.store.write_derived(command("cursor.move", {"cursor": move}))
    assert (await stored(one))["fence"] == 1


async def test_a_completion_waits_for_the_leader_without_any_time_passing(open_memory: Open) -> None:
    one, other = await open_memory(clock=ManualClock()), await open_memory(clock=ManualClock())
    await seize(other)
    begun = await one.episodes.create(EpisodeDraft(task_description="learned elsewhere"), "default", token_budget=0)
    done = await one.episodes.complete(begun["episode_id"], Outcome(type="success"), "default")
    assert done["reward"]
    assert (one.learner.learned, other.learner.learned) == (0, 1)
    # the leader has nothing left to do: from now on each learns its own at once
    begun = await one.episodes.create(EpisodeDraft(task_description="learned here"), "default", token_budget=0)
    assert (await one.episodes.complete(begun["episode_id"], Outcome(type="success"), "default"))["reward"]
    assert (one.learner.learned, other.learner.learned) == (1, 1)


async def test_background_work_that_a_leader_leaves_behind_is_taken_over_by_itself(
    open_memory: Open, clock: ManualClock
) -> None:
    hanging, other = await open_memory(clock=clock), await open_memory(clock=clock)
    await seize(hanging)
    for task in hanging.upkeep._tasks:
        task.cancel()
    await completed(other, 2)
    await eventually(lambda: other.learner.lead.look_again)
    assert other.learner.learned == 0
    await eventually(lambda: clock.advance(0.25) or other.learner.learned == 2)
    assert hanging.learner.learned == 0


async def test_an_idle_machine_writes_nothing(open_memory: Open, clock: ManualClock, settings: Settings) -> None:
    memories = [await open_memory(clock=clock) for _ in range(2)]
    await completed(memories[0], 2)
    await eventually(lambda: memories[0].learner.learned == 2)
    files = [settings.data_dir / name for name in ("memory.db", "memory.db-wal")]
    before = [(path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    for _ in range(100):
        clock.advance(1)
        for _ in range(20):
            await asyncio.sleep(0)
    assert [(path.stat().st_size, path.stat().st_mtime_ns) for path in files] == before


async def test_health_tells_who_leads(open_memory: Open, clock: ManualClock) -> None:
    one, other = await open_memory(clock=clock), await open_memory(clock=clock)
    assert (await one.status.health())["memory_system"]["leaders"] == {}
    await seize(one)
    clock.advance(1)
    expected = {"owner": one.wakes.owner, "fence": 1, "expires_in_seconds": 2.0}
    for memory in (one, other):
        leaders = (await memory.status.health())["memory_system"]["leaders"]
        assert leaders == {LEARNING: {**expected, "this_process": memory is one}}


async def test_a_lease_of_one_follower_says_nothing_about_another(two: tuple[Memory, Memory]) -> None:
    one, other = two
    await seize(one)
    lead = other.leases.lead("retention")
    seen = await other.store.read(lead.look)
    assert lead.turn(seen, waiting=False) is None
    turn = lead.turn(seen, waiting=True)
    assert turn is not None
    move = {"name": "retention", "from": 0, "to": 1, "claim": turn.claim()}
    await other.store.write_derived(command("cursor.move", {"cursor": move}))
    found = await other.store.read(leases)
    assert {name: lease.owner for name, lease in found.items()} == {
        LEARNING: one.wakes.owner,
        "retention": other.wakes.owner,
    }
