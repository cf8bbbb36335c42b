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
from collections import deque
from collections.abc import Callable
from typing import Any

from mcp.shared.dispatcher import coerce_request_id
from mcp_types import CONNECTION_CLOSED, JSONRPCNotification, JSONRPCRequest, jsonrpc_message_adapter
from pydantic import ValidationError

from memory_mcp.server.faststart import CACHEABLE, Session
from memory_mcp.server.frontend import Handover
from memory_mcp.server.refusals import Refused, check_message, unparsable
from memory_mcp.server.streams import CHUNK, MAX_LINE, Overlong, write_all

_log = logging.getLogger(__name__)

_QUEUED_READS = 8
_START_SECONDS = 5.0
# behind the end of stdin: how long to wait for a next answer, and for a client that does not read the last one
_WORK_SECONDS = 0.8
_UNREAD_SECONDS = 0.3
_TICK = 0.05
# requests that stay open as long as the connection
_ENDLESS = frozenset({"subscriptions/listen"})
# a pipe that is ready takes this much without blocking (POSIX PIPE_BUF is at least 512, 4096 on Linux)
_ATOMIC = getattr(select, "PIPE_BUF", 512)

_REPLY_ID = re.compile(r'^\{"jsonrpc":"2\.0","id":(-?\d+|"(?:[^"\\]|\\.)*"),"(?:result|error)":')


class Wire:
    """The two ends of the protocol stream, in the form in which `mcp.server.stdio.stdio_server` takes them.

    Args:
        handover: the streams and what the front end has read and answered.
        over: called when the client is gone, or has closed its end and been answered.
        starting: done when calls can be answered.
    """

    def __init__(self, handover: Handover, over: Callable[[], None], starting: asyncio.Future[Any]) -> None:
        self._handover = handover
        self._over = over
        self._starting = starting
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[bytes] | None] = asyncio.Queue(_QUEUED_READS)
        self._session = Session()
        self._answers = handover.answers
        self._answered = list(handover.answered)
        self._waiting: dict[str, list[tuple[str, Any]]] = {}
        self._buffer = deque(handover.lines)
        handover.lines.clear()
        self._greeted = False
        self._all_read = False
        self._all_answered = asyncio.Event()
        self._finishing: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._sent = 0
        self._broken = False
        threading.Thread(target=self._read, name="stdin", daemon=True).start()

    # what the SDK reads -------------------------------------------------------------------------------------------

    def __aiter__(self) -> Wire:
        return self

    async def __anext__(self) -> str:
        while True:
            while self._buffer:
                line = self._buffer.popleft()
                try:
                    text = self._accept(line)
                except Refused as refused:
                    _log.warning("refused a message: %s", refused)
                    for reply in refused.replies():
                        await self._send(reply)
                else:
                    if text is not None:
                        return text
            lines = await self._queue.get()
            if lines is None:
                self._all_read = True
                self._settled()
                # the SDK would drop what it is doing at the end of the stream; `_finish` says when that may be
                await asyncio.Event().wait()
            else:
                self._buffer.extend(lines)

    # what the SDK writes ------------------------------------------------------------------------------------------

    async def write(self, text: str) -> None:
        """Send one message, unless it repeats an answer that the front end has given."""
        line = text.rstrip("\n")
        identity = _identity_of(line)
        if identity is None:
            await self._send(line)
            return
        self._keep_answer(identity, line)
        if identity in self._answered:
            self._answered.remove(identity)
        else:
            await self._send(line)
        self._settled(identity)

    async def flush(self) -> None:
        """Nothing is buffered."""

    # --------------------------------------------------------------------------------------------------------------

    async def _send(self, line: str) -> None:
        # a lone surrogate in what a client once sent must not end the connection
        data = line.encode("utf-8", "replace") + b"\n"
        async with self._sending:
            if self._broken:
                return
            try:
                if len(data) <= _ATOMIC and _is_writable(self._handover.stdout):
                    self._broken = not write_all(self._handover.stdout, data)
                else:
                    self._broken = not await asyncio.to_thread(write_all, self._handover.stdout, data)
            except asyncio.CancelledError:
                # a thread may still be in the middle of this line: nothing may come between
                self._broken = True
                raise
            self._sent += 1
            if self._broken:
                self._over()

    def _accept(self, line: bytes) -> str | None:
        """A line that the SDK will understand; None for one that asks for nothing.

        Raises:
            Refused: the line is not a message.
        """
        if not line.strip():
            return None
        if isinstance(line, Overlong):
            raise unparsable(line, "too_large", f"a message has at most {MAX_LINE} bytes")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise unparsable(line, "invalid_text", f"the message is not UTF-8: {error.reason}") from None
        try:
            message = jsonrpc_message_adapter.validate_json(text, by_name=False)
        except ValidationError:
            raise check_message(line) from None
        if isinstance(message, JSONRPCRequest):
            self._note_request(message)
        elif isinstance(message, JSONRPCNotification):
            if '"id"' in text and "id" in json.loads(text):
                raise check_message(line)
            if message.method == "notifications/cancelled" and self._cancelled((message.params or {}).get("requestId")):
                return None
        return text

    def _note_request(self, request: JSONRPCRequest) -> None:
        method = request.method
        self._session.asked(method, request.params)
        if method == "initialize":
            if self._greeted:
                # a second handshake: which version an answer was made for is not certain any more
                self._answers = None
            self._greeted = True
        if method not in _ENDLESS:
            asked = (method, request.params if method in CACHEABLE else None)
            self._waiting.setdefault(json.dumps(request.id), []).append(asked)

    def _cancelled(self, requested: Any) -> bool:
        """Note that a request will not be answered; True when it has been, so that the SDK needs not know."""
        if not isinstance(requested, int | str):
            return False

        def same(identity: str) -> bool:
            return bool(coerce_request_id(json.loads(identity)) == coerce_request_id(requested))

        if any(same(identity) for identity in self._answered):
            return True
        for identity in [identity for identity in self._waiting if same(identity)]:
            self._settled(identity)
        return False

    def _settled(self, identity: str = "") -> None:
        """Note that a request waits no more."""
        asked = self._waiting.get(identity)
        if asked:
            asked.pop(0)
        if not asked:
            self._waiting.pop(identity, None)
        if self._all_read and not self._waiting:
            self._all_answered.set()

    def _keep_answer(self, identity: str, line: str) -> None:
        asked = self._waiting.get(identity)
        if not asked or asked[0][0] not in CACHEABLE or self._answers is None:
            return
        method, params = asked[0]
        message = json.loads(line)
        result = message.get("result")
        if result is None and message["error"]["code"] == CONNECTION_CLOSED:
            return
        key = self._session.key(method, params)
        if method == "initialize" and result is not None:
            self._session.agreed(str(result.get("protocolVersion", "")))
        if key is None:
            return
        if self._answers.keep(key, result) and identity in self._answered:
            _log.warning("the kept answer to %s was out of date; the next start has the new one", method)
        self._answers.save()

    async def _finish(self) -> None:
        """The client has closed its end: what it has asked for is answered first, as long as answers go out."""
        answered = asyncio.create_task(self._all_answered.wait())
        await asyncio.wait([self._starting, answered], timeout=_START_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        stalled = 0.0
        while not answered.done() and stalled < (_UNREAD_SECONDS if self._sending.locked() else _WORK_SECONDS):
            sent = self._sent
            await asyncio.wait([answered], timeout=_TICK)
            stalled = stalled + _TICK if sent == self._sent else 0.0
        self._over()

    def _stdin_ended(self) -> None:
        self._finishing = asyncio.create_task(self._finish(), name="finish")

    def _read(self) -> None:
        """Runs on a thread: reading from a pipe, a terminal or a file alike."""
        lines = self._handover.rest
        while not self._handover.ended:
            try:
                chunk = os.read(self._handover.stdin, CHUNK)
            except OSError:
                chunk = b""
            if not chunk:
                break
            if whole := lines.feed(chunk):
                self._put(whole)
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._stdin_ended)
        self._put([lines.end()])
        self._put(None)

    def _put(self, lines: list[bytes] | None) -> None:
        # waiting here holds back a client that sends faster than it is served
        with contextlib.suppress(RuntimeError):
            asyncio.run_coroutine_threadsafe(self._queue.put(lines), self._loop).result()


def _is_writable(descriptor: int) -> bool:
    try:
        return bool(select.select([], [descriptor], [], 0)[1])
    except (OSError, ValueError):
        return False


def _identity_of(line: str) -> str | None:
    """JSON of the id of a response; None for requests and notifications."""
    match = _REPLY_ID.match(line)
    if match:
        return match[1] if not match[1].startswith('"') else json.dumps(json.loads(match[1]))
    message = json.loads(line)
    if "method" in message or message.get("id") is None:
        return None
    return json.dumps(message["id"])
