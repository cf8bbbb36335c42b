"""What a Claude Code transcript shows about how a task ended. The rules stand in the docstring of `claude_code`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from memory_mcp.evaluation.importers._common import shorten
from memory_mcp.records.base import Json

NO_VERDICT = "the transcript shows no verdict"

_QUOTED = 300

# what people say before they come to the point
_LEAD_IN = re.compile(
    r"(?:(?:hm+|oh|ok|okay|well|but|and|sorry|wait|stop|actually|unfortunately|thanks|thank you|claude|please|so|yes"
    r"|yeah|great|nice)\b\W*)*"
)
_TRIED = re.compile(r"i(?:'ve)? (?:just |have )?(?:tried|ran|tested|checked)\b")
_NO = re.compile(r"\W*(?:no|nope|nah)(?:[,.!]|\s*$)", re.IGNORECASE)
_IT = r"(?:it|this|that|these|those|they|the (?:fix|change))"
_NOT = r"(?:doesn't|does not|don't|do not|didn't|did not|isn't|is not|aren't|are not|won't)"
_REJECTS = re.compile(
    rf"wrong\b"
    rf"|(?:that|this|it)(?:'s| is| was) (?:still |just |also |completely |totally )?"
    rf"(?:wrong|incorrect|broken|not (?:right|correct|working|it|what|true|how)|nonsense|worse)"
    rf"|{_IT} (?:still |just |now )?(?:{_NOT} (?:even )?(?:work|help|compile|run|fix|pass|build|start)"
    rf"|fails?\b|crash(?:es)?\b|breaks?\b|broke\b)"
    rf"|(?:{_NOT}|not) work"
    rf"|(?:{_IT} |the \w+ )?still (?:{_NOT}|not|fail|broken|wrong|crash|there|the same|getting|seeing|see|happen)"
    rf"|(?:the )?same (?:error|problem|issue)\b"
    rf"|(?:revert|undo|roll back|rollback)(?:$| (?:it|this|that|these|those|your|everything|all|the last|the change)\b)"
    rf"|you (?:broke|forgot|missed|misunderstood|ignored|didn't|did not|haven't|have not)\b"
    rf"|not what i (?:want|ask|mean|said)"
    rf"|i (?:meant|told you|asked you|asked for|didn't ask|did not ask)\b"
)
_ACCEPTS = re.compile(
    r"perfect(?:$| (?:now|thanks|thank|job|work|that|this|it)\b)"
    r"|(?:lgtm|approved|ship it)\b"
    r"|(?:it |that |this |everything |all )?(?:works?|worked|is working)"
    r"(?: (?:now|great|well|fine|perfectly|nicely|again|as expected|like a charm|for me))*$"
    r"|(?:that |this |it )?(?:fixed|solved) (?:it|the (?:problem|issue|bug))"
    r"|(?:it |that |this |all )?looks? (?:good|great|perfect|right)\b"
    r"|(?:well done|(?:good|great|nice|excellent) (?:job|work))\b"
    r"|exactly what i (?:want|need|ask|mean)"
    r"|(?:i )?love it\b"
)
# thanks and praise are an acceptance only where nothing else is said: "great, now add tests" judges nothing
_POLITE = re.compile(r"(?:(?:thanks|thank you|thx|great|awesome|excellent|nice|wonderful|cool|a lot|so much)\W*)+")
_LIMITS_IT = re.compile(r"\b(?:but|except|however|almost|not quite|although)\b")
_READ_FOR_LIMITS = 200

_BOOKKEEPING = {
    "TodoWrite",
    "TodoRead",
    "TaskCreate",
    "TaskUpdate",
    "TaskList",
    "TaskGet",
    "EnterPlanMode",
    "ExitPlanMode",
    "AskUserQuestion",
}
_LOOKING = {
    "Read",
    "Grep",
    "Glob",
    "LS",
    "NotebookRead",
    "WebFetch",
    "WebSearch",
    "ToolSearch",
    "BashOutput",
    "TaskOutput",
}

_BEFORE = (
    r"(?:\w+=\S*\s+|(?:sudo|env|time|command|exec)\s+|timeout\s+\S+\s+|(?:uv|poetry|pipenv|pdm|hatch|rye)\s+run\s+"
    r"|npx\s+|bundle\s+exec\s+|(?:\S*/)?python[\d.]*\s+-m\s+)*(?:\S*/)?"
)
_TEST = re.compile(
    _BEFORE + r"(?:pytest|py\.test|unittest|tox|nox|jest|vitest|mocha|rspec|phpunit|ctest|make\s+check"
    r"|(?:npm|pnpm|yarn|bun|cargo|go|mix|make|dotnet|swift|deno|gradlew?|mvnw?|sbt|bazel|just|rails|flutter|dart|zig)"
    r"(?:\s+(?:-\S+|run|clean))*\s+(?:test|tests|nextest)(?::\S+)?)(?:\s|$)"
)
_COMMIT = re.compile(
    _BEFORE + r"(?:git(?:\s+-[cC]\s+[^\s-]\S*|\s+-\S+)*\s+(?:commit|push)|gh\s+pr\s+(?:create|merge))(?:\s|$)"
)
_LOOK = re.compile(
    _BEFORE + r"(?:ls|cat|head|tail|pwd|cd|grep|rg|find|wc|echo|which|sleep|tree"
    r"|git(?:\s+-C\s+\S+)?\s+(?:status|log|diff|show|branch))(?:\s|$)"
)
_TEST_RED = re.compile(
    r"\b[1-9]\d*\s+(?:failed|failures?|errors?|failing)\b|\bFAILED\b|^[ \t]*FAIL\b|Traceback \(most recent call last\)"
    r"|Failures: [1-9]|no tests ran|collected 0 items",
    re.MULTILINE,
)
_TEST_GREEN = re.compile(
    r"\b[1-9]\d* (?:passed|passing|examples?, 0 failures|tests?, 0 failures)\b|^OK\b|^ok\s|^PASS|test result: ok"
    r"|Tests:.*\bpassed\b|BUILD SUCCESS|Passed!|# fail 0",
    re.MULTILINE,
)
_COMMIT_RED = re.compile(r"nothing to commit|no changes added to commit|^(?:fatal|error):|! \[rejected\]", re.MULTILINE)
_COMMIT_GREEN = re.compile(r"^[ \t]*\[[^\]\n]+ [0-9a-f]{7,}\]|\bfiles? changed\b|->|https://\S+/pull/\d+", re.MULTILINE)

_ONLY_TALK = ("--dry-run", "--collect-only", "--help")

_HEREDOC = re.compile(r"<<-?[ \t]*['\"]?(\w+)\b['\"]?.*?^[ \t]*\1[ \t]*$", re.DOTALL | re.MULTILINE)
_QUOTES = re.compile(r"'[^']*'|\"(?:\\.|[^\"\\])*\"", re.DOTALL)
_REDIRECTION = re.compile(r"\d*>&\d*|&>>?")
_SEPARATOR = re.compile(r"(&&|\|\||[;|\n&])")


@dataclass(frozen=True)
class Done:
    """A finished call: `text` is the whole result, uncut."""

    tool: str
    parameters: Json
    ok: bool
    text: str

    @cached_property
    def command(self) -> str:
        """The shell command, without the texts in it that are no commands; "" for other tools."""
        command = self.parameters.get("command")
        if not isinstance(command, str):
            return ""
        return _REDIRECTION.sub(" > ", _QUOTES.sub('""', _HEREDOC.sub("", command))).strip()

    @cached_property
    def parts(self) -> list[str]:
        """The single commands and, between them, what separates them."""
        return [part.strip(" \t") for part in _SEPARATOR.split(self.command)]


def outcome(done: list[Done], *, interrupted: bool, asked: bool, next_prompt: str | None) -> Json:
    """The fields of the Outcome that the transcript supports.

    `asked` says that the agent's last words were a question, `interrupted` that the user stopped it at the end.
    """
    if next_prompt is not None:
        quote = f'"{shorten(next_prompt, _QUOTED)}"'
        if rejects(next_prompt, asked=asked):
            return {"type": "failure", "reason": f"the next prompt rejects the result: {quote}"}
        if accepts(next_prompt):
            return {"type": "success", "verdict": f"the next prompt accepts the result: {quote}"}
    if interrupted:
        return {"type": "failure", "reason": "the user interrupted the agent, and nothing followed"}
    work = [item for item in done if item.tool not in _BOOKKEEPING]
    green = _green(work)
    if green:
        return {"type": "success", "verdict": green}
    return _trailing_errors(work) or {"type": "abstained", "reason": NO_VERDICT}


def _opening(prompt: str) -> str:
    """The first clause that comes to the point, in lower case; "" if that is a question.

    Later clauses do not count: "Fix the login. It fails when …" speaks of a new task.
    """
    text = prompt.strip().lower().replace("’", "'")
    for clause, end in re.findall(r"([^.!?;,:\n–—]+)([.!?;,:\n–—]*)", text):
        point = _LEAD_IN.sub("", clause.strip(), count=1)
        if point and not _TRIED.match(point):
            return "" if "?" in end else point
    return ""


def rejects(prompt: str, *, asked: bool = False) -> bool:
    """Whether the prompt opens by saying that what was done is wrong; after a question, "no" is only an answer."""
    return (not asked and _NO.match(prompt) is not None) or _REJECTS.match(_opening(prompt)) is not None


def accepts(prompt: str) -> bool:
    """Whether the prompt opens by saying that what was done is right, without a reservation."""
    text = prompt.strip().lower()
    if _LIMITS_IT.search(text[:_READ_FOR_LIMITS]):
        return False
    return _POLITE.fullmatch(text) is not None or _ACCEPTS.match(_opening(prompt)) is not None


def _green(work: list[Done]) -> str:
    """The evidence that the last step that did something was a passing test or a commit; "" if it was not."""
    doing = [item for item in work if not _only_looks(item)]
    last = doing[-1] if doing else None
    if last is None or not last.ok or last.parameters.get("run_in_background"):
        return ""
    if _succeeded(last, _COMMIT, _COMMIT_GREEN, _COMMIT_RED):
        return f"the last step committed the work: {shorten(str(last.parameters['command']))}"
    if _succeeded(last, _TEST, _TEST_GREEN, _TEST_RED):
        return f"the last step was a test that passed: {shorten(str(last.parameters['command']))}"
    return ""


def _succeeded(item: Done, command: re.Pattern[str], green: re.Pattern[str], red: re.Pattern[str]) -> bool:
    at = next((index for index, part in enumerate(item.parts) if command.match(part)), None)
    if at is None or red.search(item.text) or any(option in item.command for option in _ONLY_TALK):
        return False
    # `pytest | tail` and `pytest; true` end well whatever the test did: then only its own words count
    exit_code_counts = all(separator == "&&" for separator in item.parts[at + 1 :: 2])
    return exit_code_counts or green.search(item.text) is not None


def _only_looks(item: Done) -> bool:
    if item.tool in _LOOKING:
        return True
    return bool(item.command) and all(_LOOK.match(part) for part in item.parts[::2] if part)


def _trailing_errors(work: list[Done]) -> Json | None:
    count = 0
    for item in reversed(work):
        if item.ok:
            break
        count += 1
    if not count:
        return None
    what = "the last tool result is an error" if count == 1 else f"the last {count} tool results are errors"
    return {"type": "failure", "reason": f"{what}: {work[-1].tool}: {shorten(work[-1].text, _QUOTED)}"}
