"""Whether a store is what it has to be: chain, rows, index, cache and effects, each against the others.

It reads the files beside the servers that work on them, and trusts none of what it compares: rows are held against
the ledger, units and their words against the rows, the cache against the rows, and what followers left against what
the completed episodes teach.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlite

from memory_mcp.memory import boot_id
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.storage import queries, sqlite_file
from memory_mcp.storage.cache import Cache
from memory_mcp.storage.ledger import verify
from memory_mcp.storage.sqlite_session import SqliteSession
from tests.durability.effects import effects

Json = dict[str, Any]

_BUSY_SECONDS = 10.0
_BATCH = 500
# readers count the steps themselves: the cached header of an open episode is that of its creation
_COUNTED = ("step_count", "error_count")


@dataclass(slots=True)
class Audit:
    """What was found wrong, what was looked at, and all episodes as the store has them."""

    problems: list[str] = field(default_factory=list)
    figures: Counter[str] = field(default_factory=Counter)
    episodes: list[Json] = field(default_factory=list)


@contextmanager
def reading(data_dir: Path) -> Iterator[SqliteSession]:
    """One consistent look at the store."""
    with sqlite_file.reading(data_dir / "memory.db", _BUSY_SECONDS) as connection:
        assert connection is not None, "there is no store"
        session = SqliteSession(connection)
        session.run("BEGIN")
        yield session


def audit(data_dir: Path, *, embedded: bool = False) -> Audit:
    """Hold everything in a data directory against everything else. Nobody may be writing meanwhile.

    Args:
        embedded: some process has an embedding model, so that every text must have its vector.
    """
    found = Audit()
    with reading(data_dir) as session:
        found.episodes = all_episodes(session)
        found.figures["episodes"] = len(found.episodes)
        found.figures["ledger_entries"] = queries.ledger_entries(session)
        for finding in verify(session):
            found.problems.append(f"ledger {finding.namespace} {finding.sequence}: {finding.problem}")
        found.problems += _files(session)
        found.problems += _against_ledger(session, found.episodes)
        found.problems += _units(session, found.episodes)
        found.problems += _words(session, found.episodes)
        found.problems += _vectors(session, embedded)
        found.problems += effects(session, found.episodes)
        store_id = session.one("SELECT value FROM meta WHERE key = 'store_id'")
        assert store_id is not None
        found.problems += _cache(data_dir, str(store_id[0]), queries.head_position(session), found)
    return found


def all_episodes(session: SqliteSession) -> list[Json]:
    ids = queries.episode_ids_newest_first(session, 1 << 30)
    by_namespace: dict[str, list[str]] = {}
    for namespace, episode_id in ids:
        by_namespace.setdefault(namespace, []).append(episode_id)
    return [
        episode
        for namespace, names in sorted(by_namespace.items())
        for start in range(0, len(names), _BATCH)
        for episode in queries.episodes(session, namespace, names[start : start + _BATCH]).values()
    ]


def _files(session: SqliteSession) -> Iterable[str]:
    for (said,) in session.all("PRAGMA integrity_check"):
        if said != "ok":
            yield f"integrity_check: {said}"
    for row in session.all("PRAGMA foreign_key_check"):
        yield f"foreign_key_check: {row}"


def _against_ledger(session: SqliteSession, episodes: list[Json]) -> Iterable[str]:
    """The rows of an episode are what the ledger says was written to it, each thing once."""
    told: dict[str, Json] = {}
    after = 0
    while entries := queries.ledger(session, after, _BATCH):
        for entry in entries:
            known = told.setdefault(entry.subject_id, {"operations": Counter(), "steps": [], "header": {}})
            known["operations"][entry.operation] += 1
            data = entry.data() if entry.payload is not None else {}
            known["steps"] += [data["step"]] if "step" in data else []
            known["header"] = data.get("episode", known["header"])
        after = entries[-1].position
    for episode in episodes:
        known = told.pop(episode["episode_id"], None)
        if known is None:
            yield f"episode {episode['episode_id']}: the ledger does not know it"
            continue
        yield from (f"episode {episode['episode_id']}: {problem}" for problem in _one_against_ledger(episode, known))
    for subject, known in told.items():
        if known["operations"]["episode.created"]:
            yield f"episode {subject}: the ledger has it and the store has not"


def _one_against_ledger(episode: Json, known: Json) -> Iterable[str]:
    completed = episode["status"] != "open"
    expected = {"episode.created": 1, "episode.completed": int(completed), "episode.learned": int(completed)}
    for operation, count in expected.items():
        if known["operations"][operation] != count:
            yield f"has {known['operations'][operation]} entries {operation} instead of {count}"
    if known["steps"] != episode["steps"]:
        yield f"its {len(episode['steps'])} steps are not the {len(known['steps'])} of the ledger"
    if episode["step_count"] != len(episode["steps"]):
        yield f"says that it has {episode['step_count']} steps and has {len(episode['steps'])}"
    if episode["error_count"] != sum(step["result"]["type"] != "success" for step in episode["steps"]):
        yield "counts its failed steps wrong"
    for name in ("status", "outcome", "reward", "reflection", "ended_at", "task_description", "started_at"):
        if episode[name] != known["header"].get(name):
            yield f"{name} is not what the ledger says"


def _expected_units(session: SqliteSession, episodes: list[Json]) -> dict[tuple[str, str, int], str]:
    recipe = TextRecipe()
    units: dict[tuple[str, str, int], str] = {}
    for episode in episodes:
        units["task", episode["episode_id"], 0] = recipe.task(episode)
        for step in episode["steps"]:
            units["step", episode["episode_id"], step["step_number"]] = recipe.step(step)
        if episode["status"] != "open":
            units["lesson", episode["episode_id"], 0] = recipe.lesson(episode)
    rows = session.all(
        "SELECT p.pattern_id, p.kind, p.body FROM patterns p JOIN pattern_sources s"
        " ON s.ns_hash = p.ns_hash AND s.pattern_id = p.pattern_id GROUP BY p.ns_hash, p.pattern_id HAVING count(*) > 1"
    )
    for pattern_id, kind, body in rows:
        units["pattern", pattern_id, 0] = recipe.pattern(kind, json.loads(body))
    return units


def _units(session: SqliteSession, episodes: list[Json]) -> Iterable[str]:
    """Each text has exactly one unit, and each unit its row in the index."""
    there = Counter(session.all("SELECT kind, subject_id, step_number FROM units"))
    expected = _expected_units(session, episodes)
    for unit in expected.keys() - there.keys():
        yield f"units: {unit} is missing"
    for unit, count in there.items():
        if unit not in expected or count > 1:
            yield f"units: {unit} is there {count} times and belongs there {int(unit in expected)} times"
    units = {row[0] for row in session.all("SELECT unit_id FROM units")}
    indexed = {row[0] for row in session.all("SELECT rowid FROM units_fts")}
    if units != indexed:
        yield f"units_fts: {len(units - indexed)} rows are missing, {len(indexed - units)} belong to no unit"


def _words(session: SqliteSession, episodes: list[Json]) -> Iterable[str]:
    """The index holds the words of each text: those that a fresh index over the same texts holds."""
    expected = _expected_units(session, episodes)
    rows = session.all("SELECT unit_id, kind, subject_id, step_number FROM units")
    fresh = sqlite.connect(":memory:")
    definition = session.one("SELECT sql FROM sqlite_schema WHERE name = 'units_fts'")
    assert definition is not None
    fresh.execute(definition[0])
    recipe = TextRecipe()
    fresh.executemany(
        "INSERT INTO units_fts (rowid, terms) VALUES (?, ?)",
        [(unit_id, recipe.terms(expected[tuple(key)])) for unit_id, *key in rows if tuple(key) in expected],
    )
    for connection in (fresh, session):
        run = connection.execute if connection is fresh else connection.run
        run("CREATE VIRTUAL TABLE temp.words USING fts5vocab(main, units_fts, instance)")
    # not in which order: parameters are indexed as they were sent, and kept with their names sorted
    query = "SELECT doc, term, count(*) FROM temp.words GROUP BY doc, term"
    right, stored = set(fresh.execute(query).fetchall()), set(session.all(query))
    session.run("DROP TABLE temp.words")
    fresh.close()
    wrong = {row[0] for row in right ^ stored}
    if wrong:
        yield f"units_fts: the words of {len(wrong)} units are not those of their texts, such as of {min(wrong)}"


def _vectors(session: SqliteSession, embedded: bool) -> Iterable[str]:
    orphans = session.one("SELECT count(*) FROM vectors WHERE unit_id NOT IN (SELECT unit_id FROM units)")
    if orphans is not None and orphans[0]:
        yield f"vectors: {orphans[0]} belong to no unit"
    if embedded:
        bare = session.one(
            "SELECT count(*) FROM units WHERE embed = 1 AND unit_id NOT IN (SELECT unit_id FROM vectors)"
        )
        if bare is not None and bare[0]:
            yield f"vectors: {bare[0]} units have none"


def _cache(data_dir: Path, store_id: str, head: int, found: Audit) -> Iterable[str]:
    cache = Cache(data_dir / "cache", store_id, boot_id())
    cache.open()
    try:
        if cache.rebuilds:
            yield "cache: could not be read and was made anew"
        if cache.applied() != head:
            yield f"cache: stands at {cache.applied()} and the ledger at {head}"
        for episode in found.episodes:
            cached = cache.episode(episode["namespace"], episode["episode_id"])
            if cached is not None:
                found.figures["cached"] += 1
                wrong = sorted(name for name in episode if name not in _COUNTED and cached.get(name) != episode[name])
                if wrong:
                    yield f"cache: episode {episode['episode_id']} differs from the store in {', '.join(wrong)}"
    finally:
        cache.close()
