"""`memory-mcp history`, `snapshot`, `export` and `forget`, run as a program on the data of a real import."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run, episode, lines

NAMES = ("mend", "sew", "knit")


@pytest.fixture
def ids(run: Run, tmp_path: Path) -> list[str]:
    """Three episodes that `import` has brought in."""
    file = tmp_path / "log.jsonl"
    file.write_text(lines(*(episode(name) for name in NAMES)))
    assert run("import", "jsonl", file).code == 0
    entries = run("history", "list").summary["entries"]
    return [entry["subject_id"] for entry in entries if entry["operation"] == "episode.created"]


def test_a_snapshot_is_rolled_back_to_and_the_rollback_is_undone(run: Run, ids: list[str], tmp_path: Path) -> None:
    made = run("snapshot", "create", "three of them").summary
    assert run("snapshot", "list").summary["snapshots"][0]["name"] == "three of them"
    more = tmp_path / "more.jsonl"
    more.write_text(lines(episode("one more")))
    assert run("import", "jsonl", more).summary["episodes"] == 4
    done = run("snapshot", "rollback", "three of them")
    assert done.code == 0, done.err
    assert len(done.summary["removed"]) == 1
    assert done.summary["to"] == made["position"]
    gone = done.summary["removed"][0]
    was = str(done.summary["position"] - 2)
    assert run("history", "show", gone, "--as-of", was).summary["status"] == "completed"
    back = run("history", "undo", str(done.summary["position"]))
    assert back.summary["episodes"] == [gone]
    assert run("storage", "verify").code == 0
    patterns = run("history", "patterns", "--as-of", "three of them").summary
    assert patterns["statistics"]["episodes"] == 3


def test_forgetting_is_a_dry_run_until_it_is_meant(run: Run, ids: list[str], tmp_path: Path) -> None:
    backup = run("backup", "create").summary
    radius = run("forget", ids[0]).summary
    assert radius["dry_run"] is True
    assert [item["episode_id"] for item in radius["episodes"]] == [ids[0]]
    assert len(radius["backups"]) == 1
    assert radius["backups"][0] in json.dumps(backup)
    assert run("history", "list", "--episode", ids[0]).summary["entries"][-1]["operation"] == "episode.learned"
    done = run("forget", ids[0], "--yes", "--reason", "by request").summary
    assert (done["dry_run"], done["scrubbed"]) == (False, True)
    entries = run("history", "list", "--episode", ids[0]).summary["entries"]
    assert entries[-1]["operation"] == "episode.forgotten"
    assert all(entry["erased"] for entry in entries[:-1])
    database = (tmp_path / "data" / "memory.db").read_bytes()
    assert b"in mend" not in database
    assert b"in sew" in database
    assert run("storage", "verify").code == 0


def test_changes_and_episodes_are_exported_as_json_lines(run: Run, ids: list[str], tmp_path: Path) -> None:
    out = run("export", "changes", "--since", "1")
    changes = [json.loads(line) for line in out.out.splitlines()]
    assert [change["position"] for change in changes] == list(range(2, 2 + len(changes)))
    assert all(change["payload"] for change in changes)
    assert json.loads(out.err)["exported"] == len(changes)
    file = tmp_path / "episodes.jsonl"
    assert run("export", "episodes", "--out", file).code == 0
    # what was exported can be imported elsewhere
    there = run("import", "jsonl", file, "--data-dir", tmp_path / "elsewhere")
    assert there.summary["imported"] == 3
    again = run("export", "episodes", "--out", file)
    assert again.code == 1
    assert "exists" in again.err


def test_what_cannot_be_done_is_a_sentence_and_exit_code_1(run: Run, ids: list[str]) -> None:
    for arguments, code in (
        (("history", "show", "nobody", "--as-of", "5"), "episode_not_found"),
        (("history", "show", ids[0], "--as-of", "no such thing"), "snapshot_not_found"),
        (("history", "undo", "99999"), "entry_not_found"),
        (("snapshot", "rollback", "never made"), "snapshot_not_found"),
        (("snapshot", "create", "12"), "invalid_argument"),
        (("forget", "nobody"), "episode_not_found"),
        (("forget", ids[0], ids[0], "--yes"), "invalid_argument"),
    ):
        done = run(*arguments)
        assert (done.code, done.out) == (1, "")
        assert code in done.err
    assert run("history", "undo", "0").code == 2
    assert len(run("export", "episodes").out.splitlines()) == 3


def test_compacting_gives_room_back(run: Run, ids: list[str]) -> None:
    done = run("storage", "compact")
    assert done.code == 0, done.err
    assert done.summary["scrubbed"] is True
    assert run("storage", "verify").code == 0


def test_what_is_no_text_or_no_position_is_refused_in_a_sentence(run: Run, ids: list[str]) -> None:
    for arguments, code in (
        (("history", "list", "--since", "9" * 20), 2),
        (("export", "changes", "--since", "9" * 20), 2),
        (("history", "undo", "9" * 19), 2),
        (("snapshot", "rollback", "9" * 5000), 1),
        (("snapshot", "rollback", "999999"), 1),
        (("history", "patterns", "--as-of", ""), 1),
        (("history", "show", ids[0], "--as-of", " "), 1),
        (("snapshot", "create", " blank "), 1),
        (("snapshot", "create", "two\nlines"), 1),
        (("snapshot", "create", "-1"), 2),
        (("forget", ids[0], "--yes", "--reason", "x" * 2_000), 1),
        (("snapshot", "create", "bad \udcff bytes"), 1),
        (("forget", "\udcff"), 1),
    ):
        done = run(*arguments)
        assert (done.code, done.out) == (code, ""), arguments
        assert "Traceback" not in done.err, arguments
    assert run("history", "list", "--namespace", " default ").summary["entries"]


def test_a_restore_names_what_was_forgotten_and_is_back(run: Run, ids: list[str]) -> None:
    made = run("backup", "create").summary
    assert run("forget", ids[0], "--yes").code == 0
    done = run("backup", "restore", made["name"], "--force")
    assert done.code == 0, done.err
    assert done.summary["resurrected"] == [f"default/{ids[0]}"]
    assert "forget them again" in done.err
    assert run("forget", ids[0], "--yes").code == 0
