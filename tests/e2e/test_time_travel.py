"""The past, through the official client and real servers, while the program goes back and forgets beside them."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from mcp import Client

from tests.conftest import PATIENCE, PROGRAM, call, connected, refused


async def program(data_dir: Path, *arguments: str) -> dict[str, Any]:
    """Run a command of the program and return what it prints."""
    process = await asyncio.create_subprocess_exec(
        str(PROGRAM),
        *arguments,
        "--data-dir",
        str(data_dir),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=sys.stderr,
    )
    out, _ = await asyncio.wait_for(process.communicate(), PATIENCE)
    assert process.returncode == 0
    return dict(json.loads(out))


async def a_task(client: Client, text: str) -> str:
    begun = await call(client, "create_episode", task_description=text, domain="files", task_type="debugging")
    episode_id = str(begun["episode_id"])
    error = {"type": "error", "message": "ValueError: bad delimiter"}
    await call(client, "add_episode_step", episode_id=episode_id, tool="parse", result=error)
    await call(client, "add_episode_step", episode_id=episode_id, tool="parse", parameters={"delimiter": ";"})
    await call(client, "complete_episode", episode_id=episode_id, outcome_type="success")
    return episode_id


async def test_servers_answer_as_of_a_moment_and_follow_what_goes_back_beside_them(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with connected(data, "--embedder", "none") as client:
        first = await a_task(client, "mend the csv file")
        second = await a_task(client, "mend the other csv file")
        then = await call(client, "analyze_patterns", min_success_rate=0.0)
        await program(data, "snapshot", "create", "two tasks")
        third = await a_task(client, "mend one more csv file")
        assert await call(client, "analyze_patterns", min_success_rate=0.0) != then
        assert await call(client, "analyze_patterns", min_success_rate=0.0, as_of="two tasks") == then
        assert (await refused(client, "get_episode", episode_id=third, as_of="two tasks"))[
            "code"
        ] == "episode_not_found"
        entries = (await program(data, "history", "list", "--episode", first))["entries"]
        started = await call(client, "get_episode", episode_id=first, as_of=str(entries[0]["position"]))
        assert (started["status"], started["steps"]) == ("open", [])
        assert (await call(client, "get_episode", episode_id=first, as_of="2999-12-31"))["status"] == "completed"

        done = await program(data, "snapshot", "rollback", "two tasks")
        assert (await refused(client, "get_episode", episode_id=third))["code"] == "episode_not_found"
        assert await call(client, "analyze_patterns", min_success_rate=0.0) == then
        found = await call(client, "query_memory", query="one more csv file")
        assert third not in [item["episode_id"] for item in found["episodes"]]
        assert (await refused(client, "add_episode_step", episode_id=third, tool="x"))["code"] == "episode_not_found"
        await program(data, "history", "undo", str(done["position"]))
        assert (await call(client, "get_episode", episode_id=third))["status"] == "completed"

        await program(data, "forget", first, "--yes")
        assert (await refused(client, "get_episode", episode_id=first))["code"] == "episode_not_found"
        gone = await refused(client, "get_episode", episode_id=first, as_of="two tasks")
        assert gone["code"] == "beyond_recall"
        assert first not in json.dumps(await call(client, "query_memory", query="mend the csv file"))
        assert (await call(client, "get_episode", episode_id=second))["status"] == "completed"
        health = await call(client, "health_check")
        assert health["overall"] == "healthy", health
        sizes = (await call(client, "get_metrics", metric_type="storage"))["storage"]["bytes"]
        assert sizes["total"] >= sizes["memory.db"] > 0
