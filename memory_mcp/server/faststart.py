"""Answers of the SDK to the first requests of a connection, kept for the next start.

Only the standard library is imported here: this runs before anything else is loaded. An entry is what the SDK itself
once answered to the same request; every answer given from here is compared with the SDK's own a moment later, and an
entry that differs is replaced.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

# requests whose answer depends on nothing but the program and the request itself
CACHEABLE = frozenset(
    {
        "initialize",
        "server/discover",
        "tools/list",
        "prompts/list",
        "resources/list",
        "resources/templates/list",
    }
)
MAX_ANSWERS = 64

_VOLATILE = frozenset({"io.modelcontextprotocol/clientInfo", "progressToken", "clientInfo"})
_PACKAGE = os.path.dirname(os.path.abspath(__file__))


def request_key(method: str, params: Any, session: str) -> str:
    """What an answer depends on: method, parameters without the client's name, and the version agreed on before."""
    return json.dumps([method, _stable(params or {}), "" if method == "initialize" else session], sort_keys=True)


def cache_path() -> str:
    """The file of kept answers; `MEMORY_MCP_CACHE_DIR` or the platform's cache directory."""
    directory = os.environ.get("MEMORY_MCP_CACHE_DIR")
    if not directory:
        if sys.platform == "darwin":
            directory = os.path.expanduser("~/Library/Caches/memory-mcp")
        else:
            base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
            directory = os.path.join(base, "memory-mcp")
    return os.path.join(directory, "faststart.json")


def program_identity() -> list[Any]:
    """What the answers were made by: interpreter, this package's server code, the SDK, and settings."""
    settings = sorted(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith("MEMORY_MCP_") and not name.endswith(("_DIR", "_LEVEL"))
    )
    return [sys.version, _stamp(_PACKAGE), _stamp(os.path.join(_PACKAGE, "tools")), _sdk_stamp(), settings]


class Answers:
    """The kept answers of this program."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = program_identity()
        self._answers: dict[str, Any] = {}
        self._changed = False
        try:
            with open(path, encoding="utf-8") as file:
                kept = json.load(file)
            if kept["identity"] == json.loads(json.dumps(self._identity)):
                self._answers = kept["answers"]
        except (OSError, ValueError, KeyError, TypeError):
            # missing or damaged: the SDK answers, and the file is written anew
            self._answers = {}

    def get(self, key: str) -> Any:
        return self._answers.get(key)

    def keep(self, key: str, result: Any) -> bool:
        """Remember an answer; returns whether it differs from what was kept."""
        if self._answers.get(key) == result:
            return False
        if key not in self._answers and len(self._answers) >= MAX_ANSWERS:
            self._answers.clear()
        self._answers[key] = result
        self._changed = True
        return True

    def save(self) -> None:
        """Write the file if there is anything new; an error leaves the next start slower, no more."""
        if not self._changed:
            return
        self._changed = False
        temporary = f"{self._path}.{os.getpid()}"
        try:
            os.makedirs(os.path.dirname(self._path), mode=0o700, exist_ok=True)
            with open(temporary, "w", encoding="utf-8") as file:
                json.dump({"identity": self._identity, "answers": self._answers}, file)
            os.replace(temporary, self._path)
        except OSError as error:
            print(f"memory-mcp: cannot keep {self._path}: {error}", file=sys.stderr)  # noqa: T201 - no logging here


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _stable(item) for name, item in value.items() if name not in _VOLATILE}
    return value


def _stamp(directory: str) -> list[Any]:
    found = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                stat = entry.stat()
                found.append([entry.name, stat.st_mtime_ns, stat.st_size])
    return sorted(found)


def _sdk_stamp() -> list[Any]:
    for directory in sys.path:
        for name in ("mcp", "mcp_types"):
            path = os.path.join(directory, name, "__init__.py")
            if os.path.isfile(path):
                stat = os.stat(path)
                return [path, stat.st_mtime_ns, stat.st_size]
    return []
