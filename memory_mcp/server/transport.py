"""The stdio transport between the front end and the SDK: lines in, lines out, nothing else on the wire.

The SDK drops a line that it cannot parse, and its sender waits for ever. Here every line gets an answer: what is not a
JSON-RPC message is refused with an error that names the request where its id can be told.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import re
import select
import threading
from typing import Any

from mcp_types import jsonrpc_message_adapter
from pydantic import ValidationError

from memory_mcp.server.faststart import CACHEABLE, request_key
from memory_mcp.server.frontend import Handover, write_all

_log = logging.getLogger(__name__)

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS = -32700, -32600, -32602

MAX_LINE = 32 * 1024 * 1024
_CHUNK = 1 << 20
_QUEUED_READS = 8
# a pipe that is ready takes this much without blocking (POSIX PIPE_BUF is at least 512, 4096 on Linux)
_ATOMIC = getattr(select, "PIPE_BUF", 512)
_DRAIN_SECONDS = 0.8

_REPLY_ID = re.compile(r'^\{"jsonrpc":"2\.0","id":(-?\d+|"(?:[^"\\]|\\.)*"),')
_REQUEST_ID = re.compile(rb'"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.){0,200}")')


class Wire:
    """The two ends of the protocol stream, in the form in which `mcp.server.stdio.stdio_server` takes them."""

    def __init__(self, handover: Handover) -> None:
        self._handover = handover
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[bytes] | None] = asyncio.Queue(_QUEUED_READS)
        self._waiting: dict[str, tuple[str, str] | None] = {}
        self._idle = asyncio.Event()
        self._idle.set()
        self._buffer = list(handover.lines)
        self._ended = handover.ended
        self._session = handover.session
        self._reader = threading.Thread(target=self._read, name="stdin", daemon=True)
        self._reader.start()

    # what the SDK reads -------------------------------------------------------------------------------------------

    def __aiter__(self) -> Wire:
        return self

    async def __anext__(self) -> str:
        while True:
            while self._buffer:
                line = self._accept(self._buffer.pop(0))
                if line is not None:
                    return line
            lines = await self._queue.get()
            if lines is None:
                await self._drained()
                raise StopAsyncIteration
            self._buffer = lines

    # what the SDK writes ------------------------------------------------------------------------------------------

    async def write(self, text: str) -> None:
        """Send one message, unless it repeats an answer that the front end has given."""
        line = text.rstrip("\n")
        identity = _identity_of(line)
        if identity is not None:
            self._answered(identity, line)
            if identity in self._handover.answered:
                del self._handover.answered[identity]
                return
        await self._send(line)

    async def flush(self) -> None:
        """Nothing is buffered."""

    # --------------------------------------------------------------------------------------------------------------

    async def _send(self, line: str) -> None:
        # a lone surrogate in what a client once sent must not end the connection
        data = line.encode("utf-8", "replace") + b"\n"
        descriptor = self._handover.stdout
        if len(data) <= _ATOMIC and select.select([], [descriptor], [], 0)[1]:
            write_all(descriptor, data)
        else:
            await asyncio.to_thread(write_all, descriptor, data)

    def _accept(self, line: bytes) -> str | None:
        """A line that the SDK will understand, or None after an error was sent."""
        if not line.strip():
            return None
        try:
            if len(line) > MAX_LINE:
                raise _Refused(INVALID_REQUEST, "too_large", f"a message has at most {MAX_LINE} bytes", unread=True)
            try:
                text = line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise _Refused(PARSE_ERROR, "invalid_text", f"the message is not UTF-8: {error}", unread=True) from None
            try:
                message = jsonrpc_message_adapter.validate_json(text, by_name=False)
            except ValidationError:
                raise _diagnose(text) from None
        except _Refused as refused:
            self._refuse(line, refused)
            return None
        identity = getattr(message, "id", None)
        method = getattr(message, "method", None)
        if method is not None and identity is not None:
            self._asked(json.dumps(identity), method, getattr(message, "params", None))
        return text

    def _refuse(self, line: bytes, refused: _Refused) -> None:
        identity = refused.identity
        if refused.unread and (match := _REQUEST_ID.search(line[:65_536]) or _REQUEST_ID.search(line[-65_536:])):
            with contextlib.suppress(ValueError):
                identity = json.loads(match[1])
        error = {"code": refused.number, "message": refused.text, "data": {"code": refused.code}}
        reply = json.dumps({"jsonrpc": "2.0", "id": identity, "error": error})
        _log.warning("refused a message: %s", refused.text)
        # sent in turn: replies are small, and the SDK may be writing at the same time only between our awaits
        write_all(self._handover.stdout, reply.encode() + b"\n")

    def _asked(self, identity: str, method: str, params: Any) -> None:
        key = request_key(method, params, self._session) if method in CACHEABLE else ""
        self._waiting[identity] = (method, key)
        self._idle.clear()

    def _answered(self, identity: str, line: str) -> None:
        asked = self._waiting.pop(identity, None)
        if not self._waiting:
            self._idle.set()
        answers = self._handover.answers
        if asked is None or not asked[1] or answers is None:
            return
        result = json.loads(line).get("result")
        if result is None:
            return
        method, key = asked
        if method == "initialize":
            self._session = str(result.get("protocolVersion", ""))
        if answers.keep(key, result) and identity in self._handover.answered:
            _log.warning("the kept answer to %s was out of date; the next start has the new one", method)
        answers.save()

    async def _drained(self) -> None:
        """The client has closed its end: give what it asked for a moment to be answered."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), _DRAIN_SECONDS)

    def _read(self) -> None:
        """Runs on a thread: reading from a pipe, a terminal or a file alike."""
        rest = self._handover.rest
        skipping = False
        while not self._ended:
            try:
                chunk = os.read(self._handover.stdin, _CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                break
            *lines, rest = (rest + chunk).split(b"\n")
            if skipping and lines:
                # the end of a line that was refused already
                lines.pop(0)
                skipping = False
            if len(rest) > MAX_LINE:
                if not skipping:
                    lines.append(rest)
                rest, skipping = b"", True
            if lines:
                self._put(lines)
        if rest and not skipping:
            self._put([rest])
        self._put(None)

    def _put(self, lines: list[bytes] | None) -> None:
        # waiting here holds back a client that sends faster than it is served
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self._queue.put(lines), self._loop).result()


class _Refused(Exception):
    """Why a line is not accepted. `unread` says that its id has to be looked for in the bytes."""

    def __init__(self, number: int, code: str, text: str, *, identity: Any = None, unread: bool = False) -> None:
        super().__init__(text)
        self.number = number
        self.code = code
        self.text = text
        self.identity = identity if isinstance(identity, int | str) else None
        self.unread = unread


def _diagnose(text: str) -> _Refused:
    """Why a line is not a JSON-RPC message."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError) as error:
        return _Refused(PARSE_ERROR, "parse_error", f"the line is not JSON: {error}")
    if isinstance(message, list):
        return _Refused(INVALID_REQUEST, "batch_unsupported", "send one message a line; batches are not part of MCP")
    if not isinstance(message, dict):
        return _Refused(INVALID_REQUEST, "invalid_request", "a message is a JSON object")
    identity = message.get("id")
    try:
        json.dumps(message, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return _Refused(
            INVALID_PARAMS,
            "invalid_text",
            "the message has an unpaired surrogate (\\ud800 to \\udfff) in a text",
            identity=identity,
        )
    return _Refused(INVALID_REQUEST, "invalid_request", "the object is not a JSON-RPC 2.0 message", identity=identity)


def _identity_of(line: str) -> str | None:
    """JSON of the id of a response; None for requests and notifications."""
    match = _REPLY_ID.match(line)
    if match:
        return match[1] if not match[1].startswith('"') else json.dumps(json.loads(match[1]))
    try:
        message = json.loads(line)
    except ValueError:
        return None
    if "method" in message or message.get("id") is None:
        return None
    return json.dumps(message["id"])
