"""The core tools. Each one checks its arguments into records and calls one method of a service."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from memory_mcp.errors import InvalidInputError, TooLargeError, UnknownArgumentError
from memory_mcp.learning.mining import KINDS
from memory_mcp.memory import Memory
from memory_mcp.records.base import Json, Record, Tags, parse
from memory_mcp.records.episode import OUTCOME_TYPES, TASK_TYPES, EpisodeDraft, Outcome, StepDraft
from memory_mcp.records.ledger import DEFAULT_NAMESPACE
from memory_mcp.retrieval.lexical import Filter
from memory_mcp.retrieval.search import Query
from memory_mcp.server.app import make_tool
from memory_mcp.services.status import METRIC_TYPES

MAX_QUERY = 100_000
MAX_BATCH = 100

Opened = Callable[[], Awaitable[Memory]]


def _one_of(values: tuple[str, ...], text: str) -> Any:
    return Field(description=text, json_schema_extra={"enum": ["", *values]})


# Free text is annotated as plain `str`: of any other annotation the SDK parses text that looks like JSON.
TaskTypeText = Annotated[str, _one_of(TASK_TYPES, "Kind of task.")]
Domain = Annotated[str, Field(description="Area, e.g. a project, product or customer.")]
Namespace = Annotated[str, Field(description="Isolated memory space; empty: the server's default.")]
Budget = Annotated[int, Field(ge=0, le=1_000_000, description="Tokens the answer may take; 0: the server's default.")]
Fields = Annotated[list[str], Field(max_length=50, description="Only these fields of each item; empty: all.")]
Actor = Annotated[str, Field(description="Who acts, e.g. the agent's name.")]
EpisodeId = Annotated[str, Field(description="Id from create_episode.")]


class FilterArguments(Record):
    """Hard conditions; leave out what does not matter."""

    domain: str = ""
    task_type: str = ""
    outcome: Literal["", "success", "partial_success", "failure", "abstained"] = ""
    status: Literal["", "open", "completed", "abandoned"] = ""
    language: str = ""
    framework: str = ""
    tags: Tags = Field(default_factory=list)

    def conditions(self) -> Filter:
        return Filter(**{**self.model_dump(), "tags": tuple(self.tags)})


class CoreTools:
    """The tools over a memory that may still be opening: each call waits for what it needs."""

    def __init__(self, opened: Opened) -> None:
        self._opened = opened

    async def query_memory(
        self,
        query: Annotated[str, Field(description="A question or description in natural language.")],
        domain: Domain = "",
        task_type: TaskTypeText = "",
        limit: Annotated[int, Field(ge=1, le=100)] = 10,
        filters: Annotated[FilterArguments, Field(description="Hard conditions on episodes.")] = FilterArguments(),  # noqa: B008 - immutable
        fields: Fields = [],  # noqa: B006 - never changed
        token_budget: Budget = 0,
        episode_id: Annotated[str, Field(description="Your open episode, so that the memory learns what helped.")] = "",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        if len(query) > MAX_QUERY:
            raise TooLargeError(f"query: has {len(query)} characters; the limit is {MAX_QUERY}")
        if not query.strip():
            raise InvalidInputError("query: must not be empty")
        space = _namespace(namespace, memory)
        _known(task_type, TASK_TYPES, "task_type")
        asked = Query(
            text=query,
            namespace=space,
            domain=domain,
            task_type=task_type,
            where=filters.conditions(),
            limit=limit,
            exclude=frozenset({episode_id} if episode_id else ()),
        )
        budget = token_budget or memory.settings.token_budget
        answer = await memory.recall.query(asked, fields=fields, token_budget=budget)
        if episode_id:
            shown = [
                {"memory_kind": "episode", "memory_id": item["episode_id"], "advice": {}} for item in answer["episodes"]
            ] + [
                {"memory_kind": "pattern", "memory_id": item["pattern_id"], "advice": {}} for item in answer["patterns"]
            ]
            await memory.episodes.show(episode_id, space, shown)
        return answer

    async def analyze_patterns(
        self,
        task_type: TaskTypeText = "",
        min_success_rate: Annotated[
            float, Field(ge=0, le=1, description="Least success rate of a pattern; pitfalls are always listed.")
        ] = 0.7,
        limit: Annotated[int, Field(ge=1, le=200)] = 20,
        domain: Domain = "",
        kind: Annotated[str, _one_of(KINDS, "Only this kind.")] = "",
        verdict: Annotated[str, _one_of(("helps", "hurts", "unproven"), "Only this verdict.")] = "",
        fields: Fields = [],  # noqa: B006 - never changed
        token_budget: Budget = 0,
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        _known(task_type, TASK_TYPES, "task_type")
        _known(kind, KINDS, "kind")
        _known(verdict, ("helps", "hurts", "unproven"), "verdict")
        return await memory.patterns.analyze(
            _namespace(namespace, memory),
            task_type=task_type,
            domain=domain,
            kind=kind,
            verdict=verdict,
            min_success_rate=min_success_rate,
            limit=limit,
            fields=fields,
            token_budget=token_budget or memory.settings.token_budget,
        )

    async def health_check(self) -> Json:
        memory = await self._opened()
        return await memory.status.health()

    async def get_metrics(
        self,
        metric_type: Annotated[str, _one_of(METRIC_TYPES, "Which group; empty: all.")] = "all",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        _known(metric_type, METRIC_TYPES, "metric_type")
        return await memory.status.metrics(_namespace(namespace, memory), metric_type or "all")

    async def create_episode(
        self,
        task_description: Annotated[str, Field(description="The task in your own words; up to 10,000 characters.")],
        domain: Domain = "",
        task_type: TaskTypeText = "other",
        language: Annotated[str, Field(description="Programming or human language.")] = "",
        framework: str = "",
        complexity: Annotated[str, _one_of(("simple", "moderate", "complex"), "Your estimate.")] = "",
        tags: Annotated[list[str], Field(description="Up to 32 labels.")] = [],  # noqa: B006 - never changed
        metadata: Annotated[dict[str, Any], Field(description="Anything else, up to 64 KB.")] = {},  # noqa: B006
        actor: Actor = "",
        token_budget: Annotated[int, Field(ge=0, le=100_000, description="Tokens the guidance may take.")] = 0,
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        draft = _draft(task_description, domain, task_type, language, framework, complexity, tags, metadata)
        return await memory.episodes.create(
            draft,
            _namespace(namespace, memory),
            actor=actor,
            token_budget=token_budget or memory.settings.guidance_tokens,
        )

    async def add_episode_step(
        self,
        episode_id: EpisodeId,
        tool: Annotated[str, Field(description="Tool that was called; leave empty when you give `steps`.")] = "",
        action: Annotated[str, Field(description="What was done and why, in words.")] = "",
        parameters: Annotated[dict[str, Any], Field(description="Arguments of the call, up to 64 KB.")] = {},  # noqa: B006
        result: Annotated[
            dict[str, Any],
            Field(
                description='{"type": "success"|"error"|"timeout", "output": text, "message": error text}; texts up to'
                " 10,000 characters."
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
        if steps and (tool or action or parameters or result):
            raise InvalidInputError("steps: give either one step or `steps`, not both")
        if len(steps) > MAX_BATCH:
            raise TooLargeError(f"steps: has {len(steps)} items; the limit of one call is {MAX_BATCH}")
        drafts = [_step(item, f"steps.{at}") for at, item in enumerate(steps)] or [_step(single, "")]
        return await memory.episodes.add_steps(
            check_id(episode_id), drafts, _namespace(namespace, memory), step_number=step_number, actor=actor
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
        _known(outcome_type, OUTCOME_TYPES, "outcome_type", required=True)
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
        return await memory.episodes.complete(check_id(episode_id), outcome, _namespace(namespace, memory), actor=actor)

    async def get_episode(
        self,
        episode_id: EpisodeId,
        fields: Fields = [],  # noqa: B006 - never changed
        after_step: Annotated[
            int, Field(ge=0, description="Go on behind this step (`next_step` of the last page).")
        ] = 0,
        token_budget: Budget = 0,
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        return await memory.episodes.get(
            check_id(episode_id),
            _namespace(namespace, memory),
            fields=fields,
            after_step=after_step,
            token_budget=token_budget or memory.settings.token_budget,
        )

    async def recommend_playbook(
        self,
        task_description: Annotated[str, Field(description="The task in your own words.")],
        domain: Domain = "",
        task_type: TaskTypeText = "other",
        language: str = "",
        framework: str = "",
        tags: list[str] = [],  # noqa: B006 - never changed
        max_steps: Annotated[int, Field(ge=1, le=100)] = 5,
        episode_id: Annotated[str, Field(description="Your open episode, so that the memory learns what helped.")] = "",
        token_budget: Budget = 0,
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        draft = _draft(task_description, domain, task_type, language, framework, "", tags, {})
        return await memory.episodes.recommend(
            draft,
            _namespace(namespace, memory),
            max_steps=max_steps,
            episode_id=check_id(episode_id) if episode_id else "",
            token_budget=token_budget or memory.settings.token_budget,
        )


def core_tools(opened: Opened) -> list[Tool]:
    """The tools of the `core` set, in the order in which they are listed."""
    tools = CoreTools(opened)
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
            tools.query_memory,
            title="Ask the memory",
            description="Find earlier tasks and patterns that answer a question: how something was solved, what went"
            " wrong, what an error meant. Domain and task type pull; `filters` exclude.",
            read_only=True,
        ),
        make_tool(
            tools.recommend_playbook,
            title="Get a playbook",
            description="Steps that led similar tasks to success, with the evidence for each, pitfalls and a forecast."
            " create_episode brings one already; call this for a sub-task or a task not started.",
            read_only=True,
        ),
        make_tool(
            tools.analyze_patterns,
            title="List patterns",
            description="What helps and what hurts, over all episodes: tool sequences, decisions, ways out of errors,"
            " contexts, pitfalls, each with support, base rate, interval, q-value and verdict.",
            read_only=True,
        ),
        make_tool(
            tools.get_episode,
            title="Read an episode",
            description="One episode with its steps, outcome, reward and reflection, in pages that fit the budget.",
            read_only=True,
        ),
        make_tool(
            tools.health_check,
            title="Check health",
            description="Probe store, cache, journal, search and learning now.",
            read_only=True,
        ),
        make_tool(
            tools.get_metrics,
            title="Read metrics",
            description="Counts of episodes, outcomes and patterns, latencies (p50, p95, p99), storage.",
            read_only=True,
        ),
    ]


def check_id(episode_id: str) -> str:
    """An id that could be one; anything longer was never given out."""
    if not episode_id.strip() or len(episode_id) > 200:
        raise InvalidInputError("episode_id: must be an id from create_episode")
    return episode_id


def _namespace(given: str, memory: Memory) -> str:
    name = given.strip() or memory.settings.namespace or DEFAULT_NAMESPACE
    if len(name) > 200:
        raise TooLargeError(f"namespace: has {len(name)} characters; the limit is 200")
    return name


def _known(value: str, allowed: tuple[str, ...], name: str, *, required: bool = False) -> None:
    if value not in allowed and (value or required):
        raise InvalidInputError(f"{name}: {value[:100]!r} is not one of {', '.join(allowed)}")


def _draft(
    task_description: str,
    domain: str,
    task_type: str,
    language: str,
    framework: str,
    complexity: str,
    tags: list[str],
    metadata: Json,
) -> EpisodeDraft:
    return parse(
        EpisodeDraft,
        {
            "task_description": task_description,
            "domain": domain,
            "task_type": task_type or "other",
            "context": {
                "language": language,
                "framework": framework,
                "complexity": complexity or None,
                "tags": tags,
            },
            "metadata": metadata,
        },
    )


def _step(item: Json, where: str) -> StepDraft:
    """A step as a caller may give it: time and truncation are for importers."""
    prefix = f"{where}." if where else ""
    if "at" in item:
        raise UnknownArgumentError(f"{prefix}at: there is no such argument", hint="The server notes the time.")
    if isinstance(item.get("result"), dict) and "truncated" in item["result"]:
        raise UnknownArgumentError(
            f"{prefix}result.truncated: there is no such argument", hint="Shorten the text so that it says so itself."
        )
    try:
        return parse(StepDraft, item)
    except InvalidInputError as error:
        if where:
            raise type(error)(f"{where}.{error.message}", hint=error.hint) from None
        raise
