"""What the arguments of several tools share: their annotations, and how they become records."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from memory_mcp.errors import InvalidInputError, TooLargeError, UnknownArgumentError
from memory_mcp.memory import Memory
from memory_mcp.records.base import MAX_NAME, Json, Record, Tags, parse
from memory_mcp.records.episode import TASK_TYPES, EpisodeDraft, StepDraft
from memory_mcp.records.ledger import DEFAULT_NAMESPACE
from memory_mcp.retrieval.lexical import Filter

Opened = Callable[[], Awaitable[Memory]]


def one_of(values: tuple[str, ...], text: str) -> Any:
    """A field for one of several words; the empty one stands for none."""
    return Field(description=text, json_schema_extra={"enum": ["", *values]})


# Free text is annotated as plain `str`: of any other annotation the SDK parses text that looks like JSON.
TaskTypeText = Annotated[str, one_of(TASK_TYPES, "Kind of task.")]
Domain = Annotated[str, Field(description="Area, e.g. a project or product.")]
Namespace = Annotated[str, Field(description="Isolated memory; empty: the default one.")]
Budget = Annotated[int, Field(ge=0, le=1_000_000, description="Tokens the answer may take; 0: a default.")]
Fields = Annotated[list[str], Field(max_length=50, description="Only these fields of each item.")]
Actor = Annotated[str, Field(description="Who acts, e.g. the agent's name.")]
EpisodeId = Annotated[str, Field(description="Id from create_episode.")]
AsOf = Annotated[str, Field(description="Snapshot, time or ledger position.")]
OpenEpisode = Annotated[str, Field(description="Your open episode: the memory learns what helped it.")]


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


def check_id(episode_id: str) -> str:
    """An id that could be one; anything longer was never given out."""
    if not episode_id.strip() or len(episode_id) > MAX_NAME:
        raise InvalidInputError("episode_id: must be an id from create_episode")
    return episode_id


def namespace_of(given: str, memory: Memory) -> str:
    if given and not given.strip():
        raise InvalidInputError("namespace: must not be blank; leave it out for the default one")
    return check_name(given.strip(), "namespace") or memory.settings.namespace or DEFAULT_NAMESPACE


def check_name(value: str, name: str) -> str:
    """A name short enough to be stored."""
    if len(value) > MAX_NAME:
        raise TooLargeError(f"{name}: has {len(value)} characters; the limit is {MAX_NAME}")
    return value


def check_known(value: str, allowed: tuple[str, ...], name: str, *, required: bool = False) -> None:
    if value not in allowed and (value or required):
        raise InvalidInputError(f"{name}: {value[:100]!r} is not one of {', '.join(allowed)}")


def draft_of(
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


def step_of(item: Json, where: str) -> StepDraft:
    """A step as a caller may give it: time and truncation are for importers."""
    prefix = f"{where}." if where else ""
    if "at" in item:
        raise UnknownArgumentError(f"{prefix}at: there is no such argument", hint="The server notes the time.")
    if isinstance(item.get("result"), dict) and "truncated" in item["result"]:
        raise UnknownArgumentError(
            f"{prefix}result.truncated: there is no such argument", hint="Shorten the text so that it says so itself."
        )
    result = item.get("result")
    if isinstance(result, dict) and "type" not in result and result.get("message") and not result.get("output"):
        # a failure that was reported in haste must not be learned from as a success
        item = {**item, "result": {**result, "type": "error"}}
    try:
        return parse(StepDraft, item)
    except InvalidInputError as error:
        if where:
            raise type(error)(f"{where}.{error.message}", hint=error.hint) from None
        raise
