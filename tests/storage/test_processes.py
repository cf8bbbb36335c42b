"""Several real processes on one data directory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from memory_mcp.storage import queries
from memory_mcp.storage.ledger import verify

# a memory that obeys orders, one JSON list per line, and answers each with one JSON line
PROCESS = """
import asyncio, json, sys, time
from pathlib import Path
from memory_mcp.memory import Memory
from memory_mcp.records.episode import EpisodeDraft, Outcome, StepDraft
from memory_mcp.settings import Settings

NAMESPACE = "default"

async def hammer(memory, episode_id, seconds, number):
    # steps in threes, as fast as they are taken; every acknowledged one is told at once
    waits, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        tools = [f"{number}.{len(waits)}.{part}" for part in range(3)]
        await memory.episodes.add_steps(episode_id, [StepDraft(tool=tool) for tool in tools], NAMESPACE)
        waits.append(time.perf_counter() - started)
        if number >= 0 and len(waits) * 3 >= 990:
            break
        if number == -1:
            print(json.dumps(tools), flush=True)
    return {"writes": len(waits), "longest": max(waits), "median": sorted(waits)[len(waits) // 2]}

async def main(directory):
    settings = Settings(data_dir=directory, embedder="none", poll_seconds=0.05)
    async with Memory(settings) as memory:
        print(json.dumps("ready"), flush=True)
        loop = asyncio.get_running_loop()
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            order, *arguments = json.loads(line)
            if order == "start":
                created = await memory.episodes.create(EpisodeDraft(task_description=arguments[0]), NAMESPACE)
                answer = created["episode_id"]
            elif order == "step":
                await memory.episodes.add_steps(arguments[0], [StepDraft(tool=arguments[1])], NAMESPACE)
                answer = "done"
            elif order == "tools":
                told = await memory.episodes.get(arguments[0], NAMESPACE)
                answer = [step["tool"] for step in told["steps"]]
            elif order == "finish":
                told = await memory.episodes.complete(arguments[0], Outcome(type="success"), NAMESPACE)
                answer = told["reward"]["total"]
            elif order == "work":
                # many short episodes, so that all learn at the same time
                for number in range(arguments[1]):
                    draft = EpisodeDraft(task_description=f"task {number}", domain="shared")
                    episode_id = (await memory.episodes.create(draft, NAMESPACE))["episode_id"]
                    tools = [StepDraft(tool="look"), StepDraft(tool="fix" if number % 2 else "guess")]
                    await memory.episodes.add_steps(episode_id, tools, NAMESPACE)
                    outcome = Outcome(type="success" if number % 2 else "failure")
                    await memory.episodes.complete(episode_id, outcome, NAMESPACE)
                await memory.settle()
                answer = "done"
            elif order == "hammer":
                answer = await hammer(memory, *arguments)
            print(json.dumps(answer), flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""

Process = Callable[..., Any]


class Worker:
    """One such process."""

    def __init__(self, directory: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def tell(self, *order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def ask(self, *order: Any) -> Any:
        self.tell(*order)
        return self.answer()

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


Workers = Callable[[int], list[Worker]]


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Workers]:
    started: list[Worker] = []

    def start(count: int) -> list[Worker]:
        new = [Worker(tmp_path / "data") for _ in range(count)]
        started.extend(new)
        assert [worker.answer() for worker in new] == ["ready"] * count
        return new

    yield start
    for worker in started:
        worker.end()


@pytest.fixture
def data(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", embedder="none")


async def test_processes_that_write_at_once_lose_nothing_and_none_starves(workers: Workers, data: Settings) -> None:
    crowd = workers(4)
    episodes = [worker.ask("start", f"work of {number}") for number, worker in enumerate(crowd)]
    for number, worker in enumerate(crowd):
        worker.tell("hammer", episodes[number], 1.5, number)
    answers = [worker.answer() for worker in crowd]
    writes = [answer["writes"] for answer in answers]
    assert min(writes) * 5 >= max(writes), answers
    assert max(answer["longest"] for answer in answers) < 5, answers
    async with Memory(data) as memory:
        for number, (episode_id, count) in enumerate(zip(episodes, writes, strict=True)):
            stored = await memory.store.read(
                lambda session, name=episode_id: queries.episode(session, "default", name)  # type: ignore[misc]
            )
            assert stored is not None
            expected = [f"{number}.{each}.{part}" for each in range(count) for part in range(3)]
            assert [step["tool"] for step in stored["steps"]] == expected
            told = await memory.episodes.get(episode_id, "default")
            assert [step["tool"] for step in told["steps"]] == expected
        assert await memory.store.read(verify) == []


def test_a_process_reads_its_own_writes_at_once_and_those_of_others_very_soon(workers: Workers) -> None:
    one, other = workers(2)
    episode_id = one.ask("start", "shared work")
    delays = []
    for number in range(30):
        writer, reader = (one, other) if number % 2 else (other, one)
        writer.ask("step", episode_id, f"t{number}")
        wrote = time.perf_counter()
        expected = [f"t{each}" for each in range(number + 1)]
        assert writer.ask("tools", episode_id) == expected
        while reader.ask("tools", episode_id) != expected:
            assert time.perf_counter() - wrote < 10
        delays.append(time.perf_counter() - wrote)
    # the poll is the upper bound; the shared cache is usually faster
    assert sorted(delays)[15] < 1


async def test_every_acknowledged_write_of_a_process_that_was_killed_is_there_and_none_is_half(
    workers: Workers, data: Settings
) -> None:
    rng = random.Random(7)
    acknowledged: dict[str, list[str]] = {}
    (survivor,) = workers(1)
    for number in range(5):
        (victim,) = workers(1)
        episode_id = survivor.ask("start", f"round {number}")
        own = survivor.ask("start", f"the survivor's own work in round {number}")
        victim.tell("hammer", episode_id, 60, -1)
        acknowledged[episode_id] = []
        for _ in range(rng.randint(1, 25)):
            acknowledged[episode_id] += victim.answer()
        victim.process.kill()
        assert victim.process.stdout is not None
        for line in victim.process.stdout:
            acknowledged[episode_id] += json.loads(line)
        victim.process.wait(10)
        # whoever is left goes on at once
        survivor.ask("step", own, "went on")
        assert survivor.ask("tools", own) == ["went on"]
        assert survivor.ask("tools", episode_id)[: len(acknowledged[episode_id])] == acknowledged[episode_id]
    async with Memory(data) as memory:
        for episode_id, tools in acknowledged.items():
            told = await memory.episodes.get(episode_id, "default")
            stored = [step["tool"] for step in told["steps"]]
            assert stored[: len(tools)] == tools
            # one more may have been durable before it could be acknowledged, and it is whole
            assert len(stored) - len(tools) in (0, 3)
        assert await memory.store.read(verify) == []
    connection = sqlite.connect(str(data.data_dir / "memory.db"))
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_processes_that_learn_at_once_leave_each_effect_once(workers: Workers, data: Settings) -> None:
    crowd = workers(3)
    for number, worker in enumerate(crowd):
        worker.tell("work", number, 8)
    assert [worker.answer() for worker in crowd] == ["done"] * 3
    async with Memory(data) as memory:
        await memory.settle()

        def learned(session: Any) -> tuple[Any, ...]:
            return (
                session.one("SELECT count(*) FROM ledger WHERE operation = 'episode.learned'"),
                session.one("SELECT count(DISTINCT subject_id) FROM ledger WHERE operation = 'episode.learned'"),
                session.one("SELECT episodes, successes, failures FROM scope_stats WHERE domain = 'shared'"),
                session.one("SELECT sum(calls) FROM tool_stats WHERE domain = 'shared'"),
                session.one("SELECT count(*) FROM episodes WHERE reward IS NULL"),
            )

        assert await memory.store.read(learned) == ((24,), (24,), (24, 12, 12), (48,), (0,))
        assert await memory.store.read(verify) == []
