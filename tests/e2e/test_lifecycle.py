"""The whole life of episodes through the official client and the real server process."""

from __future__ import annotations

from pathlib import Path

from tests.conftest import call, connected


async def test_a_failed_episode_teaches_the_next_one_its_way_out(tmp_path: Path) -> None:
    async with connected(tmp_path) as client:
        first = await call(client, "create_episode", task_description="Fix the flaky login test", domain="payments")
        error = {"type": "error", "message": "TimeoutError: waited 30 s for redis:6379"}
        await call(client, "add_episode_step", episode_id=first["episode_id"], tool="pytest", result=error)
        started = {"type": "success", "output": "started"}
        await call(
            client,
            "add_episode_step",
            episode_id=first["episode_id"],
            tool="docker",
            parameters={"service": "redis"},
            result=started,
        )
        passed = {"type": "success", "output": "3 passed"}
        await call(client, "add_episode_step", episode_id=first["episode_id"], tool="pytest", result=passed)
        done = await call(client, "complete_episode", episode_id=first["episode_id"], outcome_type="success")
        assert done["reward"]["total"] > 1
        assert done["reflection"]["successes"][0]["steps"] == [1, 2, 3]

        second = await call(client, "create_episode", task_description="The login test is flaky again")
        assert second["precedents"][0]["episode_id"] == first["episode_id"]
        assert [step["tool"] for step in second["playbook"]["steps"]] == ["docker", "pytest"]
        answer = await call(
            client,
            "add_episode_step",
            episode_id=second["episode_id"],
            tool="pytest",
            result={"type": "error", "message": "TimeoutError: waited 60 s for redis:6380"},
        )
        assert answer["lessons"][0]["advice"] == {"tool": "docker", "parameters": {"service": "redis"}}
