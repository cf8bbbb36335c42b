"""The last word on the size of an answer: whatever a service brings, it does not flood the caller's context."""

from __future__ import annotations

from typing import Any

from memory_mcp.records.base import Json
from memory_mcp.retrieval.budget import tokens

# what frames the content: ids, counts, provenance, statistics
FRAME = 300
_MEMBERS = 20
_LENGTHS = (4_000, 2_000, 1_000, 500, 250, 120, 60)


def within(answer: Json, budget: int) -> Json:
    """The answer, with its longest texts and lists shortened until it fits; `shortened` says how much was left out.

    A budget of 0 means no limit. Ids are never shortened, nor is the list of steps, which comes in pages.
    """
    if not budget or tokens(answer) <= budget + FRAME:
        return answer
    fitted: Json = answer
    for items in (None, 3, 1, 0):
        for length in _LENGTHS:
            cut = _Cut(length, items)
            fitted = {name: cut.steps(value) if name == "steps" else cut.value(value) for name, value in answer.items()}
            fitted["shortened"] = {"characters": cut.characters, "items": cut.left_out}
            if tokens(fitted) <= budget + FRAME:
                return fitted
    return fitted


class _Cut:
    """Shortens texts to a length and, where that is not enough, lists and objects to a few items."""

    def __init__(self, length: int, items: int | None) -> None:
        self.characters = 0
        self.left_out = 0
        self._length = length
        self._items = items

    def steps(self, steps: list[Any]) -> list[Any]:
        return [self.value(step) for step in steps]

    def value(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, list):
            kept = value[: self._items]
            self.left_out += len(value) - len(kept)
            return [self.value(item) for item in kept]
        if isinstance(value, dict):
            limit = None if self._items is None else _MEMBERS
            members = list(value.items())[:limit]
            self.left_out += len(value) - len(members)
            return {self._text(name): self.value(item) for name, item in members}
        return value

    def _text(self, text: str) -> str:
        if len(text) <= self._length:
            return text
        self.characters += len(text) - self._length
        return text[: self._length] + "…"
