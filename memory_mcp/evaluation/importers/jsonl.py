"""Our own format: one episode per line, as JSON with the fields of `ImportedEpisode`.

`source_id` may be left out: it is then derived from the content, so that importing the same lines twice adds
nothing. Times (`started_at`, `ended_at`, and `at` of a step) are ISO 8601 text, or microseconds since the epoch.
docs/formats.md describes every field.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from memory_mcp.errors import InvalidInputError
from memory_mcp.evaluation.importers._common import digest, micros
from memory_mcp.evaluation.importers._files import Problem, attempt, json_lines
from memory_mcp.records.base import Json, dumps, parse
from memory_mcp.records.episode import Episode, ImportedEpisode, StepDraft

_UNNAMED = "jsonl:unnamed"


def read(path: Path) -> Iterator[ImportedEpisode | Problem]:
    """Each line of the file as an episode, or as the problem with it.

    Raises:
        ImportFormatError: the file cannot be read.
    """
    for number, line in json_lines(path):
        yield line if isinstance(line, Problem) else attempt(f"line {number}", partial(_episode, line))


def dump(episode: Episode | ImportedEpisode) -> str:
    """The episode as one line of this format, without a line end.

    Reading the line gives an equal `ImportedEpisode`. Of an `Episode`, what only its own store can know (namespace,
    status, reward, reflection, receipts, version) is left out, and `source_id` becomes its `episode_id`.

    Raises:
        InvalidInputError: an `Episode` that ended before it started.
    """
    imported = episode if isinstance(episode, ImportedEpisode) else _imported(episode)
    return dumps(imported.model_dump(mode="json", exclude_defaults=True))


def _imported(episode: Episode) -> ImportedEpisode:
    steps = sorted(episode.steps, key=lambda step: step.step_number)
    fields = {name: getattr(episode, name) for name in ImportedEpisode.model_fields if name != "source_id"}
    drafts = [{name: getattr(step, name) for name in StepDraft.model_fields} for step in steps]
    return parse(ImportedEpisode, fields | {"source_id": episode.episode_id, "steps": drafts})


def _episode(line: Json) -> ImportedEpisode:
    fields = _with_times(line, "started_at", "ended_at")
    if isinstance(fields.get("steps"), list):
        steps = enumerate(fields["steps"])
        fields["steps"] = [_with_times(s, "at", at=f"steps.{i}.") if isinstance(s, dict) else s for i, s in steps]
    episode = parse(ImportedEpisode, {"source_id": _UNNAMED} | fields)
    if "source_id" in fields:
        return episode
    # of the record, not of the line: the same episode written with other spaces or time formats stays the same
    content = episode.model_dump(mode="json", exclude={"source_id"}, exclude_defaults=True)
    return episode.model_copy(update={"source_id": f"jsonl:{digest(content)}"})


def _with_times(fields: Json, *names: str, at: str = "") -> Json:
    times = {}
    for name in names:
        if fields.get(name) is not None:
            times[name] = micros(fields[name])
            if times[name] is None:
                raise InvalidInputError(
                    f"{at}{name}: is neither ISO 8601 text nor microseconds since the epoch, of the years 1970 to 9999",
                    hint='Write it like "2026-01-31T12:00:00Z", or as a whole number.',
                )
    return fields | times
