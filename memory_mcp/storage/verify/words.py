"""The full-text index against the units: the same words at the same places, and nothing else.

FTS5 keeps no text here that could be compared. Its vocabulary lists every word with unit and place; the same is made
of the expected words in a database in memory, by the same tokenizer, and the sums of both are compared unit by unit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_session import Fts5Index, SqliteSession
from memory_mcp.storage.transaction import Recipe
from memory_mcp.storage.verify.findings import Findings, slip
from memory_mcp.storage.verify.units import compare

_MASK = (1 << 64) - 1


def check_words(session: Session, recipe: Recipe) -> Findings:
    """Units that the index does not know, knows with other words, or knows although they do not exist."""
    known = {row[0] for row in session.all("SELECT rowid FROM units_fts")}
    units = {row[0] for row in session.all("SELECT unit_id FROM units")}
    for unit_id in sorted(units - known):
        yield slip("words", f"unit {unit_id}", "the full-text index does not know it")
    for unit_id in sorted(known - units):
        yield slip("words", f"unit {unit_id}", "the full-text index knows a unit that does not exist")
    expected, compared = _expected(session, recipe)
    found = _sums(session, _anywhere(session))
    for unit_id in sorted(compared & known):
        if found.get(unit_id) != expected.get(unit_id):
            yield slip("words", f"unit {unit_id}", "the full-text index has other words for it than its text")


def clear_words(session: Session) -> None:
    """Empty the index, in whatever state it is."""
    session.run("INSERT INTO units_fts (units_fts) VALUES ('delete-all')")


def restore_words(session: Session, recipe: Recipe) -> None:
    """Make the index anew from the units, which are right already."""
    clear_words(session)
    index = Fts5Index()
    for unit_id, terms in _terms(session, recipe):
        index.put(session, unit_id, terms)


def _terms(session: Session, recipe: Recipe) -> Iterator[tuple[int, str]]:
    for pair in compare(session, recipe):
        if pair.wanted is not None and pair.found is not None:
            yield pair.found.unit_id, recipe.terms(pair.wanted.text)


def _expected(session: Session, recipe: Recipe) -> tuple[dict[int, int], set[int]]:
    """Sums of the expected words by unit, and which units were compared: those that this recipe has made."""
    current = {row[0] for row in session.all("SELECT unit_id FROM units WHERE recipe = $1", recipe.version)}
    row = session.one("SELECT sql FROM sqlite_schema WHERE name = 'units_fts'")
    assert row is not None
    with closing(sqlite.connect(":memory:", isolation_level=None)) as connection:
        scratch = SqliteSession(connection)
        scratch.run(row[0])
        scratch.run("BEGIN")
        index = Fts5Index()
        compared = set()
        for unit_id, terms in _terms(session, recipe):
            if unit_id in current:
                index.put(scratch, unit_id, terms)
                compared.add(unit_id)
        scratch.run("COMMIT")
        return _sums(scratch, _anywhere(session)), compared


def _anywhere(session: Session) -> set[int]:
    """Units with texts made of JSON, whose names come in another order from a caller than from a row."""
    return {row[0] for row in session.all("SELECT unit_id FROM units WHERE kind IN ('step', 'pattern')")}


def _sums(session: Session, anywhere: set[int]) -> dict[int, int]:
    """For every unit the sum over its words and, but for some, their places."""
    session.run("CREATE VIRTUAL TABLE temp.words_in_place USING fts5vocab (main, units_fts, instance)")
    sums: dict[int, int] = {}
    try:
        for term, unit_id, offset in session.each('SELECT term, doc, "offset" FROM temp.words_in_place'):
            sums[unit_id] = (sums.get(unit_id, 0) + hash((term, 0 if unit_id in anywhere else offset))) & _MASK
    finally:
        session.run("DROP TABLE temp.words_in_place")
    return sums
