"""What counts as evidence for how a task of a Claude Code session ended."""

import pytest

from memory_mcp.evaluation.importers._claude_verdict import Done, accepts, outcome, rejects


def ran(command, text="", ok=True, **parameters):
    return Done("Bash", {"command": command} | parameters, ok, text)


def judged(*done, interrupted=False, asked=False, next_prompt=None):
    return outcome(list(done), interrupted=interrupted, asked=asked, next_prompt=next_prompt)


@pytest.mark.parametrize(
    "prompt",
    [
        "no, use pnpm",
        "Nope.",
        "No",
        "that's wrong",
        "That’s not what I wanted. Use tabs.",
        "Hmm, this is not correct",
        "wrong file",
        "it doesn't work",
        "It still doesn’t work on my machine",
        "doesn't work",
        "still failing",
        "the tests still fail",
        "same error",
        "Thanks, but it crashes when I click",
        "I tried it. It fails with a TypeError",
        "ok, revert that",
        "Undo",
        "please revert your last change",
        "you forgot the docs",
        "You didn't push",
        "I meant the other function",
        "not what I asked for",
    ],
)
def test_a_prompt_that_opens_with_a_correction_rejects_the_result(prompt) -> None:
    assert rejects(prompt)
    assert not accepts(prompt)
    assert judged(ran("git commit -m x"), next_prompt=prompt)["type"] == "failure"


@pytest.mark.parametrize(
    "prompt",
    [
        "perfect",
        "Perfect, thanks! Now add tests",
        "thanks, works",
        "Thanks!",
        "thank you so much",
        "great!",
        "works now",
        "It works great. Next: the login page",
        "ok that worked",
        "looks good, commit it",
        "LGTM",
        "Nice work",
        "that fixed it",
        "I tested it, works fine",
    ],
)
def test_a_prompt_that_opens_with_praise_accepts_the_result(prompt) -> None:
    assert accepts(prompt)
    assert not rejects(prompt)
    assert judged(ran("false", ok=False), next_prompt=prompt)["type"] == "success"


@pytest.mark.parametrize(
    "prompt",
    [
        "continue",
        "did you push?",
        "Now add dark mode",
        "great, now add tests",
        "Thanks. Please also update the README",
        "looks good?",
        "Does it work?",
        "it works now?",
        "works on Safari only",
        "looks good but the margin is off",
        "No tests cover the parser yet: add some",
        "notice the header",
        "no problem",
        "Fix the login. It fails when the password has a space.",
        "Add an error message for when it doesn't work",
        "If this is wrong, tell the user",
        "Perfect forwarding is missing in the C++ wrapper",
        "revert commit 1a2b3c on the release branch",
        "wrongly named variables should be renamed",
        "works council page: add a link",
        "Why did you delete it?",
        "das ist falsch",
        "",
    ],
)
def test_other_prompts_judge_nothing(prompt) -> None:
    assert not rejects(prompt)
    assert not accepts(prompt)


def test_no_after_a_question_of_the_agent_is_an_answer() -> None:
    assert judged(next_prompt="No, leave it", asked=True)["type"] == "abstained"
    assert judged(next_prompt="No, leave it", asked=False)["type"] == "failure"
    assert judged(next_prompt="it doesn't work", asked=True)["type"] == "failure"


def test_the_words_of_the_user_are_quoted() -> None:
    assert judged(next_prompt="no, use pnpm") == {
        "type": "failure",
        "reason": 'the next prompt rejects the result: "no, use pnpm"',
    }


def test_an_interruption_outweighs_a_commit_but_not_the_words_of_the_user() -> None:
    assert judged(ran("git commit -m x"), interrupted=True)["type"] == "failure"
    assert judged(interrupted=True, next_prompt="perfect")["type"] == "success"


@pytest.mark.parametrize(
    "last",
    [
        ran("git commit -m 'done'"),
        ran("git add -A && git commit -m x && git push 2>&1"),
        ran("git -C app commit -m x | tail -1", "[main 1a2b3c4] x"),
        ran("cd app; git push; git status", "main -> main"),
        ran("git commit -m \"$(cat <<'EOF'\nFix; it\n\npytest | tail\nEOF\n)\"", "[main 1a2b3c4] Fix"),
        ran("gh pr create --fill", "https://github.com/a/b/pull/1"),
        ran("pytest -q"),
        ran("cd app && CI=1 .venv/bin/python -m pytest tests"),
        ran("timeout 60 uv run pytest 2>&1 | tail -3", "3 passed in 0.1s"),
        ran("npm run test:unit"),
        ran("cargo test --all", "test result: ok. 3 passed; 0 failed"),
        ran("go test ./...", "ok  \tapp\t0.1s"),
        ran("./gradlew clean test"),
        ran("mix test; echo done", "5 tests, 0 failures"),
        ran("npx jest", "Tests: 3 passed, 3 total"),
    ],
)
@pytest.mark.parametrize("after", [(), (Done("Read", {}, False, "no such file"), ran("git status"))])
def test_a_commit_or_a_passed_test_as_last_deed_is_a_success(last, after) -> None:
    found = judged(ran("false", ok=False), last, *after)
    assert found["type"] == "success"
    assert last.parameters["command"].split()[0] in found["verdict"]


@pytest.mark.parametrize(
    "last",
    [
        ran("pytest | tail -3"),
        ran("pytest -q || true", "1 failed, 2 passed"),
        ran("pytest; echo done", ""),
        ran("pytest\necho done", ""),
        ran("pytest", "collected 0 items"),
        ran("pytest", run_in_background=True),
        ran("pytest --collect-only"),
        ran("pip install pytest"),
        ran("echo 'pytest passed'"),
        ran("python tests.py"),
        ran("git commit -m x | cat", "On branch main\nnothing to commit"),
        ran("git commit --dry-run"),
        ran("git status"),
        ran("grep -r 'git commit' ."),
        ran("make build"),
        ran("cat > run.sh <<EOF\npytest\nEOF", "1 passed"),
        ran('echo "run; pytest now"'),
        Done("Edit", {"file_path": "a.py"}, True, "updated"),
    ],
)
def test_what_does_not_show_success_is_no_verdict(last) -> None:
    assert judged(last)["type"] == "abstained"


def test_an_edit_after_the_green_test_takes_the_verdict_away() -> None:
    assert judged(ran("pytest"), Done("Edit", {"file_path": "a.py"}, True, "ok"))["type"] == "abstained"


def test_a_commit_that_failed_is_a_failure() -> None:
    assert judged(ran("git commit -m x", "the hook said no", ok=False))["type"] == "failure"


def test_errors_at_the_end_are_a_failure_that_names_the_last() -> None:
    found = judged(
        ran("make"), ran("make", "one", ok=False), ran("make", "two", ok=False), Done("TodoWrite", {}, True, "")
    )
    assert found == {"type": "failure", "reason": "the last 2 tool results are errors: Bash: two"}


def test_a_success_after_the_errors_leaves_no_verdict() -> None:
    assert judged(ran("make", "one", ok=False), Done("Read", {}, True, "text"))["type"] == "abstained"


def test_no_steps_and_no_words_are_no_verdict() -> None:
    assert judged() == {"type": "abstained", "reason": "the transcript shows no verdict"}


@pytest.mark.parametrize(
    "command",
    [
        "git" + " -c" * 5_000,
        "a=b " * 5_000,
        "/" * 50_000,
        "<<A " * 5_000,
        "'" * 50_001,
        "python -m " * 5_000,
        "npm" + " run" * 5_000,
    ],
)
def test_hostile_commands_are_judged_in_time(command) -> None:
    assert judged(ran(command))["type"] == "abstained"


@pytest.mark.parametrize("text", ["\n" * 500_000, "1 " * 200_000, "[" + " a" * 200_000, "so " * 50_000])
def test_hostile_texts_are_judged_in_time(text) -> None:
    assert judged(ran("pytest | tail", text))["type"] == "abstained"
    assert not accepts(text)
    assert not rejects(text)
