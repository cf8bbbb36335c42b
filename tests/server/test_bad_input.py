"""Arguments that cannot be meant: each gets a clear error with a stable code, nothing is lost, nothing hangs."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests.server.wire import Json, Wire, calling, encoded

HERE = "EPISODE"
EVERY_TOOL: dict[str, Json] = {
    "create_episode": {"task_description": "A task"},
    "add_episode_step": {"episode_id": HERE, "tool": "ls"},
    "complete_episode": {"episode_id": HERE, "outcome_type": "success"},
    "get_episode": {"episode_id": HERE},
    "query_memory": {"query": "a question"},
    "recommend_playbook": {"task_description": "A task"},
    "analyze_patterns": {},
    "health_check": {},
    "get_metrics": {},
}
LONG = "x" * 10_001
HUGE = "y" * 10_000_000
DEEP: Any = "bottom"
for _ in range(70):
    DEEP = {"deeper": DEEP}


@pytest.fixture(scope="module")
def episode_id(server: Wire) -> str:
    """An open episode that stays as it is."""
    return str(server.call("create_episode", task_description="Stay as you are")["episode_id"])


def error(server: Wire, tool: str, arguments: Json) -> Json:
    """The error of a call, after a look at how it is said."""
    found = server.refused(tool, **arguments)
    assert set(found) == {"code", "message", "hint"}
    text = f"{found['message']} {found['hint']}"
    assert 15 < len(text) < 1_500
    assert "Traceback" not in text
    assert "pydantic" not in text
    assert str(server.home) not in text
    assert not re.search(r"(/\w+){2,}|\.py\b|line \d+", text)
    return found


CASES: list[tuple[str, Json, str, str]] = [
    # unknown ids
    ("get_episode", {"episode_id": "nothing"}, "episode_not_found", "nothing"),
    ("add_episode_step", {"episode_id": "nothing", "tool": "ls"}, "episode_not_found", "nothing"),
    ("complete_episode", {"episode_id": "nothing", "outcome_type": "success"}, "episode_not_found", "nothing"),
    ("query_memory", {"query": "x", "episode_id": "nothing"}, "episode_not_found", "nothing"),
    ("get_episode", {"episode_id": ""}, "invalid_argument", "episode_id"),
    ("get_episode", {"episode_id": " \n"}, "invalid_argument", "episode_id"),
    ("get_episode", {"episode_id": HUGE[:100_000]}, "invalid_argument", "episode_id"),
    ("query_memory", {"query": "x", "episode_id": HUGE[:100_000]}, "invalid_argument", "episode_id"),
    ("get_episode", {"episode_id": "' OR 1=1 --"}, "episode_not_found", "OR"),
    # missing
    ("create_episode", {}, "invalid_argument", "task_description: is required"),
    ("create_episode", {"task_description": " \n"}, "invalid_argument", "task_description"),
    ("create_episode", {"task_description": None}, "invalid_argument", "task_description"),
    ("add_episode_step", {}, "invalid_argument", "episode_id"),
    ("add_episode_step", {"episode_id": HERE}, "invalid_argument", "tool"),
    ("complete_episode", {"episode_id": HERE}, "invalid_argument", "outcome_type"),
    ("query_memory", {"query": ""}, "invalid_argument", "query"),
    ("query_memory", {"query": None}, "invalid_argument", "query"),
    # wrong types
    ("create_episode", {"task_description": 5}, "invalid_argument", "task_description"),
    ("create_episode", {"task_description": ["x"]}, "invalid_argument", "task_description"),
    ("create_episode", {"task_description": {"k": 1}}, "invalid_argument", "task_description"),
    ("create_episode", {"task_description": True}, "invalid_argument", "task_description"),
    ("create_episode", {"task_description": "x", "tags": "urgent"}, "invalid_argument", "tags"),
    ("create_episode", {"task_description": "x", "tags": [1]}, "invalid_argument", "tags"),
    ("create_episode", {"task_description": "x", "metadata": "text"}, "invalid_argument", "metadata"),
    ("create_episode", {"task_description": "x", "metadata": [1]}, "invalid_argument", "metadata"),
    ("add_episode_step", {"episode_id": HERE, "tool": "ls", "parameters": []}, "invalid_argument", "parameters"),
    ("add_episode_step", {"episode_id": HERE, "tool": "ls", "result": "done"}, "invalid_argument", "result"),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "ls", "result": {"output": {"a": 1}}},
        "invalid_argument",
        "result.output",
    ),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "ls", "result": {"type": "ok"}},
        "invalid_argument",
        "result.type",
    ),
    ("add_episode_step", {"episode_id": HERE, "steps": [5]}, "invalid_argument", "steps.0"),
    ("add_episode_step", {"episode_id": HERE, "steps": [{"tool": 5}]}, "invalid_argument", "steps.0.tool"),
    ("add_episode_step", {"episode_id": HERE, "steps": [{"tool": ""}]}, "invalid_argument", "steps.0.tool"),
    ("add_episode_step", {"episode_id": HERE, "tool": "a", "steps": [{"tool": "b"}]}, "invalid_argument", "steps"),
    (
        "add_episode_step",
        {"episode_id": HERE, "latency_ms": 5, "steps": [{"tool": "b"}]},
        "invalid_argument",
        "steps",
    ),
    ("query_memory", {"query": "x", "filters": [1]}, "invalid_argument", "filters"),
    ("query_memory", {"query": "x", "filters": {"outcome": "won"}}, "invalid_argument", "filters.outcome"),
    ("query_memory", {"query": "x", "filters": {"task_type": "fun"}}, "invalid_argument", "filters.task_type"),
    ("query_memory", {"query": "x", "fields": "task"}, "invalid_argument", "fields"),
    ("get_episode", {"episode_id": HERE, "fields": ["stepz"]}, "invalid_argument", "stepz"),
    ("query_memory", {"query": "x", "fields": ["bogus"]}, "invalid_argument", "bogus"),
    ("analyze_patterns", {"fields": ["bogus"]}, "invalid_argument", "bogus"),
    ("query_memory", {"query": "x", "namespace": "  "}, "invalid_argument", "namespace"),
    ("create_episode", {"task_description": "x", "namespace": "\t"}, "invalid_argument", "namespace"),
    # unknown arguments and words
    ("create_episode", {"task_description": "x", "tag": ["a"]}, "unknown_argument", "'tags'"),
    ("query_memory", {"query": "x", "q": "y"}, "unknown_argument", "q:"),
    ("query_memory", {"query": "x", "filters": {"domian": "y"}}, "unknown_argument", "filters.domian"),
    ("health_check", {"verbose": True}, "unknown_argument", "verbose"),
    (
        "add_episode_step",
        {"episode_id": HERE, "steps": [{"tool": "b", "at": 5}]},
        "unknown_argument",
        "steps.0.at",
    ),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "b", "result": {"truncated": True}},
        "unknown_argument",
        "truncated",
    ),
    ("create_episode", {"task_description": "x", HUGE[:1_000_000]: 1}, "unknown_argument", "yyy"),
    ("query_memory", {"query": "x", "filters": {HUGE[:1_000_000]: 1}}, "unknown_argument", "yyy"),
    ("create_episode", {"task_description": "x", "task_type": "fun"}, "invalid_argument", "task_type"),
    ("create_episode", {"task_description": "x", "complexity": "huge"}, "invalid_argument", "complexity"),
    ("complete_episode", {"episode_id": HERE, "outcome_type": "won"}, "invalid_argument", "outcome_type"),
    ("complete_episode", {"episode_id": HERE, "outcome_type": ""}, "invalid_argument", "outcome_type"),
    ("analyze_patterns", {"kind": "magic"}, "invalid_argument", "kind"),
    ("analyze_patterns", {"verdict": "maybe"}, "invalid_argument", "verdict"),
    ("get_metrics", {"metric_type": "all the numbers"}, "invalid_argument", "metric_type"),
    # over a limit
    ("create_episode", {"task_description": LONG}, "too_large", "task_description"),
    ("create_episode", {"task_description": "x", "domain": "d" * 201}, "too_large", "domain"),
    ("create_episode", {"task_description": "x", "language": "d" * 201}, "too_large", "language"),
    ("create_episode", {"task_description": "x", "tags": [str(n) for n in range(33)]}, "too_large", "tags"),
    ("create_episode", {"task_description": "x", "tags": ["t" * 101]}, "too_large", "tags"),
    ("create_episode", {"task_description": "x", "metadata": {"m": "m" * 65_536}}, "too_large", "metadata"),
    ("create_episode", {"task_description": "x", "metadata": DEEP}, "too_large", "metadata"),
    ("create_episode", {"task_description": "x", "actor": "a" * 201}, "too_large", "actor"),
    ("create_episode", {"task_description": "x", "namespace": "n" * 201}, "too_large", "namespace"),
    ("add_episode_step", {"episode_id": HERE, "tool": "t" * 201}, "too_large", "tool"),
    ("add_episode_step", {"episode_id": HERE, "tool": "t", "action": LONG}, "too_large", "action"),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "t", "result": {"output": LONG}},
        "too_large",
        "result.output",
    ),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "t", "result": {"type": "error", "message": LONG}},
        "too_large",
        "result.message",
    ),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "t", "parameters": {"p": "p" * 65_536}},
        "too_large",
        "parameters",
    ),
    ("add_episode_step", {"episode_id": HERE, "steps": [{"tool": "t"}] * 101}, "too_large", "steps"),
    (
        "complete_episode",
        {"episode_id": HERE, "outcome_type": "success", "verdict": LONG},
        "too_large",
        "verdict",
    ),
    (
        "complete_episode",
        {"episode_id": HERE, "outcome_type": "success", "artifacts": ["a"] * 101},
        "too_large",
        "artifacts",
    ),
    ("query_memory", {"query": "q" * 100_001}, "too_large", "query"),
    ("query_memory", {"query": "x", "fields": ["f"] * 51}, "invalid_argument", "fields"),
    ("create_episode", {"task_description": HUGE}, "too_large", "arguments"),
    # texts that no store and no peer handles alike
    ("create_episode", {"task_description": "a\x00b"}, "invalid_text", "task_description"),
    ("create_episode", {"task_description": "x", "tags": ["a\x00"]}, "invalid_text", "tags"),
    ("create_episode", {"task_description": "x", "metadata": {"a\x00": 1}}, "invalid_text", "metadata"),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "t", "parameters": {"a": ["\x00"]}},
        "invalid_text",
        "param",
    ),
    ("query_memory", {"query": "a\x00b"}, "invalid_text", "query"),
    ("get_episode", {"episode_id": "a\x00b"}, "invalid_text", "episode_id"),
    # absurd numbers
    *(
        ("query_memory", {"query": "x", "limit": limit}, "invalid_argument", "limit")
        for limit in (0, -1, 10**9, 1.5, "a")
    ),
    *(("analyze_patterns", {"limit": limit}, "invalid_argument", "limit") for limit in (0, -1, 10**9, 10**30)),
    ("analyze_patterns", {"min_success_rate": 1.01}, "invalid_argument", "min_success_rate"),
    ("query_memory", {"query": "x", "token_budget": -1}, "invalid_argument", "token_budget"),
    ("get_episode", {"episode_id": HERE, "after_step": -1}, "invalid_argument", "after_step"),
    ("get_episode", {"episode_id": HERE, "token_budget": 10**9}, "invalid_argument", "token_budget"),
    ("recommend_playbook", {"task_description": "x", "max_steps": 0}, "invalid_argument", "max_steps"),
    ("add_episode_step", {"episode_id": HERE, "tool": "t", "latency_ms": -1}, "invalid_argument", "latency_ms"),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "t", "tokens_used": 10**13},
        "invalid_argument",
        "tokens_used",
    ),
    (
        "add_episode_step",
        {"episode_id": HERE, "tool": "t", "predicted_outcome": 1.5},
        "invalid_argument",
        "predicted_outcome",
    ),
    ("add_episode_step", {"episode_id": HERE, "tool": "t", "step_number": 7}, "step_conflict", "7"),
    ("complete_episode", {"episode_id": HERE, "outcome_type": "success", "score": 2}, "invalid_argument", "score"),
    # unknown tools
    ("query_memroy", {"query": "x"}, "unknown_tool", "query_memory"),
    ("", {}, "unknown_tool", "create_episode"),
    (HUGE[:100_000], {}, "unknown_tool", "create_episode"),
]


def test_each_bad_argument_gets_a_clear_error_and_the_episode_stays_as_it_was(server: Wire, episode_id: str) -> None:
    for tool, arguments, code, mentioned in CASES:
        given = {name: episode_id if value == HERE else value for name, value in arguments.items()}
        found = error(server, tool, given)
        assert (found["code"], tool) == (code, tool), found
        assert mentioned in found["message"] + found["hint"], (tool, mentioned, found)
    assert server.call("get_episode", episode_id=episode_id)["steps"] == []
    assert server.call("get_episode", episode_id=episode_id)["status"] == "open"


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_json_does_not_have_are_refused(server: Wire, episode_id: str, number: str) -> None:
    for tool, name in (("query_memory", "limit"), ("add_episode_step", "latency_ms"), ("complete_episode", "score")):
        arguments = {**EVERY_TOOL[tool], name: "NUMBER"}
        if "episode_id" in arguments:
            arguments["episode_id"] = episode_id
        server.send(encoded(calling(tool, 1, **arguments)).replace(b'"NUMBER"', number.encode()))
        answer = server.answer(1)["result"]
        assert answer["isError"]
        assert answer["structuredContent"]["code"] == "invalid_argument"


def test_nulls_stand_for_arguments_that_are_left_out(server: Wire) -> None:
    nothing = dict.fromkeys(
        ("domain", "task_type", "tags", "metadata", "token_budget", "namespace", "complexity", "actor")
    )
    started = server.call("create_episode", task_description="With nulls", **nothing)
    told = server.call("get_episode", episode_id=started["episode_id"], fields=None, after_step=None)
    assert told["task_type"] == "other"
    assert "domain" not in told
    server.call("query_memory", query="nulls", limit=None, filters=None, episode_id=None)
    server.call("get_metrics", metric_type=None)
    server.call("health_check")


def test_numbers_in_texts_are_taken_as_numbers(server: Wire) -> None:
    assert server.call("query_memory", query="anything", limit="10", token_budget="500")["count"] >= 0


@pytest.mark.parametrize(
    "text",
    ["null", "[1,2]", '{"k":1}', '"x"', "123", "true", "NaN", " 1.5 ", "\u2028é\U0001f600", "\\ud800", "<b>&amp;"],
)
def test_texts_that_look_like_json_are_stored_as_they_are(server: Wire, text: str) -> None:
    started = server.call(
        "create_episode",
        task_description=text,
        domain=text,
        language=text,
        framework=text,
        tags=[text],
        metadata={"text": text, text: None},
        actor=text,
    )
    episode = {"episode_id": started["episode_id"]}
    failed = {"type": "error", "message": text, "output": text}
    server.call("add_episode_step", **episode, tool=text, action=text, parameters={"p": text}, result=failed)
    steps = [{"tool": text, "action": text, "result": {"type": "success", "output": text}}]
    server.call("add_episode_step", **episode, steps=steps)
    lists = {"artifacts": [text], "completed": [text], "failed": [text]}
    server.call("complete_episode", **episode, outcome_type="failure", verdict=text, reason=text, **lists)
    told = server.call("get_episode", **episode)
    assert told["task_description"] == text
    assert told["domain"] == text
    assert told["actor"] == text
    assert told["context"] == {"language": text, "framework": text, "tags": [text.strip()]}
    assert told["metadata"] == {"text": text, text: None}
    first, second = told["steps"]
    assert (first["tool"], first["action"], first["parameters"]) == (text, text, {"p": text})
    assert first["result"] == failed
    assert second["result"]["output"] == text
    outcome = told["outcome"]
    assert (outcome["verdict"], outcome["reason"]) == (text, text)
    assert outcome["artifacts"] == outcome["completed"] == outcome["failed"] == [text]
    server.call("query_memory", query=text, domain=text, filters={"domain": text, "language": text})
    server.call("recommend_playbook", task_description=text, domain=text, tags=[text])
    server.call("analyze_patterns", domain=text)


def test_objects_and_lists_may_come_as_texts(server: Wire) -> None:
    # some hosts send structured arguments as JSON in a text
    started = server.call("create_episode", task_description="x", tags='["a", "b"]', metadata='{"k": "[1]"}')
    result = '{"type": "error", "message": "null"}'
    server.call("add_episode_step", episode_id=started["episode_id"], tool="t", parameters='{"p": 1}', result=result)
    told = server.call("get_episode", episode_id=started["episode_id"])
    assert told["context"]["tags"] == ["a", "b"]
    assert told["metadata"] == {"k": "[1]"}
    assert told["steps"][0]["result"] == {"type": "error", "message": "null"}
    assert told["steps"][0]["parameters"] == {"p": 1}


def test_a_completed_episode_takes_neither_steps_nor_another_end(server: Wire) -> None:
    episode_id = server.call("create_episode", task_description="Done once")["episode_id"]
    server.call("complete_episode", episode_id=episode_id, outcome_type="abstained", reason="not needed")
    before = server.call("get_episode", episode_id=episode_id)
    again = {"episode_id": episode_id, "outcome_type": "success"}
    assert error(server, "complete_episode", again)["code"] == "episode_closed"
    assert error(server, "add_episode_step", {"episode_id": episode_id, "tool": "ls"})["code"] == "episode_closed"
    failed = {"episode_id": episode_id, "tool": "ls", "result": {"type": "error", "message": "no"}}
    assert error(server, "add_episode_step", failed)["code"] == "episode_closed"
    assert server.call("get_episode", episode_id=episode_id) == before


def test_the_longest_allowed_values_are_stored_whole(server: Wire) -> None:
    long = "ü" * 10_000
    started = server.call("create_episode", task_description=long, tags=["t" * 100], domain="d" * 200)
    episode = {"episode_id": started["episode_id"]}
    parameters = {"p": "p" * 65_000}
    result = {"type": "success", "output": long, "message": long}
    server.call("add_episode_step", **episode, tool="t" * 200, action=long, parameters=parameters, result=result)
    server.call("complete_episode", **episode, outcome_type="partial_success", verdict=long, score=0.25)
    told = server.call("get_episode", **episode, token_budget=1_000_000)
    assert told["task_description"] == long
    assert told["steps"][0]["parameters"] == parameters
    assert told["steps"][0]["result"] == result
    assert told["outcome"]["verdict"] == long


def test_an_episode_has_at_most_a_thousand_steps(server: Wire) -> None:
    episode_id = server.call("create_episode", task_description="Many steps")["episode_id"]
    for _ in range(10):
        server.call("add_episode_step", episode_id=episode_id, steps=[{"tool": "t"}] * 100)
    assert error(server, "add_episode_step", {"episode_id": episode_id, "tool": "t"})["code"] == "too_large"
    seen: list[int] = []
    page = server.call("get_episode", episode_id=episode_id)
    while True:
        seen += [step["step_number"] for step in page["steps"]]
        if "next_step" not in page:
            break
        page = server.call("get_episode", episode_id=episode_id, after_step=page["next_step"])
    assert seen == list(range(1, 1_001))


def test_ten_megabytes_of_arguments_are_refused_by_every_tool_with_text(server: Wire, episode_id: str) -> None:
    for tool, arguments in EVERY_TOOL.items():
        name = next(
            (name for name in ("task_description", "query", "domain", "action", "verdict") if name in _texts(tool)), ""
        )
        if name:
            given = {**arguments, **({"episode_id": episode_id} if "episode_id" in arguments else {}), name: HUGE}
            assert error(server, tool, given)["code"] == "too_large"


def _texts(tool: str) -> set[str]:
    own = {"add_episode_step": {"action"}, "complete_episode": {"verdict"}, "analyze_patterns": {"domain"}}
    return own.get(tool, set(EVERY_TOOL[tool]))


def test_twenty_bad_calls_at_once_are_each_answered(server: Wire) -> None:
    server.send(*(calling("get_episode", number, episode_id=f"nothing {number}") for number in range(20)))
    for number in range(20):
        answer = server.answer(number)["result"]
        assert answer["structuredContent"]["code"] == "episode_not_found"
        assert json.loads(answer["content"][0]["text"]) == answer["structuredContent"]


def test_a_completed_episode_may_still_ask(server: Wire) -> None:
    asking = str(server.call("create_episode", task_description="Ask when all is done")["episode_id"])
    server.call("complete_episode", episode_id=asking, outcome_type="success")
    assert "episodes" in server.call("query_memory", query="what now?", episode_id=asking)
    assert "forecast" in server.call("recommend_playbook", task_description="what now?", episode_id=asking)


def test_a_result_with_a_message_alone_is_an_error(server: Wire) -> None:
    open_one = str(server.call("create_episode", task_description="Report in haste")["episode_id"])
    server.call("add_episode_step", episode_id=open_one, tool="pytest", result={"message": "ModuleNotFoundError: x"})
    [step] = server.call("get_episode", episode_id=open_one)["steps"]
    assert step["result"] == {"type": "error", "message": "ModuleNotFoundError: x"}
