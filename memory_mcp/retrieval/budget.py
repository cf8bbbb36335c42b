"""Fitting answers to a budget of tokens, so that a reading tool never floods the caller's context."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from memory_mcp.errors import InvalidInputError
from memory_mcp.records.base import Json, dumps

# English text and JSON take three to four bytes a token in the common tokenizers; a middle figure errs little
BYTES_PER_TOKEN = 3.5


def tokens(value: Any) -> int:
    """Estimated tokens of a value as compact JSON."""
    return round(len(dumps(value).encode()) / BYTES_PER_TOKEN)


def fit(items: Iterable[Json], budget: int) -> tuple[list[Json], int, int]:
    """`(kept, left_out, tokens)`: items in order of value, as long as they fit; what does not fit is counted.

    A later, smaller item may still fit where an earlier one did not. A budget of 0 means no limit.
    """
    kept: list[Json] = []
    left_out = used = 0
    for item in items:
        cost = tokens(item)
        if budget and used + cost > budget:
            left_out += 1
        else:
            kept.append(item)
            used += cost
    return kept, left_out, used


def check_fields(fields: Iterable[str], known: Iterable[str]) -> None:
    """Refuse a field that no item has: an answer without it would pass for an item without content.

    Raises:
        InvalidInputError
    """
    names = sorted(known)
    for name in fields:
        if name not in names:
            raise InvalidInputError(f"fields: {name[:100]!r} is not one of {', '.join(names)}")


def project(item: Json, fields: list[str]) -> Json:
    """Only the named fields of an item; all of them when none is named. The item's own id always stays."""
    if not fields:
        return item
    keep = {*fields, "episode_id", "pattern_id"}
    return {name: value for name, value in item.items() if name in keep}
