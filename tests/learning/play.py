"""Living through whole episodes in a real memory, for the tests of what it teaches."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from memory_mcp.memory import Memory
from memory_mcp.records.base import Json
from memory_mcp.records.episode import EpisodeDraft, ImportedEpisode, Outcome, StepDraft, StepResult
from tests.learning.support import work


def draft(tool: str, error: str | None = None, parameters: Json | None = None, output: str = "") -> StepDraft:
    """A step as it is reported."""
    result = StepResult(output=output) if error is None else StepResult(type="error", message=error)
    return StepDraft(tool=tool, parameters=parameters or {}, result=result)


async def start(memory: Memory, task: str, **fields: Any) -> Json:
    """The answer to a new episode, without a limit of tokens."""
    return await memory.episodes.create(EpisodeDraft(task_description=task, **fields), "default", token_budget=0)


async def take(memory: Memory, episode_id: str, *calls: Any) -> Json:
    """The answer to the last of some steps, each a tool or `(tool, error, parameters)`."""
    answer: Json = {}
    for call in calls:
        step = draft(call) if isinstance(call, str) else draft(*call)
        answer = await memory.episodes.add_steps(episode_id, [step], "default")
    return answer


async def end(memory: Memory, episode_id: str, outcome: str = "success", **ending: Any) -> Json:
    return await memory.episodes.complete(episode_id, Outcome(type=outcome, **ending), "default")


async def live(memory: Memory, task: str, *calls: Any, outcome: str = "success", **fields: Any) -> str:
    """A whole episode; returns its id."""
    episode_id = str((await start(memory, task, **fields))["episode_id"])
    await take(memory, episode_id, *calls)
    await end(memory, episode_id, outcome)
    return episode_id


def log(count: int, seed: int = 0) -> list[ImportedEpisode]:
    """Episodes as an importer reads them."""
    rng = Random(seed)
    found = []
    for number in range(count):
        one = work(rng)
        found.append(
            ImportedEpisode(
                source_id=f"log-{seed}-{number}",
                task_description=f"{rng.choice(('fix', 'test', 'move'))} the {rng.choice(('login', 'cart', 'search'))}",
                task_type=one.task_type,
                domain=one.domain,
                context=one.context,
                steps=[StepDraft(tool=s.tool, parameters=s.parameters, result=s.result) for s in one.steps],
                outcome=Outcome(type=rng.choice(("success", "success", "failure", "abstained"))),
                started_at=1_700_000_000_000_000 + number,
                ended_at=1_700_000_100_000_000 + number,
            )
        )
    return found


async def learn(memory: Memory, episodes: Sequence[ImportedEpisode], namespace: str = "default") -> None:
    """Import one after the other, and learn from all of them."""
    for one in episodes:
        await memory.episodes.import_episode(one, namespace)
    await memory.settle()
