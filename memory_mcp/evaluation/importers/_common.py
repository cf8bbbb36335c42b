"""What the importers share: joining calls to their results, and fitting foreign values into the records."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from dataclasses import dataclass
from typing import Any, TypeVar

from memory_mcp.clock import from_iso
from memory_mcp.errors import ImportFormatError
from memory_mcp.records.base import MAX_DESCRIPTION, MAX_OBSERVATION, Json

_LAST_MICROSECOND = 253_402_300_799_999_999  # the end of the year 9999, where ISO 8601 ends
_SHORT_TEXT = 200

_T = TypeVar("_T")


@dataclass
class Call:
    """A tool call, the message that made it, and the message that answered it (None: the log holds no answer)."""

    tool: Any
    parameters: Json
    made_in: Json
    answer: Json | None = None


class Calls:
    """Joins calls to their answers by id.

    Some agents use one id for several calls of a conversation: calls under the same id are answered in order.
    """

    def __init__(self) -> None:
        self._all: list[Call] = []
        self._waiting: dict[str, deque[Call]] = {}

    def made(self, key: Any, call: Call) -> None:
        self._all.append(call)
        self._waiting.setdefault(str(key), deque()).append(call)

    def answered(self, key: Any, answer: Json) -> None:
        """An answer to a call that nobody made is dropped: there is no step that it could belong to."""
        waiting = self._waiting.get(str(key))
        if waiting:
            waiting.popleft().answer = answer

    def complete(self) -> list[tuple[Call, Json]]:
        """The calls that were answered, with their answers, in the order in which they were made."""
        return [(call, call.answer) for call in self._all if call.answer is not None]

    @property
    def unanswered(self) -> int:
        return sum(call.answer is None for call in self._all)


def a_kind(value: Any) -> str:
    """What a JSON value is, for a message."""
    kinds = {list: "a list", dict: "an object", str: "text", bool: "a truth value", int: "a number", float: "a number"}
    return kinds.get(type(value), "null")


def need(data: Any, name: str, kind: type[_T]) -> _T:
    """`data[name]`.

    Raises:
        ImportFormatError: `data` is not an object, or has no such field of this kind.
    """
    if not isinstance(data, dict):
        raise ImportFormatError(f"is {a_kind(data)} where an object with {name!r} is needed")
    value = data.get(name)
    if not isinstance(value, kind):
        found = f"is {a_kind(value)}" if name in data else "is missing"
        raise ImportFormatError(f"{name}: {found}; {a_kind(kind())} is needed")
    return value


def get_object(data: Json, name: str) -> Json:
    """`data[name]` where it is an object, else an empty one."""
    value = data.get(name)
    return value if isinstance(value, dict) else {}


def get_objects(data: Json, name: str) -> list[Json]:
    """The objects in the list `data[name]`; empty where there is none."""
    value = data.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def digest(value: Any) -> str:
    """32 hexadecimal digits that are equal for equal JSON values."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def arguments_object(arguments: Any) -> Json:
    """The arguments of a call: an object as it is, or as JSON text.

    What a model wrote instead of an object is kept as text under "arguments": the environment saw it too.
    """
    if isinstance(arguments, dict):
        return arguments
    if not arguments:
        return {}
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict):
            return value
    return {"arguments": arguments}


def text_of(content: Any) -> str:
    """The text of a message: text as it is, a list of blocks joined by line ends, blocks without text by their type."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_block_text(block) for block in content)
    return json.dumps(content, ensure_ascii=False)


def _block_text(block: Any) -> str:
    if not isinstance(block, dict):
        return text_of(block)
    text = block.get("text")
    return text if isinstance(text, str) else f"[{block.get('type', 'block')}]"


def shorten(text: str, limit: int = _SHORT_TEXT) -> str:
    """One line of at most `limit` characters; "…" shows that it goes on."""
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def call_text(tool: str, parameters: Json) -> str:
    """A call on one short line: `get_user(user_id="u1")`."""
    pairs = ", ".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in parameters.items())
    return shorten(f"{tool}({pairs})")


def result_fields(text: str, kind: str) -> Json:
    """The fields of a StepResult of type `kind`; of a longer observation the beginning is kept, and that is said."""
    name = "output" if kind == "success" else "message"
    fields: Json = {"type": kind, name: text[:MAX_OBSERVATION]}
    if len(text) > MAX_OBSERVATION:
        fields["truncated"] = True
    return fields


def keep_text(metadata: Json, name: str, text: str) -> None:
    """Put `text` into metadata; a cut to 10,000 characters is noted beside it as `<name>_truncated`."""
    metadata[name] = text[:MAX_DESCRIPTION]
    if len(text) > MAX_DESCRIPTION:
        metadata[f"{name}_truncated"] = True


def description(text: str, metadata: Json) -> str:
    """A task description within its limit; a cut is noted in the metadata."""
    if len(text) > MAX_DESCRIPTION:
        metadata["task_description_truncated"] = True
    return text[:MAX_DESCRIPTION]


def outcome_of_reward(rewarded: Json, benchmark: str, why_none: str) -> Json:
    """The outcome for `rewarded["reward"]`: 1 is a success, 0 a failure (for the reason `why_none`).

    Raises:
        ImportFormatError: the reward is not a number.
    """
    reward = rewarded.get("reward")
    score = float(reward) if type(reward) is int else need(rewarded, "reward", float)
    verdict = f"{benchmark} reward {score:g}"
    if score == 0:
        return {"type": "failure", "score": score, "verdict": verdict, "reason": why_none}
    return {"type": "success" if score == 1 else "partial_success", "score": score, "verdict": verdict}


def micros(value: Any) -> int | None:
    """ISO 8601 text or microseconds since the epoch as microseconds; None where it is neither."""
    if isinstance(value, str):
        try:
            value = from_iso(value)
        except (ValueError, OverflowError):
            return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _LAST_MICROSECOND:
        return None
    return value


def elapsed_ms(start: int | None, end: int | None) -> float | None:
    """Milliseconds from `start` to `end`, both in microseconds; None where one is unknown or the order is wrong."""
    return None if start is None or end is None or end < start else (end - start) / 1000


def without_none(fields: Json) -> Json:
    """The fields that are known."""
    return {name: value for name, value in fields.items() if value is not None}
