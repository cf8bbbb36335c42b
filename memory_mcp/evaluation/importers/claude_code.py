"""Transcripts that Claude Code keeps under ~/.claude/projects/<project>/<session>.jsonl, one JSON record per line.

**Episodes.** An episode is one prompt that the user typed, with everything up to the next one in the main thread. No
prompts are: echoes and output of slash commands and of the shell mode, notifications, summaries after a compaction,
records marked as meta, tool results, interruptions. What a slash command starts belongs to the prompt before it.
Records are taken in the order of the file; a record whose uuid was seen before is skipped. Work of subagents (records
marked as sidechain) and record types that are not known are left out, and counted in `metadata.ignored`.

**Steps.** A step is one tool_use block joined to its tool_result. Latency is the time between their records; it
includes the time that the user took to permit the call. Tokens (input, cache writes, cache reads, output) are counted
once for each message of the model, at its first call. A call without a result is no step, but is counted in
`metadata.calls_without_result`. Thinking is never copied. NUL characters and unpaired surrogates become U+FFFD, and
are counted in `metadata.characters_replaced`.

**Outcome.** Only what the log shows; the first rule that applies decides.

1. The next prompt opens by saying that the result is wrong: "no, …" (unless the agent had asked something), "that's
   wrong", "it doesn't work", "still fails", "same error", "revert that", "you forgot …": failure, with the words as
   `reason`. Only the first clause that comes to the point counts, and no question.
2. It opens by saying that the result is right: "perfect", "works now", "looks good", "lgtm", or is nothing but thanks,
   and there is no "but" or "except" near its beginning: success, with the words as `verdict`.
3. The user interrupted the agent and nothing followed: failure.
4. The last step that did something (not reading, searching, listing or planning) was a commit, a push, a pull request
   or a test run that passed: success, with the command as `verdict`. Where the exit code cannot show it (`pytest |
   tail`), the output must say that it passed; an output that tells of failures never counts.
5. The last tool results (planning aside) are errors: failure, with the last of them as `reason`.
6. Otherwise `abstained`: "the transcript shows no verdict". The words are understood in English only.

**Damage.** An episode with a line in it that cannot be read (such as the half-written last line of a session that is
still running) is not imported; it can be later.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PureWindowsPath
from typing import Any

from memory_mcp.errors import ImportFormatError
from memory_mcp.evaluation.importers import _claude_records as records
from memory_mcp.evaluation.importers import _claude_verdict as verdict
from memory_mcp.evaluation.importers._common import (
    Call,
    Calls,
    arguments_object,
    description,
    digest,
    elapsed_ms,
    get_object,
    micros,
    result_fields,
    text_of,
    without_none,
)
from memory_mcp.evaluation.importers._files import Problem, attempt, json_lines
from memory_mcp.records.base import Json, parse
from memory_mcp.records.episode import ImportedEpisode

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TIMED_OUT = re.compile(r"\bcommand timed out after\b", re.IGNORECASE)
_LAST_WORDS = 300
_USAGE = {
    "input_tokens": "input",
    "cache_creation_input_tokens": "cache_writes",
    "cache_read_input_tokens": "cache_reads",
    "output_tokens": "output",
}


@dataclass
class _Draft:
    """An episode while its records are being read."""

    line: int
    prompt: Json
    text: str
    calls: Calls = field(default_factory=Calls)
    ignored: Counter[str] = field(default_factory=Counter)
    usage: dict[str, Counter[str]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    ended_at: int | None = None
    interrupted: bool = False
    asked: bool = False
    unreadable: int | None = None
    replaced: int = 0

    def add(self, record: Json) -> None:
        """Take in a record that is neither a prompt nor to be ignored."""
        if record["type"] == "assistant":
            self._add_turn(record)
            return
        results = [block for block in records.blocks(record) if block.get("type") == "tool_result"]
        for block in results:
            self.calls.answered(block.get("tool_use_id"), block | {"timestamp": record.get("timestamp")})
        if results:
            self.ended_at = micros(record.get("timestamp")) or self.ended_at
        if records.interrupted(record):
            self.interrupted = True
        elif not results:
            self.ignored["not_typed"] += 1

    def _add_turn(self, record: Json) -> None:
        self.interrupted = False
        self.ended_at = micros(record.get("timestamp")) or self.ended_at
        self._count_tokens(record)
        for block in records.blocks(record):
            if block.get("type") == "tool_use":
                self.calls.made(block.get("id"), Call(block.get("name"), arguments_object(block.get("input")), record))
            elif block.get("type") == "text":
                self.asked = "?" in text_of(block.get("text"))[-_LAST_WORDS:]

    def _count_tokens(self, record: Json) -> None:
        message = get_object(record, "message")
        if isinstance(message.get("model"), str):
            self.models.add(message["model"])
        amounts = {ours: _amount(get_object(message, "usage").get(theirs)) for theirs, ours in _USAGE.items()}
        # a message that is split over several records repeats its usage, with growing numbers
        self.usage[_message_id(record)] = self.usage.get(_message_id(record), Counter()) | Counter(amounts)

    def clean(self, text: str) -> str:
        """`text` with U+FFFD in the place of what cannot be stored."""
        text, count = _UNSTORABLE.subn("\ufffd", text)
        self.replaced += count
        return text


def _amount(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _message_id(record: Json) -> str:
    return str(get_object(record, "message").get("id") or record.get("uuid"))


def read(path: Path) -> Iterator[ImportedEpisode | Problem]:
    """Each prompt of the main thread as an episode, or as the problem with it; lines that cannot be read as problems.

    Raises:
        ImportFormatError: the file cannot be read.
    """
    draft: _Draft | None = None
    seen: set[str] = set()
    earlier: Counter[str] = Counter()
    for number, record in json_lines(path):
        if isinstance(record, Problem):
            yield record
            if draft is not None:
                draft.unreadable = number
            continue
        ignored = records.ignored_as(record) or _seen_before(record, seen)
        text = None if ignored else records.prompt_text(record)
        if text is not None:
            if draft is not None:
                draft.interrupted = draft.interrupted or records.interrupted(record)
                yield _finish(draft, text)
            draft, earlier = _Draft(number, record, text, ignored=earlier), Counter()
        elif draft is None:
            earlier[ignored or "before_first_prompt"] += 1
        elif ignored:
            draft.ignored[ignored] += 1
        else:
            draft.add(record)
    if draft is not None:
        yield _finish(draft, None)
    elif earlier:
        found = ", ".join(f"{count} {name}" for name, count in sorted(earlier.items()))
        hint = "Subagents have files of their own, which hold no prompt of a user; import the file of the session."
        yield Problem("whole file", ImportFormatError(f"holds no prompt that a user typed, only {found}", hint=hint))


def _seen_before(record: Json, seen: set[str]) -> str | None:
    uuid = record.get("uuid")
    if not isinstance(uuid, str):
        return None
    if uuid in seen:
        return "duplicate"
    seen.add(uuid)
    return None


def _finish(draft: _Draft, next_prompt: str | None) -> ImportedEpisode | Problem:
    where = f"line {draft.line}"
    if draft.unreadable is not None:
        why = f"the episode that starts here is not imported, because line {draft.unreadable} cannot be read"
        return Problem(where, ImportFormatError(why))
    return attempt(where, partial(_episode, draft, next_prompt))


def _episode(draft: _Draft, next_prompt: str | None) -> ImportedEpisode:
    steps: list[Json] = []
    done: list[verdict.Done] = []
    metadata = _metadata(draft)
    cut_calls = 0
    unclaimed = dict(draft.usage)
    for call, answer in draft.calls.complete():
        parameters, cut = records.fit(records.map_text(call.parameters, draft.clean))
        cut_calls += cut
        text = draft.clean(text_of(answer.get("content")))
        ok = not answer.get("is_error")
        tool = draft.clean(text_of(call.tool))
        done.append(verdict.Done(tool, parameters, ok, text))
        kind = "success" if ok else "timeout" if _TIMED_OUT.search(text) else "error"
        made = micros(call.made_in.get("timestamp"))
        usage = unclaimed.pop(_message_id(call.made_in), None)
        steps.append(
            {
                "tool": tool,
                "action": records.action_text(tool, parameters),
                "parameters": parameters,
                "result": result_fields(text, kind),
                "latency_ms": elapsed_ms(made, micros(answer.get("timestamp"))),
                "tokens_used": usage.total() if usage else None,
                "at": made,
            }
        )
    prompt = draft.clean(draft.text)
    following = None if next_prompt is None else draft.clean(next_prompt)
    started = micros(draft.prompt.get("timestamp"))
    identity = draft.prompt.get("uuid") or digest([draft.prompt.get("sessionId"), started, draft.text])
    fields = {
        "source_id": f"claude-code:{identity}",
        "task_description": description(prompt, metadata),
        "domain": "coding",
        "actor": "claude-code",
        "context": {"language": records.language([(item.tool, item.parameters) for item in done])},
        "steps": steps,
        "outcome": verdict.outcome(done, interrupted=draft.interrupted, asked=draft.asked, next_prompt=following),
        "started_at": started,
        "ended_at": draft.ended_at if elapsed_ms(started, draft.ended_at) is not None else None,
    }
    notes = {"parameters_cut": cut_calls or None, "characters_replaced": draft.replaced or None}
    return parse(ImportedEpisode, fields | {"metadata": metadata | without_none(notes)})


def _metadata(draft: _Draft) -> Json:
    prompt = draft.prompt
    tokens: Counter[str] = sum(draft.usage.values(), Counter())
    cwd = prompt.get("cwd")
    known = without_none(
        {
            "session_id": prompt.get("sessionId"),
            "project": PureWindowsPath(cwd).name if isinstance(cwd, str) else None,
            "cwd": cwd,
            "git_branch": prompt.get("gitBranch"),
            "version": prompt.get("version"),
            "models": sorted(draft.models) or None,
            "tokens": dict(tokens) or None,
            "calls_without_result": draft.calls.unanswered or None,
            "ignored": dict(sorted(draft.ignored.items())) or None,
        }
    )
    metadata: Json = records.map_text(known, draft.clean)
    return metadata
