"""Transcripts of Claude Code: where episodes begin and end, what their steps are, and what is left out."""

import json

import pytest

PROMPT = {"type": "user", "uuid": "p1", "message": {"role": "user", "content": "Fix it"}}


def prompt(text, key="p2", **fields):
    return {"type": "user", "uuid": key, "message": {"role": "user", "content": text}} | fields


def call(key, name="Bash", seconds=1, **parameters):
    message = {"id": f"msg_{key}", "content": [{"type": "tool_use", "id": key, "name": name, "input": parameters}]}
    return {"type": "assistant", "uuid": f"c{key}", "timestamp": f"2026-01-15T09:00:0{seconds}Z", "message": message}


def result(key, content="ok", error=False, seconds=2):
    block = {"type": "tool_result", "tool_use_id": key, "content": content, "is_error": error}
    time = f"2026-01-15T09:00:0{seconds}Z"
    return {"type": "user", "uuid": f"r{key}", "timestamp": time, "message": {"role": "user", "content": [block]}}


@pytest.fixture
def session(imported, data):
    episodes, problems = imported("claude-code", data / "claude_session.jsonl")
    assert problems == []
    return episodes


def test_an_episode_is_one_prompt_up_to_the_next(session) -> None:
    assert [episode.task_description for episode in session] == [
        "Fix the rounding of prices in cart.py",
        "Perfect, thanks! Now add an option --currency to the command line",
        "Use argparse for the option",
        "Run the load test against the staging system",
        "What is wrong on this picture of the cart page?\n[image]",
    ]
    assert [[step.tool for step in episode.steps] for episode in session] == [
        ["Read", "Task", "Edit", "Bash"],
        ["Bash"],
        ["Write", "Bash", "Bash"],
        ["Bash"],
        ["Read"],
    ]


def test_the_outcomes_are_those_that_the_log_shows(session) -> None:
    assert [(episode.outcome.type, episode.outcome.verdict or episode.outcome.reason) for episode in session] == [
        (
            "success",
            'the next prompt accepts the result: "Perfect, thanks! Now add an option --currency to the command line"',
        ),
        ("failure", "the user interrupted the agent, and nothing followed"),
        ("success", 'the last step committed the work: git add -A && git commit -m "Add the option --currency"'),
        ("failure", "the last tool result is an error: Bash: Exit code 143 Command timed out after 2m 0.0s"),
        ("abstained", "the transcript shows no verdict"),
    ]


def test_a_step_has_its_times_its_result_and_the_tokens_of_its_message_once(session) -> None:
    read, task, _, test = session[0].steps
    assert (read.action, read.latency_ms, read.tokens_used) == ('Read(file_path="/home/dev/shop/cart.py")', 250, 1170)
    assert task.result.output == "checkout.py calls it.\n[image]"
    assert (test.action, test.result.type, test.latency_ms) == ("pytest -q", "error", 1500)
    assert test.result.message.startswith("Exit code 1")
    assert session[0].metadata["tokens"] == {"input": 30, "cache_writes": 180, "cache_reads": 6000, "output": 185}
    commit, status = session[2].steps[1:]
    assert (commit.tokens_used, status.tokens_used) == (1769, None)
    assert session[3].steps[0].result.type == "timeout"


def test_what_is_left_out_is_counted(session) -> None:
    assert session[0].metadata["ignored"] == {
        "before_first_prompt": 2,
        "file-history-snapshot": 1,
        "meta": 1,
        "progress": 1,
        "sidechain": 3,
        "summary": 1,
    }
    assert session[1].metadata["ignored"] == {"synthetic": 1}
    assert session[3].metadata["ignored"] == {"meta": 1, "not_typed": 1, "queue-operation": 1}
    assert session[4].metadata["ignored"] == {"duplicate": 1}
    assert session[4].metadata["calls_without_result"] == 1


def test_cut_and_unstorable_text_is_noted(session) -> None:
    (step,) = session[4].steps
    assert len(step.result.output) == 10_000
    assert step.result.truncated
    assert session[4].metadata["characters_replaced"] == 2


def test_thinking_is_never_copied(session) -> None:
    assert not any("SECRET" in episode.model_dump_json() for episode in session)


def test_the_language_is_that_of_the_changed_files(session) -> None:
    assert [episode.context.language for episode in session] == ["python", "", "python", "", "typescript"]


def test_the_session_is_kept_in_the_metadata(session) -> None:
    metadata = session[2].metadata
    assert metadata["session_id"] == "00000000-0000-4000-8000-000000000001"
    assert (metadata["project"], metadata["git_branch"], metadata["models"]) == ("shop", "main", ["claude-example-1"])
    assert session[2].source_id == "claude-code:00000000-0000-4000-8000-000000000025"
    assert session[2].ended_at - session[2].started_at == 6_000_000


@pytest.mark.parametrize(
    "record",
    [
        prompt("<command-name>/compact</command-name>\n<command-args>and go on</command-args>"),
        prompt("<command-message>review</command-message>\n<command-name>/review</command-name>"),
        prompt("<local-command-stdout>done</local-command-stdout>"),
        prompt("<bash-input>ls</bash-input>"),
        prompt("<bash-stdout>a.py</bash-stdout><bash-stderr></bash-stderr>"),
        prompt("<task-notification>\n<task-id>x</task-id>\n</task-notification>\nRead the output file."),
        prompt("<system-reminder>The files changed.</system-reminder>"),
        prompt("Caveat: The messages below were generated by the user while running local commands. Ignore them."),
        prompt("This session is being continued from a previous conversation that ran out of context."),
        prompt("[Request interrupted by user]"),
        prompt([{"type": "text", "text": "[Request interrupted by user for tool use]"}]),
        prompt("/clear"),
        prompt("  \n "),
        prompt([]),
        prompt("Base directory for this skill", isMeta=True),
        prompt("A summary", isCompactSummary=True),
        prompt("Find the callers", isSidechain=True),
        {"type": "user"},
        {"type": "user", "message": "text"},
        {"type": "user", "message": {"content": 7}},
        {"type": "a-new-kind", "message": {"content": "hello"}},
        {"type": 7},
        {},
    ],
)
def test_what_the_user_did_not_type_begins_no_episode(record, import_lines) -> None:
    episodes, problems = import_lines("claude-code", PROMPT, record, call("1"), result("1"))
    assert problems == []
    assert [len(episode.steps) for episode in episodes] == [1]


@pytest.mark.parametrize(
    ("content", "typed"),
    [
        ("/src/app.py raises an error", "/src/app.py raises an error"),
        ("<Button> is too small", "<Button> is too small"),
        ([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], "one\ntwo"),
        ("<system-reminder>hint</system-reminder>\nFix it too", "Fix it too"),
        ("[Request interrupted by user]use npm", "use npm"),
    ],
)
def test_what_the_user_typed_begins_an_episode(content, typed, import_lines) -> None:
    episodes, _ = import_lines("claude-code", PROMPT, call("1"), result("1"), prompt(content))
    assert [episode.task_description for episode in episodes] == ["Fix it", typed]


def test_an_interruption_in_the_record_of_the_next_prompt_ends_the_episode(import_lines) -> None:
    words = [{"type": "text", "text": "[Request interrupted by user]"}, {"type": "text", "text": "keep the name"}]
    episodes, _ = import_lines("claude-code", PROMPT, call("1"), result("1"), prompt(words))
    assert [episode.task_description for episode in episodes] == ["Fix it", "keep the name"]
    assert episodes[0].outcome.type == "failure"


@pytest.mark.parametrize(("words", "kind"), [("Shall I rename it?", "abstained"), ("I renamed it.", "failure")])
def test_no_is_a_rejection_unless_the_agent_asked(words, kind, import_lines) -> None:
    turn = {"type": "assistant", "message": {"id": "m", "content": [{"type": "text", "text": words}]}}
    episodes, _ = import_lines("claude-code", PROMPT, call("1"), result("1"), turn, prompt("No, leave the name"))
    assert episodes[0].outcome.type == kind


def test_work_after_an_interruption_takes_it_back(import_lines) -> None:
    stop = prompt("[Request interrupted by user]")
    (episode,), _ = import_lines("claude-code", PROMPT, call("1"), result("1"), stop, call("2"), result("2"))
    assert episode.outcome.type == "abstained"


def test_records_without_ids_times_and_usage_are_read(import_lines) -> None:
    bare = [{"type": "tool_use", "name": "Bash", "input": {}}]
    back = [{"type": "tool_result", "content": None}]
    (episode,), problems = import_lines(
        "claude-code",
        {"type": "user", "message": {"content": "Fix it"}},
        {"type": "assistant", "message": {"content": bare}},
        {"type": "user", "message": {"content": back}},
    )
    assert problems == []
    (step,) = episode.steps
    assert (step.latency_ms, step.tokens_used, step.at, episode.started_at) == (None, None, None, None)
    assert episode.source_id.startswith("claude-code:")


def test_a_clock_that_went_backwards_gives_no_negative_times(import_lines) -> None:
    late = prompt("Fix it", timestamp="2026-01-15T09:00:09Z")
    (episode,), _ = import_lines("claude-code", late, call("1", seconds=5), result("1", seconds=3))
    assert episode.steps[0].latency_ms is None
    assert episode.ended_at is None


def test_a_line_that_cannot_be_read_spoils_only_its_own_episode(import_lines) -> None:
    episodes, problems = import_lines(
        "claude-code", PROMPT, call("1"), b'{"type": "user", "mess', result("1"), prompt("Go on", "p3")
    )
    assert [episode.task_description for episode in episodes] == ["Go on"]
    assert [problem.where for problem in problems] == ["line 3", "line 1"]
    assert "line 3" in problems[1].error.message


def test_a_session_that_is_still_being_written_can_be_imported_later(import_lines) -> None:
    done = json.dumps(result("1")).encode()
    now, problems = import_lines("claude-code", PROMPT, call("1"), done[:-10])
    later, none = import_lines("claude-code", PROMPT, call("1"), done)
    assert (len(now), len(problems), len(later), len(none)) == (0, 2, 1, 0)


def test_a_file_without_a_prompt_says_what_it_holds(import_lines) -> None:
    episodes, (problem,) = import_lines("claude-code", prompt("Find it", isSidechain=True), {"type": "progress"})
    assert episodes == []
    assert problem.where == "whole file"
    assert "1 progress, 1 sidechain" in problem.error.message


def test_a_prompt_over_the_limit_is_cut_and_says_so(import_lines) -> None:
    (episode,), _ = import_lines("claude-code", prompt("x" * 10_001))
    assert len(episode.task_description) == 10_000
    assert episode.metadata["task_description_truncated"]


def test_a_large_parameter_is_cut_and_says_so(import_lines) -> None:
    large = call("1", "Write", file_path="a.py", content="x" * 70_000, edits=[{"old": "y" * 2_001}])
    (episode,), _ = import_lines("claude-code", PROMPT, large, result("1"))
    parameters = episode.steps[0].parameters
    assert parameters["file_path"] == "a.py"
    assert parameters["content"] == "x" * 2_000 + "… [68000 more characters, cut by the import]"
    assert parameters["edits"][0]["old"].endswith("[1 more characters, cut by the import]")
    assert episode.metadata["parameters_cut"] == 1


@pytest.mark.parametrize(
    "records",
    [
        [call("1", "", command="ls"), result("1")],
        [call("1", "n" * 201), result("1")],
        [call("1", **{f"k{n}": "x" * 2_000 for n in range(40)}), result("1")],
        [record for n in range(1_001) for record in (call(str(n)), result(str(n)))],
    ],
)
def test_an_episode_over_a_limit_is_a_problem_at_the_line_of_its_prompt(records, import_lines) -> None:
    episodes, (problem,) = import_lines("claude-code", prompt("First", "p0"), PROMPT, *records, prompt("Last"))
    assert [episode.task_description for episode in episodes] == ["First", "Last"]
    assert problem.where == "line 2"


@pytest.mark.parametrize(
    ("paths", "language"),
    [
        (["a.py", "b.py", "c.js"], "python"),
        (["a.py", "b.js"], ""),
        (["README.md", "pyproject.toml", "a.rs"], "rust"),
        (["Makefile"], ""),
        ([], ""),
    ],
)
def test_a_language_is_named_only_where_it_is_clear(paths, language, import_lines) -> None:
    records = [r for n, path in enumerate(paths) for r in (call(str(n), "Edit", file_path=path), result(str(n)))]
    (episode,), _ = import_lines("claude-code", PROMPT, *records)
    assert episode.context.language == language


def test_the_changed_files_count_before_the_read_ones(import_lines) -> None:
    read = [r for n in (1, 2, 3) for r in (call(str(n), "Read", file_path=f"{n}.go"), result(str(n)))]
    (episode,), _ = import_lines("claude-code", PROMPT, *read, call("9", "Write", file_path="a.py"), result("9"))
    assert episode.context.language == "python"
