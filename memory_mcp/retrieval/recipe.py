"""How records become searchable text. A change of what is written here needs a new `VERSION`."""

from __future__ import annotations

import json
from typing import Any

from memory_mcp.records.base import Json
from memory_mcp.retrieval.text import terms

VERSION = 1

# a step's observation says most at its beginning, and the index grows with every character
_OBSERVATION = 2_000


class TextRecipe:
    """The recipe of this version; the storage layer calls it while it writes."""

    version = VERSION

    def task(self, episode: Json) -> str:
        """What a task is about: its description, then where it takes place."""
        context = episode.get("context") or {}
        words = [episode["domain"], context.get("language", ""), context.get("framework", ""), *context.get("tags", [])]
        return _join([episode["task_description"], " ".join(word for word in words if word)])

    def step(self, step: Json) -> str:
        """What a step did and saw."""
        result = step["result"]
        observation = result["output"] if result["type"] == "success" else result["message"] or result["output"]
        return _join([step["tool"], step["action"], _values(step["parameters"]), observation[:_OBSERVATION]])

    def lesson(self, episode: Json) -> str:
        """How a task ended and what that taught."""
        outcome = episode["outcome"] or {}
        reflection = episode["reflection"] or {}
        parts = [str(outcome.get("type", "")).replace("_", " ")]
        parts += [outcome.get("verdict", ""), outcome.get("reason", "")]
        parts += [*outcome.get("failed", []), *outcome.get("completed", [])]
        for name in ("successes", "improvements", "insights"):
            parts += [item["text"] for item in reflection.get(name, [])]
        return _join(parts)

    def pattern(self, kind: str, body: Json) -> str:
        """The canonical content of a pattern in words."""
        return _join([kind.replace("_", " "), _values(body)])

    def terms(self, text: str) -> str:
        return " ".join(terms(text))


def _join(parts: list[str]) -> str:
    return "\n".join(part.strip() for part in parts if part and part.strip())


def _values(value: Any) -> str:
    if isinstance(value, dict):
        return " ".join(f"{name} {_values(item)}" for name, item in value.items())
    if isinstance(value, list):
        return " ".join(_values(item) for item in value)
    return value if isinstance(value, str) else json.dumps(value)
