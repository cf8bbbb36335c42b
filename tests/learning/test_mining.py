"""What an episode contributes: canonical, deterministic, bounded, and right about what led out of an error."""

from __future__ import annotations

import time
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.learning.mining import identify, mine
from memory_mcp.learning.patterns import compile_book
from memory_mcp.learning.wording import describe_choice, sentence
from memory_mcp.records.episode import Context, Step, StepResult
from tests.learning.support import episode, step, steps, tallied, work


def seen(kind: str, *calls: Any, outcome: str = "success") -> dict[str, tuple[int, int]]:
    """`{pattern in words: (tried, resolved)}`."""
    mined = mine(episode(steps(*calls), outcome))
    return {sentence(c.kind, c.body): (c.tried, c.resolved) for c in mined.contributions.values() if c.kind == kind}


def ways(*calls: Any, outcome: str = "success") -> dict[str, tuple[int, int]]:
    """`{way out: (tried, resolved)}` of the first error of an episode."""
    mined = mine(episode(steps(*calls), outcome))
    found = [c for c in mined.contributions.values() if c.kind == "error_recovery"]
    return {
        describe_choice(c.body["recovery"]): (c.tried, c.resolved)
        for c in found
        if c.body["error"] == found[0].body["error"]
    }


BAD = ("run", "ValueError: bad")


def test_the_step_between_the_error_and_its_end_is_the_way_out() -> None:
    assert ways("open", BAD, "fix", "run", "close") == {"fix": (1, 1)}


def test_a_way_out_of_several_steps_is_all_of_them() -> None:
    assert ways(BAD, "look", "fix", "check", "run") == {"look": (1, 1), "fix": (1, 1), "check": (1, 1)}


def test_another_call_of_the_tool_is_a_way_out() -> None:
    fast, slow = {"mode": "fast"}, {"mode": "slow"}
    assert ways(("run", "bad", fast), ("run", None, slow)) == {"run": (1, 1), "run(mode=slow)": (1, 1)}


def test_the_same_tool_on_another_object_is_no_way_out() -> None:
    missing = ("read", "FileNotFoundError: no", {"path": "config.yaml"})
    assert ways(missing, ("read", None, {"path": "README.md"}))["read"] == (1, 0)
    assert ways(missing, ("read", None, {"path": "config.yaml", "encoding": "latin-1"}))["read"] == (1, 1)
    for one, other in (("/a/b", "/a/c"), ("https://a.org", "https://b.org"), ("src/a.py", "src/b.py"), ("~/a", "~/b")):
        assert ways(("read", "no", {"path": one}), ("read", None, {"path": other}))["read"] == (1, 0)
    for one, other in (("utf-8", "cp1252"), ("%d.%m.%Y", "%m/%d/%Y"), ("1.5", "2.5"), ("a b/c", "a c/b")):
        assert ways(("read", "no", {"how": one}), ("read", None, {"how": other}))["read"] == (1, 1)


def test_trying_again_unchanged_is_a_way_out_where_it_works() -> None:
    assert ways(("run", "TimeoutError: slow"), "run") == {"run": (1, 1)}


def test_what_is_followed_by_the_same_error_was_no_way_out() -> None:
    found = ways(BAD, "look", BAD, "fix", "run")
    assert found["look"] == (1, 0)
    assert found["fix"] == (1, 1)
    # calling it again after only looking failed, too
    assert found["run"] == (1, 0)


def test_what_led_to_another_error_helped_only_if_the_tool_works_in_the_end() -> None:
    other = ("run", "OSError: other")
    assert ways(BAD, "fix", other, "mend", "run")["fix"] == (1, 1)
    assert ways(BAD, "fix", other, "mend", outcome="failure")["fix"] == (1, 0)


def test_a_step_that_was_done_again_later_did_not_last() -> None:
    latin, utf8 = {"as": "latin-1"}, {"as": "utf-8"}
    found = ways(BAD, ("decode", None, latin), ("run", "OSError: other"), ("decode", None, utf8), "run")
    assert found["decode(as=latin-1)"] == (1, 0)
    assert found["decode(as=utf-8)"] == (1, 1)


def test_where_the_tool_is_given_up_success_speaks_for_what_came_next() -> None:
    calls = [BAD, "other", "more", "again", "later"]
    assert ways(*calls) == {"other": (1, 1), "more": (1, 1), "again": (1, 1)}
    assert ways(*calls, outcome="failure") == {"other": (1, 0), "more": (1, 0), "again": (1, 0)}


def test_an_error_at_the_end_has_no_way_out() -> None:
    assert ways("open", BAD, outcome="failure") == {}


def test_a_failed_attempt_is_tried_but_did_not_lead_out() -> None:
    assert ways(BAD, ("fix", "OSError: no"), "mend", "run") == {"fix": (1, 0), "mend": (1, 1)}


def test_each_time_that_an_error_comes_up_counts() -> None:
    assert ways(BAD, "fix", "run", BAD, "fix", "run") == {"fix": (2, 2)}


def test_the_same_error_with_other_values_is_the_same_error() -> None:
    one = mine(episode(steps(("run", "line 3: 'a' is odd"), "fix", "run")))
    other = mine(episode(steps(("run", "line 99: 'b' is odd"), "fix", "run")))
    assert one.contributions.keys() == other.contributions.keys()


def test_decisions_are_the_first_ones_in_each_situation() -> None:
    found = seen("decision_point", "open", ("read", None, {"page": 1}), "open", "close", BAD, "fix")
    assert found == {
        "at the start: open": (1, 1),
        "after open: read": (1, 1),
        "after open: read(page=1)": (1, 1),
        "after read: open": (1, 1),
        "after close: run": (1, 0),
    }


def test_sequences_see_runs_of_a_tool_as_one() -> None:
    found = seen("tool_sequence", "a", "a", "b", "b", "c")
    assert set(found) == {"a → b", "b → c", "a → b → c"}


def test_pitfalls_are_errors_repetition_and_stubbornness() -> None:
    found = seen("pitfall", BAD, BAD, BAD, outcome="failure")
    assert set(found) == {
        "run fails with “ValueError: bad”",
        "run called three times or more with the same arguments",
        "run tried again unchanged after it failed",
    }


def test_an_error_without_a_message_is_told_as_such() -> None:
    silent = Step(step_number=1, at=0, tool="run", result=StepResult(type="error"))
    late = Step(step_number=2, at=0, tool="run", result=StepResult(type="timeout"))
    mined = mine(episode([silent, late], "failure"))
    told = {sentence(c.kind, c.body) for c in mined.contributions.values() if c.kind == "pitfall"}
    assert told >= {"run fails with no message", "run fails with “timeout”"}


def test_contexts_are_compared_inside_themselves() -> None:
    mined = mine(episode(steps("a"), context=Context(language="go", tags=["ci"]), task_type="testing"))
    found = {sentence(c.kind, c.body): c.group for c in mined.contributions.values() if c.kind == "context_pattern"}
    assert found == {
        "with language go": None,
        "with tag ci": None,
        "with language go: a": {"context": {"language": "go"}},
        "with tag ci: a": {"context": {"tag": "ci"}},
        "with task type testing: a": {"context": {"task_type": "testing"}},
    }


def test_every_group_of_a_pattern_is_one_that_the_episode_belongs_to() -> None:
    rng = Random(1)
    for _ in range(30):
        mined = mine(work(rng))
        assert {c.group_id for c in mined.contributions.values()} <= set(mined.groups)


def test_an_episode_without_steps_still_counts_for_the_base_rate() -> None:
    assert list(mine(episode()).groups) == [""]


def test_ids_depend_on_the_content_and_not_on_the_order_of_its_fields() -> None:
    assert identify("pitfall", {"a": 1, "b": "é"}) == identify("pitfall", {"b": "é", "a": 1})
    assert identify("pitfall", {"a": 1}) != identify("group", {"a": 1})


@given(st.integers(0, 10**6))
def test_the_same_episode_always_contributes_the_same(seed: int) -> None:
    one, other = work(Random(seed)), work(Random(seed))
    assert mine(one) == mine(other)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.randoms(use_true_random=False))
def test_the_order_of_episodes_does_not_matter(seed: int, shuffle: Any) -> None:
    rng = Random(seed)
    episodes = [work(rng) for _ in range(12)]
    outcomes = [rng.choice([True, False, None]) for _ in episodes]
    order = list(range(len(episodes)))
    shuffle.shuffle(order)
    assert book_of([(episodes[n], outcomes[n]) for n in order]) == book_of(list(zip(episodes, outcomes, strict=True)))


def book_of(told: list[tuple[Any, bool | None]]) -> dict[str, Any]:
    scopes = [(one.domain, one.task_type) for one, _ in told]
    tally = tallied([mine(one) for one, _ in told], [outcome for _, outcome in told], scopes)
    return {p.pattern_id: (p.evidence, p.tried, p.resolved, p.known.domains) for p in compile_book(tally)}


HOSTILE = ["'" * 10_000, "/a" * 5_000, "0x" * 5_000, "\u202e" * 10_000, "🎉" * 10_000, "日本" * 5_000, "a" * 10_000]


def longest(rng: Random) -> list[Step]:
    """A thousand steps, each with another tool, other parameters and another huge error."""
    return [
        step(
            number,
            f"tool{number % 700}",
            None if rng.random() < 0.5 else f"{rng.choice(HOSTILE)[:9_800]} kind{'x' * (number % 97)}",
            **{f"p{at}": rng.randrange(100) for at in range(5)},
        )
        for number in range(1, 1_001)
    ]


def test_a_thousand_steps_cost_bounded_time_and_bounded_contributions() -> None:
    context = Context(language="x", framework="y", tags=[f"tag{n}" for n in range(32)])
    one = episode(longest(Random(2)), context=context, task_type="testing")
    begin = time.perf_counter()
    mined = mine(one)
    seconds = time.perf_counter() - begin
    assert len(mined.contributions) <= 4_000
    assert all(len(c.steps) <= 20 for c in mined.contributions.values())
    # a tenth of that on an idle machine
    assert seconds < 2


def test_a_thousand_equal_failures_cost_little() -> None:
    one = episode([step(number, "run", "ValueError: bad " + "'" * 9_000) for number in range(1, 1_001)], "failure")
    begin = time.perf_counter()
    mined = mine(one)
    assert time.perf_counter() - begin < 2
    assert len(mined.contributions) < 10


@pytest.mark.parametrize(
    "text", ["日本語のエラー", "ошибка", "خطأ", "🎉", "a\u0000b".replace("\u0000", "\u2028"), "’“”"]
)
def test_any_script_can_be_mined_and_told(text: str) -> None:
    mined = mine(episode(steps((text, text, {text: text}), (text, None, {"k": text})), context=Context(tags=[text])))
    for one in mined.contributions.values():
        assert sentence(one.kind, one.body)
