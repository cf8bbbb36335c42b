"""Reflections: every item rests on steps or numbers, and none contradicts the episode."""

from __future__ import annotations

from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.learning.history import History, Usual
from memory_mcp.learning.reflection import reflect
from memory_mcp.records.base import Json
from memory_mcp.records.episode import Episode
from tests.learning.support import episode, step, steps, work

NOTHING = History([], [])


def told(one: Episode, usual: Usual | None = None, history: History = NOTHING) -> dict[str, list[str]]:
    found = reflect(one, usual, history)
    return {name: [item["text"] for item in items] for name, items in found.items()}


def usual(**changes: Any) -> Usual:
    known: Json = {"scope": "domain", "episodes": 20, "judged": 20, "success_rate": 0.4, "steps": 6.0, "seconds": None}
    return Usual(**{**known, **changes})


@given(st.integers(0, 10**6), st.sampled_from(["success", "failure", "partial_success", "abstained"]), st.booleans())
def test_every_item_cites_steps_of_the_episode_or_a_base_rate(seed: int, outcome: str, known: bool) -> None:
    one = episode(work(Random(seed)).steps, outcome)
    for items in reflect(one, usual() if known else None, NOTHING).values():
        assert len(items) <= 5
        for item in items:
            assert item["steps"] or item.get("base_rate")
            assert set(item["steps"]) <= {step.step_number for step in one.steps}
            assert "None" not in item["text"]
            assert "{" not in item["text"]


def test_what_led_out_of_an_error_is_told() -> None:
    one = episode(steps(("run", "ValueError: bad"), "look", ("fix", None, {"deep": True}), "run"))
    assert told(one)["successes"] == [
        "run failed with “ValueError: bad”; look then fix(deep=true) then the same call again led out of it"
    ]
    assert reflect(one, None, NOTHING)["successes"][0]["steps"] == [1, 2, 3, 4]


def test_a_call_that_worked_the_second_time_is_told_as_such() -> None:
    again = episode(steps(("run", "slow"), "run"))
    assert told(again)["successes"] == ["run failed with “slow”; the same call again led out of it"]
    other = episode([step(1, "run", "bad", text="x" * 30), step(2, "run", text="y" * 30)])
    assert told(other)["successes"] == ["run failed with “bad”; run with other arguments led out of it"]


def test_a_tool_that_worked_before_is_not_said_to_never_have_worked() -> None:
    one = episode(steps("run", ("run", "bad"), "run", ("run", "worse"), ("run", "worst")), "failure")
    assert told(one)["improvements"][0] == "run failed 2 times and did not work again: “worse”"
    never = episode(steps(("run", "bad"), ("run", "bad")), "failure")
    assert told(never)["improvements"][0] == "run failed 2 times and never worked: “bad”"


def test_an_error_without_a_message_reads_well() -> None:
    one = episode([step(1, "run", "")], "failure")
    assert told(one)["improvements"] == ["run failed and never worked: no message"]


def test_a_failure_is_told_with_its_reason_and_the_base_rate() -> None:
    one = episode(steps("a", ("run", "OSError: full")), "failure", ending={"reason": "the disk was full\nand more"})
    [insight] = reflect(one, usual(), NOTHING)["insights"]
    assert insight["text"] == (
        "the task failed (the disk was full), where 40% of 20 episodes of this domain succeed;"
        " the last error was OSError in run"
    )
    assert insight["steps"] == [2]
    assert insight["base_rate"] == {"success_rate": 0.4, "episodes": 20, "scope": "domain"}


def test_a_failure_without_steps_and_without_history_is_not_explained() -> None:
    assert told(episode(outcome="failure"))["insights"] == []


def test_of_too_few_outcomes_no_base_rate_is_told() -> None:
    one = episode(steps("a"), "failure")
    assert told(one, usual(judged=2, success_rate=None))["insights"] == ["the task failed"]


def test_success_where_most_fail_is_worth_telling() -> None:
    one = episode(steps("a"))
    assert told(one, usual())["insights"] == ["the task succeeded, where 40% of 20 episodes of this domain succeed"]
    assert told(one, usual(success_rate=0.8))["insights"] == []


def test_effort_is_compared_with_what_is_usual() -> None:
    assert told(episode(steps("a", "b")), usual())["successes"] == ["done in 2 steps where 6 are usual"]
    assert told(episode(steps("a", "b"), "failure"), usual())["successes"] == []
    long = episode(steps(*"abcdefghij"))
    assert told(long, usual())["improvements"] == ["took 10 steps where 6 are usual"]


def test_repetition_and_slowness_are_told() -> None:
    one = episode([step(n, "poll").model_copy(update={"latency_ms": 100.0 if n < 5 else 9_000.0}) for n in range(1, 6)])
    assert told(one)["improvements"] == [
        "poll was called 5 times with the same arguments",
        "poll took 9.0 s, 90 times the median step",
    ]


def test_a_tool_that_fails_more_than_it_used_to_is_told() -> None:
    rows = [{"tool": "run", "domain": "", "calls": 50, "errors": 5, "timed": 0, "latency_ms_sum": 0.0}]
    one = episode(steps(("run", "bad"), ("run", "bad"), "run"))
    assert told(one, history=History([], rows))["insights"] == [
        "run failed in 2 of 3 calls, against 10% of 50 calls before"
    ]


def test_success_with_another_object_led_out_of_nothing() -> None:
    made = steps(("read", "FileNotFoundError: no", {"path": "a.yaml"}), ("read", None, {"path": "b.md"}))
    found = told(episode(made, "failure"))
    assert not any("led out" in text for text in found["successes"])
    assert any("read failed" in text for text in found["improvements"])
