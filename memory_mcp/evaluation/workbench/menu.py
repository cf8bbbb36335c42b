"""The tools of the workbench as an agent sees them: names, descriptions, and every value that a parameter can take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import product
from typing import Any


class Stage(IntEnum):
    """Where in the usual order of work a tool belongs."""

    LOOK = -1
    BYTES = 0
    DECODE = 1
    TEXT = 2
    PARSE = 3
    CONVERT = 4
    SUBMIT = 5


@dataclass(frozen=True)
class Action:
    """A call of a tool. `source` says whose advice it follows; it is no part of what the action is."""

    tool: str
    items: tuple[tuple[str, str], ...] = ()
    source: str = field(default="", compare=False)

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters as a new dictionary."""
        return dict(self.items)

    @property
    def stage(self) -> Stage:
        """Where the action belongs."""
        return TOOLS[self.tool].stage


@dataclass(frozen=True)
class ToolSpec:
    """One tool. The first value of each parameter is the common default."""

    name: str
    stage: Stage
    description: str
    menu: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def actions(self) -> Iterator[Action]:
        """Every possible call of this tool."""
        for values in product(*self.menu.values()):
            yield Action(self.name, tuple(zip(self.menu, values, strict=True)))


ENCODINGS = (
    "utf-8", "utf-8-sig", "latin-1", "cp1252", "cp1250", "cp437", "cp850", "mac_roman",
    "utf-16-le", "utf-16-be", "cp037",
)  # fmt: skip
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
DATE_FORMATS = ("%Y-%m-%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y%m%d", "%d-%b-%Y", "%d.%m.%y", "%m-%d-%y")
THOUSANDS = {"none": "", "comma": ",", "dot": ".", "space": "\xa0", "apostrophe": "'"}
NULLS = ("empty", "NULL", "N/A", "NaN", "-", "?", "\\N")

_SPECS = (
    ToolSpec("inspect", Stage.LOOK, "Show the size, the first bytes, and the first lines as far as they are known."),
    ToolSpec("restart", Stage.LOOK, "Go back to the bytes as they came in."),
    ToolSpec("unpack", Stage.BYTES, "Unpack the bytes.", {"codec": ("gzip", "zlib", "bz2", "xz", "base64", "hex")}),
    ToolSpec("salvage", Stage.BYTES, "Unpack what a broken archive still holds.", {"codec": ("gzip", "bz2", "xz")}),
    ToolSpec("decode", Stage.DECODE, "Read the bytes as text anew.", {"encoding": ENCODINGS}),
    ToolSpec(
        "repair_mojibake",
        Stage.TEXT,
        "Undo that UTF-8 was once read as another encoding.",
        {"via": ("cp1252", "latin-1", "cp850")},
    ),
    ToolSpec(
        "strip_padding",
        Stage.TEXT,
        "Remove what is no text: all NUL, the byte order mark, or all from the DOS end mark on.",
        {"what": ("nul", "byte_order_mark", "after_end_mark")},
    ),
    ToolSpec(
        "normalize_line_ends",
        Stage.TEXT,
        "End lines with a line feed: from carriage returns, from any line end of Unicode, or from \\n spelt out.",
        {"style": ("carriage_return", "unicode", "spelt_out")},
    ),
    ToolSpec(
        "skip_preamble",
        Stage.TEXT,
        "Drop lines from the top: so many, or all before the one that names the columns.",
        {"lines": ("1", "2", "until_columns")},
    ),
    ToolSpec("drop_repeated_headers", Stage.TEXT, "Drop lines that repeat the first line."),
    ToolSpec("drop_footer", Stage.TEXT, "Drop lines from the bottom.", {"lines": ("1", "2")}),
    ToolSpec("strip_line_tails", Stage.TEXT, "Drop one delimiter from the end of each line."),
    ToolSpec("mend_quotes", Stage.TEXT, "Double the quotes inside quoted values."),
    ToolSpec(
        "parse",
        Stage.PARSE,
        "Split the text into rows; the first line must name the columns.",
        {"delimiter": tuple(DELIMITERS), "quoting": ("doubled", "backslash", "single", "none")},
    ),
    ToolSpec(
        "convert",
        Stage.CONVERT,
        "Turn the cells into typed values.",
        {"decimal": ("point", "comma"), "thousands": tuple(THOUSANDS), "date_format": DATE_FORMATS, "null": NULLS},
    ),
    ToolSpec("submit", Stage.SUBMIT, "Hand in the typed table; answers accepted or rejected, and no more."),
)  # fmt: skip

TOOLS: dict[str, ToolSpec] = {spec.name: spec for spec in _SPECS}


def choose(
    tool: str, parameters: Mapping[str, Any] | None = None, *, over: Mapping[str, str] | None = None, source: str = ""
) -> Action | None:
    """The call of a tool, if the menu has it, else None.

    What `parameters` leaves out is taken from `over`, and what that leaves out is the common default.
    """
    spec = TOOLS.get(tool)
    given = {**(over or {}), **(parameters or {})}
    if spec is None or not given.keys() <= spec.menu.keys():
        return None
    if any(value not in spec.menu[name] for name, value in given.items()):
        return None
    return Action(tool, tuple((name, given.get(name, values[0])) for name, values in spec.menu.items()), source)


def usual(tool: str, **parameters: str) -> Action:
    """The call of a tool with the common defaults where nothing else is said.

    Raises:
        ValueError: there is no such call.
    """
    action = choose(tool, parameters)
    if action is None:
        raise ValueError(f"the menu has no {tool} with {parameters}")
    return action
