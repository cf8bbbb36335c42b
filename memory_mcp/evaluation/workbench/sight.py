"""What a plain agent reads in an answer: whether there is trouble, where, and whether that is progress."""

from __future__ import annotations

import re
from dataclasses import dataclass

from memory_mcp.evaluation.workbench.menu import Action, Stage
from memory_mcp.evaluation.workbench.tools import UNCHANGED, ToolResult

_COLUMNS_NAMED = re.compile(r"\b(\d+) of (\d+) columns named")
_DIGITS = re.compile(r"\d+")
_DATE_COMPLAINTS = ("time data", "unconverted data")


@dataclass(frozen=True)
class Trouble:
    """What is wrong after a call. `seen` is the share of the wanted columns that came in sight at this stage."""

    stage: Stage
    seen: float = 1.0
    complaint: str = ""
    changed: bool = False
    in_vain: bool = False

    @property
    def about_dates(self) -> bool:
        """Whether it is a date that could not be converted."""
        return any(words in self.complaint for words in _DATE_COMPLAINTS)

    def compared_with(self, other: Trouble) -> int:
        """1 if the work got further: a later stage, more columns in sight, or another complaint in the same place.

        0 if it stands where it stood, -1 if it fell back or the call was for nothing.
        """
        here, there = (self.stage, self.seen), (other.stage, other.seen)
        if here == there and not self.in_vain:
            return int(self.complaint != other.complaint)
        return 1 if here > there else -1


def columns_named(result: ToolResult) -> float | None:
    """The share of the wanted columns that the answer says can be seen; None if it does not say."""
    named = _COLUMNS_NAMED.search(result.text)
    return int(named[1]) / int(named[2]) if named else None


def trouble_with(action: Action, result: ToolResult) -> Trouble | None:
    """None if the call did what it was meant to do, as far as one can see."""
    if action.stage == Stage.LOOK:
        return None
    share = columns_named(result)
    seen = 1.0 if share is None else share
    if not result.ok:
        # without the particulars of the place, which differ from file to file
        return Trouble(action.stage, seen, " ".join(_DIGITS.sub("", result.text).split()[:3]))
    if result.output.startswith(UNCHANGED):
        return Trouble(action.stage, in_vain=True)
    if action.stage in (Stage.DECODE, Stage.TEXT) and seen < 1:
        return Trouble(action.stage, seen, "unreadable", changed=True)
    return None
