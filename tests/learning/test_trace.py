"""Reading steps: what was chosen, and which steps led somewhere."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.learning.trace import choice, collapsed, effective, repeated_calls
from memory_mcp.records.episode import Step, StepResult
from tests.learning.support import step, steps


def kept(*calls: Any) -> list[str]:
    return [one.tool + "".join(str(value) for value in one.parameters.values()) for one in effective(steps(*calls))]


def test_a_choice_keeps_the_parameters_that_can_repeat() -> None:
    made = step(1, "edit", path="a.py", count=3.0, deep=True, nothing=None, text="x" * 25, items=[1], big=10**6)
    assert choice(made) == {"tool": "edit", "parameters": {"path": "a.py", "count": 3, "deep": True, "nothing": None}}
    assert choice(made, with_parameters=False) == {"tool": "edit"}


def test_one_and_one_point_nought_are_the_same_choice() -> None:
    assert repr(choice(step(1, "a", n=1))) == repr(choice(step(1, "a", n=1.0)))


def test_runs_of_a_tool_count_once() -> None:
    assert collapsed(steps("a", "a", "b", "a")) == [("a", 1), ("b", 3), ("a", 4)]


def test_a_step_that_was_taken_back_led_nowhere() -> None:
    latin, utf8 = {"as": "latin-1"}, {"as": "utf-8"}
    assert kept("open", ("decode", None, latin), ("parse", "bad"), ("decode", None, utf8), "parse") == [
        "open",
        "decodeutf-8",
        "parse",
    ]


def test_steps_before_an_error_stand_when_they_are_not_done_again() -> None:
    assert kept("open", ("parse", "bad"), "fix", "parse") == ["open", "fix", "parse"]


def test_without_errors_every_step_stands() -> None:
    assert kept(("read", None, {"p": "a"}), ("read", None, {"p": "b"}), "edit") == ["reada", "readb", "edit"]


def test_a_step_that_brought_the_same_again_counts_once_but_one_that_went_on_counts_again() -> None:
    def unpack(number: int, output: str) -> Step:
        return Step(step_number=number, at=0, tool="unpack", result=StepResult(output=output))

    assert len(effective([unpack(1, "same"), unpack(2, "same")])) == 1
    assert len(effective([unpack(1, "outer archive"), unpack(2, "inner archive")])) == 2


def test_only_failures_lead_nowhere() -> None:
    assert kept(("a", "bad"), ("b", "bad")) == []
    assert kept() == []


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([None, "bad"])), max_size=12))
def test_what_led_somewhere_is_a_part_of_what_worked(calls: list[tuple[str, str | None]]) -> None:
    made = steps(*calls)
    numbers = [one.step_number for one in effective(made)]
    assert numbers == sorted(numbers)
    assert set(numbers) <= {one.step_number for one in made if one.result.ok}
    # the last success of a tool is never taken back
    last = {one.tool: one.step_number for one in made if one.result.ok}
    standing = {one.tool for one in effective(made)}
    assert standing == set(last)


def test_repeated_calls_are_those_with_the_same_arguments() -> None:
    made = steps(("a", None, {"n": 1}), ("a", None, {"n": 2}), ("a", "bad", {"n": 1}), ("a", None, {"n": 1}))
    assert repeated_calls(made, 3) == [[1, 3, 4]]
