"""A recipe: what to do at each stage of the work, and how to get there from what is done already."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import zip_longest

from memory_mcp.evaluation.workbench.menu import TOOLS, Action, Stage, choose, usual

INSPECT = usual("inspect")
RESTART = usual("restart")
SUBMIT = usual("submit")
_USUAL_DECODE, _USUAL_PARSE, _USUAL_CONVERT = usual("decode"), usual("parse"), usual("convert")

Done = tuple[Action, ...]
"""The calls that made a workspace what it is, in the order of stages."""

SELF_EVIDENT = frozenset({"unpack", "salvage", "repair_mojibake"})
"""Tools that hardly succeed by accident: where they did, they were needed, and perhaps once more."""

OPTIONAL_STAGES = (Stage.BYTES, Stage.TEXT)
"""The stages where a recipe takes any number of steps; it takes exactly one at each of the others."""


@dataclass(frozen=True)
class Recipe:
    """An intention. At first it is the common default: a plain CSV file in UTF-8."""

    unpacking: tuple[Action, ...] = ()
    decode: Action = _USUAL_DECODE
    mending: tuple[Action, ...] = ()
    parse: Action = _USUAL_PARSE
    convert: Action = _USUAL_CONVERT

    def actions(self) -> list[Action]:
        """All steps, from the bytes to the typed table."""
        return [*self.unpacking, self.decode, *self.mending, self.parse, self.convert]

    def choice(self, tool: str) -> Action | None:
        """The call of one of the three tools that every recipe has; None for all others."""
        return {"decode": self.decode, "parse": self.parse, "convert": self.convert}.get(tool)

    def has_room_for(self, action: Action) -> bool:
        """Whether the step could bring anything that the recipe does not do already."""
        return action.tool in SELF_EVIDENT or action not in self.actions()

    def with_step(self, action: Action) -> Recipe:
        """With one more step of unpacking or mending, or with another choice for decode, parse or convert."""
        match action.stage:
            case Stage.BYTES:
                return replace(self, unpacking=(*self.unpacking, action))
            case Stage.DECODE:
                return replace(self, decode=action)
            case Stage.TEXT:
                return replace(self, mending=(*self.mending, action))
            case Stage.PARSE:
                return replace(self, parse=action)
            case Stage.CONVERT:
                return replace(self, convert=action)
        return self

    def without(self, action: Action) -> Recipe:
        """With the step dropped, or the common default in its place."""
        usual_choice = Recipe().choice(action.tool)
        if usual_choice is not None:
            return self.with_step(usual_choice) if action in self.actions() else self
        return replace(
            self,
            unpacking=tuple(step for step in self.unpacking if step != action),
            mending=tuple(step for step in self.mending if step != action),
        )


def recipe_of(actions: Iterable[Action]) -> Recipe:
    """What a sequence of calls amounts to: of choices the last one counts, and decoding anew undoes mending."""
    recipe = Recipe()
    for action in actions:
        if action == RESTART:
            recipe = replace(recipe, unpacking=(), mending=())
        elif action.stage == Stage.DECODE:
            recipe = replace(recipe, mending=())
        recipe = recipe.with_step(action)
    return recipe


def after(done: Done, action: Action) -> Done:
    """What is done once the action has succeeded: the work of later stages is gone."""
    if action == RESTART:
        return ()
    if action.stage in (Stage.LOOK, Stage.SUBMIT):
        return done
    last_kept = action.stage if action.stage in OPTIONAL_STAGES else action.stage - 1
    return (*(step for step in done if step.stage <= last_kept), action)


def next_step(recipe: Recipe, done: Done) -> Action:
    """The next call towards the recipe's end; what stands in the way is undone by the cheapest way back."""
    for wanted, present in zip_longest([*recipe.actions(), SUBMIT], done):
        if wanted == present:
            continue
        if present is not None and present.stage == Stage.BYTES:
            return RESTART
        if present is not None and present.stage == Stage.TEXT and wanted.stage >= Stage.TEXT:
            return recipe.decode
        return wanted
    raise AssertionError("submit is never done, so that there is always a difference")


def alternatives(recipe: Recipe, stage: Stage) -> list[Action]:
    """Calls at a stage that would change the recipe: one more step, or another choice that differs in one parameter."""
    found: list[Action] = []
    for spec in TOOLS.values():
        current = recipe.choice(spec.name)
        if spec.stage != stage:
            continue
        if current is None:
            found += [action for action in spec.actions() if recipe.has_room_for(action)]
            continue
        for name, values in spec.menu.items():
            changed = (choose(spec.name, {name: value}, over=current.parameters) for value in values)
            found += [action for action in changed if action is not None and action != current]
    return found
