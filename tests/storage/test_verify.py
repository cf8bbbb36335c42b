"""Checking a store: a sound one gives no finding, and whatever is spoiled is named and, where possible, made right."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from memory_mcp.memory import boot_id
from memory_mcp.retrieval.recipe import TextRecipe
from memory_mcp.services.verification import Verifier
from memory_mcp.storage import queries
from tests.storage.sound import contents, opened, repaired, run, told, verified

ONE = "(SELECT episode_id FROM episodes WHERE status = 'completed' ORDER BY version LIMIT 1)"
OPEN = "(SELECT episode_id FROM episodes WHERE status = 'open' ORDER BY version LIMIT 1)"
TASK = "(SELECT min(unit_id) FROM units WHERE kind = 'task')"
STEP = "(SELECT min(unit_id) FROM units WHERE kind = 'step')"
PATTERN = "(SELECT min(unit_id) FROM units WHERE kind = 'pattern')"


@dataclass(frozen=True)
class Spoiled:
    """Statements that spoil a store, and what names it: `(check, part of the subject, part of the problem)`."""

    statements: tuple[str, ...]
    findings: tuple[tuple[str, str, str], ...]
    others: frozenset[str] = field(default_factory=frozenset)


def spoiled(*statements: str, check: str, subject: str = "", problem: str = "", others: str = "") -> Spoiled:
    """`others` names checks that find consequences of it."""
    return Spoiled(statements, ((check, subject, problem),), frozenset(others.split()))


REPAIRABLE: dict[str, Spoiled] = {
    "an index is gone": spoiled(
        "DROP INDEX ledger_subject", check="schema", subject="index ledger_subject", problem="missing"
    ),
    "a table of learning is gone": spoiled(
        "DROP TABLE pattern_counts", check="schema", subject="table pattern_counts", problem="missing", others="learned"
    ),
    "the table of steps is gone": spoiled(
        "DROP TABLE steps",
        check="schema",
        subject="table steps",
        problem="missing",
        others="rows units words learned cache",
    ),
    "a task was rewritten": spoiled(
        f"UPDATE episodes SET task_description = 'forged' WHERE episode_id = {ONE}",
        check="rows",
        problem="task_description",
        others="units words cache",
    ),
    "an outcome was turned": spoiled(
        f"UPDATE episodes SET outcome = json_set(outcome, '$.type', 'abstained') WHERE episode_id = {ONE}",
        check="rows",
        problem="outcome",
        others="units words learned cache",
    ),
    "a column beside the outcome was turned": spoiled(
        f"UPDATE episodes SET outcome_type = 'abstained' WHERE episode_id = {ONE}", check="rows", problem="outcome_type"
    ),
    "a reward beside the reward was raised": spoiled(
        f"UPDATE episodes SET reward_total = 99.0 WHERE episode_id = {ONE}", check="rows", problem="reward_total"
    ),
    "a header cannot be read": spoiled(
        f"UPDATE episodes SET context = '{{broken' WHERE episode_id = {OPEN}",
        check="rows",
        problem="cannot be read",
        others="units words learned",
    ),
    "an observation was rewritten": spoiled(
        f"UPDATE steps SET result = json_set(result, '$.output', 'x') WHERE episode_id = {ONE} AND step_number = 3",
        check="rows",
        problem="steps",
        others="units words learned cache",
    ),
    "a step was taken away": spoiled(
        f"DELETE FROM steps WHERE episode_id = {ONE} AND step_number = 2",
        check="rows",
        problem="steps",
        others="units words learned cache",
    ),
    "a receipt was turned": spoiled(
        "UPDATE receipts SET used = 1 - used WHERE rowid = (SELECT min(rowid) FROM receipts WHERE used IS NOT NULL)",
        check="rows",
        problem="receipts",
        others="cache",
    ),
    "an episode was taken away": spoiled(
        f"DELETE FROM episodes WHERE episode_id = {ONE}",
        check="rows",
        problem="its rows are missing",
        others="foreign_keys units words learned cache",
    ),
    "an episode was slipped in": spoiled(
        "INSERT INTO episodes SELECT ns_hash, 'forged', namespace, actor, status, task_type, domain, task_description,"
        " context, metadata, outcome_type, outcome, reward_total, reward, reflection, step_count, error_count,"
        f" started_at, ended_at, version FROM episodes WHERE episode_id = {OPEN}",
        check="rows",
        subject="default/forged",
        problem="no ledger entry",
        others="units words",
    ),
    "a unit is missing": spoiled(
        f"DELETE FROM units WHERE unit_id = {TASK}", check="units", problem="missing", others="words vectors"
    ),
    "a unit says something else": spoiled(
        f"UPDATE units SET text = 'forged' WHERE unit_id = {TASK}",
        check="units",
        subject="task unit",
        problem="its text",
    ),
    "a unit is not to be embedded": spoiled(
        f"UPDATE units SET embed = 0, text = '' WHERE unit_id = {TASK}",
        check="units",
        problem="mark for embedding",
        others="vectors",
    ),
    "a unit names another episode": spoiled(
        f"UPDATE units SET episode_id = 'x' WHERE unit_id = {STEP}", check="units", subject="/step ", problem="another"
    ),
    "a unit stands for nothing": spoiled(
        "INSERT INTO units (ns_hash, kind, subject_id, episode_id, step_number, recipe, embed, text)"
        " SELECT ns_hash, 'task', 'nobody', 'nobody', 0, 1, 0, '' FROM namespaces LIMIT 1",
        check="units",
        subject="nobody",
        problem="nothing that exists",
        others="words",
    ),
    "a unit lies in no namespace": spoiled(
        f"UPDATE units SET ns_hash = 4711 WHERE unit_id = {PATTERN}", check="units", problem="nothing", others="words"
    ),
    "a unit is not in the index": spoiled(
        f"DELETE FROM units_fts WHERE rowid = {STEP}", check="words", subject="unit ", problem="does not know it"
    ),
    "the index knows a unit too many": spoiled(
        "INSERT INTO units_fts (rowid, terms) VALUES (99999, 'ghost')",
        check="words",
        subject="unit 99999",
        problem="exist",
    ),
    "the index has other words": spoiled(
        f"DELETE FROM units_fts WHERE rowid = {TASK}",
        f"INSERT INTO units_fts (rowid, terms) SELECT {TASK}, 'forged words'",
        check="words",
        problem="other words",
    ),
    "the index has the words in another order": spoiled(
        f"DELETE FROM units_fts WHERE rowid = {TASK}",
        f"INSERT INTO units_fts (rowid, terms) SELECT {TASK}, REVERSED_TERMS",
        check="words",
        problem="other words",
    ),
    "the index is damaged": spoiled(
        "UPDATE units_fts_data SET block = zeroblob(length(block)) WHERE id > 100",
        check="words",
        subject="units_fts",
        problem="SQLite says",
    ),
    "a vector is gone": spoiled(
        f"DELETE FROM vectors WHERE unit_id = {TASK}", check="vectors", subject="unit ", problem="missing"
    ),
    "a vector is cut short": spoiled(
        f"UPDATE vectors SET vector = substr(vector, 1, 10) WHERE unit_id = {TASK}", check="vectors", problem="10 bytes"
    ),
    "a vector lies elsewhere": spoiled(
        f"UPDATE vectors SET ns_hash = 1 WHERE unit_id = {TASK}", check="vectors", problem="another namespace"
    ),
    "a vector belongs to nothing": spoiled(
        f"UPDATE vectors SET unit_id = 99999 WHERE unit_id = {TASK}",
        check="vectors",
        subject="unit 99999",
        problem="not exist",
    ),
    "a vector belongs to a step": spoiled(
        f"INSERT INTO vectors SELECT {STEP}, model_id, ns_hash, vector FROM vectors LIMIT 1",
        check="vectors",
        problem="not to be embedded",
    ),
    "a pattern is gone": spoiled(
        "DELETE FROM patterns WHERE rowid = (SELECT max(rowid) FROM patterns)",
        check="learned",
        subject="patterns ",
        problem="missing",
        others="units words",
    ),
    "a pattern says something else": spoiled(
        "UPDATE patterns SET body = '{}' WHERE rowid = (SELECT max(rowid) FROM patterns)",
        check="learned",
        subject="patterns ",
        problem="body",
        others="units words",
    ),
    "a source is gone": spoiled(
        "DELETE FROM pattern_sources WHERE rowid = (SELECT min(rowid) FROM pattern_sources)",
        check="learned",
        subject="pattern_sources ",
        problem="missing",
        others="units words",
    ),
    "the counts of a pattern are raised": spoiled(
        "UPDATE pattern_counts SET successes = successes + 1 WHERE rowid = 1",
        check="learned",
        subject="pattern_counts ",
        problem="successes is",
    ),
    "a count was slipped in": spoiled(
        "INSERT INTO pattern_counts SELECT ns_hash, 'forged', domain, task_type, 3, 0, 0, 0 FROM pattern_counts"
        " LIMIT 1",
        check="learned",
        subject="forged",
        problem="no learned episode",
    ),
    "a group was raised": spoiled(
        "UPDATE group_counts SET failures = 7 WHERE rowid = 1",
        check="learned",
        subject="group_counts",
        problem="7 instead",
    ),
    "a scope was raised": spoiled(
        "UPDATE scope_stats SET reward_sum = reward_sum + 0.5",
        check="learned",
        subject="scope_stats",
        problem="reward_sum",
    ),
    "calls of a tool are gone": spoiled(
        "DELETE FROM tool_stats", check="learned", subject="tool_stats", problem="missing"
    ),
    "a credit was raised": spoiled(
        "UPDATE credits SET used = used + 1", check="learned", subject="credits", problem="used is"
    ),
    "the cursor of learning has run away": spoiled(
        "UPDATE followers SET position = 99999 WHERE name = 'learning'",
        check="cursors",
        subject="learning",
        problem="99999",
    ),
    "the cursor of embedding has run away": spoiled(
        "UPDATE followers SET position = 99999 WHERE name LIKE 'embedding:%'", check="cursors", subject="embedding"
    ),
}


def test_a_sound_store_gives_no_finding(store: Path) -> None:
    report = verified(store)
    assert told(report) == []
    assert report.errors == 0
    assert report.position > 80
    with opened(store) as session:
        for table in ("vectors", "credits", "receipts", "pattern_counts", "namespaces", "episodes"):
            assert session.one(f"SELECT 1 FROM {table}"), table
        assert queries.last_position(session, "write.conflict")
        assert session.one("SELECT 1 FROM units WHERE kind = 'pattern'")


def reversed_terms(store: Path) -> str:
    """The words of a task from the last to the first, as a value in SQL."""
    with opened(store) as session:
        row = session.one(f"SELECT text FROM units WHERE unit_id = {TASK}")
    assert row is not None
    recipe = TextRecipe()
    return "'" + " ".join(reversed(recipe.terms(row[0]).split())) + "'"


@pytest.mark.parametrize("name", REPAIRABLE)
def test_what_is_spoiled_is_named_and_made_right(store: Path, name: str) -> None:
    case = REPAIRABLE[name]
    before = contents(store)
    run(store, *(statement.replace("REVERSED_TERMS", reversed_terms(store)) for statement in case.statements))
    found = told(verified(store))
    for check, subject, problem in case.findings:
        assert [item for item in found if item[0] == check and subject in item[1] and problem in item[2]], found
    assert {check for check, _, _ in found} <= {case.findings[0][0], *case.others}
    report = repaired(store)
    assert told(report) == []
    assert any(item.repaired and item.check == case.findings[0][0] for item in report.findings)
    assert contents(store) == before
    assert told(verified(store)) == []


def test_a_store_without_findings_is_left_alone_by_a_repair(store: Path) -> None:
    before = (store / "memory.db").read_bytes()
    called: list[Path] = []
    assert Verifier(store, boot_id()).repair(called.append).findings == []
    assert called == []
    assert (store / "memory.db").read_bytes() == before
