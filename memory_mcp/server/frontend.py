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
from dataclasses import dataclass, field
from typing import Any

from memory_mcp.server.faststart import CACHEABLE, Answers, cache_path, request_key

# how long to wait for a first request before the import begins: it would compete for the interpreter
_FIRST_REQUEST_SECONDS = 0.05
_CHUNK = 1 << 16


@dataclass
class Handover:
    """What the front end passes on: the streams, what was read, and what was answered."""

    stdin: int
    stdout: int
    lines: list[bytes] = field(default_factory=list)
    rest: bytes = b""
    ended: bool = False
    session: str = ""
    answered: dict[str, tuple[str, Any]] = field(default_factory=dict)
    """JSON of the request id → (key, result) for requests answered here."""
    answers: Answers | None = None


def claim_streams() -> tuple[int, int]:
    """Take the protocol's streams to private descriptors.

    From here on, descriptor 0 is empty and descriptor 1 is stderr: whatever a library or a child process prints
    cannot reach the protocol.
    """
    stdin, stdout = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return stdin, stdout


def run(options: dict[str, Any]) -> None:
    """Serve until the client leaves; does not return. `options` are the settings given as flags."""
    fast = options.get(
        "fast_start", os.environ.get("MEMORY_MCP_FAST_START", "true").lower() in ("true", "1", "yes", "on")
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        # nothing is open yet that would have to be closed
        signal.signal(number, lambda *_: os._exit(0))
    handover = Handover(*claim_streams())
    if fast:
        handover.answers = Answers(cache_path())
    loader = _Loader()
    if fast and sys.platform != "win32":
        _serve_early(handover, loader)
    loader.start()
    loader.join()
    loader.main(options, handover)


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

    def join(self) -> None:
        assert self._thread is not None
        self._thread.join()
        os.close(self.bell)
        os.close(self._ring)
        if self._error is not None:
            raise self._error

    def main(self, options: dict[str, Any], handover: Handover) -> None:
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
        except OSError:
            # a stdin that cannot be waited for is read by the server
            return
        if loader.bell in ready:
            return
        if handover.stdin in ready:
            chunk = os.read(handover.stdin, _CHUNK)
            if not chunk:
                handover.ended = True
                return
            *lines, handover.rest = (handover.rest + chunk).split(b"\n")
            for line in lines:
                _take(line, handover)
        loader.start()
        patience = None


def _take(line: bytes, handover: Handover) -> None:
    handover.lines.append(line)
    assert handover.answers is not None
    try:
        message = json.loads(line)
        method, identity, params = message["method"], message["id"], message.get("params")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return
    if method not in CACHEABLE or not isinstance(identity, int | str) or isinstance(identity, bool):
        return
    key = request_key(method, params, handover.session)
    result = handover.answers.get(key)
    if result is None:
        return
    if method == "initialize":
        handover.session = str(result.get("protocolVersion", ""))
    handover.answered[json.dumps(identity)] = (key, result)
    reply = json.dumps({"jsonrpc": "2.0", "id": identity, "result": result}, ensure_ascii=False, separators=(",", ":"))
    write_all(handover.stdout, reply.encode() + b"\n")


def write_all(descriptor: int, data: bytes) -> None:
    """Write every byte; returns quietly when the client is gone."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BrokenPipeError:
            return
