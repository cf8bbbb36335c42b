"""The ledger: nothing in its history can be changed without being found."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import queries
from memory_mcp.storage.ledger import SALVAGED, verify
from memory_mcp.storage.sqlite_session import Fts5Index, SqliteSession
from memory_mcp.storage.transaction import Transaction
from tests.storage.support import add, bare_session, carry_out, command, complete, create, receipt, step

COLUMNS = (
    "position",
    "ns_hash",
    "sequence",
    "at",
    "namespace",
    "actor",
    "operation",
    "subject_kind",
    "subject_id",
    "write_id",
    "payload",
    "payload_digest",
    "previous_hash",
    "hash",
)
ENTRIES = 14


def history() -> SqliteSession:
    """Two chains whose entries alternate."""
    session = bare_session()
    commands = [
        create("a1"),
        create("b1", namespace="team/b"),
        add("a1", step(), step(error="boom"), receipts=[receipt("old")]),
        add("b1", namespace="team/b"),
        create("a2", receipts=[receipt("old")]),
        complete("b1", namespace="team/b"),
        complete("a1", "failure"),
        add("a2"),
        create("b2", namespace="team/b"),
        add("b2", namespace="team/b"),
        complete("a2"),
    ]
    for item in commands:
        carry_out(session, item)
    return session


SESSION = history()

values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(0, 20),
    st.text(max_size=8),
    st.binary(max_size=40),
    st.floats(allow_nan=False),
)
positions = st.integers(1, ENTRIES)


@contextmanager
def undone() -> Iterator[SqliteSession]:
    """What happens inside is taken back at the end."""
    SESSION.run("SAVEPOINT tampering")
    try:
        yield SESSION
    finally:
        SESSION.run("ROLLBACK TO tampering")
        SESSION.run("RELEASE tampering")


def try_to(session: SqliteSession, sql: str, *arguments: Any) -> None:
    """Change the table, unless its own rules forbid it."""
    try:
        session.run(sql, *arguments)
    except sqlite.IntegrityError:
        assume(False)


def test_an_untouched_history_is_whole() -> None:
    assert verify(SESSION) == []
    assert queries.ledger_entries(SESSION) == ENTRIES


@settings(max_examples=400, deadline=None)
@given(column=st.sampled_from(COLUMNS), position=positions, value=values)
def test_a_change_of_any_single_field_is_found(column: str, position: int, value: Any) -> None:
    with undone() as session:
        before = session.all("SELECT * FROM ledger ORDER BY position")
        try_to(session, f"UPDATE ledger SET {column} = $2 WHERE position = $1", position, value)
        assume(session.all("SELECT * FROM ledger ORDER BY position") != before)
        assert verify(session)


@settings(max_examples=100, deadline=None)
@given(position=positions, data=st.data())
def test_a_single_flipped_bit_in_a_payload_or_hash_is_found(position: int, data: st.DataObject) -> None:
    column = data.draw(st.sampled_from(["payload", "payload_digest", "previous_hash", "hash"]))
    with undone() as session:
        row = session.one(f"SELECT {column} FROM ledger WHERE position = $1", position)
        assert row is not None
        old = row[0].encode() if isinstance(row[0], str) else bytes(row[0])
        at, bit = data.draw(st.integers(0, len(old) - 1)), data.draw(st.integers(0, 6))
        new: Any = old[:at] + bytes([old[at] ^ (1 << bit)]) + old[at + 1 :]
        if isinstance(row[0], str):
            new = new.decode("utf-8", "replace")
        session.run(f"UPDATE ledger SET {column} = $2 WHERE position = $1", position, new)
        assert verify(session)


@settings(max_examples=100, deadline=None)
@given(removed=st.sets(positions, min_size=1))
def test_the_removal_of_any_entries_is_found(removed: set[int]) -> None:
    with undone() as session:
        for position in removed:
            session.run("DELETE FROM ledger WHERE position = $1", position)
        assert verify(session)


@settings(deadline=None)
@given(kept=st.integers(0, ENTRIES - 1))
def test_a_history_that_was_cut_off_at_the_end_is_found(kept: int) -> None:
    with undone() as session:
        session.run("DELETE FROM ledger WHERE position > $1", kept)
        assert verify(session)


@pytest.mark.parametrize("namespace", ["default", "team/b"])
def test_the_removal_of_a_whole_chain_with_its_head_is_found(namespace: str) -> None:
    with undone() as session:
        session.run("DELETE FROM ledger WHERE namespace = $1", namespace)
        session.run("DELETE FROM namespaces WHERE namespace = $1", namespace)
        assert verify(session)


@pytest.mark.parametrize("namespace", ["default", "team/b"])
def test_the_removal_of_a_chains_head_alone_is_found(namespace: str) -> None:
    with undone() as session:
        session.run("DELETE FROM namespaces WHERE namespace = $1", namespace)
        assert verify(session)


@settings(max_examples=100, deadline=None)
@given(source=positions, position=st.integers(-5, ENTRIES + 5), sequence=st.integers(-5, ENTRIES + 5), data=st.data())
def test_an_inserted_entry_is_found(source: int, position: int, sequence: int, data: st.DataObject) -> None:
    with undone() as session:
        names = ", ".join(COLUMNS)
        row = session.one(f"SELECT {names} FROM ledger WHERE position = $1", source)
        assert row is not None
        forged = dict(zip(COLUMNS, row, strict=True)) | {"position": position, "sequence": sequence}
        forged["ns_hash"] = data.draw(st.sampled_from([forged["ns_hash"], 4711]))
        marks = ", ".join(f"${number}" for number in range(1, len(COLUMNS) + 1))
        try_to(session, f"INSERT INTO ledger ({names}) VALUES ({marks})", *forged.values())
        assert verify(session)


@settings(max_examples=100, deadline=None)
@given(
    pair=st.lists(positions, min_size=2, max_size=2, unique=True),
    columns=st.one_of(st.just(COLUMNS[1:]), st.sampled_from(COLUMNS[3:]).map(lambda column: (column,))),
)
def test_two_entries_that_changed_places_are_found(pair: list[int], columns: tuple[str, ...]) -> None:
    with undone() as session:
        before = session.all("SELECT * FROM ledger ORDER BY position")
        rows = {
            position: session.one(f"SELECT {', '.join(columns)} FROM ledger WHERE position = $1", position)
            for position in pair
        }
        if "sequence" in columns:
            # out of the way of the unique index
            session.run("UPDATE ledger SET sequence = -position WHERE position IN ($1, $2)", *pair)
        for position, other in (pair, pair[::-1]):
            origin = rows[other]
            assert origin is not None
            sets = ", ".join(f"{name} = ${number}" for number, name in enumerate(columns, 2))
            session.run(f"UPDATE ledger SET {sets} WHERE position = $1", position, *origin)
        assume(session.all("SELECT * FROM ledger ORDER BY position") != before)
        assert verify(session)


@settings(max_examples=60, deadline=None)
@given(erased=st.sets(positions))
def test_erasing_payloads_keeps_the_chain_valid(erased: set[int]) -> None:
    with undone() as session:
        for position in erased:
            session.run("UPDATE ledger SET payload = NULL WHERE position = $1", position)
        assert verify(session) == []


def test_an_entry_moved_to_the_other_chain_is_found() -> None:
    with undone() as session:
        session.run(
            "UPDATE ledger SET ns_hash = (SELECT ns_hash FROM namespaces WHERE namespace = 'team/b'), sequence = 99"
            " WHERE position = 1"
        )
        assert verify(session)


def test_namespaces_have_chains_of_their_own_and_share_the_positions() -> None:
    chains = {name: queries.chain(SESSION, name, 0, 100) for name in ("default", "team/b")}
    for entries in chains.values():
        assert [entry.sequence for entry in entries] == list(range(1, len(entries) + 1))
        assert entries[0].previous_hash == bytes(32)
        assert all(later.previous_hash == earlier.hash for earlier, later in itertools.pairwise(entries))
    together = sorted(entry.position for entries in chains.values() for entry in entries)
    assert together == list(range(1, ENTRIES + 1))


def test_tampering_in_one_namespace_accuses_no_other() -> None:
    with undone() as session:
        session.run("UPDATE ledger SET actor = 'mallory' WHERE position = 2")
        assert {finding.namespace for finding in verify(session)} == {"team/b"}


def test_longer_chains_than_a_batch_are_walked_to_their_end() -> None:
    session = bare_session()
    carry_out(session, create("long"))
    carry_out(session, add("long", *[step() for _ in range(999)]))
    assert verify(session) == []
    session.run("UPDATE ledger SET at = at + 1 WHERE position = 777")
    assert [finding.sequence for finding in verify(session)] == [777]


def test_a_gap_that_a_salvage_has_named_is_told_as_such_and_any_other_is_not() -> None:
    with undone() as session:
        lost = [
            session.one("SELECT position, sequence FROM ledger WHERE namespace = 'default' AND sequence = $1", sequence)
            for sequence in (3, 4, 6)
        ]
        named = {
            "sequences": [[row[1], row[1]] for row in lost[:2] if row],
            "positions": [[row[0], row[0]] for row in lost[:2] if row],
        }
        tx = Transaction(session, command("storage.salvage", {}), TextRecipe(), Fts5Index())
        tx.append(SALVAGED, "store", "s", named)
        for row in lost[:2]:
            assert row is not None
            session.run("DELETE FROM ledger WHERE position = $1", row[0])
        found = verify(session)
        assert [(finding.sequence, finding.named) for finding in found] == [(3, True)]
        assert lost[2] is not None
        session.run("DELETE FROM ledger WHERE position = $1", lost[2][0])
        assert [finding.sequence for finding in verify(session) if not finding.named] == [7, 7, 0]
