"""The life of an episode: the tools that write, and the one that reads an episode back."""

from __future__ import annotations

from typing import Annotated, Any

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from memory_mcp.errors import InvalidInputError, TooLargeError
from memory_mcp.records.base import Json, parse
from memory_mcp.records.episode import OUTCOME_TYPES, Outcome
from memory_mcp.server.app import make_tool
from memory_mcp.server.tools.arguments import (
    Actor,
    AsOf,
    Budget,
    Domain,
    EpisodeId,
    Fields,
    Namespace,
    Opened,
    TaskTypeText,
    check_id,
    check_known,
    check_name,
    draft_of,
    namespace_of,
    one_of,
    step_of,
)
from memory_mcp.server.tools.fitting import within

MAX_BATCH = 100


class LifecycleTools:
    """The tools over a memory that may still be opening: each call waits for what it needs."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def create_episode(
        self,
        task_description: Annotated[str, Field(description="The task in your own words; up to 10,000 characters.")],
        domain: Domain = "",
        task_type: TaskTypeText = "other",
        language: Annotated[str, Field(description="Programming or human language.")] = "",
        framework: str = "",
        complexity: Annotated[str, one_of(("simple", "moderate", "complex"), "Your estimate.")] = "",
        tags: Annotated[list[str], Field(description="Up to 32 labels.")] = [],  # noqa: B006 - never changed
        metadata: Annotated[dict[str, Any], Field(description="Anything else, up to 64 KB.")] = {},  # noqa: B006
        actor: Actor = "",
        token_budget: Annotated[int, Field(ge=0, le=100_000, description="Tokens the guidance may take.")] = 0,
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        draft = draft_of(task_description, domain, task_type, language, framework, complexity, tags, metadata)
        budget = token_budget or memory.settings.guidance_tokens
        answer = await memory.episodes.create(
            draft, namespace_of(namespace, memory), actor=check_name(actor, "actor"), token_budget=budget
        )
        return within(answer, budget)

    async def add_episode_step(
        self,
        episode_id: EpisodeId,
        tool: Annotated[str, Field(description="Tool that was called; leave empty when you give `steps`.")] = "",
        action: Annotated[str, Field(description="What was done and why, in words.")] = "",
        parameters: Annotated[dict[str, Any], Field(description="Arguments of the call, up to 64 KB.")] = {},  # noqa: B006
        result: Annotated[
            dict[str, Any],
            Field(
                description='{"type": "success"|"error"|"timeout", "output": text, "message": error text};'
                " a message alone: error; up to 10,000 characters."
            ),
        ] = {},  # noqa: B006 - never changed
        latency_ms: float | None = None,
        tokens_used: int | None = None,
        predicted_outcome: Annotated[
            float | None, Field(description="Your probability, before the call, that it would succeed.")
        ] = None,
        step_number: Annotated[int, Field(ge=0, description="Number you expect the step to get; 0: do not check.")] = 0,
        steps: Annotated[
            list[dict[str, Any]],
            Field(description="Several steps at once, each with tool, action, parameters, result, …"),
        ] = [],  # noqa: B006 - never changed
        actor: Actor = "",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        single = {
            "tool": tool,
            "action": action,
            "parameters": parameters,
            "result": result,
            "latency_ms": latency_ms,
            "tokens_used": tokens_used,
            "predicted_outcome": predicted_outcome,
        }
        if steps and any(value not in ("", {}, None) for value in single.values()):
            raise InvalidInputError("steps: give either one step or `steps`, not both")
        if len(steps) > MAX_BATCH:
            raise TooLargeError(f"steps: has {len(steps)} items; the limit of one call is {MAX_BATCH}")
        drafts = [step_of(item, f"steps.{at}") for at, item in enumerate(steps)] or [step_of(single, "")]
        return await memory.episodes.add_steps(
            check_id(episode_id),
            drafts,
            namespace_of(namespace, memory),
            step_number=step_number,
            actor=check_name(actor, "actor"),
        )

    async def complete_episode(
        self,
        episode_id: EpisodeId,
        outcome_type: Annotated[
            str, Field(description="How it truly ended.", json_schema_extra={"enum": list(OUTCOME_TYPES)})
        ],
        verdict: Annotated[str, Field(description="What was achieved, in a sentence or two.")] = "",
        reason: Annotated[str, Field(description="Why it failed or was given up.")] = "",
        artifacts: Annotated[list[str], Field(description="What was made: files, links, commits.")] = [],  # noqa: B006
        completed: Annotated[list[str], Field(description="Parts that were reached.")] = [],  # noqa: B006
        failed: Annotated[list[str], Field(description="Parts that were not reached.")] = [],  # noqa: B006
        score: Annotated[float | None, Field(description="Measured quality in 0..1, if there is one.")] = None,
        actor: Actor = "",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        check_known(outcome_type, OUTCOME_TYPES, "outcome_type", required=True)
        outcome = parse(
            Outcome,
            {
                "type": outcome_type,
                "verdict": verdict,
                "reason": reason,
                "artifacts": artifacts,
                "completed": completed,
                "failed": failed,
                "score": score,
            },
        )
        return await memory.episodes.complete(
            check_id(episode_id), outcome, namespace_of(namespace, memory), actor=check_name(actor, "actor")
        )

    async def get_episode(
        self,
        episode_id: EpisodeId,
        fields: Fields = [],  # noqa: B006 - never changed
        after_step: Annotated[
            int, Field(ge=0, description="Go on behind this step (`next_step` of the last page).")
        ] = 0,
        token_budget: Budget = 0,
        as_of: AsOf = "",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        budget = token_budget or memory.settings.token_budget
        answer = await memory.episodes.get(
            check_id(episode_id),
            namespace_of(namespace, memory),
            fields=fields,
            after_step=after_step,
            token_budget=budget,
            as_of=check_name(as_of, "as_of"),
        )
        return within(answer, budget)


def lifecycle_tools(opened: Opened) -> list[Tool]:
    """The tools of this module, in the order in which they are listed."""
    tools = LifecycleTools(opened)
    return [
        make_tool(
            tools.create_episode,
            title="Start a task",
            description="Call at the start of every task. Answers with an episode_id and what earlier tasks teach:"
            " similar ones, a playbook of steps that worked, pitfalls, a forecast of success.",
            read_only=False,
        ),
        make_tool(
            tools.add_episode_step,
            title="Record a step",
            description="Call after each tool call, or once for several, with the real result. For a failed step the"
            " answer brings `lessons`: what led out of such an error before. Durable when answered.",
            read_only=False,
        ),
        make_tool(
            tools.complete_episode,
            title="End a task",
            description="Call when the task is done, failed or given up, with the true outcome. Answers with reward,"
            " reflection and what was learned. Failures teach most.",
            read_only=False,
        ),
        make_tool(
            tools.get_episode,
            title="Read an episode",
            description="Call when the summary of an earlier task is not enough: its steps, outcome, reward and"
            " reflection, in pages that fit the budget.",
            read_only=True,
        ),
    ]
