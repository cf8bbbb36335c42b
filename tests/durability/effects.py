"""Whether the followers have done their work once: what they left against what the completed episodes teach."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from memory_mcp.learning.credit import settle
from memory_mcp.learning.mining import mine
from memory_mcp.records.episode import Episode, episode_from
from memory_mcp.records.ledger import namespace_hash
from memory_mcp.storage import queries
from memory_mcp.storage.learned import LEARNING
from memory_mcp.storage.session import Session

Json = dict[str, Any]
Sums = dict[tuple[Any, ...], tuple[float, ...]]

_TABLES = {
    "scope_stats": ("domain, task_type", "episodes, successes, failures, reward_sum, steps_sum"),
    "tool_stats": ("domain, task_type, tool", "calls, errors, timed, latency_ms_sum"),
    "pattern_counts": ("pattern_id, domain, task_type", "successes, failures, tried, resolved"),
    "group_counts": ("group_id, domain, task_type", "successes, failures, tried, resolved"),
    "pattern_sources": ("pattern_id, episode_id", "success, tried, resolved"),
    "credits": ("memory_kind, memory_id", "shown, shown_successes, used, used_successes"),
}


def effects(session: Session, episodes: list[Json]) -> Iterable[str]:
    """What is wrong with the effects of learning, once every completed episode was learned from."""
    last = queries.last_position(session, "episode.completed")
    if queries.cursor(session, LEARNING) != last:
        yield f"followers: learning stands at {queries.cursor(session, LEARNING)} and the last completion at {last}"
    learned = session.all("SELECT subject_id, count(*) FROM ledger WHERE operation = 'episode.learned' GROUP BY 1")
    completed = {episode["episode_id"] for episode in episodes if episode["status"] == "completed"}
    for episode_id in completed - {row[0] for row in learned}:
        yield f"followers: episode {episode_id} was skipped"
    for episode_id, count in learned:
        if count > 1:
            yield f"followers: episode {episode_id} was learned from {count} times"
    whole: list[Episode] = []
    for item in episodes:
        try:
            whole += [episode_from(item)] if item["status"] == "completed" else []
        except ValueError as error:
            yield f"episode {item['episode_id']}: is no episode: {error}"
    expected = _expected(whole)
    for table, (keys, amounts) in _TABLES.items():
        rows = session.all(f"SELECT ns_hash, {keys}, {amounts} FROM {table}")
        width = 1 + len(keys.split(","))
        yield from _differences(table, {row[:width]: row[width:] for row in rows}, expected[table])
    # what is stored must also agree with itself, whatever mining says today
    for row in session.all(
        "SELECT c.pattern_id, sum(c.successes + c.failures), (SELECT count(*) FROM pattern_sources s"
        " WHERE s.ns_hash = c.ns_hash AND s.pattern_id = c.pattern_id) AS sources"
        " FROM pattern_counts c GROUP BY c.ns_hash, c.pattern_id HAVING sum(c.successes + c.failures) <> sources"
    ):
        yield f"pattern_counts: {row[0]} counts {row[1]} episodes and names {row[2]}"


def _differences(table: str, stored: Sums, expected: Sums) -> Iterable[str]:
    for key in stored.keys() | expected.keys():
        there, right = stored.get(key), expected.get(key)
        if there is None or right is None:
            yield f"{table}: {key[1:]} is {'missing' if there is None else 'not taught by any episode'}"
        elif not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-9) for a, b in zip(there, right, strict=True)):
            yield f"{table}: {key[1:]} is {there} and should be {right}"


def _expected(episodes: list[Episode]) -> dict[str, Sums]:
    sums: dict[str, dict[tuple[Any, ...], tuple[float, ...]]] = {table: {} for table in _TABLES}

    def add(table: str, key: tuple[Any, ...], *amounts: float) -> None:
        known = sums[table].get(key, (0.0,) * len(amounts))
        sums[table][key] = tuple(a + b for a, b in zip(known, amounts, strict=True))

    for episode in episodes:
        _add_episode(episode, add)
    return sums


def _add_episode(episode: Episode, add: Any) -> None:
    assert episode.outcome is not None
    ns, scope = namespace_hash(episode.namespace), (episode.domain, episode.task_type)
    success = episode.outcome.succeeded
    reward = (episode.reward or {}).get("total", math.nan)
    add("scope_stats", (ns, *scope), 1, int(success is True), int(success is False), reward, len(episode.steps))
    tools: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0, 0.0])
    for step in episode.steps:
        timed = step.latency_ms is not None
        amounts = (1, int(not step.result.ok), int(timed), step.latency_ms or 0.0)
        tools[step.tool] = [a + b for a, b in zip(tools[step.tool], amounts, strict=True)]
    for tool, amounts in tools.items():
        add("tool_stats", (ns, *scope, tool), *amounts)
    if success is None:
        return
    mined = mine(episode)
    for group_id, (tried, resolved) in mined.groups.items():
        add("group_counts", (ns, group_id, *scope), int(success), int(not success), tried, resolved)
    for pattern_id, seen in mined.contributions.items():
        add("pattern_counts", (ns, pattern_id, *scope), int(success), int(not success), seen.tried, seen.resolved)
        add("pattern_sources", (ns, pattern_id, episode.episode_id), int(success), seen.tried, seen.resolved)
    for credit in settle(episode)[1]:
        amounts = (credit[name] for name in ("shown", "shown_successes", "used", "used_successes"))
        add("credits", (ns, credit["memory_kind"], credit["memory_id"]), *amounts)
