"""A disk that fills up under a real server, and one that cannot be written to."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.durability.audit import audit
from tests.durability.support import (
    begin,
    file_system,
    fill,
    healthy,
    names,
    remount,
    server,
    tools_of,
    wait_until,
)


def test_on_a_full_disk_writes_are_refused_clearly_and_go_on_when_there_is_room(tmp_path: Path) -> None:
    with file_system(tmp_path / "home" / "data", "8m") as disk, server(tmp_path / "home") as wire:
        episode = begin(wire)
        taken, refusal = fill(wire, episode, 0)
        assert taken > 50
        assert refusal["code"] == "storage_unavailable"
        assert "No space left on device" in refusal["message"]
        assert "health_check" in refusal["hint"]
        # whoever asks again is told the same, and reading goes on
        for _ in range(3):
            assert wire.refused("add_episode_step", episode_id=episode, tool="x" * 200)["code"] == "storage_unavailable"
        assert tools_of(wire, episode) == names(taken)
        health = wire.call("health_check")
        assert health["overall"] == "degraded"
        assert "No space left" in health["journal"]["error"]
        remount(disk, "size=64m")
        wait_until(lambda: healthy(wire))
        more = wire.call("add_episode_step", episode_id=episode, tool=f"t{taken}")
        assert more["step_numbers"] == [taken + 1]
        wire.call("complete_episode", episode_id=episode, outcome_type="success")
        assert tools_of(wire, episode) == names(taken + 1)
        wait_until(lambda: wire.call("health_check")["cache_storage"].get("lag") == 0)
        assert audit(tmp_path / "home" / "data").problems == []


def test_a_server_that_is_killed_on_a_full_disk_leaves_everything_to_the_next(tmp_path: Path) -> None:
    with file_system(tmp_path / "home" / "data", "8m") as disk:
        with server(tmp_path / "home") as wire:
            episode = begin(wire)
            taken, _ = fill(wire, episode, 0)
            wire.signal(signal.SIGKILL)
            wire.wait()
        with server(tmp_path / "home") as wire:
            assert tools_of(wire, episode) == names(taken)
            remount(disk, "size=64m")
            wait_until(lambda: healthy(wire))
            assert wire.call("add_episode_step", episode_id=episode, tool=f"t{taken}")["step_count"] == taken + 1


def test_where_only_the_journal_has_room_writes_wait_and_outlive_their_process(tmp_path: Path) -> None:
    data = tmp_path / "home" / "data"
    with file_system(data, "8m") as disk, file_system(data / "pending", "8m"):
        with server(tmp_path / "home") as wire:
            episode = begin(wire)
            taken, answer = fill(wire, episode, 0)
            assert answer["pending"]
            taken += 1
            for _ in range(3):
                assert wire.call("add_episode_step", episode_id=episode, tool=f"t{taken}")["pending"]
                taken += 1
            second = wire.call("create_episode", task_description="begun on a full disk")
            assert second["pending"]
            wire.call("add_episode_step", episode_id=second["episode_id"], tool="t0")
            assert tools_of(wire, episode) == names(taken)
            assert wire.call("health_check")["journal"]["pending_writes"] == 6
            wire.signal(signal.SIGKILL)
            wire.wait()
        with server(tmp_path / "home") as wire:
            assert tools_of(wire, episode) == names(taken)
            assert tools_of(wire, second["episode_id"]) == ["t0"]
            remount(disk, "size=64m")
            wait_until(lambda: healthy(wire))
            assert tools_of(wire, episode) == names(taken)
            wire.call("complete_episode", episode_id=second["episode_id"], outcome_type="failure")
            wait_until(lambda: wire.call("health_check")["cache_storage"].get("lag") == 0)
        assert audit(data).problems == []


@pytest.mark.parametrize("ending", ["killed", "closed"])
def test_in_a_directory_that_is_read_only_reading_goes_on_and_writing_waits_until_it_is_writable(
    tmp_path: Path, ending: str
) -> None:
    home = tmp_path / "home"
    with file_system(home / "data", "32m") as disk:
        with server(home) as wire:
            episode = begin(wire, steps=3)
            if ending == "killed":
                wire.signal(signal.SIGKILL)
                wire.wait()
            else:
                assert wire.end() == 0
        assert (disk / "memory.db-wal").exists() == (ending == "killed")
        remount(disk, "ro")
        (home / "stderr.txt").unlink()
        with server(home) as wire:
            for _ in range(8):
                for tool, arguments in (
                    ("create_episode", {"task_description": "not to be written"}),
                    ("add_episode_step", {"episode_id": episode, "tool": "nowhere"}),
                    ("complete_episode", {"episode_id": episode, "outcome_type": "success"}),
                ):
                    refusal = wire.refused(tool, **arguments)
                    assert refusal["code"] == "storage_unavailable"
                    assert "Read-only file system" in refusal["message"]
                    assert "read-only" in refusal["hint"]
            assert tools_of(wire, episode) == names(3)
            wire.call("query_memory", query="live through a fault", episode_id=episode)
            found = wire.call("query_memory", query="live through a fault")
            assert "degraded" not in found
            assert [item["episode_id"] for item in found["episodes"]] == [episode]
            health = wire.call("health_check")
            assert health["overall"] == "degraded"
            assert health["primary_storage"]["read_only"] is True
            assert "Read-only file system" in health["primary_storage"]["error"]
            assert "Read-only file system" in health["journal"]["error"]
            # the store, the cache and the journal, once each
            assert len(wire.errors().splitlines()) == 3
            remount(disk, "rw")
            wait_until(lambda: healthy(wire))
            assert "read_only" not in wire.call("health_check")["primary_storage"]
            assert tools_of(wire, episode) == names(3)
            assert wire.call("add_episode_step", episode_id=episode, tool="t3")["step_count"] == 4
            wire.call("complete_episode", episode_id=episode, outcome_type="success")
            assert wire.call("health_check")["memory_system"]["learning_lag"] == 0
            wait_until(lambda: list((disk / "run").glob("*.sock")))
            wait_until(lambda: wire.call("health_check")["cache_storage"].get("lag") == 0)
        assert audit(home / "data").problems == []
