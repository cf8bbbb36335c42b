"""The workspace: it holds one file between bytes and typed table, and runs the tools on it for real."""

from __future__ import annotations

import csv
import lzma
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from memory_mcp.evaluation.workbench import operations
from memory_mcp.evaluation.workbench.menu import TOOLS, Action, ToolSpec, choose
from memory_mcp.evaluation.workbench.tables import Schema, Table

LIBRARY_ERRORS = (ValueError, ArithmeticError, OSError, EOFError, zlib.error, lzma.LZMAError, csv.Error)
MAX_PREVIEW = 360
UNCHANGED = "nothing changed"


@dataclass(frozen=True)
class ToolResult:
    """What a call brought. A failed one names the exception as a traceback would; a rejected table has no exception."""

    ok: bool
    output: str = ""
    error_type: str = ""
    error_message: str = ""
    latency_ms: float = 0.0

    @property
    def text(self) -> str:
        """The observation in one line."""
        return f"{self.error_type}: {self.error_message}" if self.error_type else self.output


def tools() -> list[ToolSpec]:
    """All tools with descriptions and menus."""
    return list(TOOLS.values())


class Workspace:
    """A file under repair: bytes, then text, rows, and a typed table. Each tool discards what later stages had made."""

    def __init__(
        self,
        data: bytes,
        schema: Schema,
        accepts: Callable[[Table], bool],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.schema = schema
        self.accepted = False
        self._original = data
        self._accepts = accepts
        self._clock = clock
        self._start(data)

    def _start(self, data: bytes) -> None:
        self._bytes = data
        self._text: str | None = None
        self._rows: list[list[str]] | None = None
        self._table: Table | None = None

    def call(self, tool: str, parameters: Mapping[str, Any] | None = None) -> ToolResult:
        """Run a tool. It never raises for what the data or the caller did; a failed call changes nothing."""
        begin = self._clock()
        try:
            action = choose(tool, parameters)
            if action is None:
                raise ValueError(f"no such call: {tool!r} with {dict(parameters or {})!r}")
            ok, output = self._run(action)
        except LIBRARY_ERRORS as error:
            where = "; ".join(getattr(error, "__notes__", ()))
            return ToolResult(False, _cut(where), _type_name(error), _cut(str(error)), self._since(begin))
        return ToolResult(ok, _cut(output), latency_ms=self._since(begin))

    def _since(self, begin: float) -> float:
        return (self._clock() - begin) * 1000

    def _run(self, action: Action) -> tuple[bool, str]:
        given = action.parameters
        match action.tool:
            case "inspect":
                return True, self._look()
            case "restart":
                self._start(self._original)
                return True, self._look()
            case "unpack":
                return True, self._set_bytes(operations.UNPACK[given["codec"]](self._bytes))
            case "salvage":
                return True, self._set_bytes(operations.SALVAGE[given["codec"]](self._bytes))
            case "decode":
                return True, self._set_text(self._bytes.decode(given["encoding"]))
            case "parse":
                return True, self._parse(given)
            case "convert":
                return True, self._convert(given)
            case "submit":
                return self._submit()
            case _:
                return True, self._set_text(self._mend(action.tool, given))

    def _mend(self, tool: str, given: dict[str, str]) -> str:
        text = self._known_text()
        match tool:
            case "skip_preamble":
                return operations.skip_preamble(text, given["lines"], self.schema)
            case "repair_mojibake":
                return operations.repair_mojibake(text, given["via"])
            case "strip_padding":
                return operations.strip_padding(text, given["what"])
            case "normalize_line_ends":
                return operations.normalize_line_ends(text, given["style"])
            case "drop_footer":
                return operations.drop_footer(text, given["lines"])
            case "strip_line_tails":
                return operations.strip_line_tails(text)
            case "mend_quotes":
                return operations.mend_quotes(text)
        return operations.drop_repeated_headers(text)

    def _known_text(self) -> str:
        if self._text is None:
            raise ValueError(f"there is no text yet, only {len(self._bytes)} bytes: decode them first")
        return self._text

    def _set_bytes(self, data: bytes) -> str:
        if data == self._bytes:
            return f"{UNCHANGED} in {len(data)} bytes"
        self._start(data)
        return self._look()

    def _set_text(self, text: str) -> str:
        lines = text.split("\n")
        if text == self._text:
            return f"{UNCHANGED} in {len(lines)} lines"
        self._text, self._rows, self._table = text, None, None
        named = sum(column.name in text for column in self.schema)
        preview = " ".join(repr(line[:70]) for line in lines[:3])
        return f"{len(text)} characters in {len(lines)} lines, {named} of {len(self.schema)} columns named: {preview}"

    def _parse(self, given: dict[str, str]) -> str:
        self._rows = operations.parse(self._known_text(), given["delimiter"], given["quoting"], self.schema)
        self._table = None
        return f"{len(self._rows)} rows of {len(self.schema)} fields: {[field[:20] for field in self._rows[0]]!r}"

    def _convert(self, given: dict[str, str]) -> str:
        if self._rows is None:
            raise ValueError("there are no rows yet: parse the text first")
        table = operations.convert(self._rows, self.schema, given)
        if table == self._table:
            return f"{UNCHANGED} in {len(table.rows)} typed rows"
        self._table = table
        return f"{len(table.rows)} typed rows: " + repr([str(cell)[:20] for cell in table.rows[0]])

    def _submit(self) -> tuple[bool, str]:
        if self._table is None:
            raise ValueError("there is no typed table yet: convert the rows first")
        self.accepted = self._accepts(self._table)
        return self.accepted, "accepted" if self.accepted else "rejected"

    def _look(self) -> str:
        named = sum(column.name.encode() in self._bytes for column in self.schema)
        seen = f"{len(self._bytes)} bytes, {named} of {len(self.schema)} columns named"
        seen += f", first {self._bytes[:12].hex(' ')}, {self._bytes[:60]!r}"
        if self._text is not None:
            seen += f"; text begins {self._text[:80]!r}"
        return seen


def _cut(text: str) -> str:
    return text if len(text) <= MAX_PREVIEW else text[: MAX_PREVIEW - 1] + "…"


def _type_name(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
