"""Credit goes to what was used, as the steps that followed show."""

from __future__ import annotations

from typing import Any

import pytest

from memory_mcp.learning.credit import settle, was_used
from memory_mcp.records.base import Json
from tests.learning.support import episode, steps

FIX: Json = {"tool": "fix", "parameters": {"deep": True}}


def receipt(advice: Json, *, after: int = 0, name: str = "m", kind: str = "pattern") -> Json:
    return {"shown_after": after, "memory_kind": kind, "memory_id": name, "advice": advice}


@pytest.mark.parametrize(
    ("advice", "after", "calls", "used"),
    [
        # a lesson is followed within the next three steps, or not at all
        ({"choice": FIX}, 1, [("run", "bad"), "look", ("fix", None, {"deep": True})], True),
        ({"choice": FIX}, 1, [("run", "bad"), "a", "b", "c", ("fix", None, {"deep": True})], False),
        ({"choice": FIX}, 1, [("fix", None, {"deep": True}), "a"], False),
        ({"choice": FIX}, 1, ["a", ("fix", None, {"deep": False})], False),
        ({"choice": {"tool": "fix"}}, 1, ["a", ("fix", None, {"deep": False})], True),
        # more arguments than advised are no objection
        ({"choice": FIX}, 1, ["a", ("fix", None, {"deep": True, "fast": True})], True),
        # a plan is followed by half of it, in its order
        ({"plan": [{"tool": "a"}, {"tool": "b"}]}, 0, ["x", "b"], True),
        ({"plan": [{"tool": "a"}, {"tool": "b"}, {"tool": "c"}]}, 0, ["c", "b", "a"], False),
        ({"plan": [{"tool": "a"}, {"tool": "b"}, {"tool": "c"}]}, 0, ["a", "x", "c"], True),
        ({"plan": []}, 0, ["a"], False),
        ({"plan": [{"tool": "a"}]}, 0, [], False),
        # a pitfall is avoided by who calls its tool and does not run into it
        ({"avoid": {"tool": "run", "template": "bad <n>"}}, 0, ["a", "run"], True),
        ({"avoid": {"tool": "run", "template": "bad <n>"}}, 0, ["a", ("run", "bad 7")], False),
        ({"avoid": {"tool": "run", "template": "bad <n>"}}, 0, ["a", ("run", "other")], True),
        ({"avoid": {"tool": "run", "template": "bad <n>"}}, 0, ["a", "b"], False),
        # what advises nothing was only information
        ({}, 0, ["a"], False),
    ],
)
def test_use_is_told_from_the_steps_that_followed(advice: Json, after: int, calls: list[Any], used: bool) -> None:
    assert was_used(receipt(advice, after=after), steps(*calls)) is used


def settled(outcome: str, *receipts: Json) -> dict[str, tuple[float, float, float, float]]:
    """`{memory: (shown, shown successes, used, used successes)}`."""
    _, credits = settle(episode(steps("a", "b"), outcome, receipts=list(receipts)))
    names = ("shown", "shown_successes", "used", "used_successes")
    return {credit["memory_id"]: tuple(credit[name] for name in names) for credit in credits}


def test_credit_is_split_among_what_was_used_together() -> None:
    used, also, idle = (
        receipt({"choice": {"tool": "a"}}, name="used"),
        receipt({"choice": {"tool": "b"}}, name="also"),
        receipt({"choice": {"tool": "c"}}, name="idle"),
    )
    assert settled("success", used, also, idle) == {
        "used": (1, 1, 0.5, 0.5),
        "also": (1, 1, 0.5, 0.5),
        "idle": (1, 1, 0, 0),
    }
    assert settled("failure", used) == {"used": (1, 0, 1, 0)}


def test_what_was_shown_twice_is_credited_once() -> None:
    twice = [receipt({"choice": {"tool": "c"}}), receipt({"choice": {"tool": "b"}}, after=1)]
    assert settled("success", *twice) == {"m": (1, 1, 1, 1)}


def test_an_abstention_credits_nothing_but_still_says_what_was_used() -> None:
    receipts, credits = settle(episode(steps("a"), "abstained", receipts=[receipt({"choice": {"tool": "a"}})]))
    assert credits == []
    assert [one["used"] for one in receipts] == [True]


def test_nothing_shown_is_nothing_credited() -> None:
    assert settle(episode(steps("a"))) == ([], [])
