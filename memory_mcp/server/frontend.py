"""The first milliseconds of `memory-mcp serve`.

Importing the SDK takes half a second. This front end, which needs only the standard library, owns the protocol's
streams from the first moment: it answers the handshake from kept answers while the rest is imported on a thread, and
then hands everything over. Each request that it has answered is replayed to the SDK, whose own answer is compared and
not sent twice, so the SDK's session is in the state that the client believes in.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
from typing import TYPE_CHECKING, Any, NoReturn

from memory_mcp.server.faststart import Answers, Session, cache_path
from memory_mcp.server.streams import CHUNK, Lines, write_all

if TYPE_CHECKING:
    from memory_mcp.settings import Settings

# how long to wait for a first request before the import begins: it would compete for the interpreter
_FIRST_REQUEST_SECONDS = 0.05
_TRUE = ("1", "true", "yes", "on", "y", "t")


class Handover:
    """What the front end passes on: the streams, what was read, and what was answered."""

    def __init__(self, stdin: int, stdout: int) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.lines: list[bytes] = []
        """Everything that was read, the requests answered here included: the SDK has to see those too."""
        self.rest = Lines()
        self.ended = False
        self.session = Session()
        self.answered: list[str] = []
        """JSON of the id of each request that was answered here."""
        self.unanswered = False
        self.answers: Answers | None = None


def run(options: dict[str, Any], streams: tuple[int, int]) -> NoReturn:
    """Serve until the client leaves. `options` are the settings given as flags, `streams` what was claimed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        # nothing is open yet that would have to be closed
        signal.signal(number, lambda *_: os._exit(0))
    handover = Handover(*streams)
    loader = _Loader()
    fast, directory = _fast_start(options)
    if fast and sys.platform != "win32":
        handover.answers = Answers(cache_path(directory))
        _serve_early(handover, loader)
        if handover.ended and not handover.unanswered:
            settings_from(options)
            os._exit(0)
    loader.start()
    loader.main(options, handover)
    os._exit(0)


def _fast_start(options: dict[str, Any]) -> tuple[bool, str]:
    """Whether to answer early, and the directory of the kept answers: the two settings that are needed first."""
    given: dict[str, Any] = {}
    if path := os.environ.get("MEMORY_MCP_CONFIG"):
        import tomllib

        try:
            with open(path, "rb") as file:  # noqa: PTH123 - importing pathlib takes as long as all the rest
                given = tomllib.load(file)
        except (OSError, ValueError):
            # told when the settings are loaded
            return False, ""
    for name in ("fast_start", "cache_dir"):
        if value := os.environ.get(f"MEMORY_MCP_{name.upper()}"):
            given[name] = value
    given.update(options)
    fast = given.get("fast_start", True)
    return str(fast).lower() in _TRUE, str(given.get("cache_dir", ""))


def settings_from(options: dict[str, Any]) -> Settings:
    """All settings; ends the process where one cannot be used."""
    from memory_mcp.errors import SettingsError
    from memory_mcp.settings import load_settings

    try:
        return load_settings(**options)
    except SettingsError as error:
        print(f"memory-mcp: {error.message}. {error.hint}".strip(), file=sys.stderr, flush=True)  # noqa: T201 - no log yet
        os._exit(2)


class _Loader:
    """Imports the server on a thread and rings a bell when it is there."""

    def __init__(self) -> None:
        self.bell, self._ring = os.pipe()
        self._main: Any = None
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._load, name="import", daemon=True)
            self._thread.start()

    def main(self, options: dict[str, Any], handover: Handover) -> None:
        """Run the server on this thread, as soon as it is there."""
        assert self._thread is not None
        self._thread.join()
        os.close(self.bell)
        os.close(self._ring)
        if self._error is not None:
            raise self._error
        self._main(options, handover)

    def _load(self) -> None:
        try:
            from memory_mcp.server.serve import main

            self._main = main
        except BaseException as error:  # noqa: BLE001 - raised again on the main thread
            self._error = error
        finally:
            os.write(self._ring, b"!")


def _serve_early(handover: Handover, loader: _Loader) -> None:
    """Answer what can be answered until the server is there."""
    patience: float | None = _FIRST_REQUEST_SECONDS
    while True:
        try:
            ready, _, _ = select.select([handover.stdin, loader.bell], [], [], patience)
            if loader.bell in ready:
                return
            chunk = os.read(handover.stdin, CHUNK) if handover.stdin in ready else None
        except (OSError, ValueError):
            # a stdin that cannot be waited for is read by the server
            return
        if chunk is not None:
            lines = handover.rest.feed(chunk) if chunk else [handover.rest.end()]
            handover.lines += lines
            for line in lines:
                if line.strip() and not _answered(line, handover):
                    handover.unanswered = True
            if not chunk:
                handover.ended = True
                return
        loader.start()
        patience = None


def _answered(line: bytes, handover: Handover) -> bool:
    """Answer a request if that can be done from here; True when nothing is left to be said to this line."""
    if handover.unanswered or len(line) > CHUNK:
        # what a line means depends on those before it, and answers come in the order of the requests
        return False
    try:
        message = json.loads(line.decode())
        if message.get("jsonrpc") != "2.0" or not message.keys() <= {"jsonrpc", "id", "method", "params"}:
            return False
        method, params = message["method"], message.get("params")
        if "id" not in message:
            return bool(method == "notifications/initialized")
        identity = message["id"]
        # the SDK refuses some texts that are JSON all the same; here only what is beyond doubt is answered
        if not _plain(identity, method, params) or b"\\ud" in line.lower():
            return False
        handover.session.asked(method, params)
        key = handover.session.key(method, params)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False
    assert handover.answers is not None
    result = handover.answers.get(key) if key else None
    if result is None:
        return False
    if method == "initialize":
        handover.session.agreed(str(result.get("protocolVersion", "")))
    handover.answered.append(json.dumps(identity))
    reply = json.dumps({"jsonrpc": "2.0", "id": identity, "result": result}, ensure_ascii=False, separators=(",", ":"))
    # a client that is gone is noticed when it has closed stdin too, or by the server
    write_all(handover.stdout, reply.encode() + b"\n")
    return True


def _plain(identity: Any, method: Any, params: Any) -> bool:
    return (
        isinstance(identity, int | str)
        and not isinstance(identity, bool)
        and isinstance(method, str)
        and (params is None or isinstance(params, dict))
    )
