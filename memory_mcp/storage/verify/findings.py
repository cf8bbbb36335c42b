"""What a check found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from memory_mcp.errors import StoreCorruptError
from memory_mcp.records.base import Json

Severity = Literal["error", "warning"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong with a store.

    `subject` says exactly where (`namespace/episode_id/step 3`, a unit, a table), `problem` what, in a sentence. With
    `repairable`, `storage verify --repair` makes it right; otherwise `hint` says what to do.
    """

    check: str
    severity: Severity
    subject: str
    problem: str
    repairable: bool = False
    repaired: bool = False
    hint: str = ""

    def as_dict(self) -> Json:
        """All fields."""
        return asdict(self)


Findings = Iterator[Finding]


def damage(check: str, subject: str, problem: str) -> Finding:
    """An error that follows from nothing else in the store, so that no repair can know what is right."""
    return Finding(check, "error", subject, problem, hint=StoreCorruptError.default_hint)


def slip(check: str, subject: str, problem: str) -> Finding:
    """An error that a repair can make right."""
    return Finding(check, "error", subject, problem, repairable=True)


def note(check: str, subject: str, problem: str, hint: str = "") -> Finding:
    """Something to know, that keeps nothing from working."""
    return Finding(check, "warning", subject, problem, hint=hint)
