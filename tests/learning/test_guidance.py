"""Guidance: what a new task and a failed step are told, through a real memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from memory_mcp.records.base import Json
from memory_mcp.retrieval.budget import tokens
from tests.conftest import Open
from tests.learning.play import draft, end, learn, live, log, start, take

BAD = ("run", "ValueError: bad 3")


def texts(value: Any) -> Iterator[str]:
    """All texts in an answer that a person reads."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in ("parameters", "advice"):
                yield from texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from texts(item)
    elif isinstance(value, str):
        yield value


async def test_an_empty_memory_says_that_it_knows_nothing(open_memory: Open) -> None:
    begun = await start(await open_memory(), "repair the login form")
    assert begun["forecast"] == {"insufficient_evidence": True, "needed_episodes": 5}
    assert not {"playbook", "precedents", "pitfalls"} & begun.keys()


async def test_a_task_is_told_of_a_success_and_of_a_failure_that_contrasts(open_memory: Open) -> None:
    memory = await open_memory()
    good = await live(memory, "repair the login form", "open", "patch", "test")
    await live(memory, "repair the login page", "open", "patch", "test")
    bad = await live(memory, "repair the login form quickly", "patch", BAD, outcome="failure")
    await live(memory, "translate a poem", "write", outcome="failure")
    begun = await start(memory, "repair the login form please")
    assert [one["outcome"] for one in begun["precedents"]] == ["success", "failure"]
    assert [one["episode_id"] for one in begun["precedents"]] == [good, bad]
    assert begun["precedents"][0]["path"] == "open → patch → test"
    assert "run failed and never worked: “ValueError: bad 3”" in begun["precedents"][1]["lesson"]
    playbook = begun["playbook"]
    assert playbook["source"] == good
    assert playbook["evidence"]["successes"] == 2
    assert [step["tool"] for step in playbook["steps"]] == ["open", "patch", "test"]
    assert playbook["when_not_to_apply"][0]["episode_id"] == bad


async def test_an_argument_that_each_task_has_to_itself_is_no_part_of_the_way(open_memory: Open) -> None:
    memory = await open_memory()
    for word in ("alpha", "bravo", "charlie", "delta"):
        await live(
            memory,
            f"install the package {word} for the tests",
            "make_venv",
            ("pip_install", None, {"package": word, "quiet": True}),
            "pytest",
        )
    playbook = (await start(memory, "install the package zulu for the tests"))["playbook"]
    assert playbook["evidence"]["successes"] == 4
    step = playbook["steps"][1]
    assert (step["tool"], step["parameters"], step["your_own"]) == ("pip_install", {"quiet": True}, ["package"])
    assert step["evidence"] == "in 4 of 4 similar successes"


async def test_unlike_episodes_are_no_precedents(open_memory: Open) -> None:
    memory = await open_memory()
    await live(memory, "translate a poem about autumn into Latin", "write")
    begun = await start(memory, "repair the login form of the shop")
    assert "precedents" not in begun
    assert "playbook" not in begun


@pytest.mark.parametrize(("outcomes", "expected"), [("SSSS", None), ("SSSSS", 1.0), ("SSSSSFFFFF", 0.5)])
async def test_the_forecast_begins_at_five_episodes(open_memory: Open, outcomes: str, expected: float | None) -> None:
    memory = await open_memory()
    for number, outcome in enumerate(outcomes):
        kind = "success" if outcome == "S" else "failure"
        await live(memory, f"task {'abcdefghij'[number] * 5}", "a", outcome=kind, domain="web")
    forecast = (await start(memory, "something else entirely", domain="web"))["forecast"]
    assert forecast.get("base_rate") == expected
    if expected is None:
        assert forecast["insufficient_evidence"]
    else:
        low, high = forecast["interval"]
        assert low <= forecast["success_probability"] <= high
        assert forecast["success_probability"] == pytest.approx(expected, abs=0.12)


async def test_alike_failures_lower_the_forecast(open_memory: Open) -> None:
    memory = await open_memory()
    for number in range(6):
        await live(memory, f"repair the login form, attempt {number}", "a", outcome="failure")
        await live(memory, f"translate the poem, attempt {number}", "a")
    doomed = (await start(memory, "repair the login form once more"))["forecast"]
    easy = (await start(memory, "translate the poem once more"))["forecast"]
    assert doomed["success_probability"] < 0.35
    assert easy["success_probability"] > 0.65
    assert doomed["base_rate"] == easy["base_rate"] == 0.5


async def test_the_lesson_of_a_task_like_this_comes_first(open_memory: Open) -> None:
    memory = await open_memory()
    for _ in range(2):
        await live(memory, "import the payroll of the bakery", BAD, ("read", None, {"as": "cp850"}), "run")
        await live(memory, "import the ledger of the museum", BAD, ("read", None, {"as": "utf-16"}), "run")
    for _ in range(4):
        await live(memory, "import the diary of the lighthouse", BAD, ("read", None, {"as": "latin-1"}), "run")
    for owner, encoding in (("payroll of the bakery", "cp850"), ("ledger of the museum", "utf-16")):
        begun = await start(memory, f"import the {owner} again")
        [first, *_] = (await take(memory, begun["episode_id"], BAD))["lessons"]
        assert first["advice"] == {"tool": "read", "parameters": {"as": encoding}}
        assert first["after_step"] == 1
        assert first["text"] == f"read(as={encoding}) led out of this in 2 of 2 attempts"
        assert len(first["episodes"]) == 2


async def test_an_unknown_error_is_answered_with_nothing(open_memory: Open) -> None:
    memory = await open_memory()
    await live(memory, "a task", BAD, "fix", "run")
    begun = await start(memory, "a task")
    for call in (("run", "OSError: never seen"), ("walk", "ValueError: bad 3"), ("run", None)):
        assert "lessons" not in await take(memory, begun["episode_id"], call)


async def test_what_never_led_out_is_not_advised(open_memory: Open) -> None:
    memory = await open_memory()
    await live(memory, "a task", BAD, "pray", BAD, "wait", outcome="failure")
    begun = await start(memory, "a task")
    assert "lessons" not in await take(memory, begun["episode_id"], BAD)


async def test_what_rarely_led_out_is_not_advised(open_memory: Open) -> None:
    memory = await open_memory()
    for _ in range(9):
        await live(memory, "a task", BAD, "pray", BAD, outcome="failure")
    await live(memory, "a task", BAD, "pray", "run")
    begun = await start(memory, "a task")
    assert "lessons" not in await take(memory, begun["episode_id"], BAD)


async def test_the_call_that_has_just_failed_is_not_advised_again(open_memory: Open) -> None:
    memory = await open_memory()
    fast, slow = {"mode": "fast"}, {"mode": "slow"}
    await live(memory, "a task", ("run", "ValueError: bad 1", slow), ("run", None, fast))
    await live(memory, "a task", ("run", "ValueError: bad 2", fast), ("run", None, slow))
    begun = await start(memory, "a task")
    answer = await take(memory, begun["episode_id"], ("run", "ValueError: bad 3", fast))
    assert [lesson["advice"]["parameters"] for lesson in answer["lessons"]] == [slow]


async def test_what_was_tried_in_vain_since_the_error_came_up_is_not_advised(open_memory: Open) -> None:
    memory = await open_memory()
    await live(memory, "a task", BAD, "fix", "run")
    await live(memory, "a task", BAD, "mend", "run")
    begun = await start(memory, "a task")
    # a step that was taken before the error came up may still be the way out of it
    answer = await take(memory, begun["episode_id"], "mend", BAD)
    assert {lesson["advice"]["tool"] for lesson in answer["lessons"]} == {"fix", "mend"}
    answer = await take(memory, begun["episode_id"], "fix", BAD)
    assert {lesson["advice"]["tool"] for lesson in answer["lessons"]} == {"mend"}


async def test_a_similar_error_of_the_same_kind_helps_where_this_one_is_unknown(open_memory: Open) -> None:
    memory = await open_memory()
    await live(memory, "a task", ("run", "ConnectionError: refused by host"), "reconnect", "run")
    await live(memory, "a task", ("run", "AssertionError: one thing"), "rewrite", "run")
    begun = await start(memory, "a task")
    [lesson] = (await take(memory, begun["episode_id"], ("run", "ConnectionError: reset by peer")))["lessons"]
    assert lesson["text"] == "reconnect led out of a similar error of run in 1 of 1 attempts"
    # names that say nothing do not make errors similar
    assert "lessons" not in await take(memory, begun["episode_id"], ("run", "AssertionError: another thing"))


@pytest.mark.parametrize(
    "message",
    [
        "bash: {}: command not found",
        "ERROR: relation {} does not exist",
        "error: externally managed while installing {}",
    ],
)
async def test_the_same_error_about_something_else_helps_and_each_way_out_is_told_once(
    open_memory: Open, message: str
) -> None:
    memory = await open_memory()
    for word in ("alpha", "bravo", "charlie", "delta"):
        await live(memory, "set up the machine", ("run", message.format(word)), ("fix", None, {"mode": "full"}), "run")
    begun = await start(memory, "set up the machine")
    [lesson] = (await take(memory, begun["episode_id"], ("run", message.format("zulu"))))["lessons"]
    assert lesson["text"].startswith("fix(mode=full) led out of a similar error of run")
    assert "lessons" not in await take(memory, begun["episode_id"], ("run", "the disk is full"))


async def test_many_failures_at_once_are_answered_briefly(open_memory: Open) -> None:
    memory = await open_memory()
    kinds = ["one", "two", "three", "four", "five"]
    for kind in kinds:
        await live(memory, "a task", ("run", f"ValueError: {kind}"), f"fix {kind}", "run")
    begun = await start(memory, "a task")
    failed = [draft("run", f"ValueError: {kind}") for kind in kinds for _ in range(3)]
    answer = await memory.episodes.add_steps(begun["episode_id"], failed, "default")
    assert [(one["after_step"], one["advice"]["tool"]) for one in answer["lessons"]] == [
        (9, "fix three"),
        (12, "fix four"),
        (15, "fix five"),
    ]


async def test_a_proven_pitfall_is_told_where_it_was_met(open_memory: Open) -> None:
    memory = await open_memory()
    for number in range(12):
        trap = number % 2 == 0
        calls: list[Any] = ["open", ("deploy", "QuotaError: no room")] if trap else ["open", "deploy"]
        await live(memory, f"ship {number}", *calls, domain="ops", outcome="failure" if trap else "success")
    [pitfall] = (await start(memory, "ship something new", domain="ops"))["pitfalls"]
    assert pitfall["text"] == "deploy fails with “QuotaError: no room”"
    assert pitfall["verdict"] == "hurts"
    assert pitfall["success_rate"] < pitfall["base_rate"]
    assert "pitfalls" not in await start(memory, "ship something new", domain="elsewhere")


@pytest.mark.parametrize("budget", [1, 60, 200, 400, 800])
async def test_the_budget_of_tokens_is_kept(open_memory: Open, budget: int) -> None:
    memory = await open_memory()
    text = "a sentence that says a lot about what was done here and why it was done at all"
    for number in range(6):
        begun = await start(memory, f"migrate the billing tables, part {number}. {text}")
        many = [draft(f"tool {n}", None, {"path": f"file {n}"}, output=f"{text} {n}") for n in range(15)]
        await memory.episodes.add_steps(begun["episode_id"], many, "default")
        await end(memory, begun["episode_id"], "success" if number % 2 else "failure", reason=text)
    answer = await memory.episodes.create(
        draft_of(f"migrate the billing tables. {text}"), "default", token_budget=budget
    )
    shown = {name: answer[name] for name in ("playbook", "precedents", "pitfalls", "forecast") if name in answer}
    assert tokens(shown) <= budget + 20
    if budget >= 400:
        assert answer["playbook"]["steps"]


def draft_of(task: str) -> Any:
    from memory_mcp.records.episode import EpisodeDraft

    return EpisodeDraft(task_description=task)


async def test_every_text_reads_like_a_sentence(open_memory: Open) -> None:
    memory = await open_memory()
    await learn(memory, log(30))
    answers: list[Json] = []
    for task in ("fix the login", "test the cart", "move the search"):
        begun = await start(memory, task, domain="search", task_type="testing")
        failed = await take(
            memory,
            begun["episode_id"],
            ("get", None, {"id": 3, "deep": None}, '{"name": "x", "items": [1, 2]}'),
            ("run", ""),
            ("edit", "ValueError: line 7 of 'f0.5'"),
        )
        answers += [begun, failed, await end(memory, begun["episode_id"], "failure")]
    answers.append(await memory.patterns.analyze("default", min_success_rate=0.0, limit=200))
    told = [text for answer in answers for text in texts(answer)]
    assert len(told) > 300
    for text in told:
        assert "None" not in text
        assert '{"' not in text
        assert '"' not in text
        assert "  " not in text
        assert text == text.strip()
