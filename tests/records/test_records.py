"""Records at the boundary: limits, unsafe text, and nothing that is changed silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.errors import InvalidInputError, InvalidTextError, TooLargeError, UnknownArgumentError
from memory_mcp.records.base import dumps, parse
from memory_mcp.records.episode import (
    OUTCOME_TYPES,
    TASK_TYPES,
    Context,
    Episode,
    EpisodeDraft,
    ImportedEpisode,
    Outcome,
    Step,
    StepDraft,
    StepResult,
)

# text that every store and every peer handles alike
safe_text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)
filled = safe_text.filter(str.strip)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | safe_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(safe_text, inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(safe_text, json_values, max_size=4)
shares = st.none() | st.floats(0, 1)

contexts = st.fixed_dictionaries(
    {},
    optional={
        "language": safe_text,
        "framework": safe_text,
        "complexity": st.sampled_from([None, "simple", "moderate", "complex"]),
        "tags": st.lists(filled, max_size=32),
    },
)
drafts = st.fixed_dictionaries(
    {"task_description": filled},
    optional={
        "task_type": st.sampled_from(TASK_TYPES),
        "domain": safe_text,
        "context": contexts,
        "metadata": json_objects,
    },
)
results = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["success", "error", "timeout"]),
        "output": safe_text,
        "message": safe_text,
        "truncated": st.booleans(),
    },
)
steps = st.fixed_dictionaries(
    {"tool": filled},
    optional={
        "action": safe_text,
        "parameters": json_objects,
        "result": results,
        "latency_ms": st.none() | st.floats(0, 1e12),
        "tokens_used": st.none() | st.integers(0, 10**12),
        "predicted_outcome": shares,
        "at": st.none() | st.integers(0, 253_402_300_799_999_999),
    },
)
outcomes = st.fixed_dictionaries(
    {"type": st.sampled_from(OUTCOME_TYPES)},
    optional={
        "verdict": safe_text,
        "artifacts": st.lists(safe_text, max_size=5),
        "completed": st.lists(safe_text, max_size=5),
        "failed": st.lists(safe_text, max_size=5),
        "reason": safe_text,
        "score": shares,
    },
)
imports = drafts.flatmap(
    lambda draft: st.fixed_dictionaries(
        {"source_id": filled}, optional={"steps": st.lists(steps, max_size=3), "outcome": st.none() | outcomes}
    ).map(lambda more: {**draft, **more})
)
CASES = [
    (Context, contexts),
    (EpisodeDraft, drafts),
    (StepResult, results),
    (StepDraft, steps),
    (Outcome, outcomes),
    (ImportedEpisode, imports),
]


@pytest.mark.parametrize(("model", "data"), CASES, ids=lambda case: getattr(case, "__name__", ""))
def test_a_record_comes_back_equal_from_its_dump_and_from_json(model: Any, data: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=60, deadline=None)
    @given(data)
    def check(values: dict[str, Any]) -> None:
        record = parse(model, values)
        assert model.model_validate(record.model_dump()) == record
        assert model.model_validate_json(dumps(record.model_dump())) == record
        for name, value in values.items():
            if not isinstance(value, dict | list):
                assert getattr(record, name) == value

    check()


@settings(max_examples=40, deadline=None)
@given(drafts, st.lists(steps, max_size=3), outcomes)
def test_a_whole_episode_comes_back_equal_from_its_dump(
    draft: dict[str, Any], taken: list[dict[str, Any]], outcome: dict[str, Any]
) -> None:
    numbered = [{**step, "step_number": number, "at": step.get("at") or 0} for number, step in enumerate(taken, 1)]
    episode = Episode.model_validate({**draft, "episode_id": "e", "steps": numbered, "outcome": outcome})
    assert Episode.model_validate(episode.model_dump()) == episode
    assert Episode.model_validate_json(dumps(episode.model_dump())) == episode


def contains(kept: Any, given: Any) -> bool:
    """Whether everything that was given is there unchanged; records add their defaults."""
    if isinstance(given, dict):
        return all(contains(kept[name], value) for name, value in given.items())
    if isinstance(given, list):
        return len(kept) == len(given) and all(map(contains, kept, given))
    return bool(kept == given)


def sized(size: int) -> dict[str, str]:
    """An object of exactly this many bytes as JSON."""
    return {"k": "x" * (size - len('{"k":""}'))}


AT_THE_LIMIT: list[tuple[str, Any, Callable[[int], dict[str, Any]], int]] = [
    ("task description", EpisodeDraft, lambda n: {"task_description": "é" * n}, 10_000),
    ("domain", EpisodeDraft, lambda n: {"task_description": "t", "domain": "x" * n}, 200),
    ("metadata", EpisodeDraft, lambda n: {"task_description": "t", "metadata": sized(n)}, 64 * 1024),
    ("tags", EpisodeDraft, lambda n: {"task_description": "t", "context": {"tags": list(map(str, range(n)))}}, 32),
    ("tag", EpisodeDraft, lambda n: {"task_description": "t", "context": {"tags": ["x" * n]}}, 100),
    ("tool", StepDraft, lambda n: {"tool": "x" * n}, 200),
    ("action", StepDraft, lambda n: {"tool": "t", "action": "x" * n}, 10_000),
    ("output", StepDraft, lambda n: {"tool": "t", "result": {"output": "x" * n}}, 10_000),
    ("message", StepDraft, lambda n: {"tool": "t", "result": {"type": "error", "message": "x" * n}}, 10_000),
    ("parameters", StepDraft, lambda n: {"tool": "t", "parameters": sized(n)}, 64 * 1024),
    ("verdict", Outcome, lambda n: {"type": "success", "verdict": "x" * n}, 10_000),
    ("reason", Outcome, lambda n: {"type": "failure", "reason": "x" * n}, 10_000),
    ("artifacts", Outcome, lambda n: {"type": "success", "artifacts": ["x"] * n}, 100),
    ("artifact", Outcome, lambda n: {"type": "success", "artifacts": ["x" * n]}, 10_000),
    (
        "steps",
        ImportedEpisode,
        lambda n: {"task_description": "t", "source_id": "s", "steps": [{"tool": "t"}] * n},
        1000,
    ),
]


@pytest.mark.parametrize(
    ("model", "make", "limit"), [case[1:] for case in AT_THE_LIMIT], ids=[c[0] for c in AT_THE_LIMIT]
)
def test_a_value_at_its_limit_is_kept_whole_and_one_more_is_refused(
    model: Any, make: Callable[[int], dict[str, Any]], limit: int
) -> None:
    kept = parse(model, make(limit)).model_dump()
    assert contains(kept, make(limit))
    with pytest.raises(TooLargeError) as refused:
        parse(model, make(limit + 1))
    assert str(limit) in refused.value.message


def test_the_limit_of_an_object_counts_bytes_and_not_characters() -> None:
    parse(StepDraft, {"tool": "t", "parameters": {"k": "x" * 40_000}})
    with pytest.raises(TooLargeError):
        parse(StepDraft, {"tool": "t", "parameters": {"k": "é" * 40_000}})


UNSAFE = ["\x00", "a\x00b", "\ud800", "x\udfffy", "\udc00\ud800"]
PLACES: list[tuple[str, Any, Callable[[Any], dict[str, Any]]]] = [
    ("task_description", EpisodeDraft, lambda text: {"task_description": text}),
    ("domain", EpisodeDraft, lambda text: {"task_description": "t", "domain": text}),
    ("language", EpisodeDraft, lambda text: {"task_description": "t", "context": {"language": text}}),
    ("framework", EpisodeDraft, lambda text: {"task_description": "t", "context": {"framework": text}}),
    ("tag", EpisodeDraft, lambda text: {"task_description": "t", "context": {"tags": ["fine", text]}}),
    ("metadata value", EpisodeDraft, lambda text: {"task_description": "t", "metadata": {"a": text}}),
    ("metadata key", EpisodeDraft, lambda text: {"task_description": "t", "metadata": {text: 1}}),
    ("deep value", EpisodeDraft, lambda text: {"task_description": "t", "metadata": {"a": [{"b": [text]}]}}),
    ("deep key", EpisodeDraft, lambda text: {"task_description": "t", "metadata": {"a": [{"b": {text: 1}}]}}),
    ("tool", StepDraft, lambda text: {"tool": text}),
    ("action", StepDraft, lambda text: {"tool": "t", "action": text}),
    ("parameter", StepDraft, lambda text: {"tool": "t", "parameters": {"a": text}}),
    ("output", StepDraft, lambda text: {"tool": "t", "result": {"output": text}}),
    ("message", StepDraft, lambda text: {"tool": "t", "result": {"message": text}}),
    ("verdict", Outcome, lambda text: {"type": "success", "verdict": text}),
    ("reason", Outcome, lambda text: {"type": "success", "reason": text}),
    ("artifact", Outcome, lambda text: {"type": "success", "artifacts": [text]}),
    ("completed", Outcome, lambda text: {"type": "success", "completed": [text]}),
    ("failed", Outcome, lambda text: {"type": "success", "failed": [text]}),
    ("source_id", ImportedEpisode, lambda text: {"task_description": "t", "source_id": text}),
]


@pytest.mark.parametrize("text", UNSAFE, ids=ascii)
@pytest.mark.parametrize(("model", "make"), [case[1:] for case in PLACES], ids=[case[0] for case in PLACES])
def test_nul_and_lone_surrogates_are_refused_wherever_they_stand(
    model: Any, make: Callable[[Any], dict[str, Any]], text: str
) -> None:
    with pytest.raises(InvalidTextError) as refused:
        parse(model, make(text))
    assert refused.value.code == "invalid_text"
    refused.value.message.encode()


@pytest.mark.parametrize(("model", "make"), [PLACES[0][1:], PLACES[9][1:]], ids=[PLACES[0][0], PLACES[9][0]])
def test_bytes_are_no_way_around_the_checks_of_text(model: Any, make: Callable[[Any], dict[str, Any]]) -> None:
    with pytest.raises(InvalidInputError):
        parse(model, make(b"a\x00b"))


@pytest.mark.parametrize(
    "text", ["null", "true", "[1,2]", '{"k":1}', "12", '"quoted"', "NaN", " leading", "trailing \n"]
)
def test_text_that_looks_like_json_stays_text(text: str) -> None:
    draft = parse(EpisodeDraft, {"task_description": text, "metadata": {"m": text}})
    assert (draft.task_description, draft.metadata) == (text, {"m": text})
    step = parse(StepDraft, {"tool": text, "action": text, "parameters": {"p": text}, "result": {"output": text}})
    assert (step.tool, step.action, step.parameters, step.result.output) == (text, text, {"p": text}, text)
    assert parse(Outcome, {"type": "success", "verdict": text}).verdict == text


@pytest.mark.parametrize("value", [None, 1, 1.5, True, [], {}, ["text"]], ids=repr)
def test_what_is_not_text_is_refused_where_text_belongs(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        parse(EpisodeDraft, {"task_description": value})
    with pytest.raises(InvalidInputError):
        parse(StepDraft, {"tool": "t", "action": value})


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_required_text_must_not_be_blank(text: str) -> None:
    for model, data in ((EpisodeDraft, {"task_description": text}), (StepDraft, {"tool": text})):
        with pytest.raises(InvalidInputError):
            parse(model, data)


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (EpisodeDraft, {"task_description": "t"}),
        (StepDraft, {"tool": "t"}),
        (Outcome, {"type": "success"}),
        (ImportedEpisode, {"task_description": "t", "source_id": "s"}),
        (Context, {}),
    ],
)
def test_an_unknown_field_is_refused_by_name_with_the_nearest_known_one(model: Any, data: dict[str, Any]) -> None:
    near = next(iter(model.model_fields))
    with pytest.raises(UnknownArgumentError) as refused:
        parse(model, {**data, f"{near}s": 1})
    assert f"{near}s" in refused.value.message
    assert near in refused.value.hint


@pytest.mark.parametrize(
    "value",
    [float("nan"), float("inf"), {1, 2}, object(), {"deep": float("-inf")}, 10**5000],
    ids=["nan", "inf", "set", "object", "deep", "long"],
)
def test_what_json_cannot_say_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInputError):
        parse(StepDraft, {"tool": "t", "parameters": {"a": value}})


def test_an_object_that_is_nested_too_deep_is_refused_and_not_a_crash() -> None:
    nest: Any = {}
    for _ in range(5000):
        nest = {"a": nest}
    with pytest.raises(TooLargeError):
        parse(StepDraft, {"tool": "t", "parameters": nest})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latency_ms", -1),
        ("latency_ms", float("nan")),
        ("latency_ms", 1e13),
        ("tokens_used", -1),
        ("tokens_used", 10**13),
        ("predicted_outcome", 1.01),
        ("predicted_outcome", -0.01),
        ("at", -1),
        ("at", 253_402_300_800_000_000),
    ],
)
def test_numbers_outside_their_range_are_refused(field: str, value: float) -> None:
    with pytest.raises(InvalidInputError):
        parse(StepDraft, {"tool": "t", field: value})


def test_a_step_has_a_number_between_one_and_a_thousand() -> None:
    for number in (1, 1000):
        assert Step.model_validate({"tool": "t", "at": 0, "step_number": number}).step_number == number
    for number in (0, 1001):
        with pytest.raises(InvalidInputError):
            parse(Step, {"tool": "t", "at": 0, "step_number": number})


def test_an_import_that_ends_before_it_starts_is_refused() -> None:
    with pytest.raises(InvalidInputError):
        parse(ImportedEpisode, {"task_description": "t", "source_id": "s", "started_at": 2, "ended_at": 1})


def test_a_record_does_not_change_after_construction() -> None:
    draft = parse(EpisodeDraft, {"task_description": "t"})
    with pytest.raises(ValueError, match="frozen"):
        draft.domain = "other"  # type: ignore[misc]
