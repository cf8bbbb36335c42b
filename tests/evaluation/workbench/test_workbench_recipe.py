"""Recipes: what is chosen for each stage, and the cheapest way from what is done to what is wanted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.evaluation.workbench.menu import TOOLS, Action, Stage, usual
from memory_mcp.evaluation.workbench.recipe import (
    RESTART,
    SUBMIT,
    Done,
    Recipe,
    after,
    alternatives,
    next_step,
    recipe_of,
)

GUNZIP = usual("unpack", codec="gzip")
CP850 = usual("decode", encoding="cp850")
SEMICOLON = usual("parse", delimiter="semicolon")
NO_FOOTER = usual("drop_footer")
UNQUOTED = usual("mend_quotes")
STEPS = [action for spec in TOOLS.values() if Stage.BYTES <= spec.stage <= Stage.PARSE for action in spec.actions()]
step_lists = st.lists(st.sampled_from([*STEPS, usual("convert", null="?"), RESTART]), max_size=10)


def way(recipe: Recipe, done: Done) -> list[Action]:
    steps: list[Action] = []
    while not steps or steps[-1] != SUBMIT:
        assert len(steps) < 40
        steps.append(next_step(recipe, done))
        done = after(done, steps[-1])
    return steps


def test_at_first_a_recipe_is_the_usual_way() -> None:
    assert way(Recipe(), ()) == [usual("decode"), usual("parse"), usual("convert"), SUBMIT]


def test_of_several_choices_the_last_one_counts() -> None:
    recipe = recipe_of([usual("decode"), SEMICOLON, usual("convert"), CP850, usual("parse")])
    assert (recipe.decode, recipe.parse) == (CP850, usual("parse"))


def test_decoding_anew_undoes_mending_and_a_restart_undoes_unpacking_too() -> None:
    assert recipe_of([usual("decode"), NO_FOOTER, CP850]).mending == ()
    assert recipe_of([GUNZIP, usual("decode"), NO_FOOTER, RESTART]) == Recipe()


def test_a_missing_step_is_done_where_the_workspace_stands() -> None:
    done = (usual("decode"), usual("parse"), usual("convert"))
    recipe = Recipe(mending=(NO_FOOTER,))
    assert way(recipe, done) == [NO_FOOTER, usual("parse"), usual("convert"), SUBMIT]


def test_mending_in_the_way_is_undone_by_decoding_again() -> None:
    done = (usual("decode"), UNQUOTED, usual("parse"))
    assert way(Recipe(mending=(NO_FOOTER,)), done)[:3] == [usual("decode"), NO_FOOTER, usual("parse")]
    assert next_step(Recipe(), done) == usual("decode")


def test_unpacking_in_the_way_is_undone_by_a_restart() -> None:
    assert next_step(Recipe(), (GUNZIP, usual("decode"))) == RESTART


def test_only_what_hardly_succeeds_by_accident_has_room_twice() -> None:
    recipe = Recipe(unpacking=(GUNZIP,), mending=(NO_FOOTER, usual("repair_mojibake")))
    assert recipe.has_room_for(GUNZIP)
    assert recipe.has_room_for(usual("repair_mojibake"))
    assert not recipe.has_room_for(NO_FOOTER)
    assert not recipe.has_room_for(usual("decode"))


def test_a_dropped_choice_becomes_the_usual_one_and_a_dropped_step_is_gone() -> None:
    recipe = Recipe(unpacking=(GUNZIP,), decode=CP850, mending=(NO_FOOTER,))
    assert recipe.without(CP850).decode == usual("decode")
    assert recipe.without(GUNZIP).unpacking == ()
    assert recipe.without(NO_FOOTER).mending == ()
    assert recipe.without(SEMICOLON) == recipe


@given(step_lists, step_lists)
def test_from_any_state_there_is_a_way_to_any_recipe(history: list[Action], wanted: list[Action]) -> None:
    done: Done = ()
    for action in history:
        done = after(done, action)
    recipe = recipe_of(wanted)
    for action in way(recipe, done):
        done = after(done, action)
    assert list(done) == recipe.actions()


@given(step_lists)
def test_alternatives_change_the_recipe_in_one_place(wanted: list[Action]) -> None:
    recipe = recipe_of(wanted)
    for stage in (Stage.BYTES, Stage.DECODE, Stage.TEXT, Stage.PARSE, Stage.CONVERT):
        for action in alternatives(recipe, stage):
            changed = recipe.with_step(action)
            assert changed != recipe
            assert action.stage == stage
            current = recipe.choice(action.tool)
            if current is not None:
                assert len(set(action.items) - set(current.items)) == 1
