"""Results of tau-bench: a JSON list of trajectories, each a conversation of an agent with a simulated customer.

A step is one tool call joined to its tool message; what the agent says to the customer is not a step. The reward of
the benchmark decides the outcome: 1 is a success, 0 a failure. The file holds no times.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from memory_mcp.evaluation.importers._common import (
    Call,
    Calls,
    arguments_object,
    call_text,
    description,
    digest,
    get_object,
    get_objects,
    keep_text,
    need,
    outcome_of_reward,
    result_fields,
    text_of,
    without_none,
)
from memory_mcp.evaluation.importers._files import Problem, fail_file, load_json, trials
from memory_mcp.records.base import Json, parse
from memory_mcp.records.episode import ImportedEpisode


def read(path: Path) -> Iterator[ImportedEpisode | Problem]:
    """Each trajectory of the file as an episode, or as the problem with it.

    Raises:
        ImportFormatError: the file cannot be read, or does not hold a JSON list.
    """
    trajectories = load_json(path)
    if not isinstance(trajectories, list):
        fail_file(path, "does not hold a list of trajectories", _hint(trajectories))
    domain = next((name for name in ("airline", "retail") if name in path.name.lower()), "customer_service")
    return trials("trajectory", trajectories, partial(_episode, domain))


def _hint(content: Any) -> str:
    newer = isinstance(content, dict) and "simulations" in content
    return "It looks like the format tau2-bench." if newer else ""


def _episode(domain: str, trajectory: Any) -> ImportedEpisode:
    messages = need(trajectory, "traj", list)
    task = need(need(trajectory, "info", dict), "task", dict)
    calls = _calls(messages)
    metadata = without_none(
        {
            "task_id": trajectory.get("task_id"),
            "trial": trajectory.get("trial"),
            "user_id": task.get("user_id"),
            "calls_without_result": calls.unanswered or None,
        }
    )
    first = next((m for m in messages if isinstance(m, dict) and m.get("role") == "user"), None)
    if first is not None:
        keep_text(metadata, "first_user_message", text_of(first.get("content")))
    unrewarded = "the benchmark gave no reward: the database or the answers differ from what the task asks"
    return parse(
        ImportedEpisode,
        {
            "source_id": "tau-bench:" + digest([trajectory.get("task_id"), trajectory.get("trial"), task, messages]),
            "task_description": description(need(task, "instruction", str), metadata),
            "domain": domain,
            "steps": [_step(call, answer) for call, answer in calls.complete()],
            "outcome": outcome_of_reward(trajectory, "tau-bench", unrewarded),
            "metadata": metadata,
        },
    )


def _calls(messages: list[Any]) -> Calls:
    calls = Calls()
    for message in messages:
        if not isinstance(message, dict):
            continue
        for made in get_objects(message, "tool_calls"):
            calls.made(made.get("id"), _call(get_object(made, "function"), message))
        if isinstance(message.get("function_call"), dict):  # the older style: answered by name instead of id
            call = _call(message["function_call"], message)
            calls.made(("function", call.tool), call)
        if message.get("role") == "tool":
            calls.answered(message.get("tool_call_id"), message)
        elif message.get("role") == "function":
            calls.answered(("function", message.get("name")), message)
    return calls


def _call(function: Json, message: Json) -> Call:
    return Call(function.get("name"), arguments_object(function.get("arguments")), message)


def _step(call: Call, answer: Json) -> Json:
    text = text_of(answer.get("content"))
    return {
        "tool": call.tool,
        "action": call_text(call.tool, call.parameters),
        "parameters": call.parameters,
        "result": result_fields(text, "error" if text.startswith("Error") else "success"),
    }
