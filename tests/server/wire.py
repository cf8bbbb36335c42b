"""The real program, spoken to in bytes: what the official client would never send, and everything that comes back."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.conftest import PATIENCE, PROGRAM

Json = dict[str, Any]

HANDSHAKE_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSION = "2026-07-28"

_META = "io.modelcontextprotocol"


def environment(home: Path, **more: str) -> dict[str, str]:
    """An environment in which the program finds nothing of the user's, and nothing of another test's."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("MEMORY_MCP_")}
    return {**own, "MEMORY_MCP_CACHE_DIR": str(home / "user-cache"), "MEMORY_MCP_EMBEDDER": "none", **more}


CLIENT: Json = {"name": "test", "version": "1"}


def request(method: str, identity: Any = 1, params: Any = None) -> Json:
    message = {"jsonrpc": "2.0", "id": identity, "method": method}
    return message if params is None else {**message, "params": params}


def initialize(identity: Any = 1, version: str = HANDSHAKE_VERSIONS[-1], client: Any = CLIENT) -> Json:
    return request("initialize", identity, {"protocolVersion": version, "capabilities": {}, "clientInfo": client})


def modern(method: str, identity: Any = 1, **params: Any) -> Json:
    """A request of the era without a handshake: each one carries its own envelope."""
    envelope = {
        f"{_META}/protocolVersion": MODERN_VERSION,
        f"{_META}/clientInfo": CLIENT,
        f"{_META}/clientCapabilities": {},
    }
    return request(method, identity, {**params, "_meta": envelope})


def calling(tool: str, identity: Any = 1, /, **arguments: Any) -> Json:
    return request("tools/call", identity, {"name": tool, "arguments": arguments})


INITIALIZED: Json = {"jsonrpc": "2.0", "method": "notifications/initialized"}
LISTS = ("tools/list", "prompts/list", "resources/list", "resources/templates/list")
MODERN: list[Json] = [modern("server/discover", 0), *(modern(method, method) for method in LISTS)]


def legacy(version: str = HANDSHAKE_VERSIONS[-1]) -> list[Json]:
    """A handshake and the lists that clients ask for behind it."""
    return [initialize(0, version), INITIALIZED, *(request(method, method) for method in LISTS)]


def encoded(*messages: Json | bytes) -> bytes:
    return b"".join(
        message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n" for message in messages
    )


class Wire:
    """A server process and its three streams. Leaving the context kills it, if it is still there.

    Args:
        home: directory that holds the data (in `data`), the user's cache and what the process says on stderr.
        stderr: a descriptor that takes the place of the file for stderr.
        reading: whether what the server writes is read all the time; if not, the pipe fills up.
    """

    COMMAND = (str(PROGRAM), "serve")

    def __init__(
        self,
        home: Path,
        *arguments: str,
        env: dict[str, str] | None = None,
        command: Sequence[str] = COMMAND,
        reading: bool = True,
        stderr: int | None = None,
    ) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self.home = home
        self.lines: list[bytes] = []
        """Every line of stdout, in order."""
        self.stderr = home / "stderr.txt"
        where = (
            ()
            if "--data-dir" in arguments or (env and "MEMORY_MCP_DATA_DIR" in env)
            else ("--data-dir", str(home / "data"))
        )
        with self.stderr.open("ab") as errors:
            self.process = subprocess.Popen(
                [*command, *where, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors if stderr is None else stderr,
                env=env or environment(home),
                bufsize=0,
            )
        self._ids = itertools.count(1_000)
        self._incoming: queue.Queue[Json | None] = queue.Queue()
        self._kept: list[Json] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        if reading:
            self._reader.start()

    # sending ------------------------------------------------------------------------------------------------------

    def send(self, *messages: Json | bytes) -> None:
        """Write messages in one piece; bytes as they are."""
        data = memoryview(encoded(*messages))
        assert self.process.stdin is not None
        while data:
            data = data[self.process.stdin.write(data) :]

    def ask(self, message: Json, timeout: float = PATIENCE) -> Json:
        """Send a request and wait for its answer."""
        self.send(message)
        return self.answer(message["id"], timeout)

    def call(self, tool: str, /, **arguments: Any) -> Json:
        """The answer of a tool that is expected to succeed."""
        result = self.result(tool, arguments)
        assert not result.get("isError"), result
        return dict(result["structuredContent"])

    def refused(self, tool: str, /, **arguments: Any) -> Json:
        """The error of a tool that is expected to refuse."""
        result = self.result(tool, arguments)
        assert result.get("isError"), result
        return dict(result["structuredContent"])

    def result(self, tool: str, arguments: Json) -> Json:
        answer = self.ask(request("tools/call", next(self._ids), {"name": tool, "arguments": arguments}))
        assert "result" in answer, answer
        return dict(answer["result"])

    def handshake(self) -> Json:
        """Agree on the newest version with a handshake; the answer to `initialize`."""
        answer = self.ask(initialize("handshake"))
        self.send(INITIALIZED)
        return answer

    # receiving ----------------------------------------------------------------------------------------------------

    def answer(self, identity: Any, timeout: float = PATIENCE) -> Json:
        """The next message with this id, of this type; others are kept."""
        for message in self._kept:
            if _has_id(message, identity):
                self._kept.remove(message)
                return message
        until = time.monotonic() + timeout
        while True:
            message = self.receive(max(0.0, until - time.monotonic()))
            if _has_id(message, identity):
                return message
            self._kept.append(message)

    def receive(self, timeout: float = PATIENCE) -> Json:
        """The next message, whatever it is."""
        try:
            message = self._incoming.get(timeout=timeout)
        except queue.Empty:
            raise AssertionError(f"no answer; stderr: {self.errors()[-2000:]}") from None
        assert message is not None, f"the server has closed its stdout; stderr: {self.errors()[-2000:]}"
        return message

    def silent(self, seconds: float = 0.0) -> bool:
        """Whether nothing (more) has come."""
        with contextlib.suppress(queue.Empty):
            while (message := self._incoming.get(timeout=seconds)) is not None:
                self._kept.append(message)
        return not self._kept

    def errors(self) -> str:
        return self.stderr.read_text("utf-8", "replace")

    # ending -------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the server's stdin."""
        assert self.process.stdin is not None
        self.process.stdin.close()

    def signal(self, number: int = signal.SIGTERM) -> None:
        self.process.send_signal(number)

    def wait(self, timeout: float = PATIENCE) -> int:
        """The exit code; everything that was written has been read then."""
        code = self.process.wait(timeout)
        if self._reader.ident is not None:
            self._reader.join(timeout)
        return code

    def end(self) -> int:
        """Close stdin and wait for the exit code."""
        self.close()
        return self.wait()

    def rest(self) -> list[Json]:
        """Every message that was not asked for yet; call it behind `wait`."""
        self.silent()
        kept, self._kept = self._kept, []
        return kept

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        if self._reader.ident is not None:
            self._reader.join(PATIENCE)
        self.process.stdout.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        rest = b""
        while chunk := os.read(self.process.stdout.fileno(), 1 << 16):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self.lines.append(line)
                try:
                    self._incoming.put(json.loads(line))
                except ValueError:
                    self._incoming.put({"not a message": line.decode("utf-8", "replace")})
        if rest:
            self.lines.append(rest)
        self._incoming.put(None)


def _has_id(message: Json, identity: Any) -> bool:
    return "id" in message and type(message["id"]) is type(identity) and message["id"] == identity


def is_rpc(line: bytes) -> bool:
    """Whether a line of stdout belongs there."""
    try:
        message = json.loads(line)
    except ValueError:
        return False
    return isinstance(message, dict) and message.get("jsonrpc") == "2.0" and ("id" in message or "method" in message)
