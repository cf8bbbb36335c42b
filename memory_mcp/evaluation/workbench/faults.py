"""How a source writes its files, and what happens to them on the way: a table in, damaged bytes out."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import io
import lzma
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from random import Random
from typing import Literal

from memory_mcp.evaluation.workbench.menu import DELIMITERS, THOUSANDS
from memory_mcp.evaluation.workbench.tables import Cell, Table

Quoting = Literal["doubled", "backslash", "single", "none", "not_doubled"]


@dataclass(frozen=True)
class Dialect:
    """All that is odd about the files of one source; the defaults are a clean CSV file in UTF-8."""

    delimiter: str = "comma"
    quoting: Quoting = "doubled"
    decimal: str = "point"
    thousands: str = "none"
    date_format: str = "%Y-%m-%d"
    null: str = "empty"
    line_end: str = "\n"
    preamble: tuple[str, ...] = ()
    """Lines before the header; a file begins with at least two of them, where there are as many."""
    repeats_header: bool = False
    footer: Literal["", "total", "remark"] = ""
    trailing_delimiter: bool = False
    record_padding: bool = False
    misread_as: tuple[str, ...] = ()
    """The encodings as which the text was wrongly read before it was stored, one after the other."""
    encoding: str = "utf-8"
    dos_sector: bool = False
    wraps: tuple[str, ...] = ()
    truncated: bool = False


def damage(table: Table, dialect: Dialect, rng: Random) -> tuple[bytes, Table]:
    """The bytes as they arrive, and the table that they still hold."""
    text = _text(table, dialect, rng)
    for encoding in dialect.misread_as:
        text = text.encode("utf-8").decode(encoding)
    data = text.encode(dialect.encoding)
    if dialect.dos_sector:
        data = _dos_sector(data)
    for wrap in dialect.wraps:
        data = _WRAPS[wrap](data)
    return _truncate(data, table, dialect, rng) if dialect.truncated else (data, table)


def _text(table: Table, dialect: Dialect, rng: Random) -> str:
    names = [column.name for column in table.schema]
    header = _line(names, dialect)
    lines = [_line([_cell(cell, dialect) for cell in row], dialect) for row in table.rows]
    if dialect.repeats_header:
        page = rng.randint(4, 7)
        lines = [line for at, row in enumerate(lines) for line in ([header, row] if at and at % page == 0 else [row])]
    lines.insert(0, header)
    if dialect.preamble:
        lines[:0] = dialect.preamble[: rng.randint(min(2, len(dialect.preamble)), len(dialect.preamble))]
    if dialect.footer == "total":
        lines.append(_line(["Total", *[""] * (len(names) - 1)], dialect))
    elif dialect.footer == "remark":
        lines.append(f"({len(table.rows)} rows)")
    if dialect.trailing_delimiter:
        lines = [line + DELIMITERS[dialect.delimiter] for line in lines]
    if dialect.record_padding:
        lines = [line.ljust(-(-len(line) // 32) * 32, "\0") for line in lines]
    return dialect.line_end.join([*lines, ""])


def _line(fields: list[str], dialect: Dialect) -> str:
    delimiter = DELIMITERS[dialect.delimiter]
    if dialect.quoting == "none":
        return delimiter.join(fields)
    if dialect.quoting == "not_doubled":
        return delimiter.join(f'"{field}"' if {'"', delimiter} & set(field) else field for field in fields)
    line = io.StringIO()
    backslash = dialect.quoting == "backslash"
    csv.writer(
        line,
        delimiter=delimiter,
        quotechar="'" if dialect.quoting == "single" else '"',
        escapechar="\\" if backslash else None,
        doublequote=not backslash,
        lineterminator="",
    ).writerow(fields)
    return line.getvalue()


def _cell(cell: Cell, dialect: Dialect) -> str:
    match cell:
        case None:
            return "" if dialect.null == "empty" else dialect.null
        case date():
            return cell.strftime(dialect.date_format)
        case int() | Decimal():
            point = "," if dialect.decimal == "comma" else "."
            return f"{cell:,}".translate({ord(","): THOUSANDS[dialect.thousands], ord("."): point})
    return cell


def _dos_sector(data: bytes) -> bytes:
    # DOS marked the end of a text in its last sector; behind the mark stood whatever the disk had held before
    junk = b"\x1a" + bytes(data[(at * 37) % len(data)] for at in range(40))
    return data + junk + b"\0" * (-len(data + junk) % 128)


_WRAPS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda data: gzip.compress(data, mtime=0),
    "zlib": zlib.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "base64": base64.encodebytes,
    "hex": lambda data: data.hex().encode(),
}


def _truncate(data: bytes, table: Table, dialect: Dialect, rng: Random) -> tuple[bytes, Table]:
    whole = replace(dialect, truncated=False)
    while True:
        cut = data[: rng.randint(len(data) // 3, len(data) - 9)]
        left = zlib.decompressobj(wbits=31).decompress(cut).decode(whole.encoding, errors="replace")
        *complete, rest = left.split(dialect.line_end)
        # at least two rows survive, and the last line is plainly cut: in the middle, but not inside of a letter
        if len(complete) > 2 and DELIMITERS[dialect.delimiter] in rest and "\ufffd" not in left:
            return cut, Table(table.schema, table.rows[: len(complete) - 1])
