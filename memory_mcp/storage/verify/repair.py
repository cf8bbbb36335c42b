"""Repairing what follows from something that is sound. The entries of the ledger are never touched."""

from __future__ import annotations

from collections.abc import Callable, Container
from contextlib import AbstractContextManager

from memory_mcp.storage.session import Session
from memory_mcp.storage.sqlite_session import Fts5Index
from memory_mcp.storage.transaction import Recipe
from memory_mcp.storage.verify import followed, rows, sqlite_checks, units, words
from memory_mcp.storage.verify.findings import Finding

# derives the learned tables anew; the layer above supplies it
Derive = Callable[[Session], AbstractContextManager[Session]]


def repair(session: Session, findings: list[Finding], broken: Container[str], recipe: Recipe, derive: Derive) -> None:
    """Make right what a check has found, inside the caller's transaction.

    In the order in which one follows from the other: tables and indexes, rows from the ledger, what was learned from
    the rows, units from both, the full-text index from the units.
    """
    wrong = {finding.check for finding in findings if finding.repairable}
    if wrong - {"cache"}:
        sqlite_checks.make_missing(session, "sqlite")
    if "sqlite" in wrong:
        session.run("REINDEX")
    if wrong & {"rows", "foreign_keys", "schema"}:
        rows.restore_rows(session, broken)
    if wrong & {"rows", "foreign_keys", "schema", "learned"}:
        with derive(session) as derived:
            followed.copy_learned(session, derived)
    if "cursors" in wrong:
        followed.restore_cursors(session)
    # learning decides which patterns are findable, and rows what a unit says
    if wrong & {"rows", "foreign_keys", "schema", "learned", "units", "words"}:
        if "words" in wrong:
            # removing one unit from a damaged index would fail
            words.clear_words(session)
        units.restore_units(session, recipe, Fts5Index())
    if "words" in wrong:
        words.restore_words(session, recipe)
    if wrong - {"cache"}:
        followed.restore_vectors(session)
