"""Logging: where it goes, and that it never gets in the way."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from memory_mcp.logs import LogFile, StderrHandler, configure_logging
from memory_mcp.settings import Settings

_log = logging.getLogger("memory_mcp.test")


@pytest.fixture(autouse=True)
def root_logger() -> Iterator[None]:
    """Gives the root logger back as it was."""
    root = logging.getLogger()
    level, handlers = root.level, root.handlers[:]
    # `force` closes what it removes
    root.handlers = []
    yield
    for handler in root.handlers:
        handler.close()
    root.handlers, root.level = handlers, level


@contextmanager
def piped_stderr() -> Iterator[int]:
    """The reading end of a pipe that takes the place of stderr. (Around a whole test, pytest would take it back.)"""
    reading, writing = os.pipe()
    saved = os.dup(2)
    os.dup2(writing, 2)
    os.close(writing)
    os.set_blocking(reading, False)
    try:
        yield reading
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(reading)


def logged(settings: Settings) -> list[dict[str, str]]:
    (file,) = (settings.data_dir / "logs").iterdir()
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_warning_is_a_line_on_stderr_and_json_in_the_log_file(settings: Settings) -> None:
    with piped_stderr() as stderr:
        configure_logging(settings)
        _log.info("not worth telling")
        _log.warning("%s went wrong: \ud800 é", "this")
        try:
            raise ValueError("inside")
        except ValueError:
            _log.exception("caught")
        told = os.read(stderr, 10_000).decode()
        assert told.startswith("memory-mcp WARNING memory_mcp.test: this went wrong: ? é\n")
        first, second = logged(settings)
        assert (first["level"], first["message"]) == ("WARNING", "this went wrong: \ud800 é")
        assert "ValueError: inside" in second["trace"]


def test_nobody_has_to_read_stderr(settings: Settings) -> None:
    with piped_stderr() as stderr:
        configure_logging(settings)
        for number in range(2_000):
            _log.warning("%d %s", number, "x" * 100)
        _log.warning("long %s", "y" * 10_000)
        assert len(logged(settings)) == 2_001
        lines = os.read(stderr, 1 << 20).decode().splitlines()
        assert 0 < len(lines) < 2_000
        assert all(line.startswith("memory-mcp WARNING") for line in lines)


def test_a_long_message_is_shortened_on_stderr_only(settings: Settings) -> None:
    with piped_stderr() as stderr:
        configure_logging(settings)
        _log.warning("%s", "y" * 10_000)
        assert os.read(stderr, 1 << 20).endswith(b"yyy...\n")
        assert len(logged(settings)[0]["message"]) == 10_000


def test_a_directory_that_cannot_hold_logs_costs_the_file_only(settings: Settings) -> None:
    with piped_stderr() as stderr:
        settings.data_dir.mkdir()
        (settings.data_dir / "logs").write_text("a file")
        configure_logging(settings)
        assert b"no log file" in os.read(stderr, 10_000)
        assert [type(handler) for handler in logging.getLogger().handlers] == [StderrHandler]


def test_a_log_file_that_cannot_be_written_is_given_up(settings: Settings) -> None:
    with piped_stderr() as stderr:
        configure_logging(settings)
        (file,) = (handler for handler in logging.getLogger().handlers if isinstance(handler, LogFile))
        Path(file.baseFilename).mkdir()
        _log.warning("first")
        _log.warning("second")
        assert os.read(stderr, 10_000).decode().splitlines() == [
            "memory-mcp WARNING memory_mcp.test: first",
            "memory-mcp WARNING memory_mcp.test: second",
        ]


def test_old_log_files_are_removed(settings: Settings) -> None:
    logs = settings.data_dir / "logs"
    logs.mkdir(parents=True)
    for number in range(30):
        path = logs / f"{number}.log"
        path.touch()
        os.utime(path, (number, number))
    configure_logging(settings)
    assert sorted(int(path.stem) for path in logs.iterdir()) == list(range(11, 30))
