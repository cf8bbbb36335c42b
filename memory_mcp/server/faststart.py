"""Answers of the SDK to the first requests of a connection, kept for the next start.

Only the standard library is imported here: this runs before anything else is loaded. An entry is what the SDK itself
once answered to the same request; every answer given from here is compared with the SDK's own a moment later, and an
entry that differs is replaced.
"""

from __future__ import annotations

import json
import os
import sys
import zlib
from collections.abc import Iterator
from typing import Any

# requests whose answer depends on nothing but the program, the protocol version and the request itself
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

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
_SDK = ("mcp-", "mcp_types-", "pydantic-", "pydantic_core-")

_META = "_meta"
_MODERN = "modern"
_LEGACY = "legacy"
_MODERN_VERSION = "io.modelcontextprotocol/protocolVersion"
_MODERN_CLIENT = "io.modelcontextprotocol/clientInfo"


class Session:
    """What the requests of a connection have settled so far, as far as the answers to later ones depend on it.

    As in the SDK, the first request decides between the two eras of the protocol; in the era of the handshake the
    version is agreed on by `initialize`.
    """

    def __init__(self) -> None:
        self._state = ""

    def asked(self, method: str, params: Any) -> None:
        """Note a request, in the order in which they come."""
        if not self._state:
            enveloped = isinstance(params, dict) and _MODERN_VERSION in _object(params.get(_META))
            self._state = _MODERN if enveloped and method != "initialize" else _LEGACY

    def agreed(self, version: str) -> None:
        """Note the version in the answer to `initialize`."""
        self._state = version

    def key(self, method: str, params: Any) -> str | None:
        """What the answer to a request depends on; None where that is more than is known here."""
        if method not in CACHEABLE:
            return None
        if method == "initialize":
            if self._state == _MODERN:
                return None
            state = ""
        elif self._state in ("", _LEGACY):
            return None
        else:
            state = self._state
        return json.dumps([method, *_anonymous(params), state], sort_keys=True)


def cache_path(directory: str = "") -> str:
    """The file of kept answers, one for each installation, in `directory` or the platform's cache directory."""
    if not directory:
        if sys.platform == "darwin":
            directory = os.path.expanduser("~/Library/Caches/memory-mcp")
        else:
            base = os.environ.get("XDG_CACHE_HOME", "").strip() or os.path.expanduser("~/.cache")
            directory = os.path.join(base, "memory-mcp")
    directory = os.path.expanduser(directory)
    return os.path.join(directory, f"faststart-{zlib.crc32(_PACKAGE.encode('utf-8', 'surrogateescape')):08x}.json")


def program_identity() -> list[Any]:
    """What the answers were made by: the interpreter, this package, the SDK and what it describes tools with."""
    return [sys.version, zlib.crc32(repr(sorted(_stamps(_PACKAGE))).encode("utf-8", "surrogateescape")), _sdk()]


class Answers:
    """The kept answers of this program."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._identity = program_identity()
        self._answers: dict[str, Any] = {}
        self._changed = False
        self._complained = False
        try:
            with open(path, encoding="utf-8") as file:
                kept = json.load(file)
            if kept["identity"] == self._identity and all(isinstance(item, dict) for item in kept["answers"].values()):
                self._answers = kept["answers"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            # missing, damaged or foreign: the SDK answers, and the file is written anew
            pass

    def get(self, key: str) -> Any:
        return self._answers.get(key)

    def keep(self, key: str, result: Any) -> bool:
        """Remember an answer, or with None that there is none; returns whether it differs from what was kept."""
        if self._answers.get(key) == result:
            return False
        if result is None:
            del self._answers[key]
        else:
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
            try:
                with open(temporary, "w", encoding="utf-8") as file:
                    json.dump({"identity": self._identity, "answers": self._answers}, file)
                os.replace(temporary, self._path)
            except OSError:
                if os.path.exists(temporary):
                    os.unlink(temporary)
                raise
        except OSError as error:
            if not self._complained:
                self._complained = True
                print(f"memory-mcp: cannot keep {self._path}: {error}", file=sys.stderr)  # noqa: T201 - no logging here


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _anonymous(params: Any) -> tuple[Any, list[str]]:
    """The parameters of a request without the names of client and request where they are in order, and which were."""
    if not isinstance(params, dict):
        return params, []
    stable = dict(params)
    named = []
    meta = params.get(_META)
    if isinstance(meta, dict):
        stable[_META] = meta = dict(meta)
        if _is_client(meta.get(_MODERN_CLIENT)):
            del meta[_MODERN_CLIENT]
            named.append(_MODERN_CLIENT)
        token = meta.get("progressToken")
        if isinstance(token, str | int) and not isinstance(token, bool):
            del meta["progressToken"]
            named.append("progressToken")
    if _is_client(params.get("clientInfo")):
        del stable["clientInfo"]
        named.append("clientInfo")
    return stable, named


def _is_client(value: Any) -> bool:
    """Whether a value describes a client in a way that the SDK accepts; anything unusual is left for it to judge."""
    return (
        isinstance(value, dict)
        and {"name", "version"} <= value.keys() <= {"name", "version", "title", "description", "websiteUrl"}
        and all(isinstance(item, str) for item in value.values())
    )


def _stamps(directory: str) -> Iterator[list[Any]]:
    """Path, time and size of every module under a directory."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name.endswith(".py"):
                stat = entry.stat()
                yield [entry.path, stat.st_mtime_ns, stat.st_size]
            elif "." not in entry.name and entry.name != "__pycache__" and entry.is_dir():
                yield from _stamps(entry.path)


def _sdk() -> list[str]:
    """Name and version of what is installed of the SDK and of pydantic."""
    for directory in sys.path:
        if os.path.isfile(os.path.join(directory, "mcp", "__init__.py")):
            return sorted(name for name in os.listdir(directory) if name.startswith(_SDK) and name.endswith("-info"))
    return []
