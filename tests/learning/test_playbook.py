"""Playbooks and their words: distilled from evidence, readable for a person."""

from __future__ import annotations

from typing import Any

import pytest

from memory_mcp.learning.playbook import Near, advice, write
from memory_mcp.learning.wording import describe_choice, first_line, gist, path_of
from memory_mcp.records.episode import Step, StepResult
from tests.learning.support import episode, steps


def near(name: str, relevance: float, *calls: Any, outcome: str = "success", **fields: Any) -> Near:
    return Near(episode(steps(*calls), outcome, episode_id=name, **fields), relevance)


def tools(playbook: Any) -> list[str]:
    return [step["tool"] for step in playbook["steps"]]


def test_without_a_success_there_is_no_playbook() -> None:
    assert write([], [], None, 12) is None
    assert write([near("f", 1.0, "a", outcome="failure")], [], 0.5, 12) is None
    assert write([near("empty", 1.0)], [], 0.5, 12) is None


def test_the_plan_is_the_one_that_the_closest_successes_agree_on() -> None:
    closest = near("closest", 0.9, "a", "x", "c")
    agreed = [near("one", 0.85, "a", "b", "c"), near("two", 0.8, "a", "b", "c")]
    distant = [near(f"distant{n}", 0.3, "z") for n in range(9)]
    playbook = write([closest, *agreed, *distant], [], 0.5, 12)
    assert playbook is not None
    assert tools(playbook) == ["a", "b", "c"]
    assert playbook["source"] == "one"


def test_a_plan_leaves_out_what_failed_and_what_was_taken_back() -> None:
    detours = near("d", 1.0, "open", ("guess", None, {"n": 1}), ("run", "bad"), ("guess", None, {"n": 2}), "run")
    playbook = write([detours], [], None, 12)
    assert playbook is not None
    assert [describe_choice(step) for step in playbook["steps"]] == ["open", "guess(n=2)", "run"]
    assert advice(playbook) == {"plan": [{"tool": "open"}, {"tool": "guess", "parameters": {"n": 2}}, {"tool": "run"}]}


def test_evidence_counts_who_went_this_way() -> None:
    others = [near("also", 0.8, "a", "b"), near("bad", 0.9, "a", "b", outcome="failure"), near("other", 0.5, "c")]
    playbook = write([near("best", 1.0, "a", "b"), *others], [], 0.5, 12)
    assert playbook is not None
    evidence = playbook["evidence"]
    assert (evidence["successes"], evidence["failures"]) == (2, 1)
    assert set(evidence["episodes"]) == {"best", "also", "bad"}
    assert evidence["interval"][0] < evidence["success_rate"] < evidence["interval"][1]
    assert playbook["why"] == "led to success in 2 of 3 similar episodes that went this way"
    assert playbook["steps"][0]["evidence"] == "in 2 of 3 similar successes, 1 of 1 similar failures"
    assert playbook["when_not_to_apply"] == [{"episode_id": "bad", "reason": "failed without an error"}]


def test_a_long_plan_says_what_it_leaves_out() -> None:
    playbook = write([near("long", 1.0, *"abcdefgh")], [], None, 3)
    assert playbook is not None
    assert tools(playbook) == ["a", "b", "c"]
    assert playbook["left_out"] == 5


def test_why_a_similar_task_failed_is_told() -> None:
    reasons = [
        near("said", 0.9, "a", outcome="failure", ending={"reason": "no money left"}),
        near("seen", 0.8, ("run", "OSError: full", {"deep": True}), outcome="failure"),
    ]
    playbook = write([near("good", 1.0, "a"), *reasons], [], None, 12)
    assert playbook is not None
    told = [one["reason"] for one in playbook["when_not_to_apply"]]
    assert told == ["no money left", "run(deep=true) failed with “OSError: full”"]


def test_what_a_step_is_for_and_what_it_brings_is_told_in_words() -> None:
    made = [
        Step(
            step_number=1, at=0, tool="get", action="look up the user", result=StepResult(output='{"name": 1, "id": 2}')
        ),
        Step(step_number=2, at=0, tool="run", action='run(code="x")', result=StepResult(output="3 passed\nin 2 s")),
    ]
    playbook = write([Near(episode(made), 1.0)], [], None, 12)
    assert playbook is not None
    first, second = playbook["steps"]
    assert (first["purpose"], first["expect"]) == ("look up the user", "data with name, id")
    # the call itself is no purpose
    assert "purpose" not in second
    assert second["expect"] == "3 passed"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("  done \nmore", "done"),
        ("x" * 200, "x" * 119 + "…"),
        ("[]", "an empty list"),
        ("[1, 2, 3]", "a list of 3"),
        ("{}", "nothing"),
        ('{"a": 1, "b": {"c": 2}}', "data with a, b"),
        ('{"a": 1, "b": [{"c": 2}, {"truncat', "data with a, b, c"),
        ('{"' + '": 1, "'.join("abcdefgh") + '": 1}', "data with a, b, c, d, e, f, …"),
        ("[INFO] started", "[INFO] started"),
        ("{not json", "{not json"),
        ("[" * 5_000, "[" * 119 + "…"),
    ],
)
def test_outputs_are_told_in_a_line(text: str, told: str) -> None:
    assert gist(text) == told


def test_values_read_like_prose() -> None:
    parameters = {"a": None, "b": True, "c": 1.5, "d": "plain/path.txt", "e": ", "}
    assert (
        describe_choice({"tool": "t", "parameters": parameters})
        == "t(a=nothing, b=true, c=1.5, d=plain/path.txt, e=“, ”)"
    )
    many = {str(n): n for n in range(9)}
    assert describe_choice({"tool": "t", "parameters": many}) == "t(0=0, 1=1, 2=2, 3=3, 4=4, …)"
    assert path_of([{"tool": str(n)} for n in range(10)]) == "0 → 1 → 2 → 3 → 4 → 5 → 6 → 7 → …"
    assert first_line("\n\n a \n b") == "a"
