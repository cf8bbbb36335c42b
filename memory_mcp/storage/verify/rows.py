"""The rows of every episode against what the ledger tells of it."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass
from itertools import groupby

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import LedgerEntry, namespace_hash
from memory_mcp.storage import queries
from memory_mcp.storage.episode_rows import put_episode
from memory_mcp.storage.replay import GONE, OPERATIONS, replay
from memory_mcp.storage.session import Session
from memory_mcp.storage.verify.findings import Finding, Findings, damage, slip

_BATCH = 500
_ENTRY_COLUMNS = ", ".join(LedgerEntry.__slots__)


@dataclass(frozen=True, slots=True)
class Told:
    """What the ledger tells of one episode; `erased` names the position of a payload that is missing for that."""

    namespace: str
    episode_id: str
    episode: Json | None
    erased: int = 0


def told(session: Session) -> Iterator[Told]:
    """Every episode that the ledger knows, or once knew.

    Raises:
        KeyError, TypeError, ValueError: a payload is not what its operation writes.
    """
    for (namespace, episode_id), entries in _by_subject(session):
        yield Told(namespace, episode_id, replay(entries), _erased(entries))


def check_rows(session: Session, broken: Container[str]) -> Findings:
    """Every difference between the rows and the ledger.

    Args:
        broken: namespaces whose chain is not whole: there the ledger cannot be trusted to say what is right.
    """
    for (namespace, episode_id), entries in _by_subject(session):
        subject = f"{namespace}/{episode_id}"
        try:
            expected = replay(entries)
        except (KeyError, TypeError, ValueError) as error:
            yield damage("rows", subject, f"its ledger entries cannot be replayed: {type(error).__name__} {error}")
            continue
        erased = _erased(entries)
        if expected is None and erased:
            yield damage("rows", subject, f"the payload of entry {erased} was erased, and the episode not forgotten")
        elif problem := _difference(session, namespace, episode_id, expected):
            yield _finding(subject, problem, namespace in broken)
    for namespace, episode_id in without_entries(session):
        yield _finding(f"{namespace}/{episode_id}", "no ledger entry tells of this episode", namespace in broken)


def without_entries(session: Session) -> list[tuple[str, str]]:
    """`(namespace, episode_id)` of rows that the ledger knows nothing of."""
    rows = session.all(
        "SELECT namespace, episode_id FROM episodes e WHERE NOT EXISTS (SELECT 1 FROM ledger l"
        " WHERE l.subject_id = e.episode_id AND l.ns_hash = e.ns_hash AND l.subject_kind = 'episode')"
        " ORDER BY namespace, episode_id"
    )
    return [(str(namespace), str(episode_id)) for namespace, episode_id in rows]


def restore_rows(session: Session, broken: Container[str]) -> None:
    """Make the rows of every sound namespace what the ledger tells; no ledger entry is needed for that."""
    for item in told(session):
        lost = item.episode is None and item.erased
        if item.namespace in broken or lost:
            continue
        if _difference(session, item.namespace, item.episode_id, item.episode):
            remove_episode(session, namespace_hash(item.namespace), item.episode_id)
            if item.episode is not None:
                put_episode(session, item.episode)
    for namespace, episode_id in without_entries(session):
        if namespace not in broken:
            # its ns_hash may be wrong as well, so it goes by what the row itself says
            session.run("DELETE FROM episodes WHERE namespace = $1 AND episode_id = $2", namespace, episode_id)
    for table in ("steps", "receipts"):
        session.run(
            f"DELETE FROM {table} WHERE NOT EXISTS (SELECT 1 FROM episodes e"
            f" WHERE e.ns_hash = {table}.ns_hash AND e.episode_id = {table}.episode_id)"
        )


def remove_episode(session: Session, ns_hash: int, episode_id: str) -> None:
    """Delete all rows of an episode, also those that no foreign key reaches any more."""
    for table in ("receipts", "steps", "episodes"):
        session.run(f"DELETE FROM {table} WHERE ns_hash = $1 AND episode_id = $2", ns_hash, episode_id)


def _finding(subject: str, problem: str, broken: bool) -> Finding:
    if broken:
        return damage("rows", subject, f"{problem}; the ledger of this namespace is damaged too")
    return slip("rows", subject, problem)


def _difference(session: Session, namespace: str, episode_id: str, expected: Json | None) -> str:
    """In what the rows of an episode differ from what is expected; empty where they do not."""
    try:
        stored = queries.episode(session, namespace, episode_id)
    except (TypeError, ValueError) as error:
        return f"its rows cannot be read: {error}"
    if expected is None:
        return "" if stored is None else "its rows are there, although the ledger says that it is gone"
    if stored is None:
        return "its rows are missing"
    names = [name for name in expected if stored[name] != expected[name]]
    if not names:
        names = _columns_beside(session, namespace, expected)
    return f"its rows differ from the ledger in: {', '.join(names)}" if names else ""


def _columns_beside(session: Session, namespace: str, expected: Json) -> list[str]:
    """Columns that repeat a part of the JSON beside them, for the sake of queries."""
    row = session.one(
        "SELECT outcome_type, reward_total FROM episodes WHERE ns_hash = $1 AND episode_id = $2",
        namespace_hash(namespace),
        expected["episode_id"],
    )
    outcome = expected["outcome"]["type"] if expected["outcome"] else None
    reward = expected["reward"]["total"] if expected["reward"] else None
    wanted = {"outcome_type": outcome, "reward_total": reward}
    return [name for (name, value), found in zip(wanted.items(), row or (), strict=True) if value != found]


def _erased(entries: list[LedgerEntry]) -> int:
    """The position of the first erased payload behind the last entry that took the episode away; 0 if there is none."""
    erased = 0
    for entry in entries:
        if entry.operation in GONE or (entry.operation == "episode.restored" and entry.payload is not None):
            erased = 0
        elif entry.payload is None and not erased:
            erased = entry.position
    return erased


def _by_subject(session: Session) -> Iterator[tuple[tuple[str, str], list[LedgerEntry]]]:
    """The entries that make each episode what it is, by `(namespace, episode_id)`."""
    for subject, same_id in groupby(_in_order_of_subjects(session), key=lambda entry: entry.subject_id):
        by_namespace: dict[str, list[LedgerEntry]] = {}
        for entry in same_id:
            if entry.subject_kind == "episode" and entry.operation in OPERATIONS:
                by_namespace.setdefault(entry.namespace, []).append(entry)
        for namespace, entries in by_namespace.items():
            yield (namespace, subject), entries


def _in_order_of_subjects(session: Session) -> Iterator[LedgerEntry]:
    after: tuple[str, int] = ("", -1)
    while rows := session.all(
        f"SELECT {_ENTRY_COLUMNS} FROM ledger WHERE (subject_id, position) > ($1, $2)"
        " ORDER BY subject_id, position LIMIT $3",
        *after,
        _BATCH,
    ):
        entries = [LedgerEntry(*row) for row in rows]
        yield from entries
        after = (entries[-1].subject_id, entries[-1].position)
