"""What the tools do: bytes to bytes, text to text, text to rows, rows to a typed table, with the library's errors."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import lzma
import re
import zlib
from collections.abc import Callable, Mapping
from datetime import datetime
from decimal import Decimal

from memory_mcp.evaluation.workbench.menu import DELIMITERS, THOUSANDS
from memory_mcp.evaluation.workbench.tables import Cell, Column, Schema, Table

_END_MARK = "\x1a"
_DELIMITERS = re.escape("".join(DELIMITERS.values()))


def _from_base64(data: bytes) -> bytes:
    return base64.b64decode(b"".join(data.split()), validate=True)


def _from_hex(data: bytes) -> bytes:
    return bytes.fromhex(data.decode("ascii"))


UNPACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.decompress,
    "zlib": zlib.decompress,
    "bz2": bz2.decompress,
    "xz": lzma.decompress,
    "base64": _from_base64,
    "hex": _from_hex,
}
SALVAGE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: zlib.decompressobj(wbits=31).decompress(data),
    "bz2": lambda data: bz2.BZ2Decompressor().decompress(data),
    "xz": lambda data: lzma.LZMADecompressor().decompress(data),
}


def strip_padding(text: str, what: str) -> str:
    """Without NUL characters, without the byte order mark, or without the end mark and all behind it."""
    if what == "after_end_mark":
        return text.partition(_END_MARK)[0]
    return text.replace("\0" if what == "nul" else "\ufeff", "")


def repair_mojibake(text: str, via: str) -> str:
    """Read again as UTF-8 what had been read as `via`."""
    return text.encode(via).decode("utf-8")


def normalize_line_ends(text: str, style: str) -> str:
    """Line feeds and nothing else at the line ends."""
    if style == "unicode":
        return "".join(line + "\n" for line in text.splitlines())
    return text.replace("\\n", "\n") if style == "spelt_out" else text.replace("\r\n", "\n").replace("\r", "\n")


def skip_preamble(text: str, lines: str, schema: Schema) -> str:
    """Without the first lines.

    Raises:
        ValueError: no line names all columns.
    """
    all_lines = text.split("\n")
    if lines != "until_columns":
        return "\n".join(all_lines[int(lines) :])
    for number, line in enumerate(all_lines):
        if all(column.name in line for column in schema):
            return "\n".join(all_lines[number:])
    raise ValueError(f"none of {len(all_lines)} lines names the columns; the first line is {all_lines[0][:60]!r}")


def drop_repeated_headers(text: str) -> str:
    """Without later copies of the first line."""
    header, *lines = text.split("\n")
    return "\n".join([header, *(line for line in lines if line.rstrip() != header.rstrip())])


def drop_footer(text: str, lines: str) -> str:
    """Without the last lines."""
    return "\n".join(text.removesuffix("\n").split("\n")[: -int(lines)])


def strip_line_tails(text: str) -> str:
    """Without one delimiter at the end of each line."""
    return re.sub(rf"[{_DELIMITERS}](?=\r?$)", "", text, flags=re.MULTILINE)


def mend_quotes(text: str) -> str:
    """Quotes doubled wherever they neither open nor close a value."""
    return re.sub(rf'(?<=[^{_DELIMITERS}\r\n])"(?=[^{_DELIMITERS}\r\n])', '""', text)


def parse(text: str, delimiter: str, quoting: str, schema: Schema) -> list[list[str]]:
    """The rows below the header; blank lines count for nothing.

    Raises:
        ValueError: the header does not name the columns, a row is longer or shorter than it, or there are no rows.
        csv.Error: the text is not what the csv module can read.
    """
    reader = csv.reader(
        text.split("\n"),
        strict=True,
        delimiter=DELIMITERS[delimiter],
        quotechar="'" if quoting == "single" else '"',
        quoting=csv.QUOTE_NONE if quoting == "none" else csv.QUOTE_MINIMAL,
        escapechar="\\" if quoting == "backslash" else None,
        doublequote=quoting != "backslash",
    )
    names = [column.name for column in schema]
    header = next(filter(None, reader), [])
    if header != names:
        named = sum(name in header for name in names)
        raise ValueError(
            f"{named} of {len(names)} columns named in a first line of {len(header)} fields: {_short(header)}"
        )
    rows = [row for row in reader if row]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise ValueError(f"line {number}: expected {len(names)} fields, saw {len(row)}: {_short(row)}")
    if not rows:
        raise ValueError(f"no rows below the header {_short(header)}")
    return rows


def _short(fields: list[str]) -> str:
    return repr([field[:24] for field in fields[:3]]) + (" ..." if len(fields) > 3 else "")


def convert(rows: list[list[str]], schema: Schema, style: Mapping[str, str]) -> Table:
    """The typed table. An error carries a note that says which cell it is about."""
    empty = {"", "" if style["null"] == "empty" else style["null"]}
    typed: list[tuple[Cell, ...]] = []
    for number, row in enumerate(rows, start=1):
        cells: list[Cell] = []
        for column, text in zip(schema, row, strict=True):
            try:
                cells.append(None if text in empty else _typed(text, column, style))
            except (ValueError, ArithmeticError) as error:
                error.add_note(f"row {number}, column {column.name!r}: {text[:40]!r}")
                raise
        typed.append(tuple(cells))
    return Table(schema, tuple(typed))


def _typed(text: str, column: Column, style: Mapping[str, str]) -> Cell:
    if column.kind == "text":
        return text
    if column.kind == "date":
        return datetime.strptime(text, style["date_format"]).date()  # noqa: DTZ007 (a calendar day has no zone)
    digits = text.replace(THOUSANDS[style["thousands"]], "") if style["thousands"] != "none" else text
    if column.kind == "integer":
        return int(digits)
    return Decimal(digits.replace(",", ".") if style["decimal"] == "comma" else digits)
