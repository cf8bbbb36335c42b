"""Episodes: a task, the steps taken, and the outcome."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from memory_mcp.records.base import (
    MAX_STEPS,
    Items,
    JsonObject,
    LongText,
    Name,
    Observation,
    Record,
    RequiredName,
    RequiredText,
    Tags,
)

TaskType = Literal["code_generation", "debugging", "refactoring", "testing", "analysis", "documentation", "other"]
Complexity = Literal["simple", "moderate", "complex"]
Status = Literal["open", "completed", "abandoned"]
OutcomeType = Literal["success", "partial_success", "failure", "abstained"]
ResultType = Literal["success", "error", "timeout"]

TASK_TYPES: tuple[str, ...] = TaskType.__args__  # type: ignore[attr-defined]
OUTCOME_TYPES: tuple[str, ...] = OutcomeType.__args__  # type: ignore[attr-defined]

Milliseconds = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Tokens = Annotated[int, Field(ge=0, le=10**12)]
# microseconds since the epoch, up to the year 9999, which is where ISO 8601 with four digits ends
Timestamp = Annotated[int, Field(ge=0, le=253_402_300_799_999_999)]


class Context(Record):
    """Where a task takes place."""

    language: Name = ""
    framework: Name = ""
    complexity: Complexity | None = None
    tags: Tags = Field(default_factory=list)


class StepResult(Record):
    """What a step brought: `output` of a success, `message` of an error or timeout.

    `truncated` says that an importer kept only the beginning of a longer observation; callers cannot set it.
    """

    type: ResultType = "success"
    output: Observation = ""
    message: Observation = ""
    truncated: bool = False

    @property
    def ok(self) -> bool:
        return self.type == "success"

    @property
    def observation(self) -> str:
        """The text that the agent saw."""
        return self.output if self.ok else self.message or self.output


class StepDraft(Record):
    """A step as it is reported, before it has a number and a time.

    `predicted_outcome` is the agent's own probability, between 0 and 1, that the step would succeed.
    """

    tool: RequiredName
    action: LongText = ""
    parameters: JsonObject = Field(default_factory=dict)
    result: StepResult = Field(default_factory=StepResult)
    latency_ms: Milliseconds | None = None
    tokens_used: Tokens | None = None
    predicted_outcome: Share | None = None
    at: Timestamp | None = Field(default=None, description="Microseconds since the epoch; importers only.")


class Step(StepDraft):
    """A recorded step; numbers count from 1 without gaps. `at` is in microseconds since the epoch."""

    step_number: int = Field(ge=1, le=MAX_STEPS)
    at: Timestamp


class Outcome(Record):
    """How a task ended. `score`, between 0 and 1, is given where the result can be measured."""

    type: OutcomeType
    verdict: LongText = ""
    artifacts: Items = Field(default_factory=list)
    completed: Items = Field(default_factory=list)
    failed: Items = Field(default_factory=list)
    reason: LongText = ""
    score: Share | None = None

    @property
    def value(self) -> float | None:
        """The outcome as a number in 0..1; None for `abstained`, which is evidence for neither side."""
        if self.type == "success":
            return 1.0
        if self.type == "failure":
            return 0.0
        if self.type == "abstained":
            return None
        if self.score is not None:
            return self.score
        parts = len(self.completed) + len(self.failed)
        return len(self.completed) / parts if parts else 0.5

    @property
    def succeeded(self) -> bool | None:
        """Success for counting evidence: a partial success counts when more than half was reached."""
        value = self.value
        return None if value is None else value > 0.5


class EpisodeDraft(Record):
    """A task as it is announced, before it has an id."""

    task_description: RequiredText
    task_type: TaskType = "other"
    domain: Name = ""
    context: Context = Field(default_factory=Context)
    metadata: JsonObject = Field(default_factory=dict)


class Episode(EpisodeDraft):
    """A recorded task. Times are microseconds since the epoch; `version` is the ledger position of its last change."""

    episode_id: RequiredName
    namespace: Name = "default"
    actor: Name = ""
    status: Status = "open"
    steps: list[Step] = Field(default_factory=list)
    outcome: Outcome | None = None
    reward: dict[str, Any] | None = None
    reflection: dict[str, Any] | None = None
    receipts: list[dict[str, Any]] = Field(default_factory=list)
    started_at: int = 0
    ended_at: int | None = None
    version: int = 0

    @property
    def duration_seconds(self) -> float | None:
        """Wall time of the episode, or the sum of its step latencies where no end is known; None if unknown."""
        if self.ended_at is not None and self.ended_at > self.started_at:
            return (self.ended_at - self.started_at) / 1e6
        latencies = [step.latency_ms for step in self.steps if step.latency_ms is not None]
        return sum(latencies) / 1000 if latencies else None


def episode_from(stored: Mapping[str, Any]) -> Episode:
    """An episode from its stored form, which was validated when it was written."""
    fields = {name: value for name, value in stored.items() if name not in ("step_count", "error_count")}
    return Episode.model_validate(fields)


def _at_most_max_steps(steps: list[StepDraft]) -> list[StepDraft]:
    if len(steps) > MAX_STEPS:
        raise PydanticCustomError(
            "too_large", "has {length} steps; the limit is {limit}", {"length": len(steps), "limit": MAX_STEPS}
        )
    return steps


class ImportedEpisode(EpisodeDraft):
    """A finished (or, without an outcome, open) episode from elsewhere, written in one piece.

    `source_id` identifies it in its source: importing the same source twice adds nothing.
    """

    source_id: RequiredName
    actor: Name = ""
    steps: Annotated[list[StepDraft], AfterValidator(_at_most_max_steps)] = Field(default_factory=list)
    outcome: Outcome | None = None
    started_at: Timestamp | None = None
    ended_at: Timestamp | None = None

    @model_validator(mode="after")
    def _times_in_order(self) -> Self:
        if self.started_at is not None and self.ended_at is not None and self.ended_at < self.started_at:
            raise PydanticCustomError("order", "ended_at lies before started_at")
        return self
