"""A data directory that cannot be used: the handshake works, every tool says what is wrong, and the process ends."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server.test_bad_input import EVERY_TOOL
from tests.server.wire import Wire, request

DATABASE = "memory.db"


def _is_a_file(data: Path) -> None:
    data.write_text("not a directory")


def _below_a_file(data: Path) -> None:
    data.parent.joinpath("file").write_text("not a directory")
    data.symlink_to(data.parent / "file" / "below")


def _newer_schema(data: Path) -> None:
    data.mkdir()
    with sqlite3.connect(data / DATABASE) as database:
        database.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
        database.execute("INSERT INTO meta VALUES ('schema_version', '9999'), ('store_id', 'x')")
    database.close()


def _foreign(data: Path) -> None:
    data.mkdir()
    with sqlite3.connect(data / DATABASE) as database:
        database.execute("CREATE TABLE recipes (name TEXT)")
    database.close()


def _garbage(data: Path) -> None:
    data.mkdir()
    (data / DATABASE).write_bytes(b"this is no database at all\n" * 1_000)


UNUSABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "is a file": (_is_a_file, "storage_unavailable"),
    "lies below a file": (_below_a_file, "storage_unavailable"),
    "has a newer schema": (_newer_schema, "schema_too_new"),
}
BROKEN: dict[str, Callable[[Path], None]] = {"foreign": _foreign, "garbage": _garbage}


@pytest.mark.parametrize("name", UNUSABLE)
def test_with_an_unusable_directory_every_tool_says_what_is_wrong(tmp_path: Path, name: str) -> None:
    spoil, code = UNUSABLE[name]
    spoil(tmp_path / "data")
    with Wire(tmp_path) as wire:
        assert wire.handshake()["result"]["serverInfo"]["name"] == "memory-mcp"
        assert len(wire.ask(request("tools/list", 1))["result"]["tools"]) == len(EVERY_TOOL)
        for _ in range(2):
            for tool, arguments in EVERY_TOOL.items():
                if tool == "health_check":
                    continue
                found = wire.refused(tool, **arguments)
                assert found["code"] == code
                assert found["hint"]
                assert str(tmp_path) not in found["message"]
            health = wire.call("health_check")
            assert health["overall"] == "unhealthy"
            assert health["primary_storage"]["status"] == "unhealthy"
            assert health["primary_storage"]["code"] == code
            assert health["primary_storage"]["hint"]
        # what is wrong with an argument is said first by nobody: there is nothing that could be written
        assert wire.refused("query_memory", wrong=1)["code"] == "unknown_argument"
        assert wire.end() == 0
    assert "Traceback" not in wire.errors()
    assert "cannot be opened" in wire.errors()


def test_a_directory_that_can_be_made_after_all_is_used(tmp_path: Path) -> None:
    _is_a_file(tmp_path / "data")
    with Wire(tmp_path) as wire:
        wire.handshake()
        assert wire.refused("create_episode", task_description="Too early")["code"] == "storage_unavailable"
        (tmp_path / "data").unlink()
        assert wire.call("create_episode", task_description="In time")["status"] == "open"
        assert wire.call("health_check")["overall"] == "healthy"
        assert wire.end() == 0
    with Wire(tmp_path) as wire:
        wire.handshake()
        assert wire.call("get_metrics", metric_type="episodes")["episodes"]["total"] == 1


def told_by_sqlite(file: Path) -> object:
    """What is in a database; its bytes where it is none."""
    database = sqlite3.connect(file)
    try:
        return database.execute("SELECT name, sql FROM sqlite_schema").fetchall()
    except sqlite3.DatabaseError:
        return file.read_bytes()
    finally:
        database.close()


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_database_is_left_alone_and_writes_wait_for_a_better_one(tmp_path: Path, name: str) -> None:
    BROKEN[name](tmp_path / "data")
    database = tmp_path / "data" / DATABASE
    before = told_by_sqlite(database)
    with Wire(tmp_path) as wire:
        wire.handshake()
        health = wire.call("health_check")
        assert health["overall"] in ("degraded", "unhealthy")
        assert health["primary_storage"]["status"] == "unhealthy"
        assert health["primary_storage"]["error"]
        started = wire.call("create_episode", task_description="Written while the store is broken")
        assert started["pending"] is True
        for tool in ("query_memory", "analyze_patterns", "recommend_playbook", "get_metrics"):
            result = wire.result(tool, EVERY_TOOL[tool])
            if result["isError"]:
                assert result["structuredContent"]["code"] in ("storage_unavailable", "store_corrupt")
                assert str(tmp_path) not in result["content"][0]["text"]
            else:
                assert result["structuredContent"]["degraded"] is True
        # what waits in the journal can be read
        told = wire.call("get_episode", episode_id=started["episode_id"])
        assert told["pending_writes"] == 1
        assert wire.call("health_check")["journal"]["pending_writes"] == 1
        assert wire.end() == 0
    assert told_by_sqlite(database) == before
    assert "Traceback" not in wire.errors()
    database.unlink()
    with Wire(tmp_path) as wire:
        wire.handshake()
        assert wire.call("get_episode", episode_id=started["episode_id"])["status"] == "open"
