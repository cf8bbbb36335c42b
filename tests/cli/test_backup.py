"""`memory-mcp backup` as a person runs it, beside servers that go on working."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from tests.cli.conftest import Ran, Run, lines
from tests.cli.conftest import episode as an_episode
from tests.conftest import PATIENCE, call, connected, refused

SERVER = ("--embedder", "none")


@pytest.fixture
def filled(run: Run, tmp_path: Path) -> Run:
    """The program, over a store with two episodes."""
    file = tmp_path / "episodes.jsonl"
    file.write_text(lines(an_episode("login"), an_episode("search")), encoding="utf-8")
    assert run("import", "jsonl", file).code == 0
    return run


def listed(ran: Ran) -> list[dict[str, Any]]:
    return list(ran.summary["backups"])


def test_a_backup_is_made_listed_verified_and_restored(filled: Run, tmp_path: Path) -> None:
    made = filled("backup", "create")
    assert (made.code, made.err) == (0, "")
    assert (made.summary["reason"], made.summary["episodes"], made.summary["checked"]) == ("manual", 2, "full")
    name = made.summary["name"]
    assert [item["name"] for item in listed(filled("backup", "list"))] == [name]
    verified = filled("backup", "verify", name)
    assert (verified.code, verified.summary) == (0, {"checked": [name], "findings": []})
    refusal = filled("backup", "restore", name)
    assert (refusal.code, refusal.out) == (1, "")
    assert "restore_refused" in refusal.err
    assert "2 episodes" in refusal.err
    assert "--force" in refusal.err
    restored = filled("backup", "restore", name, "--force")
    assert restored.code == 0
    assert restored.summary["restored"] == name
    assert restored.summary["saved"]["reason"] == "before-restore"
    assert [item["reason"] for item in listed(filled("backup", "list"))] == ["before-restore", "manual"]
    elsewhere = {"MEMORY_MCP_DATA_DIR": str(tmp_path / "elsewhere")}
    assert filled("backup", "restore", str(tmp_path / "data" / "backups" / name), **elsewhere).code == 0
    assert filled("backup", "create", **elsewhere).summary["episodes"] == 2


def test_backups_go_to_another_place_and_the_oldest_are_deleted(filled: Run, tmp_path: Path) -> None:
    place = tmp_path / "far away"
    names = [filled("backup", "create", "--to", place, "--quick").summary["name"] for _ in range(2)]
    last = filled("backup", "create", "--to", place, "--keep", "1", "--quick").summary
    assert sorted(last["deleted"]) == sorted(names)
    assert last["checked"] == "quick"
    assert [item["name"] for item in listed(filled("backup", "list", "--from", place))] == [last["name"]]
    assert listed(filled("backup", "list")) == []
    assert filled("backup", "restore", last["name"], "--from", place, "--force").code == 0


def test_damage_is_named_and_ends_with_code_1(filled: Run, tmp_path: Path) -> None:
    good, bad = (filled("backup", "create", "--quick").summary for _ in range(2))
    database = Path(bad["path"]) / "memory.db"
    database.write_bytes(database.read_bytes()[:-1] + b"\xff")
    told = filled("backup", "verify", "--all")
    assert told.code == 1
    assert sorted(told.summary["checked"]) == sorted([good["name"], bad["name"]])
    assert [finding["backup"] for finding in told.summary["findings"]] == [bad["name"]]
    assert "memory.db" in told.summary["findings"][0]["problem"]
    refusal = filled("backup", "restore", bad["name"], "--force")
    assert refusal.code == 1
    assert "backup_damaged" in refusal.err


def test_what_is_no_backup_is_named_on_stderr(filled: Run, tmp_path: Path) -> None:
    made = filled("backup", "create", "--quick").summary
    (tmp_path / "data" / "backups" / "[holiday]").mkdir()
    told = filled("backup", "list")
    assert [item["name"] for item in listed(told)] == [made["name"]]
    assert "[holiday]: no backup" in told.err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("create",), 1, "backup_failed"),
        (("verify", "nothing"), 1, "backup_not_found"),
        (("restore", "nothing"), 1, "backup_not_found"),
        (("verify",), 2, "name one backup"),
        (("verify", "x", "--all"), 2, "name one backup"),
        (("create", "--keep", "0"), 2, "--keep"),
    ],
)
def test_what_cannot_be_done_is_said(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    ran = run("backup", *arguments)
    assert (ran.code, ran.out) == (code, "")
    assert said in ran.err
    assert "Traceback" not in ran.err


async def answer(client: Client, tool: str, arguments: dict[str, Any], good: Callable[[Any], bool]) -> dict[str, Any]:
    """The first answer of a tool that is as it should be."""
    async with asyncio.timeout(PATIENCE):
        while True:
            told = (await client.call_tool(tool, arguments)).structured_content
            if good(told):
                return dict(told or {})
            await asyncio.sleep(0.02)


async def worked(client: Client, task: str) -> str:
    started = await call(client, "create_episode", task_description=task)
    for tool in ("look", "fix"):
        await call(client, "add_episode_step", episode_id=started["episode_id"], tool=tool)
    await call(client, "complete_episode", episode_id=started["episode_id"], outcome_type="success")
    return str(started["episode_id"])


async def test_running_servers_go_on_with_what_was_restored(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data) as one, connected(data, *SERVER) as two:
        await answer(one, "health_check", {}, lambda told: told["memory_system"]["semantic_search"] == "ready")
        old = await worked(one, "Repair the login page")
        made = await asyncio.to_thread(run, "backup", "create")
        new = await worked(two, "Paint the garden fence")
        for client in (one, two):
            found = await call(client, "query_memory", query="Paint the garden fence")
            assert new in [item["episode_id"] for item in found["episodes"]]
            await call(client, "get_episode", episode_id=new)
        restored = await asyncio.to_thread(run, "backup", "restore", made.summary["name"], "--force")
        assert restored.code == 0, restored.err
        assert restored.summary["saved"]["episodes"] == 2
        for client in (one, two):
            gone = await answer(client, "get_episode", {"episode_id": new}, lambda told: "code" in told)
            assert gone["code"] == "episode_not_found"
            assert len((await call(client, "get_episode", episode_id=old))["steps"]) == 2
            found = await call(client, "query_memory", query="Paint the garden fence")
            assert new not in [item["episode_id"] for item in found["episodes"]]
            assert (await refused(client, "add_episode_step", episode_id=new, tool="x"))["code"] == "episode_not_found"
        written = [await worked(client, "Repair the login page again") for client in (one, two)]
        for client in (one, two):
            for episode_id in (old, *written):
                assert len((await call(client, "get_episode", episode_id=episode_id))["steps"]) == 2
            found = await call(client, "query_memory", query="Repair the login page")
            assert {item["episode_id"] for item in found["episodes"]} == {old, *written}
            await answer(client, "health_check", {}, lambda told: told["overall"] == "healthy")
        # the way back, to the content that was replaced
        back = await asyncio.to_thread(run, "backup", "restore", restored.summary["saved"]["name"], "--force")
        assert back.code == 0, back.err
        for client in (one, two):
            told = await answer(client, "get_episode", {"episode_id": new}, lambda told: "code" not in told)
            assert len(told["steps"]) == 2
    checked = await asyncio.to_thread(run, "backup", "verify", "--all")
    assert (checked.code, checked.summary["findings"]) == (0, [])


async def whole(client: Client, episode: dict[str, str]) -> Any:
    """The episode with all its steps, not only the first page."""
    return await call(client, "get_episode", **episode, token_budget=1_000_000)


async def test_no_write_that_was_acknowledged_during_a_restore_is_in_neither_copy(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data, *SERVER) as client:
        episode = {"episode_id": (await call(client, "create_episode", task_description="Count"))["episode_id"]}
        made = await asyncio.to_thread(run, "backup", "create")
        acknowledged: list[str] = []
        over = asyncio.Event()

        async def count() -> None:
            while not over.is_set():
                name = f"step {len(acknowledged)}"
                told = await call(client, "add_episode_step", **episode, tool=name)
                assert "pending" not in told
                acknowledged.append(name)

        counting = asyncio.create_task(count())
        restored = await asyncio.to_thread(run, "backup", "restore", made.summary["name"], "--force")
        over.set()
        await counting
        assert restored.code == 0, restored.err
        told = await whole(client, episode)
        after = [step["tool"] for step in told["steps"]]
    saved = restored.summary["saved"]["name"]
    assert run("backup", "restore", saved, "--force").code == 0
    async with connected(data, *SERVER) as client:
        before = [step["tool"] for step in (await whole(client, episode))["steps"]]
    assert before
    assert before + after == acknowledged


async def test_without_a_server_pending_commands_come_with_the_backup(run: Run, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data, *SERVER) as client:
        episode = {"episode_id": (await call(client, "create_episode", task_description="Wait"))["episode_id"]}
        database = data / "memory.db"
        away = tmp_path / "away.db"
        database.rename(away)
        assert (await call(client, "add_episode_step", **episode, tool="waits"))["pending"] is True
        away.rename(database)
        made = run("backup", "create")
    told = made.summary
    lines_of = (Path(told["path"]) / "pending.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines_of) == told["pending"]
    assert told["pending"] + told["steps"] >= 1, "the step is in the database, or it waits"
    assert all(json.loads(line)["operation"] == "episode.add_steps" for line in lines_of)
