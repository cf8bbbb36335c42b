"""The plain agent: reasonable, bounded, and willing to take advice."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.evaluation.workbench.agent import STEP_BUDGET, Advice, Agent
from memory_mcp.evaluation.workbench.families import FAMILIES
from memory_mcp.evaluation.workbench.menu import TOOLS, Action, choose, usual
from memory_mcp.evaluation.workbench.oracle import best_actions
from memory_mcp.evaluation.workbench.play import Game, as_plan, play
from memory_mcp.evaluation.workbench.recipe import INSPECT, RESTART, SUBMIT, after
from memory_mcp.evaluation.workbench.tasks import Task, make_task
from memory_mcp.evaluation.workbench.tools import ToolResult

OK = ToolResult(True, "fine")
DECODE_ERROR = ToolResult(False, "", "UnicodeDecodeError", "'utf-8' codec can't decode byte 0xe9 in position 3")
PARSE_ERROR = ToolResult(False, "", "_csv.Error", "',' expected after '\"'")
CP850 = Advice("decode", {"encoding": "cp850"}, "precedent 7")

nonsense = st.builds(
    Advice,
    st.sampled_from(["", "rm", "decode", "parse", "unpack", "convert", "INSPECT"]),
    st.dictionaries(st.sampled_from(["path", "encodings", ""]), st.none() | st.integers() | st.text(), min_size=1),
    st.text(),
)
advice = nonsense | st.builds(
    Advice,
    st.sampled_from(sorted(TOOLS)),
    st.dictionaries(
        st.sampled_from(["encoding", "codec", "delimiter", "quoting", "lines", "via", "style", "null", "date_format"]),
        st.sampled_from(["cp850", "gzip", "xz", "semicolon", "none", "1", "cp1252", "unicode", "NULL", "%d/%m/%Y"])
        | st.integers()
        | st.lists(st.text(), max_size=1),
        max_size=1,
    ),
)
results = st.builds(
    ToolResult,
    st.booleans(),
    st.sampled_from(["", "nothing changed in 3 lines", "5 of 5 columns named", "0 of 5 columns named", "rejected"]),
    st.sampled_from(["", "ValueError"]),
    st.sampled_from(["", "time data 'x' does not match format", "2 of 5 columns named in a first line of 2 fields"]),
)


def task_of(family: str, seed: int = 1) -> Task:
    return make_task("t", family, Random(seed))


def actions_of(game: Game) -> list[Action]:
    return [turn.action for turn in game.turns]


def walk(agent: Agent, answers: Sequence[ToolResult]) -> list[Action | None]:
    """The actions of an agent that is given these answers."""
    taken = [agent.next_action(None)]
    for answer in answers:
        taken.append(agent.next_action(answer))
    return taken


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    budget=st.integers(0, 60),
    plan=st.lists(advice, max_size=8),
    script=st.lists(st.tuples(results, st.lists(advice, max_size=3)), min_size=60, max_size=60),
)
def test_whatever_it_is_told_it_stays_within_menu_and_budget(
    seed: int, budget: int, plan: list[Advice], script: list[tuple[ToolResult, list[Advice]]]
) -> None:
    agent = Agent(seed, budget)
    agent.offer_plan(plan)
    observation: ToolResult | None = None
    steps = 0
    while (action := agent.next_action(observation)) is not None:
        assert choose(action.tool, action.parameters) == action
        observation, lessons = script[steps]
        agent.offer_lessons(lessons)
        steps += 1
    assert steps <= budget
    assert agent.steps_left == budget - steps


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(FAMILIES)), st.integers(0, 2**32), st.integers(1, 60))
def test_a_call_that_failed_is_not_repeated_on_the_same_state(family: str, seed: int, budget: int) -> None:
    game = play(task_of(family, seed), Agent(seed, budget))
    done: tuple[Action, ...] = ()
    failed: set[tuple[Action, ...]] = set()
    assert len(game.turns) <= budget
    for turn in game.turns:
        state = (*done, SUBMIT) if turn.action == SUBMIT else after(done, turn.action)
        assert state not in failed
        if not turn.result.ok:
            failed.add(state)
        elif not turn.result.output.startswith("nothing changed"):
            done = state


def test_the_same_seed_takes_the_same_steps() -> None:
    for family in FAMILIES:
        assert actions_of(play(task_of(family), Agent(3))) == actions_of(play(task_of(family), Agent(3)))


def test_different_seeds_search_in_different_ways() -> None:
    ways = {tuple(actions_of(play(task_of("warsaw_depot"), Agent(seed)))) for seed in range(10)}
    assert len(ways) > 5


def test_without_advice_it_looks_first_and_tries_the_usual_way() -> None:
    game = play(task_of("city_library"), Agent(1))
    assert actions_of(game) == [INSPECT, usual("decode"), usual("parse"), usual("convert"), SUBMIT]
    assert game.succeeded


def test_it_stops_as_soon_as_the_table_is_accepted() -> None:
    agent = Agent(1)
    assert walk(agent, [OK] * 6)[4:] == [SUBMIT, None, None]


def test_a_rejected_table_is_not_handed_in_again_unchanged() -> None:
    taken = walk(Agent(1), [OK, OK, OK, OK, ToolResult(False, "rejected")])
    assert taken[4] == SUBMIT
    assert taken[5] not in (None, SUBMIT, INSPECT)


def test_it_insists_on_the_result_of_its_last_action() -> None:
    agent = Agent(1)
    agent.next_action(None)
    with pytest.raises(ValueError, match="result of the last action"):
        agent.next_action(None)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_good_plan_is_followed_step_by_step(family: str) -> None:
    best = best_actions(FAMILIES[family].dialect)
    game = play(task_of(family), Agent(1), as_plan(best, "playbook"))
    assert actions_of(game) == [INSPECT, *best]
    assert game.succeeded


def test_an_action_names_the_advice_that_it_follows() -> None:
    best = best_actions(FAMILIES["payroll_bureau"].dialect)
    game = play(task_of("payroll_bureau"), Agent(1), as_plan(best[:-2], "precedent 7"))
    assert [turn.action.source for turn in game.turns] == ["", "precedent 7", "precedent 7", "", ""]


@given(st.lists(nonsense, max_size=5))
def test_impossible_advice_makes_no_difference(impossible: list[Advice]) -> None:
    task = task_of("helpdesk")
    alone = play(task, Agent(1))
    told = play(task, Agent(1), impossible, teacher=lambda turn: impossible)
    assert actions_of(told) == actions_of(alone)


@pytest.mark.parametrize(
    "wrong",
    [
        Advice("decode", {"encoding": "klingon"}),
        Advice("decode", {"encoding": None}),
        Advice("decode", {"encoding": ["cp850"]}),
        Advice("decode", {"encoding": "cp850", "errors": "ignore"}),
        Advice("iconv", {"from": "cp850"}),
    ],
)
def test_advice_with_a_tool_name_or_value_beyond_the_menu_is_ignored(wrong: Advice) -> None:
    agent = Agent(1)
    agent.offer_plan([wrong])
    assert walk(agent, [OK])[1] == usual("decode")


def test_a_lesson_is_tried_at_once_after_the_failure() -> None:
    agent = Agent(1)
    assert walk(agent, [OK]) == [INSPECT, usual("decode")]
    agent.offer_lessons([CP850, Advice("decode", {"encoding": "cp437"})])
    action = agent.next_action(DECODE_ERROR)
    assert action == usual("decode", encoding="cp850")
    assert action is not None
    assert action.source == "precedent 7"


def test_the_next_lesson_is_tried_when_the_first_one_failed_too() -> None:
    agent = Agent(1)
    walk(agent, [OK])
    agent.offer_lessons([Advice("decode", {"encoding": "utf-16-le"}), CP850])
    agent.next_action(DECODE_ERROR)
    assert agent.next_action(DECODE_ERROR) == usual("decode", encoding="cp850")


def test_newer_lessons_go_before_older_ones() -> None:
    agent = Agent(1)
    walk(agent, [OK])
    agent.offer_lessons([Advice("unpack", {"codec": "gzip"}), Advice("unpack", {"codec": "xz"})])
    assert agent.next_action(DECODE_ERROR) == usual("unpack", codec="gzip")
    agent.offer_lessons([CP850])
    assert agent.next_action(ToolResult(False, "", "gzip.BadGzipFile", "Not a gzipped file")) == usual(
        "decode", encoding="cp850"
    )


def test_a_lesson_that_was_tried_in_vain_is_not_tried_again() -> None:
    agent = Agent(1, step_budget=40)
    walk(agent, [OK])
    taken: list[Any] = []
    for _ in range(12):
        agent.offer_lessons([CP850])
        taken.append(agent.next_action(DECODE_ERROR))
    assert taken.count(usual("decode", encoding="cp850")) == 1


def test_a_lesson_changes_only_what_it_speaks_of() -> None:
    agent = Agent(1)
    agent.offer_plan([Advice("convert", {"null": "NULL"})])
    walk(agent, [OK, OK, OK])
    agent.offer_lessons([Advice("convert", {"date_format": "%d/%m/%Y"})])
    action = agent.next_action(ToolResult(False, "", "ValueError", "time data 'x' does not match format '%Y-%m-%d'"))
    assert action == usual("convert", null="NULL", date_format="%d/%m/%Y")


def test_an_optional_step_of_a_plan_that_fails_is_left_out_and_the_plan_goes_on() -> None:
    agent = Agent(1)
    agent.offer_plan(as_plan([usual("unpack", codec="xz"), usual("decode", encoding="cp850")]))
    walk(agent, [OK])
    assert agent.next_action(ToolResult(False, "", "_lzma.LZMAError", "Input format not supported")) == usual(
        "decode", encoding="cp850"
    )


def test_a_plan_that_fails_at_a_needed_step_is_dropped_for_the_usual_way() -> None:
    agent = Agent(1)
    agent.offer_plan(
        as_plan([usual("decode", encoding="cp850"), usual("parse", delimiter="pipe"), usual("convert", null="?")])
    )
    walk(agent, [OK, OK])
    assert agent.next_action(PARSE_ERROR) == usual("decode")
    assert [agent.next_action(OK), agent.next_action(OK)] == [usual("parse"), usual("convert")]


def test_a_lesson_takes_the_place_of_a_failed_plan_step_and_the_plan_goes_on() -> None:
    agent = Agent(1)
    agent.offer_plan(
        as_plan([usual("decode", encoding="cp850"), usual("parse", delimiter="pipe"), usual("convert", null="?")])
    )
    walk(agent, [OK, OK])
    agent.offer_lessons([Advice("parse", {"quoting": "backslash", "delimiter": "tab"})])
    assert agent.next_action(PARSE_ERROR) == usual("parse", delimiter="tab", quoting="backslash")
    assert agent.next_action(OK) == usual("convert", null="?")


def test_detours_in_a_plan_are_not_repeated() -> None:
    detour = [usual("decode"), usual("drop_footer"), RESTART, usual("decode", encoding="cp850"), usual("parse")]
    agent = Agent(1)
    agent.offer_plan(as_plan(detour))
    assert walk(agent, [OK, OK])[1:] == [usual("decode", encoding="cp850"), usual("parse")]


def test_what_can_be_unpacked_stays_unpacked() -> None:
    for seed in range(30):
        game = play(task_of("sensor_gateway", seed), Agent(seed, 200))
        unpacked = [turn for turn in game.turns if turn.action.tool in ("unpack", "salvage") and turn.result.ok]
        if len(unpacked) == 2:
            return
    pytest.fail("no agent found the second layer in 30 tasks")


def test_no_steps_means_no_action() -> None:
    assert Agent(1, 0).next_action(None) is None
    assert Agent(1).steps_left == STEP_BUDGET
