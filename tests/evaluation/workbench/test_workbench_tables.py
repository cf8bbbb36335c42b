"""The truth: random tables, and when two of them are the same."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.evaluation.workbench.tables import MAX_ROWS, MIN_ROWS, Cell, Column, Table, make_table, same
from memory_mcp.evaluation.workbench.words import ALPHABETS, THEMES

seeds = st.integers(0, 2**32)
themes = st.sampled_from(sorted(THEMES))
alphabets = st.sampled_from(sorted(ALPHABETS))
SCHEMA = (Column("name", "text"), Column("amount", "decimal"))


def table(*rows: tuple[Cell, ...]) -> Table:
    return Table(SCHEMA, rows)


@given(seeds, themes, alphabets)
def test_the_same_seed_makes_the_same_table(seed: int, theme: str, alphabet: str) -> None:
    assert make_table(Random(seed), theme, alphabet) == make_table(Random(seed), theme, alphabet)


@given(seeds, themes, alphabets)
def test_every_table_holds_what_each_damage_bites_on(seed: int, theme: str, alphabet: str) -> None:
    made = make_table(Random(seed), theme, alphabet)
    cells = [cell for row in made.rows for cell in row]
    texts = [cell for cell in cells if isinstance(cell, str)]

    assert MIN_ROWS <= len(made.rows) <= MAX_ROWS
    assert any(not text.isascii() for text in texts)
    assert any('"' in text for text in texts)
    assert None in cells
    assert any(isinstance(cell, date) and cell.day > 12 for cell in cells)
    assert any(isinstance(cell, int | Decimal) and cell >= 1000 for cell in cells)
    assert {column.kind for column in made.schema} == {"text", "integer", "decimal", "date"}


@given(seeds, themes, alphabets)
def test_every_cell_has_the_kind_of_its_column(seed: int, theme: str, alphabet: str) -> None:
    made = make_table(Random(seed), theme, alphabet)
    kinds = {"text": str, "integer": int, "decimal": Decimal, "date": date}
    for row in made.rows:
        for column, cell in zip(made.schema, row, strict=True):
            assert cell is None or type(cell) is kinds[column.kind]


def test_trailing_zeros_and_the_composition_of_letters_make_no_difference() -> None:
    assert same(table(("é", Decimal("1.50"))), table(("é", Decimal("1.5"))))


def test_an_empty_text_is_an_empty_cell() -> None:
    assert same(table(("", Decimal(1))), table((None, Decimal(1))))


def test_values_order_length_and_columns_make_a_difference() -> None:
    first, second = ("a", Decimal(1)), ("b", Decimal(2))
    assert not same(table(first), table(second))
    assert not same(table(first, second), table(second, first))
    assert not same(table(first), table(first, first))
    assert not same(table(first), Table((SCHEMA[0], Column("sum", "decimal")), (first,)))
