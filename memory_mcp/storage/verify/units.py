"""The findable texts against the records that they are made of."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from memory_mcp.records.base import Json
from memory_mcp.records.ledger import Command
from memory_mcp.storage import queries
from memory_mcp.storage.effects import FINDABLE_SOURCES
from memory_mcp.storage.session import Session
from memory_mcp.storage.transaction import Index, Recipe, Transaction
from memory_mcp.storage.verify.findings import Findings, note, slip

_BATCH = 200

# kind, subject, step number: what identifies a unit within a namespace
Key = tuple[str, str, int]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A unit as the records call for it."""

    namespace: str
    kind: str
    subject_id: str
    episode_id: str
    step_number: int
    embed: bool
    text: str

    @property
    def key(self) -> Key:
        return self.kind, self.subject_id, self.step_number


@dataclass(frozen=True, slots=True)
class Found:
    """A unit as it is stored."""

    unit_id: int
    kind: str
    subject_id: str
    step_number: int
    episode_id: str
    recipe: int
    embed: bool
    text: str

    @property
    def key(self) -> Key:
        return self.kind, self.subject_id, self.step_number


@dataclass(frozen=True, slots=True)
class Compared:
    """A wanted and a stored unit of the same key; either may be missing."""

    namespace: str
    wanted: Wanted | None
    found: Found | None

    @property
    def subject(self) -> str:
        unit = self.wanted or self.found
        assert unit is not None
        step = f"/step {unit.step_number}" if unit.kind == "step" else ""
        return f"{self.namespace}/{unit.subject_id}{step}: {unit.kind} unit"

    def problem(self, version: int) -> str:
        """What is wrong, as a sentence; empty where nothing is."""
        if self.found is None:
            return "it is missing"
        if self.wanted is None:
            return f"unit {self.found.unit_id} stands for nothing that exists"
        if self.found.episode_id != self.wanted.episode_id:
            return "it names another episode"
        if self.found.embed != self.wanted.embed:
            return "its mark for embedding is wrong"
        if self.found.recipe == version and self.found.text != (self.wanted.text if self.wanted.embed else ""):
            return "its text is not that of its subject"
        return ""


def compare(session: Session, recipe: Recipe) -> Iterator[Compared]:
    """Every unit that there is or should be, by namespace."""
    for ns_hash, namespace in _namespaces(session):
        after = ""
        while ids := _episode_ids(session, ns_hash, after):
            wanted = [unit for item in _episodes(session, namespace, ids) for unit in of_episode(item, recipe)]
            yield from _paired(namespace, wanted, _stored(session, ns_hash, ids))
            after = ids[-1]
        yield from _paired(
            namespace, _of_patterns(session, ns_hash, namespace, recipe), _of_no_episode(session, ns_hash)
        )
    for row in session.all(
        f"SELECT ns_hash, {_COLUMNS} FROM units WHERE ns_hash NOT IN (SELECT ns_hash FROM namespaces) ORDER BY unit_id"
    ):
        yield Compared(f"namespace {row[0]}", None, _found(row[1:]))


def check_units(session: Session, recipe: Recipe) -> Findings:
    """Units that are missing, wrong, or stand for nothing."""
    old = 0
    for pair in compare(session, recipe):
        if problem := pair.problem(recipe.version):
            yield slip("units", pair.subject, problem)
        old += pair.found is not None and pair.found.recipe != recipe.version
    if old:
        yield note("units", "units", f"{old} units were made by another recipe than this program's")


def restore_units(session: Session, recipe: Recipe, index: Index) -> None:
    """Make the units what the records call for; what changes gets a new number, and is embedded anew."""
    wrong = [pair for pair in compare(session, recipe) if pair.problem(recipe.version)]
    for pair in wrong:
        if pair.found is not None:
            session.run("DELETE FROM units WHERE unit_id = $1", pair.found.unit_id)
            session.run("DELETE FROM vectors WHERE unit_id = $1", pair.found.unit_id)
            index.remove(session, pair.found.unit_id)
    for pair in wrong:
        if pair.wanted is not None:
            put_unit(session, pair.wanted, recipe, index)


def put_unit(session: Session, unit: Wanted, recipe: Recipe, index: Index) -> None:
    """Insert a unit as a transaction does."""
    tx = Transaction(session, Command("units.put", unit.namespace, {}, "", 0), recipe, index)
    tx.put_unit(
        unit.kind,
        unit.subject_id,
        unit.episode_id,
        unit.text,
        step_number=unit.step_number,
        embed=unit.embed,
    )


def of_episode(episode: Json, recipe: Recipe) -> Iterator[Wanted]:
    """The units of a whole episode."""
    namespace, name = episode["namespace"], episode["episode_id"]
    yield Wanted(namespace, "task", name, name, 0, True, recipe.task(episode))
    for step in episode["steps"]:
        yield Wanted(namespace, "step", name, name, step["step_number"], False, recipe.step(step))
    if episode["outcome"] is not None:
        yield Wanted(namespace, "lesson", name, name, 0, episode["reward"] is not None, recipe.lesson(episode))


_COLUMNS = "unit_id, kind, subject_id, step_number, episode_id, recipe, embed, text"


def _found(row: tuple[Any, ...]) -> Found:
    unit_id, kind, subject_id, step_number, episode_id, recipe, embed, text = row
    return Found(unit_id, kind, subject_id, step_number, episode_id, recipe, bool(embed), text)


def _paired(namespace: str, wanted: list[Wanted], found: list[Found]) -> Iterator[Compared]:
    stored = {unit.key: unit for unit in found}
    for unit in wanted:
        yield Compared(namespace, unit, stored.pop(unit.key, None))
    for left in stored.values():
        yield Compared(namespace, None, left)


def _namespaces(session: Session) -> list[tuple[int, str]]:
    return [
        (row[0], str(row[1])) for row in session.all("SELECT ns_hash, namespace FROM namespaces ORDER BY namespace")
    ]


def _episode_ids(session: Session, ns_hash: int, after: str) -> list[str]:
    rows = session.all(
        "SELECT episode_id FROM episodes WHERE ns_hash = $1 AND episode_id > $2 ORDER BY episode_id LIMIT $3",
        ns_hash,
        after,
        _BATCH,
    )
    return [str(row[0]) for row in rows]


def _episodes(session: Session, namespace: str, ids: list[str]) -> list[Json]:
    return list(queries.episodes(session, namespace, ids).values())


def _stored(session: Session, ns_hash: int, ids: list[str]) -> list[Found]:
    rows = session.all(
        f"SELECT {_COLUMNS} FROM units WHERE ns_hash = $1 AND subject_id >= $2 AND subject_id <= $3"
        " AND kind IN ('task', 'step', 'lesson')"
        " AND subject_id IN (SELECT episode_id FROM episodes WHERE ns_hash = $1)",
        ns_hash,
        ids[0],
        ids[-1],
    )
    return [_found(row) for row in rows]


def _of_no_episode(session: Session, ns_hash: int) -> list[Found]:
    """Units of patterns, and of whatever else is no episode."""
    rows = session.all(
        f"SELECT {_COLUMNS} FROM units WHERE ns_hash = $1 AND (kind NOT IN ('task', 'step', 'lesson')"
        " OR subject_id NOT IN (SELECT episode_id FROM episodes WHERE ns_hash = $1)) ORDER BY unit_id",
        ns_hash,
    )
    return [_found(row) for row in rows]


def _of_patterns(session: Session, ns_hash: int, namespace: str, recipe: Recipe) -> list[Wanted]:
    rows = session.all(
        "SELECT pattern_id, kind, body FROM patterns p WHERE ns_hash = $1 AND (SELECT count(*) FROM pattern_sources s"
        " WHERE s.ns_hash = p.ns_hash AND s.pattern_id = p.pattern_id) >= $2 ORDER BY pattern_id",
        ns_hash,
        FINDABLE_SOURCES,
    )
    return [
        Wanted(namespace, "pattern", pattern_id, "", 0, False, recipe.pattern(kind, json.loads(body)))
        for pattern_id, kind, body in rows
    ]
