"""Tasks: a description as a colleague would write it, a damaged file, and the table that it should become."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from memory_mcp.evaluation.workbench.descriptions import describe
from memory_mcp.evaluation.workbench.families import FAMILIES
from memory_mcp.evaluation.workbench.faults import damage
from memory_mcp.evaluation.workbench.tables import Schema, Table, make_table, same
from memory_mcp.evaluation.workbench.tools import Workspace


@dataclass(frozen=True)
class Task:
    """One file to repair. An agent is told the description and the schema, and works on what `open` gives."""

    task_id: str
    family: str = field(repr=False)
    description: str
    data: bytes = field(repr=False)
    schema: Schema
    truth: Table = field(repr=False)

    def open(self) -> Workspace:
        """A fresh workspace with the file in it."""
        return Workspace(self.data, self.schema, lambda table: same(table, self.truth))


def make_task(task_id: str, family: str, rng: Random) -> Task:
    """A task of a family; equal generators give equal tasks."""
    source = FAMILIES[family]
    table = make_table(rng, source.theme, source.alphabet)
    data, truth = damage(table, source.dialect, rng)
    return Task(task_id, family, describe(family, rng), data, truth.schema, truth)


def make_tasks(seed: int, count: int, families: int = len(FAMILIES)) -> list[Task]:
    """Shuffled tasks, as many of one family as of any other (give or take one); equal seeds give equal tasks.

    With fewer `families` than there are, the seed draws which.

    Raises:
        ValueError: there are not that many families.
    """
    rng = Random(seed)
    names = rng.sample(list(FAMILIES), families)
    order = [names[at % len(names)] for at in range(count)]
    rng.shuffle(order)
    return [make_task(f"wb-{seed}-{at:04}", family, Random(rng.getrandbits(64))) for at, family in enumerate(order)]
