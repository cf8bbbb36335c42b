"""Logging: readable lines on stderr, JSON lines in the data directory. Never stdout, which belongs to the protocol."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from memory_mcp.settings import Settings

_FILES_KEPT = 20
_BYTES = 5_000_000


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the trace of an error."""

    def format(self, record: logging.LogRecord) -> str:
        entry = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["trace"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(settings: Settings) -> None:
    """Set up the root logger for this process. A log directory that cannot be written costs the file, not the start."""
    console = logging.StreamHandler()
    console.setFormatter(logging.Formatter("memory-mcp %(levelname)s %(name)s: %(message)s"))
    handlers: list[logging.Handler] = [console]
    problem = None
    try:
        handlers.append(_file_handler(settings.data_dir / "logs"))
    except OSError as error:
        problem = error
    logging.basicConfig(level=settings.log_level, handlers=handlers, force=True)
    if problem is not None:
        logging.getLogger(__name__).warning("no log file: %s", problem)


def _file_handler(directory: Path) -> logging.Handler:
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    # a file for each process: rotation by several processes loses lines
    old = sorted(directory.glob("*.log*"), key=lambda path: path.stat().st_mtime)[: -(_FILES_KEPT - 1)]
    for path in old:
        with contextlib.suppress(OSError):
            path.unlink()
    handler = RotatingFileHandler(
        directory / f"{os.getpid()}.log", maxBytes=_BYTES, backupCount=2, encoding="utf-8", delay=True
    )
    handler.setFormatter(JsonFormatter())
    return handler
