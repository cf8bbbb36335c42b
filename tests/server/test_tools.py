"""What the tools tell about themselves, and the form of their answers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from mcp.server.mcpserver.tools import Tool

from memory_mcp.memory import Memory
from memory_mcp.retrieval.budget import tokens
from memory_mcp.server.instructions import INSTRUCTIONS
from memory_mcp.server.tools.core import core_tools
from memory_mcp.server.tools.fitting import FRAME, within
from tests.server.wire import Json, Wire, modern, request

READING = ("query_memory", "recommend_playbook", "analyze_patterns", "get_episode")
STATUS = ("health_check", "get_metrics")
WRITING = ("create_episode", "add_episode_step", "complete_episode")


async def _never() -> Memory:
    raise AssertionError("no tool is called here")


@pytest.fixture(scope="module")
def tools() -> dict[str, Tool]:
    return {tool.name: tool for tool in core_tools(_never)}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wire]:
    """A server that has learned from a dozen talkative episodes."""
    with Wire(tmp_path_factory.mktemp("taught")) as wire:
        wire.handshake()
        for number in range(12):
            task = f"Repair the import of order file {number}: " + "the columns are shifted again " * 30
            metadata = {"log": "m" * 20_000} if number == 0 else {}
            made = wire.call("create_episode", task_description=task, domain="orders", metadata=metadata)
            steps: list[Json] = [
                {"tool": "read_file", "action": "look at it " * 50, "result": {"output": "row\n" * 1_000}},
                {"tool": "parse", "result": {"type": "error", "message": "ParserError: expected 12 fields, saw 13"}},
                *(
                    {
                        "tool": f"fix_{at}",
                        "parameters": {"column": f"column {at} " * 20},
                        "result": {"output": "ok " * 200},
                    }
                    for at in range(10)
                ),
                {"tool": "parse", "parameters": {"delimiter": ";"}, "result": {"output": "12 fields"}},
            ]
            wire.call("add_episode_step", episode_id=made["episode_id"], steps=steps)
            outcome = "failure" if number % 4 == 3 else "success"
            reason = {"reason": "gave up " * 100}
            wire.call("complete_episode", episode_id=made["episode_id"], outcome_type=outcome, **reason)
        yield wire
        assert wire.end() == 0


def test_the_core_set_is_what_the_design_names(tools: dict[str, Tool]) -> None:
    assert set(tools) == {*READING, *STATUS, *WRITING}


def test_descriptions_say_when_to_call_and_stay_short(tools: dict[str, Tool]) -> None:
    for tool in tools.values():
        assert tool.description.startswith("Call "), tool.name
        assert 40 < len(tool.description) < 260
        assert tool.title
        for name, schema in tool.parameters["properties"].items():
            assert len(schema.get("description", "")) < 130, (tool.name, name)
    assert len(INSTRUCTIONS) < 1_000


def test_schemas_carry_nothing_that_only_costs_tokens(tools: dict[str, Tool]) -> None:
    def check(schema: Any) -> None:
        if isinstance(schema, list):
            for item in schema:
                check(item)
        if isinstance(schema, dict):
            assert not {"title", "$defs", "$ref", "anyOf"} & schema.keys()
            assert schema.get("default", "something") not in ("", [], {}, None)
            for name, item in schema.items():
                for part in item.values() if name == "properties" else [item]:
                    check(part)

    for tool in tools.values():
        check(tool.parameters)
        assert tool.parameters["type"] == "object"
        assert tool.output_schema is None


def test_an_argument_may_have_any_name() -> None:
    from memory_mcp.server.app import make_tool

    async def odd(title: str, default: str = "x", properties: int = 0) -> Json:
        return {"title": title, "default": default, "properties": properties}

    tool = make_tool(odd, title="Odd", description="Call never.", read_only=True)
    assert list(tool.parameters["properties"]) == ["title", "default", "properties"]
    assert tool.parameters["properties"]["default"] == {"default": "x", "type": "string"}


def test_free_text_is_annotated_as_plain_text(tools: dict[str, Tool]) -> None:
    # of `str | None` the SDK parses text that looks like JSON: "null" would become None
    for tool in tools.values():
        for name, field in tool.fn_metadata.arg_model.model_fields.items():
            assert get_origin(field.annotation) in (list, dict) or str not in get_args(field.annotation), (
                tool.name,
                name,
            )


def test_annotations_tell_what_is_safe_to_call(tools: dict[str, Tool]) -> None:
    for tool in tools.values():
        hints = tool.annotations
        assert hints is not None
        assert hints.read_only_hint == (tool.name not in WRITING)
        assert hints.idempotent_hint == (tool.name not in WRITING)
        assert hints.destructive_hint is False
        assert hints.open_world_hint is False


def test_the_list_of_tools_is_small(taught: Wire) -> None:
    listed = taught.ask(request("tools/list", 1))["result"]
    assert tokens(listed) < 3_000


def test_both_eras_list_the_same_tools(taught: Wire, tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        assert (
            wire.ask(modern("tools/list", 1))["result"]["tools"]
            == taught.ask(request("tools/list", 1))["result"]["tools"]
        )


def test_text_and_structure_of_an_answer_say_the_same(taught: Wire) -> None:
    calls: list[tuple[str, Json]] = [
        ("create_episode", {"task_description": "Another order file"}),
        ("query_memory", {"query": "order file"}),
        ("recommend_playbook", {"task_description": "order file"}),
        ("analyze_patterns", {}),
        ("health_check", {}),
        ("get_metrics", {}),
        ("get_episode", {"episode_id": "nothing"}),
        ("no_such_tool", {}),
        ("query_memory", {"wrong": 1}),
    ]
    for tool, arguments in calls:
        result = taught.result(tool, arguments)
        (block,) = result["content"]
        assert json.loads(block["text"]) == result["structuredContent"]
        assert "\n" not in block["text"]
        assert ": " not in block["text"].split('"')[2::2]


def first_episode(wire: Wire) -> str:
    return str(wire.call("query_memory", query="order file 0", limit=1)["episodes"][0]["episode_id"])


def test_only_the_wanted_fields_are_told(taught: Wire) -> None:
    found = taught.call("query_memory", query="order file", fields=["task", "outcome"])
    assert found["episodes"]
    for item in found["episodes"]:
        assert set(item) <= {"episode_id", "task", "outcome"}
    assert found["provenance"]
    for item in taught.call("analyze_patterns", min_success_rate=0, fields=["text"])["patterns"]:
        assert set(item) == {"pattern_id", "text"}
    told = taught.call("get_episode", episode_id=first_episode(taught), fields=["outcome"])
    assert set(told) == {"episode_id", "outcome"}
    steps = taught.call("get_episode", episode_id=first_episode(taught), fields=["steps"])
    assert {"episode_id", "steps"} <= set(steps) <= {"episode_id", "steps", "next_step", "shortened"}


@pytest.mark.parametrize("budget", [1, 100, 400, 1_500, 6_000])
def test_every_reading_tool_keeps_to_its_budget(taught: Wire, budget: int) -> None:
    calls: list[tuple[str, Json]] = [
        ("create_episode", {"task_description": "Repair the import of order file 13", "domain": "orders"}),
        ("query_memory", {"query": "Repair the import of order file", "limit": 100}),
        ("recommend_playbook", {"task_description": "Repair the import of order file", "max_steps": 100}),
        ("analyze_patterns", {"min_success_rate": 0, "limit": 200}),
        *(
            ("get_episode", {"episode_id": item["episode_id"]})
            for item in taught.call("query_memory", query="order file", limit=100, fields=["task"])["episodes"]
        ),
    ]
    for tool, arguments in calls:
        answer = taught.call(tool, **arguments, token_budget=budget)
        assert tokens(answer) <= budget + FRAME, tool
        assert tokens(answer) > 0


@pytest.mark.parametrize("budget", [1, 300, 2_000, 1_000_000])
def test_pages_of_an_episode_end_and_show_each_step_once(taught: Wire, budget: int) -> None:
    done = {"status": "completed"}
    for item in taught.call("query_memory", query="order file", limit=3, fields=["task"], filters=done)["episodes"]:
        seen: list[int] = []
        page: Json = {"next_step": 0}
        while "next_step" in page:
            page = taught.call(
                "get_episode", episode_id=item["episode_id"], after_step=page["next_step"], token_budget=budget
            )
            assert page["steps"]
            seen += [step["step_number"] for step in page["steps"]]
        assert seen == list(range(1, 14))
    beyond = taught.call("get_episode", episode_id=item["episode_id"], after_step=13)
    assert beyond["steps"] == []
    assert "next_step" not in beyond


def test_an_answer_tells_where_it_comes_from(taught: Wire) -> None:
    found = taught.call("query_memory", query="order file")
    assert found["provenance"]["leg"] == "lexical"
    assert found["provenance"]["semantic"] == "off"
    assert "order" in found["provenance"]["terms"]
    assert found["count"] == len(found["episodes"]) > 0
    playbook = taught.call("recommend_playbook", task_description="Repair the import of an order file")["playbook"]
    known = {item["episode_id"] for item in taught.call("query_memory", query="order file", limit=100)["episodes"]}
    assert playbook["source"] in known
    assert set(playbook["evidence"]["episodes"]) <= known
    for pattern in taught.call("analyze_patterns", min_success_rate=0)["patterns"]:
        assert pattern["episodes"]


def test_an_answer_within_its_budget_is_left_alone() -> None:
    answer = {"text": "x" * 1_000}
    assert within(answer, 0) is answer
    assert within(answer, 300) is answer


def test_an_answer_over_its_budget_says_what_was_left_out() -> None:
    answer = {"episode_id": "e" * 36, "text": "ü" * 10_000, "nested": [{"text": "y" * 5_000}], "steps": [{"n": 1}] * 5}
    fitted = within(answer, 100)
    assert tokens(fitted) <= 100 + FRAME
    assert fitted["episode_id"] == answer["episode_id"]
    assert fitted["steps"] == answer["steps"]
    left = len(fitted["text"]) - 1 + len(fitted["nested"][0]["text"]) - 1
    assert fitted["shortened"] == {"characters": 15_000 - left, "items": 0}
    many = within({"names": [f"name {n}" for n in range(10_000)], "members": {str(n): n for n in range(10_000)}}, 100)
    assert tokens(many) <= 100 + FRAME
    assert many["shortened"]["items"] == 20_000 - len(many["names"]) - len(many["members"])
