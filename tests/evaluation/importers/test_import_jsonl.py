"""The documented format of one episode per line."""

import json
import re
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.evaluation.importers import Problem, jsonl, read
from memory_mcp.evaluation.importers._files import MAX_LINE_BYTES
from memory_mcp.records.episode import (
    OUTCOME_TYPES,
    TASK_TYPES,
    Context,
    Episode,
    ImportedEpisode,
    Outcome,
    Step,
    StepDraft,
    StepResult,
)

EPISODE = {"task_description": "Fix the parser", "source_id": "mine:1"}
NOON = 1_769_860_800_000_000

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=30)
name = text.filter(str.strip)
scalar = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | text
json_value = st.recursive(scalar, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3))
json_object = st.dictionaries(text, json_value, max_size=3)
share = st.none() | st.floats(0, 1)
time = st.integers(0, 2**48)
result = st.builds(
    StepResult,
    type=st.sampled_from(["success", "error", "timeout"]),
    output=text,
    message=text,
    truncated=st.booleans(),
)
step_fields = {
    "tool": name,
    "action": text,
    "parameters": json_object,
    "result": result,
    "latency_ms": st.none() | st.floats(0, 1e12),
    "tokens_used": st.none() | st.integers(0, 10**12),
    "predicted_outcome": share,
}
outcome = st.builds(
    Outcome,
    type=st.sampled_from(OUTCOME_TYPES),
    verdict=text,
    artifacts=st.lists(text, max_size=2),
    completed=st.lists(text, max_size=2),
    failed=st.lists(text, max_size=2),
    reason=text,
    score=share,
)
context = st.builds(
    Context,
    language=text,
    framework=text,
    complexity=st.sampled_from([None, "simple", "moderate", "complex"]),
    tags=st.lists(name, max_size=3),
)
episode_fields = {
    "task_description": name,
    "task_type": st.sampled_from(TASK_TYPES),
    "domain": text,
    "context": context,
    "metadata": json_object,
    "actor": text,
    "outcome": st.none() | outcome,
}
imported_episodes = st.builds(
    ImportedEpisode,
    source_id=name,
    steps=st.lists(st.builds(StepDraft, **step_fields, at=st.none() | time), max_size=3),
    started_at=st.none() | time,
    ended_at=st.none() | time.map(lambda at: at + 2**48),
    **episode_fields,
)


@st.composite
def own_episodes(draw) -> Episode:
    steps = [
        draw(st.builds(Step, **step_fields, at=time, step_number=st.just(number)))
        for number in range(1, draw(st.integers(0, 3)) + 1)
    ]
    return draw(
        st.builds(
            Episode,
            episode_id=name,
            steps=st.just(steps),
            started_at=time,
            ended_at=st.none() | time.map(lambda at: at + 2**48),
            **episode_fields,
        )
    )


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("jsonl") / "episodes.jsonl"


@given(st.lists(imported_episodes, min_size=1, max_size=3))
def test_what_is_dumped_is_read_back_equal(scratch, episodes) -> None:
    scratch.write_text("\n".join(jsonl.dump(episode) for episode in episodes), encoding="utf-8")
    assert list(read("jsonl", scratch)) == episodes


@given(own_episodes())
@settings(max_examples=50)
def test_an_episode_of_the_store_is_read_back_with_all_that_another_store_can_use(scratch, episode) -> None:
    scratch.write_text(jsonl.dump(episode), encoding="utf-8")
    (read_back,) = read("jsonl", scratch)
    assert isinstance(read_back, ImportedEpisode)
    assert read_back.source_id == episode.episode_id
    assert (read_back.started_at, read_back.ended_at) == (episode.started_at, episode.ended_at)
    for shared in ("task_description", "task_type", "domain", "context", "metadata", "actor", "outcome"):
        assert getattr(read_back, shared) == getattr(episode, shared)
    assert [step.model_dump() for step in read_back.steps] == [
        step.model_dump(exclude={"step_number"}) for step in episode.steps
    ]


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_no_line_of_any_bytes_stops_the_good_ones(scratch, noise) -> None:
    good = json.dumps(EPISODE).encode()
    scratch.write_bytes(good + b"\n" + noise.replace(b"\n", b" ") + b"\n" + good)
    items = list(read("jsonl", scratch))
    assert [type(item) for item in (items[0], items[-1])] == [ImportedEpisode, ImportedEpisode]
    assert all(isinstance(item, Problem) and item.where == "line 2" for item in items[1:-1])


def test_the_shortest_line_is_a_description(import_lines) -> None:
    (episode,), problems = import_lines("jsonl", {"task_description": "Fix the parser"})
    assert episode.steps == []
    assert episode.outcome is None
    assert problems == []


def test_a_source_id_is_derived_from_the_content_and_not_from_its_spelling(import_lines) -> None:
    episodes, _ = import_lines(
        "jsonl",
        {"task_description": "Fix the parser", "started_at": "2026-01-31T12:00:00Z"},
        {"started_at": NOON, "task_description": "Fix the parser", "domain": ""},
        {"task_description": "Fix the parser", "started_at": NOON + 1},
    )
    ids = [episode.source_id for episode in episodes]
    assert ids[0] == ids[1] != ids[2]
    assert re.fullmatch(r"jsonl:[0-9a-f]{32}", ids[0])


@pytest.mark.parametrize("spelling", ["2026-01-31T12:00:00Z", "2026-01-31T13:00:00+01:00", "2026-01-31 12:00", NOON])
def test_times_are_iso_text_or_microseconds(spelling, import_lines) -> None:
    line = EPISODE | {"started_at": spelling, "ended_at": spelling, "steps": [{"tool": "grep", "at": spelling}]}
    (episode,), _ = import_lines("jsonl", line)
    assert (episode.started_at, episode.ended_at, episode.steps[0].at) == (NOON, NOON, NOON)


@pytest.mark.parametrize(
    ("fields", "code", "named"),
    [
        ({"task_description": ""}, "invalid_argument", "task_description"),
        ({"task_description": "x" * 10_001}, "too_large", "10001"),
        ({"task_description": "a\x00b"}, "invalid_text", "task_description"),
        ({"task_description": "a\ud800b"}, "invalid_text", "task_description"),
        ({"metadata": {"\ud800": 1}}, "invalid_text", "metadata"),
        ({"metadata": {"k": "x" * 70_000}}, "too_large", "metadata"),
        ({"task_typ": "other"}, "unknown_argument", "task_typ"),
        ({"steps": [{"tool": "grep", "success": True}]}, "unknown_argument", "steps.0.success"),
        ({"steps": [{"tool": "grep"}] * 1_001}, "too_large", "1001"),
        ({"steps": [{"tool": "grep", "result": {"output": "x" * 10_001}}]}, "too_large", "steps.0.result.output"),
        ({"steps": "none"}, "invalid_argument", "steps"),
        ({"steps": ["none"]}, "invalid_argument", "steps.0"),
        ({"steps": [{"tool": "grep", "at": "noon"}]}, "invalid_argument", "steps.0.at"),
        ({"started_at": "yesterday"}, "invalid_argument", "started_at"),
        ({"started_at": -1}, "invalid_argument", "started_at"),
        ({"started_at": True}, "invalid_argument", "started_at"),
        ({"started_at": 10**30}, "invalid_argument", "started_at"),
        ({"started_at": 2, "ended_at": 1}, "invalid_argument", "ended_at"),
        ({"outcome": {"type": "won"}}, "invalid_argument", "outcome.type"),
        ({"outcome": {"type": "success", "score": 2}}, "invalid_argument", "outcome.score"),
        ({"source_id": " "}, "invalid_argument", "source_id"),
    ],
)
def test_a_wrong_field_is_named_and_the_other_lines_are_read(fields, code, named, import_lines) -> None:
    episodes, (problem,) = import_lines("jsonl", EPISODE, EPISODE | fields, EPISODE)
    assert len(episodes) == 2
    assert problem.where == "line 2"
    assert problem.error.code == code
    assert named in problem.error.message


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"[1, 2]",
        b'"text"',
        b"null",
        b"{} {}",
        b'{"task_description": "a", "metadata": {"x": NaN}}',
        b'{"task_description": "a", "metadata": {"x": -Infinity}}',
        b'{"task_description": "a\x01"}',
        b'{"task_description": "\xff"}',
        b"\x00" * 20,
        b"[" * 100_000,
        b'{"metadata":' * 100_000,
        b'{"metadata": {"n": ' + b"9" * 5_000 + b"}}",
    ],
)
def test_a_line_that_is_no_json_object_is_a_problem_of_its_own(line, import_lines) -> None:
    episodes, (problem,) = import_lines("jsonl", EPISODE, line, EPISODE)
    assert len(episodes) == 2
    assert problem.where == "line 2"
    assert problem.error.code == "import_format"
    assert problem.error.hint


def test_deep_nesting_that_json_allows_is_refused_by_the_record(import_lines) -> None:
    deep = b'{"task_description": "a", "metadata": ' + b'{"a":' * 80 + b"1" + b"}" * 81
    _, (problem,) = import_lines("jsonl", deep)
    assert problem.error.code == "too_large"


def test_blank_lines_a_byte_order_mark_and_windows_line_ends_do_no_harm(imported, tmp_path) -> None:
    path = tmp_path / "windows.jsonl"
    line = json.dumps(EPISODE).encode()
    path.write_bytes(b"\xef\xbb\xbf" + line + b"\r\n\r\n   \r\n" + line + b"\r\n{\r\n")
    episodes, (problem,) = imported("jsonl", path)
    assert len(episodes) == 2
    assert problem.where == "line 5"


def test_a_line_of_20_megabytes_is_a_problem_and_is_never_held_in_memory(tmp_path) -> None:
    path = tmp_path / "large.jsonl"
    good = json.dumps(EPISODE).encode()
    with path.open("wb") as file:
        file.write(good + b"\n" + b'{"task_description": "')
        for _ in range(60):
            file.write(b"x" * 1024 * 1024)
        file.write(b'"}\n' + good)
    tracemalloc.start()
    items = list(read("jsonl", path))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [type(item) for item in items] == [ImportedEpisode, Problem, ImportedEpisode]
    assert items[1].where == "line 2"
    assert items[1].error.code == "too_large"
    assert str(60 * 1024 * 1024 + 25) in items[1].error.message
    assert peak < 2.5 * MAX_LINE_BYTES


def test_a_line_just_within_the_limit_is_read(imported, tmp_path) -> None:
    path = tmp_path / "limit.jsonl"
    line = json.dumps(EPISODE).encode()
    path.write_bytes(
        line + b" " * (MAX_LINE_BYTES - len(line)) + b"\n" + line + b" " * (MAX_LINE_BYTES + 1 - len(line))
    )
    episodes, (problem,) = imported("jsonl", path)
    assert len(episodes) == 1
    assert problem.where == "line 2"


def test_lines_are_read_one_at_a_time(tmp_path) -> None:
    path = tmp_path / "growing.jsonl"
    path.write_text(json.dumps(EPISODE) + "\n", encoding="utf-8")
    items = read("jsonl", path)
    assert isinstance(next(items), ImportedEpisode)
    items.close()


def test_the_example_of_the_documentation_is_valid(imported, tmp_path) -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    path = tmp_path / "example.jsonl"
    path.write_text(re.search(r"```json\n(\{.*?\})\n```", page, re.DOTALL).group(1), encoding="utf-8")
    (episode,), problems = imported("jsonl", path)
    assert problems == []
    for field in ImportedEpisode.model_fields:
        assert f"`{field}`" in page
        assert getattr(episode, field)


def test_the_documentation_names_every_field_of_a_step_and_an_outcome() -> None:
    page = (Path(__file__).parents[3] / "docs" / "formats.md").read_text(encoding="utf-8")
    for record in (StepDraft, StepResult, Outcome, Context):
        assert all(f"`{field}`" in page for field in record.model_fields)
