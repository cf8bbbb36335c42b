"""Reading the files of others: whole, or line by line, with every defect named instead of stopping the rest."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from memory_mcp.errors import ImportFormatError, MemoryMCPError, TooLargeError
from memory_mcp.evaluation.importers._common import a_kind, shorten
from memory_mcp.records.base import Json
from memory_mcp.records.episode import ImportedEpisode

MAX_LINE_BYTES = 16 * 1024 * 1024
_CHUNK = 1024 * 1024


@dataclass(frozen=True)
class Problem:
    """One item that was not imported.

    `where` is for people: "line 12", "trajectory 3 (task 7, trial 2)". `error` says what is wrong with it.
    """

    where: str
    error: MemoryMCPError


def attempt(where: str, build: Callable[[], ImportedEpisode]) -> ImportedEpisode | Problem:
    """The episode that `build` makes, or the problem that it raises."""
    try:
        return build()
    except MemoryMCPError as error:
        return Problem(where, error)
    except RecursionError:
        return Problem(where, TooLargeError("is nested too deeply"))


def trials(noun: str, items: list[Any], build: Callable[[Any], ImportedEpisode]) -> Iterator[ImportedEpisode | Problem]:
    """What `build` makes of each item of a benchmark's results; problems stand at "<noun> 3 (task 7, trial 2)"."""
    for number, item in enumerate(items, 1):
        yield attempt(_trial_name(noun, number, item), partial(build, item))


def _trial_name(noun: str, number: int, item: Any) -> str:
    if not isinstance(item, dict):
        return f"{noun} {number}"
    # as JSON, because a name with an unpaired surrogate could not be printed
    task, trial = (shorten(json.dumps(item.get(name)).strip('"'), 60) for name in ("task_id", "trial"))
    return f"{noun} {number} (task {task}, trial {trial})"


def fail_file(path: Path, what: str, hint: str = "") -> NoReturn:
    """Raise ImportFormatError for the whole file."""
    raise ImportFormatError(f"{path}: {what}", hint=hint) from None


def check_file(path: Path) -> None:
    """Raise ImportFormatError unless `path` is a file."""
    if path.is_dir():
        fail_file(path, "is a directory", "Give one file; import the files of a directory one after the other.")
    if not path.is_file():
        fail_file(path, "there is no such file", "Check the path; a relative one starts at the current directory.")


def load_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ImportFormatError: the file cannot be read, or is not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        fail_file(path, f"cannot be read: {error.strerror}")
    except UnicodeDecodeError as error:
        fail_file(path, f"is not UTF-8 (byte {error.start})")
    except json.JSONDecodeError as error:
        fail_file(path, f"is not JSON: {error.msg} in line {error.lineno}, column {error.colno}")
    except (ValueError, RecursionError) as error:
        fail_file(path, f"is not JSON that can be read: {error}")


def json_lines(path: Path) -> Iterator[tuple[int, Json | Problem]]:
    """The number and the object of each line that is not blank; lines are read one at a time, never the whole file.

    Raises:
        ImportFormatError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(_raw_lines(file), 1):
                if isinstance(raw, int):
                    large = TooLargeError(f"has {raw} bytes; the limit for a line is {MAX_LINE_BYTES}")
                    yield number, Problem(f"line {number}", large)
                    continue
                line = raw.removeprefix(codecs.BOM_UTF8) if number == 1 else raw
                if line.strip():
                    yield number, _json_object(line, number)
    except OSError as error:
        fail_file(path, f"cannot be read: {error.strerror}")


def _raw_lines(file: BinaryIO) -> Iterator[bytes | int]:
    """Each line, or only its length in bytes where it is over the limit."""
    while raw := file.readline(MAX_LINE_BYTES + 1):
        if len(raw) <= MAX_LINE_BYTES or raw.endswith(b"\n"):
            yield raw
            continue
        size = len(raw)
        while (more := file.readline(_CHUNK)) and not more.endswith(b"\n"):
            size += len(more)
        yield size + len(more)


def _json_object(raw: bytes, number: int) -> Json | Problem:
    try:
        value = json.loads(raw.decode(), parse_constant=_not_a_number)
    except UnicodeDecodeError as error:
        why = f"is not UTF-8 (byte {error.start})"
    except json.JSONDecodeError as error:
        why = f"is not JSON: {error.msg} at column {error.colno}"
    except (ValueError, RecursionError) as error:
        why = f"is not JSON that can be read: {error}"
    else:
        if isinstance(value, dict):
            return value
        why = f"holds {a_kind(value)} where an object is needed"
    return Problem(f"line {number}", ImportFormatError(why, hint="Each line must be one JSON object, in UTF-8."))


def _not_a_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")
