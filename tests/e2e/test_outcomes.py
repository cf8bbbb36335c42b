"""Every way in which a task can end, in both eras of the protocol, and namespaces that do not see each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.conftest import call, connected, refused

ERAS = ("legacy", "2026-07-28")


async def played(client: Client, task: str, outcome: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What completing an episode of two steps, one of them an error, answers."""
    started = await call(client, "create_episode", task_description=task, **fields)
    place = {"episode_id": started["episode_id"], "namespace": fields.get("namespace", "")}
    steps = [
        {"tool": "deploy", "result": {"type": "error", "message": "PermissionError: denied for staging"}},
        {"tool": "login", "parameters": {"role": "admin"}, "result": {"type": "success", "output": "ok"}},
        {"tool": "deploy", "result": {"type": "success", "output": "deployed"}},
    ]
    await call(client, "add_episode_step", **place, steps=steps)
    return await call(client, "complete_episode", **place, **outcome)


@pytest.mark.parametrize("era", ERAS)
async def test_every_outcome_is_kept_rewarded_and_learned_from(tmp_path: Path, era: str) -> None:
    outcomes: list[dict[str, Any]] = [
        {"outcome_type": "success", "verdict": "runs", "artifacts": ["release-7"]},
        {"outcome_type": "partial_success", "completed": ["api"], "failed": ["web"], "score": 0.4},
        {"outcome_type": "failure", "reason": "the staging cluster is gone"},
        {"outcome_type": "abstained", "reason": "not allowed to deploy on Fridays"},
    ]
    async with connected(tmp_path, "--embedder", "none", mode=era) as client:
        done = [await played(client, f"Deploy release {n}", outcome) for n, outcome in enumerate(outcomes)]
        for answer, outcome in zip(done, outcomes, strict=True):
            told = await call(client, "get_episode", episode_id=answer["episode_id"])
            assert told["status"] == answer["status"] == "completed"
            assert told["outcome"]["type"] == answer["outcome"] == outcome["outcome_type"]
            for name in ("verdict", "artifacts", "completed", "failed", "reason", "score"):
                assert told["outcome"].get(name) == outcome.get(name)
            assert told["reward"] == answer["reward"]
            assert told["reflection"] == answer["reflection"]
            assert [step["step_number"] for step in told["steps"]] == [1, 2, 3]
        success, partial, failure, abstained = (answer["reward"]["total"] for answer in done)
        assert success > partial > failure
        assert failure <= abstained <= success
        # failed episodes are learned from, too
        assert done[2]["learned"]["patterns"]
        counted = await call(client, "get_metrics", metric_type="episodes")
        assert counted["episodes"]["outcomes"] == {
            "success": 1,
            "partial_success": 1,
            "failure": 1,
            "abstained": 1,
        }
        found = await call(client, "query_memory", query="deploy release", filters={"outcome": "failure"})
        assert [item["reason"] for item in found["episodes"]] == ["the staging cluster is gone"]
        again = await refused(client, "complete_episode", episode_id=done[0]["episode_id"], outcome_type="failure")
        assert again["code"] == "episode_closed"


async def test_namespaces_do_not_see_each_other(tmp_path: Path) -> None:
    async with connected(tmp_path, "--embedder", "none") as client:
        secret = await played(
            client,
            "Deploy the secret project",
            {"outcome_type": "success", "verdict": "classified"},
            namespace="team/a",
        )
        mine = {"namespace": "team/b"}
        for asked in (mine, {}, {"namespace": "team"}, {"namespace": "team/a/sub"}):
            assert (await call(client, "query_memory", query="deploy the secret project", **asked))["episodes"] == []
            assert (await call(client, "analyze_patterns", min_success_rate=0, **asked))["patterns"] == []
            playbook = await call(client, "recommend_playbook", task_description="Deploy the secret project", **asked)
            assert playbook["playbook"] is None
            assert playbook["precedents"] == []
            counted = await call(client, "get_metrics", **asked)
            assert counted["episodes"]["total"] == counted["patterns"]["total"] == 0
            for tool, arguments in (
                ("get_episode", {}),
                ("add_episode_step", {"tool": "peek"}),
                ("complete_episode", {"outcome_type": "failure"}),
                ("query_memory", {"query": "x"}),
            ):
                found = await refused(client, tool, episode_id=secret["episode_id"], **arguments, **asked)
                assert found["code"] == "episode_not_found"
        other = await call(client, "create_episode", task_description="Deploy the secret project", **mine)
        assert not {"precedents", "playbook", "pitfalls"} & other.keys()
        failed = {"type": "error", "message": "PermissionError: denied for staging"}
        step = await call(
            client, "add_episode_step", episode_id=other["episode_id"], tool="deploy", result=failed, **mine
        )
        assert "lessons" not in step
        # and from inside everything is there
        inside = {"namespace": "team/a"}
        assert (await call(client, "query_memory", query="secret project", **inside))["count"] == 1
        playbook = await call(client, "recommend_playbook", task_description="Deploy the secret project", **inside)
        assert playbook["playbook"]["source"] == secret["episode_id"]
