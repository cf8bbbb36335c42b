"""Tasks: balanced, repeatable, and described without giving the remedy away."""

from __future__ import annotations

import re
from collections import Counter
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from memory_mcp.evaluation.workbench.descriptions import TEMPLATES, describe
from memory_mcp.evaluation.workbench.families import FAMILIES
from memory_mcp.evaluation.workbench.menu import TOOLS
from memory_mcp.evaluation.workbench.tasks import make_tasks

REMEDIES = re.compile(
    r"utf|unicode|latin|windows|encod|code ?page|cp\d|ebcdic|zip|compress|base64|hexadec|semicolon|comma|\btab\b|\bpipe"
    r"|delimit|separator|quot|escap|header|footer|preamble|line end|carriage|mojibake|garble|truncat|corrupt|null"
    r"|decimal|thousand|date format|padding",
    re.IGNORECASE,
)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 120))
def test_families_are_balanced_in_any_number_of_tasks(seed: int, count: int) -> None:
    tasks = make_tasks(seed, count)
    per_family = Counter(dict.fromkeys(FAMILIES, 0))
    per_family.update(task.family for task in tasks)
    assert len(tasks) == count
    assert max(per_family.values()) - min(per_family.values()) <= 1


def test_the_same_seed_makes_the_same_tasks_and_another_seed_others() -> None:
    assert make_tasks(3, 40) == make_tasks(3, 40)
    assert [task.data for task in make_tasks(3, 40)] != [task.data for task in make_tasks(4, 40)]


def test_tasks_are_shuffled_and_have_names_of_their_own() -> None:
    tasks = make_tasks(3, 2 * len(FAMILIES))
    families = [task.family for task in tasks]
    assert families[: len(FAMILIES)] != families[len(FAMILIES) :]
    assert len({task.task_id for task in tasks}) == len(tasks)


def test_a_task_shown_as_text_hides_family_data_and_truth() -> None:
    shown = repr(make_tasks(3, 1)[0])
    assert "description=" in shown
    assert not any(f"{name}=" in shown for name in ("family", "data", "truth"))


def test_the_schema_tells_names_and_kinds_only() -> None:
    for task in make_tasks(1, len(FAMILIES)):
        for column in task.schema:
            assert vars(column).keys() == {"name", "kind"}
            assert column.name.isascii()


def test_every_family_has_six_different_descriptions() -> None:
    assert TEMPLATES.keys() == FAMILIES.keys()
    everything = [template for templates in TEMPLATES.values() for template in templates]
    assert all(len(templates) >= 6 for templates in TEMPLATES.values())
    assert len(set(everything)) == len(everything)


def test_no_description_names_a_remedy() -> None:
    for templates in TEMPLATES.values():
        for template in templates:
            assert not REMEDIES.search(template), template
            assert not any(tool in template for tool in TOOLS if "_" in tool)


def test_descriptions_of_a_family_vary_in_wording_branch_month_and_person() -> None:
    for family in FAMILIES:
        said = {describe(family, Random(seed)) for seed in range(60)}
        assert len(said) > 20
        assert not any("{" in text for text in said)
