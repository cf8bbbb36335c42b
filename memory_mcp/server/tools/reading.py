"""Asking the memory: questions, playbooks, patterns, and how it is doing."""

from __future__ import annotations

from typing import Annotated

from mcp.server.mcpserver.tools import Tool
from pydantic import Field

from memory_mcp.errors import InvalidInputError, MemoryMCPError, TooLargeError
from memory_mcp.learning.mining import KINDS
from memory_mcp.records.base import Json
from memory_mcp.records.episode import TASK_TYPES
from memory_mcp.retrieval.search import Query
from memory_mcp.server.app import make_tool
from memory_mcp.server.tools.arguments import (
    AsOf,
    Budget,
    Domain,
    Fields,
    FilterArguments,
    Namespace,
    Opened,
    OpenEpisode,
    TaskTypeText,
    check_id,
    check_known,
    check_name,
    draft_of,
    namespace_of,
    one_of,
)
from memory_mcp.server.tools.fitting import within
from memory_mcp.services.status import METRIC_TYPES, not_open

MAX_QUERY = 100_000
VERDICTS = ("helps", "hurts", "unproven")


class ReadingTools:
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
        episode_id: OpenEpisode = "",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        if len(query) > MAX_QUERY:
            raise TooLargeError(f"query: has {len(query)} characters; the limit is {MAX_QUERY}")
        if not query.strip():
            raise InvalidInputError("query: must not be empty")
        space = namespace_of(namespace, memory)
        check_known(task_type, TASK_TYPES, "task_type")
        check_known(filters.task_type, TASK_TYPES, "filters.task_type")
        episode_id = check_id(episode_id) if episode_id else ""
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
        return within(answer, budget)

    async def recommend_playbook(
        self,
        task_description: Annotated[str, Field(description="The task in your own words.")],
        domain: Domain = "",
        task_type: TaskTypeText = "other",
        language: str = "",
        framework: str = "",
        tags: list[str] = [],  # noqa: B006 - never changed
        max_steps: Annotated[int, Field(ge=1, le=100)] = 5,
        episode_id: OpenEpisode = "",
        token_budget: Budget = 0,
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        draft = draft_of(task_description, domain, task_type, language, framework, "", tags, {})
        budget = token_budget or memory.settings.token_budget
        answer = await memory.episodes.recommend(
            draft,
            namespace_of(namespace, memory),
            max_steps=max_steps,
            episode_id=check_id(episode_id) if episode_id else "",
            token_budget=budget,
        )
        return within(answer, budget)

    async def analyze_patterns(
        self,
        task_type: TaskTypeText = "",
        min_success_rate: Annotated[
            float, Field(ge=0, le=1, description="Least success rate of a pattern; pitfalls are always listed.")
        ] = 0.7,
        limit: Annotated[int, Field(ge=1, le=200)] = 20,
        domain: Domain = "",
        kind: Annotated[str, one_of(KINDS, "Only this kind.")] = "",
        verdict: Annotated[str, one_of(VERDICTS, "Only this verdict.")] = "",
        fields: Fields = [],  # noqa: B006 - never changed
        token_budget: Budget = 0,
        as_of: AsOf = "",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        check_known(task_type, TASK_TYPES, "task_type")
        check_known(kind, KINDS, "kind")
        check_known(verdict, VERDICTS, "verdict")
        budget = token_budget or memory.settings.token_budget
        answer = await memory.patterns.analyze(
            namespace_of(namespace, memory),
            task_type=task_type,
            domain=domain,
            kind=kind,
            verdict=verdict,
            min_success_rate=min_success_rate,
            limit=limit,
            fields=fields,
            token_budget=budget,
            as_of=check_name(as_of, "as_of"),
        )
        return within(answer, budget)

    async def health_check(self) -> Json:
        try:
            memory = await self._opened()
        except MemoryMCPError as error:
            return not_open(error)
        return await memory.status.health()

    async def get_metrics(
        self,
        metric_type: Annotated[str, one_of(METRIC_TYPES, "Which group; empty: all.")] = "all",
        namespace: Namespace = "",
    ) -> Json:
        memory = await self._opened()
        check_known(metric_type, METRIC_TYPES, "metric_type")
        return await memory.status.metrics(namespace_of(namespace, memory), metric_type or "all")


def reading_tools(opened: Opened) -> list[Tool]:
    """The tools of this module, in the order in which they are listed."""
    tools = ReadingTools(opened)
    return [
        make_tool(
            tools.query_memory,
            title="Ask the memory",
            description="Call with any question that earlier tasks may answer: how something was solved, what went"
            " wrong, what an error meant. Domain and task type pull; `filters` exclude.",
            read_only=True,
        ),
        make_tool(
            tools.recommend_playbook,
            title="Get a playbook",
            description="Call for a sub-task, or a task not started yet (create_episode brings a playbook already):"
            " steps that led similar tasks to success, with evidence, pitfalls and a forecast.",
            read_only=True,
        ),
        make_tool(
            tools.analyze_patterns,
            title="List patterns",
            description="Call to learn what helps and what hurts over all episodes: tool sequences, decisions, ways out"
            " of errors, contexts, pitfalls, each with support, base rate, interval, q-value and verdict.",
            read_only=True,
        ),
        make_tool(
            tools.health_check,
            title="Check health",
            description="Call when answers are marked `degraded` or fail: probes store, cache, journal, search and"
            " learning now.",
            read_only=True,
        ),
        make_tool(
            tools.get_metrics,
            title="Read metrics",
            description="Call for numbers about this memory: episodes, outcomes, patterns, latencies, storage.",
            read_only=True,
        ),
    ]
