"""How hard the workbench is: success of the plain agent alone, and with right and wrong advice.

python -m memory_mcp.evaluation.workbench.calibration --tasks 310 --seeds 1 2 3
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from random import Random

from memory_mcp.evaluation.workbench.agent import STEP_BUDGET, Advice, Agent
from memory_mcp.evaluation.workbench.families import FAMILIES
from memory_mcp.evaluation.workbench.oracle import best_actions
from memory_mcp.evaluation.workbench.play import Game, Teacher, Turn, as_plan, play
from memory_mcp.evaluation.workbench.tasks import Task, make_task, make_tasks

Plans = dict[str, list[Advice]]
_ATTEMPTS = 60


def find_precedents(seed: int, step_budget: int = STEP_BUDGET, every_step: bool = False) -> Plans:
    """For each family the steps of one success of the plain agent: those that succeeded, or really every step.

    Where the plain agent hardly ever succeeds within its budget, it is given ten times the budget.
    """
    plans: Plans = {}
    for family in FAMILIES:
        for attempt in range(3 * _ATTEMPTS):
            task = make_task(f"earlier-{attempt}", family, Random(f"{seed}/{family}/{attempt}"))
            budget = step_budget if attempt < _ATTEMPTS else 10 * step_budget
            game = play(task, Agent(attempt, budget))
            if game.succeeded:
                plans[family] = as_plan(
                    [turn.action for turn in game.turns if turn.result.ok or every_step], "precedent"
                )
                break
    return plans


def oracle_plans() -> Plans:
    """For each family the best steps."""
    return {name: as_plan(best_actions(family.dialect), "oracle") for name, family in FAMILIES.items()}


def oracle_teacher(task: Task) -> Teacher:
    """A teacher who, after a failure, names the best steps of that stage and the earlier ones, nearest first."""
    best = best_actions(FAMILIES[task.family].dialect)

    def teach(turn: Turn) -> Sequence[Advice]:
        return as_plan([action for action in reversed(best) if action.stage <= turn.action.stage], "teacher")

    return teach


def run(tasks: Sequence[Task], attempt: Callable[[Task, Agent], Game], step_budget: int = STEP_BUDGET) -> list[Game]:
    """All tasks, each with a new agent."""
    return [attempt(task, Agent(number, step_budget)) for number, task in enumerate(tasks)]


def share(games: Sequence[Game]) -> float:
    """How many of the games were won."""
    return round(sum(game.succeeded for game in games) / len(games), 3)


def measure(seed: int, count: int, step_budget: int = STEP_BUDGET) -> dict[str, object]:
    """Success rates on one set of tasks: alone, with right plans, with wrong plans, with lessons."""
    tasks = make_tasks(seed, count)
    oracles, precedents = oracle_plans(), find_precedents(-seed, step_budget)
    unfiltered = find_precedents(-seed, step_budget, every_step=True)

    def right(plans: Plans) -> float:
        return share(run(tasks, lambda task, agent: play(task, agent, plans[task.family]), step_budget))

    def wrong(plans: Plans) -> float:
        def attempt(task: Task, agent: Agent) -> Game:
            # two sources may share a damage: what is wrong is a plan that does not lead to the same steps
            others = [name for name in plans if FAMILIES[name].dialect != FAMILIES[task.family].dialect]
            return play(task, agent, plans[Random(task.task_id).choice(others)])

        return share(run(tasks, attempt, step_budget))

    begin = time.perf_counter()
    plain = run(tasks, play, step_budget)
    seconds = time.perf_counter() - begin
    won, met = Counter(game.task.family for game in plain if game.succeeded), Counter(task.family for task in tasks)
    return {
        "seed": seed,
        "tasks": count,
        "step_budget": step_budget,
        "plain": share(plain),
        "oracle_plan": right(oracles),
        "precedent_plan": right(precedents),
        "precedent_plan_with_failed_steps": right(unfiltered),
        "wrong_oracle_plan": wrong(oracles),
        "wrong_precedent_plan": wrong(precedents),
        "lessons": share(run(tasks, lambda task, agent: play(task, agent, teacher=oracle_teacher(task)), step_budget)),
        "milliseconds_per_plain_task": round(seconds / count * 1000, 2),
        "steps_per_plain_task": round(sum(len(game.turns) for game in plain) / count, 1),
        "plain_by_family": {name: round(won[name] / met[name], 2) for name in sorted(met)},
    }


def main() -> None:
    """Measure and print JSON lines."""
    parser = argparse.ArgumentParser(description="Calibrate the workbench.")
    parser.add_argument("--tasks", type=int, default=310)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--step-budget", type=int, default=STEP_BUDGET)
    options = parser.parse_args()
    for seed in options.seeds:
        sys.stdout.write(json.dumps(measure(seed, options.tasks, options.step_budget)) + "\n")


if __name__ == "__main__":
    main()
