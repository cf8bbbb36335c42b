"""A wall clock that jumps: order and waiting do not depend on it, and nothing takes less than no time."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.records.base import Json
from memory_mcp.storage import queries
from tests.conftest import ManualClock, Open
from tests.durability.audit import audit, reading
from tests.durability.support import begin, server, tools_of, wait_until
from tests.services.support import finish, ready, start, took
from tests.services.support import tools_of as tools_in
from tests.storage.support import FailingEngine

DAY = 86_400
YEAR = 366 * DAY

# Python reads it when it starts, if its directory is named in PYTHONPATH: the number of seconds in a file, which may
# change at any time, is added to the wall clock that `memory_mcp.clock` asks.
SITE = """
import os, time
_real = time.time_ns
def _shifted():
    with open(os.environ["CLOCK_OFFSET"], encoding="ascii") as file:
        return _real() + int(file.read() or 0) * 1_000_000_000
time.time_ns = _shifted
"""


class JumpingClock(ManualClock):
    """A clock whose wall time can be set, while what has passed is not changed by that."""

    def jump(self, seconds: float) -> None:
        self._now += round(seconds * 1_000_000)


@pytest.fixture
def clock() -> JumpingClock:
    return JumpingClock()


def no_negative(told: Any) -> bool:
    """Whether no duration anywhere in an answer is less than nothing."""
    if isinstance(told, dict):
        return all(
            no_negative(value) and not ("seconds" in name and isinstance(value, (int, float)) and value < 0)
            for name, value in told.items()
        )
    return all(no_negative(item) for item in told) if isinstance(told, list) else True


async def test_jumps_between_and_during_calls_disturb_neither_order_nor_learning(
    open_memory: Open, clock: JumpingClock
) -> None:
    memory = await open_memory(clock=clock)
    episodes: list[str] = []
    for number, jump in enumerate((-DAY, YEAR, -2 * YEAR, DAY, YEAR)):
        episode = str((await start(memory, f"task {number}"))["episode_id"])
        await took(memory, episode, "a", "b")
        clock.jump(jump)
        await took(memory, episode, "c")
        done: Json = await finish(memory, episode)
        assert done["reward"]["total"] > 0
        assert no_negative(done)
        told = await memory.episodes.get(episode, "default")
        assert [step["step_number"] for step in told["steps"]] == [1, 2, 3]
        assert told["ended_at"] >= told["started_at"]
        episodes.append(episode)
    entries = await memory.store.read(lambda session: queries.ledger(session, 0, 1000))
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    forecast = await start(memory, "task 9")
    assert no_negative(forecast)
    await memory.store.catch_up()
    assert audit(memory.settings.data_dir).problems == []


@pytest.mark.parametrize("jump", [-DAY, YEAR])
async def test_a_jump_of_the_wall_clock_neither_opens_nor_holds_a_breaker(
    open_memory: Open, clock: JumpingClock, jump: float
) -> None:
    memory = await open_memory(clock=clock)
    await ready(memory)
    engine = FailingEngine(memory.store.engine)  # type: ignore[arg-type]
    memory.store.engine = engine
    episode = str((await start(memory))["episode_id"])
    engine.fails = {"write"}
    for number in range(memory.settings.breaker_failures):
        assert (await took(memory, episode, f"t{number}"))["pending"]
    assert memory.store.write_breaker.state == "open"
    engine.fails = set()
    clock.jump(jump)
    assert memory.store.write_breaker.state == "open"
    assert 0 < memory.store.write_breaker.retry_after <= memory.settings.breaker_reset_seconds
    clock.advance(memory.settings.breaker_reset_seconds)
    assert await memory.store.drain()
    await took(memory, episode, "last")
    assert await tools_in(memory, episode) == [*(f"t{n}" for n in range(memory.settings.breaker_failures)), "last"]


def test_real_servers_whose_clocks_jump_write_one_history(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(SITE)
    offsets = [tmp_path / "one", tmp_path / "other"]
    for offset in offsets:
        offset.write_text("0")

    def shifted(offset: Path) -> dict[str, str]:
        return {"PYTHONPATH": str(tmp_path / "site"), "CLOCK_OFFSET": str(offset)}

    with server(tmp_path, **shifted(offsets[0])) as one, server(tmp_path, **shifted(offsets[1])) as other:
        episode = begin(one)
        numbers = []
        for number, jump in enumerate((0, -DAY, YEAR, -YEAR, DAY, 0)):
            offsets[number % 2].write_text(str(jump))
            for wire in (one, other):
                numbers += wire.call("add_episode_step", episode_id=episode, tool=f"t{len(numbers)}")["step_numbers"]
        assert numbers == list(range(1, 13))
        offsets[0].write_text(str(-YEAR))
        done = one.call("complete_episode", episode_id=episode, outcome_type="success")
        assert no_negative(done)
        # the other one learns and follows by what was written, not by when
        for wire in (one, other):
            assert tools_of(wire, episode) == [f"t{number}" for number in range(12)]
            wait_until(lambda wire=wire: wire.call("health_check")["cache_storage"]["lag"] == 0)  # type: ignore[misc]
            told = wire.call("get_episode", episode_id=episode)
            assert datetime.fromisoformat(told["ended_at"]) >= datetime.fromisoformat(told["started_at"])
            assert told["reward"] == done["reward"]
        years = {step["at"][:4] for step in told["steps"]}
        assert len(years) > 1
    with reading(tmp_path / "data") as session:
        entries = queries.ledger(session, 0, 1000)
    assert [entry.position for entry in entries] == list(range(1, len(entries) + 1))
    assert [entry.at for entry in entries] != sorted(entry.at for entry in entries)
    assert audit(tmp_path / "data").problems == []
