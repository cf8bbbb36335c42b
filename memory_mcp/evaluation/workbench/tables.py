"""Seeded random tables of office life: the truth that a damaged file once held."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from random import Random
from typing import Literal

from memory_mcp.evaluation.workbench.words import ALPHABETS, AWKWARD_NOTES, NOTES, THEMES, Alphabet

Kind = Literal["text", "integer", "decimal", "date"]
Cell = str | int | Decimal | date | None
Row = tuple[Cell, ...]

MIN_ROWS = 8
MAX_ROWS = 40


@dataclass(frozen=True)
class Column:
    """One column: its name, and the kind of its values."""

    name: str
    kind: Kind


Schema = tuple[Column, ...]


@dataclass(frozen=True)
class Table:
    """Typed rows under a schema. An empty cell is None, also in a text column."""

    schema: Schema
    rows: tuple[Row, ...]


def same(left: Table, right: Table) -> bool:
    """Whether two tables say the same: columns, row order and values; 1.50 is 1.5, and é is é however composed."""
    return left.schema == right.schema and [_plain(row) for row in left.rows] == [_plain(row) for row in right.rows]


def _plain(row: Row) -> Row:
    return tuple((unicodedata.normalize("NFC", cell) or None) if isinstance(cell, str) else cell for cell in row)


KIND_OF_ROLE: dict[str, Kind] = {
    "number": "integer",
    "count": "integer",
    "money": "decimal",
    "weight": "decimal",
    "day": "date",
}


def make_table(rng: Random, theme: str, alphabet: str) -> Table:
    """A random table of a theme.

    Whatever the seed, it holds letters beyond ASCII, values of a thousand and more, a day after the twelfth, an empty
    cell, and a value with quotes and delimiters in it: no damage may pass unnoticed because the values were tame.
    """
    names_and_roles = _choose_columns(rng, theme)
    words = ALPHABETS[alphabet]
    rows = [
        tuple(_cell(role, rng, words, row) for _, role in names_and_roles)
        for row in range(rng.randint(MIN_ROWS, MAX_ROWS))
    ]
    rng.shuffle(rows)
    return Table(tuple(Column(name, KIND_OF_ROLE.get(role, "text")) for name, role in names_and_roles), tuple(rows))


def _choose_columns(rng: Random, theme: str) -> list[tuple[str, str]]:
    columns = [column for column in THEMES[theme].split() if column.endswith("!") or rng.random() < 0.6]
    first, *others = (column.removesuffix("!").split(":") for column in columns)
    rng.shuffle(others)
    return [(name, role) for name, role in [first, *others]]


def _cell(role: str, rng: Random, words: Alphabet, row: int) -> Cell:
    demanding = row < 2
    match role:
        case "person":
            return _word(words.people, rng, demanding)
        case "place":
            return _word(words.places, rng, demanding)
        case "product":
            return _word(words.products, rng, demanding)
        case "note":
            return _note(rng, row)
        case "code":
            return f"{rng.choice('ABKLRT')}{rng.choice('CDNXZ')}-{rng.randint(10000, 99999)}"
        case "number":
            return rng.randint(100, 999)
        case "count":
            return rng.randint(1000 if demanding else 1, 4999)
        case "money":
            return None if row == 2 else _amount(rng, 1000 if demanding else 0, 9999, places=2)
        case "weight":
            return None if row == 2 else _amount(rng, 0, 40, places=3)
        case "day":
            day = date(2021, 1, 1) + timedelta(days=rng.randrange(1500))
            return day.replace(day=rng.randint(13, 28)) if demanding else day
    raise ValueError(f"no such role: {role!r}")


def _word(choices: tuple[str, ...], rng: Random, demanding: bool) -> str:
    return rng.choice(choices[: len(choices) // 2] if demanding else choices)


def _note(rng: Random, row: int) -> Cell:
    if row < 2:
        return rng.choice(AWKWARD_NOTES)
    return None if row == 2 or rng.random() < 0.3 else rng.choice(NOTES)


def _amount(rng: Random, low: int, high: int, places: int) -> Decimal:
    return Decimal(f"{rng.randint(low, high)}.{rng.randrange(10**places):0{places}}")
