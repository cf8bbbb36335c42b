"""Why a line is not a message, and the errors that say so to whoever waits for an answer to it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS = -32700, -32600, -32602

_HEAD = 1 << 16
_OPEN = re.compile(r"\s*\{")
_NAME = re.compile(r'\s*"((?:[^"\\]|\\.)*)"\s*:\s*')
_COMMA = re.compile(r"\s*,")
# the last members of an object that ends here
_TAIL = re.compile(
    r'"id"\s*:\s*(-?\d+|"(?:[^"\\]|\\.){0,200}")\s*(?:,\s*"(?:jsonrpc|method)"\s*:\s*"[^"\\]{0,200}"\s*){0,2}\}\s*$'
)


class Refused(Exception):
    """A line that is not accepted: JSON-RPC's number, our code, a sentence, and the requests that hear of it."""

    def __init__(self, number: int, code: str, text: str, *identities: Any) -> None:
        super().__init__(text)
        self._error = {"code": number, "message": text, "data": {"code": code}}
        self._identities = [identity for identity in identities if _is_id(identity)]

    def replies(self) -> Iterator[str]:
        """The answers to be sent: one for each request that is known, or else one that names none."""
        for identity in self._identities or [None]:
            yield json.dumps({"jsonrpc": "2.0", "id": identity, "error": self._error})


def unparsable(line: bytes, code: str, text: str) -> Refused:
    """The refusal of a line that cannot be parsed; its id is looked for all the same."""
    number = INVALID_REQUEST if code == "too_large" else PARSE_ERROR
    return Refused(number, code, text, _find_id(line, whole=code != "parse_error"))


def check_message(line: bytes) -> Refused:
    """Why a line, in UTF-8, is not a JSON-RPC message that the SDK understands."""
    try:
        message = from_json(line)
    except ValueError as error:
        if "recursion" in str(error):
            return unparsable(line, "too_large", f"the message is nested too deep: {error}")
        try:
            found = json.loads(line.decode())
        except (ValueError, RecursionError):
            return unparsable(line, "parse_error", f"the line is not JSON: {error}")
        # what the standard library takes and the SDK does not
        identity = found.get("id") if isinstance(found, dict) else None
        text = "a text of the message has an unpaired surrogate (\\ud800 to \\udfff)"
        return Refused(INVALID_PARAMS, "invalid_text", text, identity)
    if isinstance(message, list):
        waiting = [item.get("id") for item in message if isinstance(item, dict) and "method" in item]
        return Refused(INVALID_REQUEST, "batch_unsupported", "send one message a line, not a batch", *waiting)
    if not isinstance(message, dict):
        return Refused(INVALID_REQUEST, "invalid_request", "a message is a JSON object")
    # nobody waits for an answer to an answer
    identity = None if {"result", "error"} & message.keys() else message.get("id")
    return Refused(INVALID_REQUEST, "invalid_request", _fault(message), identity)


def _fault(message: dict[str, Any]) -> str:
    if message.get("jsonrpc") != "2.0":
        return 'jsonrpc: must be "2.0"'
    if "id" in message and not _is_id(message["id"]):
        return "id: must be a string or an integer; a notification has none"
    if not isinstance(message.get("method", ""), str):
        return "method: must be a string"
    if not isinstance(message.get("params", {}), dict | type(None)):
        return "params: must be an object"
    return "the object is not a request, notification or response of JSON-RPC 2.0"


def _is_id(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _find_id(line: bytes, *, whole: bool = True) -> Any:
    """The id of a request that cannot be parsed, or None. `whole` says that the end of the line is not missing."""
    text = line[:_HEAD].decode("utf-8", "replace")
    decoder = json.JSONDecoder()
    begun = _OPEN.match(text)
    at = begun.end() if begun else len(text)
    while name := _NAME.match(text, at):
        try:
            value, at = decoder.raw_decode(text, name.end())
        except (ValueError, RecursionError):
            break
        if name[1] == "id":
            return value
        comma = _COMMA.match(text, at)
        if comma is None:
            break
        at = comma.end()
    # an id inside an argument must not be taken for it: only the very end of the object will do
    last = _TAIL.search(line[-_HEAD:].decode("utf-8", "replace")) if whole and begun else None
    return json.loads(last[1]) if last else None
