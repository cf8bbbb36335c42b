"""A plain agent without a language model: the usual first, then what is left, and advice where there is some.

It knows the order of work and the menus. It knows nothing of sources and their faults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from memory_mcp.evaluation.workbench.menu import Action, Stage, choose
from memory_mcp.evaluation.workbench.recipe import (
    INSPECT,
    OPTIONAL_STAGES,
    SELF_EVIDENT,
    SUBMIT,
    Done,
    Recipe,
    after,
    alternatives,
    next_step,
    recipe_of,
)
from memory_mcp.evaluation.workbench.sight import Trouble, columns_named, trouble_with
from memory_mcp.evaluation.workbench.tools import ToolResult

STEP_BUDGET = 30
SIDESTEP = 0.1
"""How often a change that made no difference is kept, for two damages may hide behind one complaint."""


@dataclass(frozen=True)
class Advice:
    """A call that somebody recommends. It may be anything: what the menu does not have is ignored."""

    tool: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""


class Agent:
    """Works on one task, step by step: ask `next_action`, run it, come back with the result.

    A hill climber over recipes: it keeps the recipe that got furthest, changes one thing in it at the stage that failed
    or at an earlier one, and goes back if that was no progress.
    """

    def __init__(self, seed: int, step_budget: int = STEP_BUDGET) -> None:
        self.steps_left = step_budget
        self._rng = Random(seed)
        self._best = self._trial = Recipe()
        self._trouble = Trouble(Stage.LOOK)
        self._done: Done = ()
        self._dead_ends: set[Done] = set()
        self._plan: list[Action] = []
        self._lessons: list[Advice] = []
        self._last: Action | None = None
        self._looks_packed = True
        self._finished = False

    def offer_plan(self, plan: Sequence[Advice]) -> None:
        """Steps that worked elsewhere, in order; to be given before the first action."""
        steps = [choose(step.tool, step.parameters, source=step.source) for step in plan]
        self._plan = [step for step in steps if step is not None and step not in (INSPECT, SUBMIT)]
        self._best = self._trial = recipe_of(self._plan)

    def offer_lessons(self, lessons: Sequence[Advice]) -> None:
        """Advice after a failed step, best first, to be given before the next action; newer advice goes first."""
        self._lessons = [*lessons, *(known for known in self._lessons if known not in lessons)]

    def next_action(self, observation: ToolResult | None) -> Action | None:
        """What to do next, given what the last action brought (None at the start). None: accepted, or at its wits' end.

        Raises:
            ValueError: the last action's result is missing.
        """
        if self._last is not None and not self._finished:
            if observation is None:
                raise ValueError("the result of the last action is missing")
            self._take_in(self._last, observation)
        if self._finished or self.steps_left <= 0:
            return None
        self._last = INSPECT if self._last is None else next_step(self._trial, self._done)
        self.steps_left -= 1
        return self._last

    def _take_in(self, action: Action, observation: ToolResult) -> None:
        trouble = trouble_with(action, observation)
        state = (*self._done, SUBMIT) if action == SUBMIT else after(self._done, action)
        if trouble is None or trouble.changed:
            self._done = state
        if trouble is None:
            self._finished = action == SUBMIT
            if action.stage in (Stage.LOOK, Stage.BYTES):
                self._looks_packed = columns_named(observation) != 1
            return
        self._dead_ends.add(state)
        if action in self._plan:
            self._leave_plan_step(action, trouble)
        elif self._is_progress(trouble):
            self._best, self._trouble = self._trial, trouble
        if action == SUBMIT:
            self._plan = []
        next_trial = self._advised() or (self._best if self._dead_at(self._best) is None else self._explored())
        if next_trial is None:
            self._finished = True
        else:
            self._trial = next_trial

    def _leave_plan_step(self, action: Action, trouble: Trouble) -> None:
        """Go on without it where it is optional, or where a lesson can take its place; else the plan does not fit."""
        self._best = self._trial.without(action) if action.stage in OPTIONAL_STAGES else self._trial
        if self._dead_at(self._best) is not None:
            lesson = self._lesson()
            if lesson is None:
                self._plan, self._best = [], Recipe()
            else:
                self._plan += lesson[1].actions()
        dead_at = self._dead_at(self._best)
        self._trouble = trouble if dead_at == trouble.stage else Trouble(Stage.LOOK if dead_at is None else dead_at)

    def _is_progress(self, trouble: Trouble) -> bool:
        if trouble.stage in OPTIONAL_STAGES:
            return False
        # what could be unpacked at all was packed, even if what came out fails earlier than the wrapping did
        if _uncovered(self._done) > _uncovered(self._best.actions()):
            return True
        compared = trouble.compared_with(self._trouble)
        return compared > 0 or (compared == 0 and self._rng.random() < SIDESTEP)

    def _dead_at(self, recipe: Recipe) -> Stage | None:
        """The stage at which the recipe is known to fail."""
        steps = (*recipe.actions(), SUBMIT)
        known = (step.stage for at, step in enumerate(steps) if steps[: at + 1] in self._dead_ends)
        return next(known, None)

    def _advised(self) -> Recipe | None:
        lesson = self._lesson()
        if lesson is None:
            return None
        advice, recipe = lesson
        self._lessons.remove(advice)
        return recipe

    def _lesson(self) -> tuple[Advice, Recipe] | None:
        """The first lesson that can be tried on the best recipe, and what becomes of the recipe by it."""
        for advice in self._lessons:
            current = self._best.choice(advice.tool)
            action = choose(
                advice.tool, advice.parameters, over=current.parameters if current else None, source=advice.source
            )
            if action is None or not self._best.has_room_for(action):
                continue
            recipe = self._best.with_step(action)
            if self._dead_at(recipe) is None:
                return advice, recipe
        return None

    def _explored(self) -> Recipe | None:
        for stage in self._suspects():
            actions = alternatives(self._best, stage)
            self._rng.shuffle(actions)
            for action in actions:
                if stage == Stage.CONVERT and not self._to_the_point(action):
                    continue
                recipe = self._best.with_step(action)
                if self._dead_at(recipe) is None:
                    return recipe
        return None

    def _suspects(self) -> list[Stage]:
        """The stages that may be to blame, the first one to be tried first."""
        near = _NEAR[self._trouble.stage].copy()
        if self._trouble.stage == Stage.DECODE and not self._looks_packed:
            near.remove(Stage.BYTES)
        earlier = Stage(min(self._trouble.stage, Stage.CONVERT))
        far = [stage for stage in Stage if Stage.BYTES <= stage <= earlier and stage not in near]
        self._rng.shuffle(near)
        self._rng.shuffle(far)
        return [*near, *far]

    def _to_the_point(self, action: Action) -> bool:
        """Whether a change of the conversion is about what was complained of: the dates, or all the rest."""
        about_dates = action.parameters["date_format"] != self._best.convert.parameters["date_format"]
        return about_dates == self._trouble.about_dates


def _uncovered(steps: Sequence[Action]) -> int:
    return sum(step.tool in SELF_EVIDENT for step in steps)


_NEAR: dict[Stage, list[Stage]] = {
    Stage.LOOK: [Stage.BYTES, Stage.DECODE, Stage.TEXT, Stage.PARSE, Stage.CONVERT],
    Stage.BYTES: [Stage.BYTES],
    Stage.DECODE: [Stage.BYTES, Stage.DECODE],
    Stage.TEXT: [Stage.TEXT],
    Stage.PARSE: [Stage.TEXT, Stage.PARSE],
    Stage.CONVERT: [Stage.TEXT, Stage.CONVERT],
    # columns and dates came out right, so that packing and delimiters must be right too
    Stage.SUBMIT: [Stage.DECODE, Stage.TEXT, Stage.CONVERT],
}
