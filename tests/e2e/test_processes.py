"""One data directory and several server processes: after each other, killed, and side by side."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Any

from tests.conftest import call, connected, refused
from tests.server.wire import Wire

WORDS_ONLY = ("--embedder", "none")


async def test_an_open_episode_is_continued_by_another_process(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data, *WORDS_ONLY) as client:
        started = await call(client, "create_episode", task_description="Move the archive", tags=["night"])
        episode = {"episode_id": started["episode_id"]}
        await call(client, "add_episode_step", **episode, tool="copy", result={"output": "half of it"})
    async with connected(data, *WORDS_ONLY, mode="legacy") as client:
        told = await call(client, "get_episode", **episode)
        assert told["status"] == "open"
        assert told["context"]["tags"] == ["night"]
        added = await call(client, "add_episode_step", **episode, tool="copy", result={"output": "the rest"})
        assert added["step_numbers"] == [2]
        await call(client, "complete_episode", **episode, outcome_type="success")
    async with connected(data, *WORDS_ONLY) as client:
        told = await call(client, "get_episode", **episode)
        assert told["status"] == "completed"
        assert [step["result"]["output"] for step in told["steps"]] == ["half of it", "the rest"]
        assert told["reward"]
        found = await call(client, "query_memory", query="archive")
        assert found["episodes"][0]["episode_id"] == started["episode_id"]


async def test_what_a_killed_process_has_acknowledged_is_continued_by_another(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.handshake()
        episode = {"episode_id": wire.call("create_episode", task_description="Survive")["episode_id"]}
        for number in range(10):
            wire.call("add_episode_step", **episode, tool=f"tool {number}")
        done = wire.call("create_episode", task_description="Done before the end")["episode_id"]
        wire.call("complete_episode", episode_id=done, outcome_type="failure", reason="no time")
        wire.signal(signal.SIGKILL)
        assert wire.wait() == -signal.SIGKILL
    async with connected(tmp_path / "data", *WORDS_ONLY) as client:
        told = await call(client, "get_episode", **episode)
        assert [step["tool"] for step in told["steps"]] == [f"tool {number}" for number in range(10)]
        assert (await call(client, "health_check"))["overall"] == "healthy"
        added = await call(client, "add_episode_step", **episode, tool="another process")
        assert added["step_count"] == 11
        completed = await call(client, "complete_episode", **episode, outcome_type="success")
        assert completed["reward"]["total"] > 0
        assert (await call(client, "get_episode", episode_id=done))["outcome"]["reason"] == "no time"


async def test_what_one_process_writes_the_other_reads_at_once(tmp_path: Path) -> None:
    async with (
        connected(tmp_path, *WORDS_ONLY) as one,
        connected(tmp_path, *WORDS_ONLY, mode="legacy") as other,
    ):
        for number, (writer, reader) in enumerate([(one, other), (other, one), (one, other)], 1):
            started = await call(writer, "create_episode", task_description=f"Ship parcel {number}", domain="parcels")
            episode = {"episode_id": started["episode_id"]}
            assert (await call(reader, "get_episode", **episode))["status"] == "open"
            await call(writer, "add_episode_step", **episode, tool="weigh", result={"output": "2 kg"})
            # a step of one, then a step of the other: one row of numbers
            added = await call(reader, "add_episode_step", **episode, tool="stamp", result={"output": "stuck"})
            assert added["step_numbers"] == [2]
            assert len((await call(writer, "get_episode", **episode))["steps"]) == 2
            await call(writer, "complete_episode", **episode, outcome_type="success")
            found = await call(reader, "query_memory", query="ship a parcel", limit=1 + number)
            assert started["episode_id"] in [item["episode_id"] for item in found["episodes"]]
            assert found["count"] == number
            closed = await refused(reader, "add_episode_step", **episode, tool="too late")
            assert closed["code"] == "episode_closed"
            playbook = await call(reader, "recommend_playbook", task_description="Ship a parcel", domain="parcels")
            assert [step["tool"] for step in playbook["playbook"]["steps"]] == ["weigh", "stamp"]


async def test_two_processes_complete_episodes_at_the_same_time(tmp_path: Path) -> None:
    async with (
        connected(tmp_path, *WORDS_ONLY) as one,
        connected(tmp_path, *WORDS_ONLY) as other,
    ):

        async def work(client: Any, name: str, number: int) -> str:
            started = await call(client, "create_episode", task_description=f"Task {number} of {name}")
            episode = {"episode_id": started["episode_id"]}
            await asyncio.gather(*(call(client, "add_episode_step", **episode, tool="hit") for _ in range(3)))
            done = await call(client, "complete_episode", **episode, outcome_type="success")
            assert done["reward"]["total"] > 0
            return str(started["episode_id"])

        ids = await asyncio.gather(
            *(work(client, name, number) for number in range(8) for client, name in ((one, "one"), (other, "other")))
        )
        # of one episode that both want to end, one of them does
        shared = await call(one, "create_episode", task_description="Whose is it?")
        episode = {"episode_id": shared["episode_id"]}
        ends = await asyncio.gather(
            *(client.call_tool("complete_episode", {**episode, "outcome_type": "failure"}) for client in (one, other))
        )
        assert sorted(bool(end.is_error) for end in ends) == [False, True]
        for client in (one, other):
            counted = await call(client, "get_metrics")
            assert counted["episodes"]["total"] == 17
            assert counted["episodes"]["steps"] == 48
            assert counted["episodes"]["outcomes"] == {"success": 16, "failure": 1}
            for episode_id in ids:
                told = await call(client, "get_episode", episode_id=episode_id)
                assert [step["step_number"] for step in told["steps"]] == [1, 2, 3]
                assert told["reward"]
