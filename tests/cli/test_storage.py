"""`memory-mcp storage`, run as a program."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tests.cli.conftest import Run, episode, lines
from tests.storage.sound import opened
from tests.storage.sound import run as tamper
from tests.storage.test_checkpoint import rewrite


@pytest.fixture
def data(run: Run, tmp_path: Path) -> Path:
    """A store that `import` has filled."""
    file = tmp_path / "log.jsonl"
    file.write_text(lines(*(episode(f"módulo {number}") for number in range(12))))
    done = run("import", "jsonl", file)
    assert done.code == 0, done.err
    return tmp_path / "data"


def test_a_sound_store_is_told_so(run: Run, data: Path) -> None:
    done = run("storage", "verify")
    assert done.code == 0, done.err
    assert done.summary["sound"] is True
    assert done.summary["findings"] == []
    assert "the store is sound" in done.err
    quick = run("storage", "verify", "--quick", "--data-dir", data)
    assert (quick.code, quick.summary["sound"]) == (0, True)
    assert "words" not in quick.err


def test_findings_are_json_on_stdout_and_lines_on_stderr_until_they_are_repaired(run: Run, data: Path) -> None:
    tamper(data, "UPDATE episodes SET task_description = '[bold]forged[/bold]' WHERE rowid = 1")
    done = run("storage", "verify")
    assert done.code == 1
    finding = next(item for item in done.summary["findings"] if item["check"] == "rows")
    assert finding.keys() == {"check", "severity", "subject", "problem", "repairable", "repaired", "hint"}
    assert (finding["severity"], finding["repairable"], finding["repaired"]) == ("error", True, False)
    assert finding["subject"].startswith("default/")
    assert "task_description" in finding["problem"]
    assert f"error rows: {finding['subject']}: {finding['problem']} (--repair makes it right)" in done.err
    mended = run("storage", "verify", "--repair")
    assert mended.code == 0, mended.err
    assert mended.summary["repaired"] > 0
    assert f"repaired rows: {finding['subject']}" in mended.err
    assert run("storage", "verify").summary["findings"] == []


def test_what_cannot_be_repaired_says_what_to_do(run: Run, data: Path) -> None:
    tamper(data, "UPDATE ledger SET actor = 'mallory' WHERE position = 2")
    for arguments in (["--repair"], []):
        done = run("storage", "verify", *arguments)
        assert done.code == 1
        assert "memory-mcp storage salvage" in done.err
        assert "memory-mcp backup restore" in done.err


def test_a_rewritten_history_is_found_with_a_checkpoint(run: Run, data: Path, tmp_path: Path) -> None:
    safe = tmp_path / "elsewhere"
    signed = run("storage", "checkpoint", "--key", safe / "k.pem", "--out", safe / "c.json")
    assert signed.code == 0, signed.err
    assert json.loads((safe / "c.json").read_text()) == signed.summary
    with_it = ("--checkpoint", safe / "c.json", "--public-key", safe / "k.pem.pub")
    assert run("storage", "verify", *with_it).code == 0
    rewrite(data)
    assert run("storage", "verify").code == 0
    done = run("storage", "verify", *with_it)
    assert done.code == 1
    assert [item["check"] for item in done.summary["findings"]] == ["checkpoint"]


def test_the_key_lies_in_the_data_directory_unless_another_is_named(run: Run, data: Path) -> None:
    assert run("storage", "checkpoint").code == 0
    assert (data / "keys" / "checkpoint.pem").stat().st_mode & 0o777 == 0o600
    assert run("storage", "verify").code == 0


def test_a_damaged_store_is_salvaged_into_a_new_one(run: Run, data: Path, tmp_path: Path) -> None:
    file = data / "memory.db"
    content = bytearray(file.read_bytes())
    rng = random.Random(3)
    for page in rng.sample(range(len(content) // 4096), 12):
        content[page * 4096 : (page + 1) * 4096] = rng.randbytes(4096)
    file.write_bytes(content)
    assert run("storage", "verify").code == 1
    done = run("storage", "salvage", "--to", tmp_path / "new")
    assert done.code == 0, done.err
    assert done.summary["lost_positions"]
    assert file.read_bytes() == content
    assert run("storage", "verify", "--data-dir", tmp_path / "new").code == 0
    with opened(tmp_path / "new") as session:
        assert session.one("SELECT 1 FROM ledger WHERE operation = 'store.salvaged'")
    again = run("storage", "salvage", "--to", tmp_path / "new")
    assert (again.code, "is not an empty directory" in again.err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["verify", "--repair", "--quick"], 2, "Leave out --quick"),
        (["verify", "--public-key", "k.pub"], 2, "--checkpoint"),
        (["verify", "--checkpoint", "missing.json"], 1, "checkpoint_error"),
        (["verify", "--data-dir", "nowhere"], 1, "there is no store"),
        (["checkpoint", "--data-dir", "nowhere"], 1, "there is no store"),
        (["salvage", "--data-dir", "nowhere", "--to", "new"], 1, "storage_unavailable"),
        (["salvage"], 2, "--to"),
    ],
)
def test_what_cannot_be_done_is_refused_and_nothing_is_made(
    run: Run, data: Path, tmp_path: Path, arguments: list[str], code: int, told: str
) -> None:
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run("storage", *arguments)
    assert (done.code, done.out) == (code, "")
    assert told in done.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before
