"""What followers keep: vectors, their cursors, and the tables that learning fills."""

from __future__ import annotations

import math
from collections import Counter

from memory_mcp.records.base import Json
from memory_mcp.storage import queries
from memory_mcp.storage.learned import EMBEDDING, LEARNING
from memory_mcp.storage.session import Row, Session
from memory_mcp.storage.verify.findings import Findings, damage, note, slip

LEARNED_TABLES = (
    "patterns",
    "pattern_sources",
    "pattern_counts",
    "group_counts",
    "scope_stats",
    "tool_stats",
    "credits",
)
_TOLERANCE = 1e-6


def check_vectors(session: Session) -> Findings:
    """Vectors of units that do not exist or are not embedded, of another length than the rest of their model, in
    another namespace than their unit, and vectors that their follower has passed over."""
    for model_id, unit_id, problem in wrong_vectors(session):
        yield slip("vectors", f"unit {unit_id} of model {model_id}", problem)


def wrong_vectors(session: Session) -> list[tuple[str, int, str]]:
    """`(model_id, unit_id, problem)`."""
    wrong: list[tuple[str, int, str]] = []
    usual = _usual_lengths(session)
    for model_id, unit_id, length, same, embed in session.all(
        "SELECT v.model_id, v.unit_id, length(v.vector), v.ns_hash = u.ns_hash, u.embed FROM vectors v"
        " LEFT JOIN units u ON u.unit_id = v.unit_id ORDER BY v.model_id, v.unit_id"
    ):
        if embed is None:
            wrong.append((model_id, unit_id, "it is the vector of a unit that does not exist"))
        elif not embed:
            wrong.append((model_id, unit_id, "it is the vector of a unit that is not to be embedded"))
        elif not same:
            wrong.append((model_id, unit_id, "the vector lies in another namespace than its unit"))
        elif length != usual[model_id]:
            wrong.append((model_id, unit_id, f"the vector has {length} bytes instead of {usual[model_id]}"))
    for name, position in session.all("SELECT name, position FROM followers ORDER BY name"):
        kind, _, model_id = str(name).partition(":")
        if kind == EMBEDDING:
            missing = session.all(
                "SELECT unit_id FROM units u WHERE embed = 1 AND unit_id <= $1 AND NOT EXISTS"
                " (SELECT 1 FROM vectors v WHERE v.unit_id = u.unit_id AND v.model_id = $2) ORDER BY unit_id",
                position,
                model_id,
            )
            wrong += [(model_id, unit_id, "its vector is missing") for (unit_id,) in missing]
    return wrong


def restore_vectors(session: Session) -> None:
    """Delete wrong vectors and put the cursors before them, so that the follower embeds those units again."""
    for model_id, unit_id, _ in wrong_vectors(session):
        session.run("DELETE FROM vectors WHERE unit_id = $1 AND model_id = $2", unit_id, model_id)
        session.run(
            "UPDATE followers SET position = min(position, $2) WHERE name = $1", f"{EMBEDDING}:{model_id}", unit_id - 1
        )


def check_erasure(session: Session) -> Findings:
    """What was forgotten, and may still lie in free pages."""
    if queries.scrub_due(session):
        problem = "something was forgotten, and may still lie in free pages of the files"
        yield note(
            "erasure", "files", problem, "`memory-mcp storage compact` cleans them; a running server does so too."
        )


def check_cursors(session: Session) -> Findings:
    """Cursors beyond what they follow, and completed episodes that were not learned exactly once."""
    head = queries.head_position(session)
    last_unit = _last_unit(session)
    for name, position in session.all("SELECT name, position FROM followers ORDER BY name"):
        end = last_unit if str(name).startswith(f"{EMBEDDING}:") else head
        if not isinstance(position, int) or position < 0 or position > end:
            yield slip("cursors", str(name), f"it stands at {position}, beyond {end}, the end of what it follows")
    for subject, completed, times in _not_learned_once(session):
        if times:
            yield damage("cursors", subject, f"its completion at {completed} was learned {times} times")
        else:
            problem = f"its completion at {completed} lies before the cursor of learning, but was not learned"
            yield note("cursors", subject, problem, "Its learning may have failed: see the log of the server.")


def restore_cursors(session: Session) -> None:
    """Put cursors that stand beyond their end where everything before them is done."""
    session.run(
        "UPDATE followers SET position = $2 WHERE name LIKE $1 AND (typeof(position) <> 'integer' OR position < 0"
        " OR position > $2)",
        f"{EMBEDDING}:%",
        _last_unit(session),
    )
    session.run(
        "UPDATE followers SET position = $2 WHERE name NOT LIKE $1 AND (typeof(position) <> 'integer' OR position < 0"
        " OR position > $3)",
        f"{EMBEDDING}:%",
        learned_up_to(session),
        queries.head_position(session),
    )


def learned_up_to(session: Session) -> int:
    """The position of the last completion that was learned; 0 when there is none."""
    row = session.one(
        "SELECT coalesce(max(c.position), 0) FROM ledger c WHERE c.operation = 'episode.completed' AND EXISTS"
        " (SELECT 1 FROM ledger l WHERE l.subject_id = c.subject_id AND l.ns_hash = c.ns_hash"
        "  AND l.position > c.position AND l.operation = 'episode.learned')"
    )
    assert row is not None
    return int(row[0])


def compare_learned(session: Session, derived: Session) -> Findings:
    """Every row of the learned tables that is not what deriving it anew from the learned episodes gives."""
    for table in LEARNED_TABLES:
        for key, problem in _differences(session, derived, table):
            yield slip("learned", f"{table} {' / '.join(str(part) for part in key)}", problem)


def copy_learned(session: Session, derived: Session) -> None:
    """Make the learned tables what they are in `derived`."""
    for table in LEARNED_TABLES:
        names, keys = _columns(session, table)
        different = [key for key, _ in _differences(session, derived, table)]
        condition = " AND ".join(f"{name} = ${number}" for number, name in enumerate(keys, 1))
        marks = ", ".join(f"${number}" for number in range(1, len(names) + 1))
        for key in different:
            session.run(f"DELETE FROM {table} WHERE {condition}", *key)
            row = derived.one(f"SELECT {', '.join(names)} FROM {table} WHERE {condition}", *key)
            if row is not None:
                session.run(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", *row)


def _differences(session: Session, derived: Session, table: str) -> list[tuple[Row, str]]:
    names, keys = _columns(session, table)
    values = [name for name in names if name not in keys]
    stored, expected = (_rows(one, table, keys, values) for one in (session, derived))
    found: list[tuple[Row, str]] = []
    for key in sorted(stored.keys() | expected.keys(), key=str):
        left, right = stored.get(key), expected.get(key)
        if left is None or right is None:
            if any(isinstance(value, str) or abs(value) > _TOLERANCE for value in (left or right or ())):
                found.append((key, "it is missing" if left is None else "no learned episode accounts for it"))
            continue
        wrong = [
            f"{name} is {is_!r} instead of {should!r}"
            for name, is_, should in zip(values, left, right, strict=True)
            if not _same(is_, should)
        ]
        if wrong:
            found.append((key, "; ".join(wrong)))
    return found


def _rows(session: Session, table: str, keys: list[str], values: list[str]) -> dict[Row, Row]:
    rows = session.each(f"SELECT {', '.join([*keys, *values])} FROM {table}")
    return {row[: len(keys)]: row[len(keys) :] for row in rows}


def _columns(session: Session, table: str) -> tuple[list[str], list[str]]:
    """Names of all columns, and of those of the primary key."""
    info = session.all(f"PRAGMA table_info({table})")
    return [row[1] for row in info], [row[1] for row in info if row[5]]


def _same(left: object, right: object) -> bool:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    return math.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=_TOLERANCE) if numbers else left == right  # type: ignore[arg-type]


def _not_learned_once(session: Session) -> list[tuple[str, int, int]]:
    """`(subject, position, times)` of completions up to the cursor that were not learned exactly once.

    What happened to an episode between its completion and its learning (it was taken away, or put back) excuses it.
    """
    cursor = queries.cursor(session, LEARNING)
    open_: dict[tuple[str, str], Json] = {}
    wrong: list[tuple[str, int, int]] = []

    def close(key: tuple[str, str], excused: bool) -> None:
        seen = open_.pop(key, None)
        if seen and seen["times"] != 1 and seen["position"] <= cursor and not (excused and not seen["times"]):
            wrong.append((f"{key[0]}/{key[1]}", seen["position"], seen["times"]))

    for position, namespace, subject, operation in session.each(
        "SELECT position, namespace, subject_id, operation FROM ledger WHERE operation IN ('episode.completed',"
        " 'episode.learned', 'episode.restored', 'episode.removed', 'episode.forgotten') ORDER BY position"
    ):
        key = (namespace, subject)
        if operation == "episode.learned":
            if key in open_:
                open_[key]["times"] += 1
            continue
        close(key, excused=True)
        if operation == "episode.completed":
            open_[key] = {"position": position, "times": 0}
    for key in list(open_):
        close(key, excused=False)
    return sorted(wrong, key=lambda item: item[1])


def _usual_lengths(session: Session) -> dict[str, int]:
    """The most frequent length of the vectors of each model."""
    counts: dict[str, Counter[int]] = {}
    for model_id, length, count in session.all(
        "SELECT model_id, length(vector), count(*) FROM vectors GROUP BY model_id, length(vector)"
    ):
        counts.setdefault(model_id, Counter())[length] += count
    return {model_id: lengths.most_common(1)[0][0] for model_id, lengths in counts.items()}


def _last_unit(session: Session) -> int:
    """The greatest number that a unit ever had."""
    row = session.one(
        "SELECT max(coalesce((SELECT max(unit_id) FROM units), 0),"
        " coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'units'), 0))"
    )
    assert row is not None
    return int(row[0])
