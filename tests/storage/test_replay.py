"""Replaying the ledger: the entries of an episode alone tell what its rows hold, at any position."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.errors import MemoryMCPError
from memory_mcp.records.base import Json, dumps
from memory_mcp.records.ledger import LedgerEntry
from memory_mcp.storage import queries
from memory_mcp.storage.replay import replay
from memory_mcp.storage.session import Session
from tests.storage.support import (
    NOW,
    add,
    bare_session,
    carry_out,
    command,
    complete,
    create,
    header,
    learn,
    receipt,
    show,
    step,
)
from tests.storage.support import outcome as ended

NAMES = ("a", "b", "ü-ñ")
NAMESPACES = ("default", "team/x")

texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00"), max_size=12)
steps = st.builds(
    step,
    st.sampled_from(["bash", "git"]),
    error=st.sampled_from(["", "", "boom"]),
    action=texts,
    latency_ms=st.none() | st.integers(0, 10**6) | st.floats(0, 1e12),
    tokens_used=st.none() | st.integers(0, 10**12),
    predicted_outcome=st.none() | st.floats(0, 1),
    at=st.none() | st.integers(0, 2**50),
)
receipts = st.lists(st.builds(receipt, st.sampled_from("pqrst"), after=st.integers(0, 3)), max_size=3)
actions = st.tuples(
    st.sampled_from(["create", "add", "add", "add", "show", "complete", "learn", "import", "conflict"]),
    st.sampled_from(NAMES),
    st.sampled_from(NAMESPACES),
    st.lists(steps, min_size=1, max_size=3),
    receipts,
    st.integers(0, 10**6),
)


def entries_of(session: Session, namespace: str, subject: str) -> list[LedgerEntry]:
    return [entry for entry in queries.chain(session, namespace, 0, 10_000) if entry.subject_id == subject]


def perform(session: Session, action: Any) -> None:
    kind, name, namespace, drafts, shown, later = action
    more = {"namespace": namespace, "at": NOW + later}
    payload: Json = {"episode": header(name, namespace=namespace), "steps": drafts, "outcome": ended("failure")}
    made = {
        "create": lambda: create(name, receipts=shown, **more),
        "add": lambda: add(name, *drafts, receipts=shown, **more),
        "show": lambda: show(name, *shown, **more),
        "complete": lambda: complete(name, **more),
        "learn": lambda: learn(name, "p", "q", shown=shown, namespace=namespace),
        "import": lambda: command("episode.import", {**payload, "ended_at": NOW + later}, **more),
        "conflict": lambda: command(
            "write.conflict", {"command": {"payload": {"episode_id": name}}, "error": {}}, **more
        ),
    }[kind]()
    session.run("SAVEPOINT one")
    try:
        carry_out(session, made)
    except MemoryMCPError:
        session.run("ROLLBACK TO one")
    session.run("RELEASE one")


@settings(max_examples=150)
@given(st.lists(actions, max_size=12))
def test_the_entries_of_an_episode_tell_its_rows_after_every_command(sequence: list[Any]) -> None:
    session = bare_session()
    past: dict[tuple[str, str], list[tuple[int, Json | None]]] = {}
    for action in sequence:
        perform(session, action)
        for namespace in NAMESPACES:
            for name in NAMES:
                stored = queries.episode(session, namespace, name)
                assert replay(entries_of(session, namespace, name)) == stored
                past.setdefault((namespace, name), []).append((queries.head_position(session), stored))
    for (namespace, name), states in past.items():
        entries = entries_of(session, namespace, name)
        for position, stored in states:
            assert replay(entry for entry in entries if entry.position <= position) == stored


def a_life() -> tuple[Session, list[LedgerEntry]]:
    session = bare_session()
    for item in (create("a", receipts=[receipt("p")]), add("a", step(), step(error="boom")), complete("a")):
        carry_out(session, item)
    carry_out(session, learn("a", "p", shown=[receipt("p")]))
    return session, entries_of(session, "default", "a")


def test_an_episode_without_entries_is_none() -> None:
    assert replay([]) is None


def test_what_was_removed_or_forgotten_is_gone_until_it_is_restored() -> None:
    session, entries = a_life()
    whole = queries.episode(session, "default", "a")
    assert whole is not None
    parts = {"steps": whole.pop("steps"), "receipts": whole.pop("receipts"), "episode": whole}
    last = entries[-1]
    for operation in ("episode.removed", "episode.forgotten"):
        gone = replace(last, position=90, operation=operation, payload="{}")
        assert replay([*entries, gone]) is None
        back = replace(last, position=91, operation="episode.restored", payload=dumps(parts))
        expected = {**whole, "steps": parts["steps"], "receipts": parts["receipts"], "version": 91}
        assert replay([*entries, gone, back]) == expected


def test_where_a_payload_was_erased_nothing_is_told_before_the_next_whole_image() -> None:
    _, entries = a_life()
    for position in range(len(entries)):
        erased = [replace(entry, payload=None) if at == position else entry for at, entry in enumerate(entries)]
        assert replay(erased) is None
