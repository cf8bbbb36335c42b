"""Words for what was done and seen, as people write them: no JSON, nothing empty, shortened visibly."""

from __future__ import annotations

import json
import re
from typing import Any

from memory_mcp.learning.trace import choice
from memory_mcp.records.base import Json
from memory_mcp.records.episode import StepDraft

_PLAIN = re.compile(r"[\w.@/:+-]+")
_KEY = re.compile(r'"([^"\\\n]{1,40})"\s*:')
_NAMED_FIELDS = 6
_NAMED_PARAMETERS = 5


def first_line(text: str, limit: int = 160) -> str:
    """The first line of a text, shortened visibly."""
    stripped = text.strip()
    line = stripped.splitlines()[0].rstrip() if stripped else ""
    return line if len(line) <= limit else line[: limit - 1] + "…"


def gist(text: str, limit: int = 120) -> str:
    """The first line of what a tool said; of structured data, what it holds."""
    stripped = text.strip()
    if not stripped.startswith(("{", "[")):
        return first_line(stripped, limit)
    try:
        value = json.loads(stripped)
    except (ValueError, RecursionError):
        # not JSON after all, or only its beginning
        names = list(dict.fromkeys(_KEY.findall(stripped[:2_000])))
        return _fields(names, limit) if names else first_line(stripped, limit)
    if isinstance(value, list):
        return f"a list of {len(value)}" if value else "an empty list"
    return _fields(list(value), limit) if value else "nothing"


def said(text: str, limit: int = 120) -> str:
    """What a failed step said, in quotation marks; "no message" where it said nothing."""
    line = first_line(text, limit)
    return f"“{line}”" if line else "no message"


def describe_choice(chosen: Json) -> str:
    """A step to take, in words."""
    parameters = [f"{name}={_value(value)}" for name, value in chosen.get("parameters", {}).items()]
    inside = ", ".join([*parameters[:_NAMED_PARAMETERS], *(["…"] if len(parameters) > _NAMED_PARAMETERS else [])])
    return f"{chosen['tool']}({inside})" if inside else str(chosen["tool"])


def describe(step: StepDraft) -> str:
    """A step in words: its tool, and its parameters where they are short."""
    return describe_choice(choice(step))


def describe_error(error: Json) -> str:
    """An error class in words."""
    return f"{error['tool']} fails with {said(error['template'], 200)}"


def path_of(choices: list[Json], limit: int = 8) -> str:
    """Steps in their order, in one line."""
    return " → ".join([*(describe_choice(item) for item in choices[:limit]), *(["…"] if len(choices) > limit else [])])


def sentence(kind: str, body: Json) -> str:
    """A pattern in words; tools and values are quoted as they are."""
    if kind == "tool_sequence":
        return " → ".join(body["tools"])
    if kind == "decision_point":
        situation = body["situation"]
        where = f"after {situation['after']}" if situation["after"] else "at the start"
        return f"{where}: {describe_choice(body['choice'])}"
    if kind == "error_recovery":
        return f"{describe_error(body['error'])}: {describe_choice(body['recovery'])}"
    if kind == "context_pattern":
        name, value = next(iter(body["context"].items()))
        where = f"with {name.replace('_', ' ')} {value}"
        return f"{where}: {body['tool']}" if "tool" in body else where
    if "error" in body:
        return describe_error(body["error"])
    if "repeats" in body:
        return f"{body['repeats']} called three times or more with the same arguments"
    return f"{body['retries_unchanged']} tried again unchanged after it failed"


def _fields(names: list[str], limit: int) -> str:
    more = ", …" if len(names) > _NAMED_FIELDS else ""
    return first_line(f"data with {', '.join(names[:_NAMED_FIELDS])}{more}", limit)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else f"“{value}”"
    if isinstance(value, bool):
        return "true" if value else "false"
    return "nothing" if value is None else str(value)
