"""`memory-mcp import`: good files, bad lines, beside a running server, and interrupted."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from memory_mcp.cli.importing import _batches, run_import
from memory_mcp.errors import ImportFormatError, InternalError
from memory_mcp.evaluation.importers import FORMATS, Problem
from memory_mcp.records.episode import ImportedEpisode
from memory_mcp.services.episodes import EpisodeService
from memory_mcp.settings import Settings
from tests.cli.conftest import FILES, Run, episode, lines
from tests.conftest import PATIENCE, PROGRAM
from tests.server.wire import Wire, environment


async def test_the_formats_of_these_tests_are_those_of_the_program() -> None:
    assert set(FILES) == set(FORMATS)


@pytest.mark.parametrize("name", FILES)
def test_a_good_file_is_imported_once(run: Run, tmp_path: Path, name: str) -> None:
    file = tmp_path / "log"
    file.write_text(FILES[name])
    first = run("import", name, file)
    assert first.code == 0, first.err
    assert first.summary["imported"] == first.summary["episodes"] == 2
    assert first.summary["problems"] == first.summary["already_there"] == 0
    again = run("import", name, file)
    assert again.code == 0
    assert again.summary == {**first.summary, "imported": 0, "already_there": 2}
    assert again.err == ""


def test_bad_lines_are_named_and_the_good_ones_imported(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(
        lines(
            episode("one"),
            "{not json",
            "",
            {"task_description": "no [bold]such[/bold] field", "colour": "red"},
            episode("two", outcome={"type": "won"}),
            episode("three", task_description="x" * 10_001),
            episode("four"),
            "[1, 2]",
            episode("one"),
        )
    )
    ran = run("import", "jsonl", file)
    assert ran.code == 1
    assert ran.summary["imported"] == 2
    assert ran.summary["already_there"] == 1
    assert ran.summary["problems"] == 5
    told = ran.err.splitlines()
    assert [line.split(":")[0] for line in told] == ["line 2", "line 4", "line 5", "line 6", "line 8"]
    assert "colour" in told[1]
    assert "too_large" in told[3]
    # the good ones only, and whole
    with Wire(tmp_path) as wire:
        wire.handshake()
        found = wire.call("query_memory", query="flaky test", fields=["task", "steps"])["episodes"]
        assert {item["task"] for item in found} == {"Fix the flaky test of one", "Fix the flaky test of four"}
        assert all(item["steps"] == 3 for item in found)
        assert wire.end() == 0


def test_a_file_that_cannot_be_read_is_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("[1, 2")
    for arguments, sentence in (
        (["jsonl", "nothing.jsonl"], "import_format: nothing.jsonl: there is no such file."),
        (["jsonl", "."], "is a directory"),
        (["tau-bench", "broken.json"], "is not JSON"),
        (["jsnol", "broken.json"], "Did you mean 'jsonl'?"),
        (["csv", "broken.json"], "Known formats: jsonl,"),
        (["jsonl", "[/red]"], "import_format: [/red]: there is no such file."),
    ):
        ran = run("import", *arguments)
        assert ran.code == 1
        assert sentence in ran.err
        assert len(ran.err.splitlines()) == 1
        assert ran.out == ""


def test_a_namespace_takes_the_episodes(run: Run, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(FILES["jsonl"])
    assert run("import", "jsonl", "log", "--namespace", "team/a").summary["episodes"] == 2
    assert run("import", "jsonl", "log").summary["imported"] == 2
    other = run("import", "jsonl", "log", "--namespace", "team/a", "--data-dir", str(tmp_path / "other"))
    assert other.summary["imported"] == 2
    assert (tmp_path / "other" / "memory.db").is_file()


def test_a_data_directory_that_cannot_be_used_is_said_in_a_sentence(run: Run, tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    (tmp_path / "log").write_text(FILES["jsonl"])
    ran = run("import", "jsonl", "log")
    assert ran.code == 1
    assert ran.err.startswith("storage_unavailable: ")
    assert "Traceback" not in ran.err


def test_a_running_server_finds_imported_episodes_by_words_at_once_and_by_meaning_soon(
    run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(lines(episode("login", task_description="The sign-in page rejects valid passwords")))
    with Wire(tmp_path, env=environment(tmp_path, MEMORY_MCP_EMBEDDER="minilm")) as wire:
        wire.handshake()
        assert wire.call("query_memory", query="sign-in")["count"] == 0
        assert run("import", "jsonl", file, MEMORY_MCP_EMBEDDER="minilm").code == 0
        (found,) = wire.call("query_memory", query="sign-in")["episodes"]
        assert found["why"]["words"]
        until = time.monotonic() + 5
        while True:
            # no word in common
            answer = wire.call("query_memory", query="users cannot authenticate with correct credentials")
            if answer["episodes"] and answer["episodes"][0]["why"].get("meaning"):
                break
            assert time.monotonic() < until, answer
            time.sleep(0.05)
        assert wire.end() == 0


def test_an_interrupted_import_leaves_whole_episodes_and_is_completed_by_another(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(lines(*(episode(f"part {number}") for number in range(800))))
    process = subprocess.Popen(
        [str(PROGRAM), "import", "jsonl", str(file)],
        env=environment(tmp_path, MEMORY_MCP_DATA_DIR=str(tmp_path / "data")),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a shell's background job, and all below it, ignores this signal
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    database = tmp_path / "data" / "memory.db-wal"
    until = time.monotonic() + PATIENCE
    while not (database.is_file() and database.stat().st_size > 500_000):
        assert time.monotonic() < until
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130
    assert out == ""
    assert "Traceback" not in err
    again = run("import", "jsonl", file)
    assert again.code == 0
    assert 0 < again.summary["imported"] < 800
    assert again.summary["imported"] + again.summary["already_there"] == again.summary["episodes"] == 800
    assert again.summary["steps"] == 2_400
    assert again.summary["outcomes"]["success"] == 800


def test_an_episode_that_the_store_refuses_does_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text(lines(*(episode(name) for name in ("one", "two", "three"))))
    real = EpisodeService.import_episode

    async def refuses_two(self: EpisodeService, imported: ImportedEpisode, namespace: str) -> bool:
        if imported.source_id == "test:two":
            raise InternalError("episode.import failed because of a defect")
        return await real(self, imported, namespace)

    monkeypatch.setattr(EpisodeService, "import_episode", refuses_two)
    settings = Settings(data_dir=tmp_path / "data", embedder="none")
    assert asyncio.run(run_import(settings, "jsonl", file)) == 1
    captured = capsys.readouterr()
    assert json.loads(captured.out)["imported"] == 2
    assert captured.err == "test:two: internal_error: episode.import failed because of a defect\n"


def test_what_was_read_before_a_file_breaks_off_is_written() -> None:
    read = [ImportedEpisode(source_id=str(number), task_description="Read before the end") for number in range(40)]
    problem = Problem("line 41", InternalError("x"))
    reported: list[Problem] = []

    def breaks_off() -> Iterator[ImportedEpisode | Problem]:
        yield from read
        yield problem
        raise ImportFormatError("the file breaks off")

    written: list[ImportedEpisode] = []
    with pytest.raises(ImportFormatError):
        written.extend(chain.from_iterable(_batches(breaks_off(), reported.append)))
    assert written == read
    assert reported == [problem]
