"""Real processes on one data directory: they wake each other, and replace a leader that was killed or hangs."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from memory_mcp.memory import Memory
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.settings import Settings
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.sqlite import SqliteEngine
from tests.conftest import PATIENCE
from tests.server.wire import Json, Wire, environment
from tests.storage.support import add, complete, create

TAKEOVER_SECONDS = 5.0

# the real server; it stops itself between preparing what one episode taught and writing it
HANGING = """
import os, signal
from memory_mcp.learning import follower
from memory_mcp.cli.entry import main

learn, calls = follower.learn, []

def hangs(*arguments):
    calls.append(None)
    if len(calls) == 5:
        os.kill(os.getpid(), signal.SIGSTOP)
    return learn(*arguments)

follower.learn = hangs
main()
"""

# tells when a follower of its own has seen each position of the ledger, and polls for nobody's writes
WATCHING = """
import asyncio, json, sys, time
from pathlib import Path
from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from memory_mcp.storage import queries

class Watching:
    name = "watching"

    async def step(self):
        head = await memory.store.read(queries.head_position)
        print(json.dumps([head, time.monotonic()]), flush=True)
        return False

async def main():
    global memory
    async with Memory(Settings(data_dir=Path(sys.argv[1]), embedder="none", poll_seconds=60)) as memory:
        memory.upkeep.add(Watching())
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)

asyncio.run(main())
"""


def until(condition: Callable[[], Any], seconds: float = PATIENCE) -> float:
    """Wait; how long it took."""
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)
    return time.monotonic() - begun


async def backlog(home: Path, count: int) -> None:
    """A data directory with completed episodes that nobody has learned from."""
    (home / "data").mkdir(parents=True)
    engine = SqliteEngine(home / "data" / "memory.db", TextRecipe())
    await engine.open()
    for make in (create, add, complete):
        await asyncio.gather(*(engine.write(make(f"e{number}")) for number in range(count)))
    await engine.close()


async def learned_once(home: Path, count: int) -> None:
    async with Memory(Settings(data_dir=home / "data", embedder="none")) as memory:
        assert await memory.store.read(verify) == []

        def look(session: Any) -> tuple[Any, ...]:
            return (
                session.one(
                    "SELECT count(*), count(DISTINCT subject_id) FROM ledger WHERE operation='episode.learned'"
                ),
                session.one("SELECT sum(episodes) FROM scope_stats"),
                session.one("SELECT sum(calls) FROM tool_stats"),
                session.one("SELECT count(*) FROM episodes WHERE status = 'completed' AND reward IS NULL"),
            )

        assert await memory.store.read(look) == ((count, count), (count,), (count,), (0,))


def system(server: Wire) -> Json:
    return dict(server.call("health_check")["memory_system"])


def leads(server: Wire) -> bool:
    leader = system(server)["leaders"].get("learning")
    return bool(leader and leader["this_process"])


def wakes(server: Wire) -> Json:
    return dict(server.call("get_metrics", metric_type="storage")["storage"]["wakes"])


def stopped(process: subprocess.Popen[bytes]) -> bool:
    return Path(f"/proc/{process.pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[0] == "T"


async def test_the_work_of_a_leader_that_was_killed_goes_on_elsewhere(tmp_path: Path) -> None:
    await backlog(tmp_path, 800)
    with Wire(tmp_path) as first, Wire(tmp_path) as second:
        for server in (first, second):
            server.handshake()
        until(lambda: leads(first) or leads(second))
        leader, other = (first, second) if leads(first) else (second, first)
        assert system(other)["learning_lag"] > 100
        leader.signal(signal.SIGKILL)
        assert leader.wait() == -signal.SIGKILL
        assert until(lambda: leads(other)) < TAKEOVER_SECONDS
        left = system(other)["learning_lag"]
        until(lambda: system(other)["learning_lag"] == 0)
        assert left > 0
        assert other.call("get_metrics", metric_type="performance")["performance"]["learned"] >= left
        # whoever is left removes what the dead one cannot
        other.call("create_episode", task_description="go on")
        until(lambda: len(list((tmp_path / "data" / "run").iterdir())) == 1)
        assert wakes(other)["peers"] == 0
        assert other.end() == 0
    await learned_once(tmp_path, 800)
    assert list((tmp_path / "data" / "run").iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="reads the state of a process from /proc")
async def test_a_leader_that_hangs_is_replaced_and_its_late_write_is_refused(tmp_path: Path) -> None:
    await backlog(tmp_path, 20)
    with Wire(tmp_path, command=(sys.executable, "-c", HANGING, "serve")) as hanging:
        until(lambda: stopped(hanging.process))
        with Wire(tmp_path) as other:
            other.handshake()
            assert system(other)["leaders"]["learning"]["fence"] == 1
            episode_id = other.call("create_episode", task_description="wait for the leader")["episode_id"]
            begun = time.monotonic()
            # it waits for the leader, takes its place, and learns from all that was left
            done = other.call("complete_episode", episode_id=episode_id, outcome_type="success")
            assert time.monotonic() - begun < TAKEOVER_SECONDS
            assert done["reward"]
            assert system(other)["leaders"]["learning"]["fence"] == 2
            hanging.signal(signal.SIGCONT)
            hanging.handshake()
            until(lambda: hanging.call("get_metrics", metric_type="performance")["performance"]["learning_refused"])
            told = hanging.call("get_metrics", metric_type="performance")["performance"]
            assert (told["learned"], told["learning_refused"]) == (4, 1)
            assert other.call("get_metrics", metric_type="performance")["performance"]["learned"] == 17
            assert hanging.end() == other.end() == 0
    async with Memory(Settings(data_dir=tmp_path / "data", embedder="none")) as memory:
        counted = await memory.store.read(
            lambda session: session.one(
                "SELECT count(*), count(DISTINCT subject_id) FROM ledger WHERE operation = 'episode.learned'"
            )
        )
        assert counted == (21, 21)
        assert await memory.store.read(verify) == []


async def test_a_wake_does_in_milliseconds_what_the_poll_would_do_in_a_minute(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", embedder="none", poll_seconds=60)
    command = [sys.executable, "-c", WATCHING, str(settings.data_dir)]
    async with Memory(settings) as memory:
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(tmp_path)
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            await process.stdout.readline()
            delays = []
            for number in range(1, 31):
                written = await memory.store.write(create(f"e{number}"))
                wrote = time.monotonic()
                head, seen = 0, 0.0
                while head < written.position:
                    head, seen = json.loads(await process.stdout.readline())
                delays.append(seen - wrote)
                await asyncio.sleep(0.05)
            process.stdin.close()
            assert await process.wait() == 0
    # 0.4 ms when nothing else runs; a machine that is busy with other tests takes its time
    assert statistics.median(delays) < 0.25, delays


def test_servers_on_a_very_long_path_wake_each_other_too(tmp_path: Path) -> None:
    home = tmp_path
    while len(os.fsencode(home)) < 200:
        home = home / "a-long-name-for-a-directory"
    with tempfile.TemporaryDirectory() as short:
        env = environment(tmp_path, TMPDIR=short)
        with Wire(home, env=env) as one, Wire(home, env=env) as other:
            for server in (one, other):
                server.handshake()
                server.call("health_check")
            before = wakes(other)["received"]
            episode_id = one.call("create_episode", task_description="deep down")["episode_id"]
            until(lambda: wakes(other)["received"] > before)
            assert wakes(other)["peers"] == 1
            assert other.call("get_episode", episode_id=episode_id)["status"] == "open"
            assert not (home / "data" / "run").exists()
            assert one.end() == other.end() == 0
