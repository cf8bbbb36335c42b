"""Results of tau2-bench: one JSON object with the tasks and their simulations.

A step is one tool call, of the agent or of the simulated customer (then the action starts with "user: "), joined to
its tool message, whose `error` flag decides. The reward decides the outcome; the gold actions that the benchmark
checked stand in `completed` and `failed`. Latency is the time from the call to its tool message. Times have no zone
in these files and are taken as UTC.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from memory_mcp.errors import ImportFormatError
from memory_mcp.evaluation.importers._common import (
    Call,
    Calls,
    arguments_object,
    call_text,
    description,
    digest,
    elapsed_ms,
    get_object,
    get_objects,
    micros,
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
    """Each simulation of the file as an episode, or as the problem with it.

    Raises:
        ImportFormatError: the file cannot be read, or does not hold an object with lists of tasks and simulations.
    """
    content = load_json(path)
    fields = content if isinstance(content, dict) else {}
    tasks, simulations = fields.get("tasks"), fields.get("simulations")
    if not isinstance(tasks, list) or not isinstance(simulations, list):
        hint = "It looks like the format tau-bench." if isinstance(content, list) else ""
        fail_file(path, "does not hold an object with the lists 'tasks' and 'simulations'", hint)
    by_id = {str(task["id"]): task for task in tasks if isinstance(task, dict) and "id" in task}
    info = get_object(fields, "info")
    return trials("simulation", simulations, partial(_episode, by_id, info))


def _episode(tasks: dict[str, Json], info: Json, simulation: Any) -> ImportedEpisode:
    messages = need(simulation, "messages", list)
    task = tasks.get(str(simulation.get("task_id")))
    if task is None:
        raise ImportFormatError(f"task_id: the file holds no task {simulation.get('task_id')!r}")
    calls = _calls(messages)
    rewarded = get_object(simulation, "reward_info")
    names = ("task_id", "trial", "seed", "termination_reason", "agent_cost", "user_cost")
    metadata = without_none({name: simulation.get(name) for name in names}) | without_none(
        {
            "reward_basis": rewarded.get("reward_basis"),
            "calls_without_result": calls.unanswered or None,
        }
    )
    identity = simulation.get("id") or digest(simulation)
    instructions = get_object(get_object(task, "user_scenario"), "instructions")
    domain = get_object(info, "environment_info").get("domain_name") or instructions.get("domain") or ""
    started, ended = micros(simulation.get("start_time")), micros(simulation.get("end_time"))
    return parse(
        ImportedEpisode,
        {
            "source_id": f"tau2-bench:{identity}",
            "task_description": description(_task_text(task, info), metadata),
            "domain": domain,
            "actor": get_object(info, "agent_info").get("llm") or "",
            "steps": _steps(calls),
            "outcome": _outcome(simulation, rewarded),
            "metadata": metadata,
            "started_at": started,
            "ended_at": ended,
        },
    )


def _task_text(task: Json, info: Json) -> str:
    """What the task asks: the ticket where no customer took part, else what the customer was told to want."""
    ticket = text_of(task.get("ticket"))
    if ticket and get_object(info, "user_info").get("implementation") == "dummy_user":
        return ticket
    instructions = get_object(task, "user_scenario").get("instructions")
    if isinstance(instructions, dict):
        parts = (text_of(instructions.get(name)).strip() for name in ("reason_for_call", "task_instructions"))
        instructions = "\n".join(part for part in parts if part)
    return text_of(instructions) or ticket


def _calls(messages: list[Any]) -> Calls:
    calls = Calls()
    for message in messages:
        if not isinstance(message, dict):
            continue
        for made in get_objects(message, "tool_calls"):
            requestor = made.get("requestor") or message.get("role")
            call = Call(made.get("name"), arguments_object(made.get("arguments")), message | {"requestor": requestor})
            calls.made(made.get("id"), call)
        if message.get("role") == "tool":
            calls.answered(message.get("id"), message)
    return calls


def _steps(calls: Calls) -> list[Json]:
    counted: set[int] = set()
    return [_step(call, answer, counted) for call, answer in calls.complete()]


def _step(call: Call, answer: Json, counted: set[int]) -> Json:
    made, done = micros(call.made_in.get("timestamp")), micros(answer.get("timestamp"))
    by_user = call.made_in["requestor"] == "user"
    return {
        "tool": call.tool,
        "action": ("user: " if by_user else "") + call_text(call.tool, call.parameters),
        "parameters": call.parameters,
        "result": result_fields(text_of(answer.get("content")), "error" if answer.get("error") else "success"),
        "latency_ms": elapsed_ms(made, done),
        "tokens_used": None if by_user else _tokens(call.made_in, counted),
        "at": made,
    }


def _tokens(message: Json, counted: set[int]) -> int | None:
    """The tokens of a message, at the first of its calls only."""
    usage = message.get("usage")
    if not isinstance(usage, dict) or id(usage) in counted:
        return None
    counted.add(id(usage))
    amounts = [usage.get("prompt_tokens"), usage.get("completion_tokens")]
    return sum(amount for amount in amounts if isinstance(amount, int))


def _outcome(simulation: Json, rewarded: Json) -> Json:
    ended = text_of(simulation.get("termination_reason")) or "unknown"
    unrewarded = f"the benchmark gave no reward; the simulation ended by {ended}"
    if rewarded.get("reward") is None:
        return {"type": "abstained", "reason": unrewarded}
    outcome = outcome_of_reward(rewarded, "tau2-bench", unrewarded)
    for check in get_objects(rewarded, "action_checks"):
        action = get_object(check, "action")
        text = call_text(str(action.get("name")), get_object(action, "arguments"))
        outcome.setdefault("completed" if check.get("action_match") else "failed", []).append(text)
    return outcome
