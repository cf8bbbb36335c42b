"""Logging: readable lines on stderr, JSON lines in the data directory. Never stdout, which belongs to the protocol."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import sys
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

from memory_mcp.settings import Settings

_FILES_KEPT = 20
_BYTES = 5_000_000
# a pipe that is ready takes this much at once
_ATOMIC = getattr(select, "PIPE_BUF", 512)


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
        return json.dumps(entry)


class StderrHandler(logging.Handler):
    """Lines on stderr, as long as somebody reads them.

    Many hosts never do. A full pipe would stop the whole server, so what does not fit is left to the log file.
    """

    def emit(self, record: logging.LogRecord) -> None:
        try:
            data = (self.format(record) + "\n").encode("utf-8", "replace")
            if len(data) > _ATOMIC:
                data = data[: _ATOMIC - 4] + b"...\n"
            if select.select([], [2], [], 0)[1]:
                os.write(2, data)
        except OSError:
            # nobody is there to read it
            pass
        except Exception:  # noqa: BLE001 - as the standard library's handlers do
            self.handleError(record)


class LogFile(RotatingFileHandler):
    """The JSON lines of this process. A file that cannot be written any more is given up without a word."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)
            return
        self.close()
        logging.getLogger().removeHandler(self)


def configure_logging(settings: Settings) -> None:
    """Set up the root logger for this process. A log directory that cannot be written costs the file, not the start."""
    console = StderrHandler()
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
    old = sorted(directory.glob("*.log*"), key=_last_changed)[: -(_FILES_KEPT - 1)]
    for path in old:
        with contextlib.suppress(OSError):
            path.unlink()
    handler = LogFile(directory / f"{os.getpid()}.log", maxBytes=_BYTES, backupCount=2, encoding="utf-8", delay=True)
    handler.setFormatter(JsonFormatter())
    return handler


def _last_changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        # another process has removed it just now
        return 0.0
