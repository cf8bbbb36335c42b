"""Damage that is real, and that the oracle, and not the usual way, repairs."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.evaluation.workbench.families import FAMILIES
from memory_mcp.evaluation.workbench.faults import Dialect, damage
from memory_mcp.evaluation.workbench.menu import DATE_FORMATS, NULLS, Action
from memory_mcp.evaluation.workbench.oracle import best_actions
from memory_mcp.evaluation.workbench.recipe import SUBMIT, Recipe
from memory_mcp.evaluation.workbench.tables import make_table, same
from memory_mcp.evaluation.workbench.tasks import make_task
from memory_mcp.evaluation.workbench.tools import Workspace

EVERY_FAMILY = pytest.mark.parametrize("name", sorted(FAMILIES))
SEEDS = range(20)
NUMBER_MARKS = [
    ("point", "none"), ("point", "comma"), ("point", "space"), ("point", "apostrophe"),
    ("comma", "none"), ("comma", "dot"), ("comma", "space"), ("comma", "apostrophe"),
]  # fmt: skip


def solved(workspace: Workspace, actions: list[Action]) -> bool:
    return all(workspace.call(action.tool, action.parameters).ok for action in actions) and workspace.accepted


@EVERY_FAMILY
def test_the_oracle_repairs_the_files_of_every_source(name: str) -> None:
    for seed in SEEDS:
        task = make_task("t", name, Random(seed))
        assert solved(task.open(), best_actions(FAMILIES[name].dialect))


@EVERY_FAMILY
def test_the_usual_way_repairs_only_what_is_clean(name: str) -> None:
    for seed in SEEDS:
        task = make_task("t", name, Random(seed))
        assert solved(task.open(), [*Recipe().actions(), SUBMIT]) is FAMILIES[name].clean


@EVERY_FAMILY
def test_damaged_bytes_differ_from_clean_ones(name: str) -> None:
    source = FAMILIES[name]
    table = make_table(Random(1), source.theme, source.alphabet)
    damaged, _ = damage(table, source.dialect, Random(2))
    clean, _ = damage(table, Dialect(), Random(2))
    assert (damaged == clean) is source.clean


@EVERY_FAMILY
def test_the_same_seed_makes_the_same_damage(name: str) -> None:
    assert make_task("t", name, Random(5)) == make_task("t", name, Random(5))
    assert make_task("t", name, Random(5)).data != make_task("t", name, Random(6)).data


def test_there_are_at_least_sixteen_families_and_few_clean_ones() -> None:
    assert len(FAMILIES) >= 16
    assert sum(family.clean for family in FAMILIES.values()) == 1


def test_what_a_truncated_file_still_holds_is_a_beginning_of_the_table() -> None:
    source = FAMILIES["courier_feed"]
    for seed in SEEDS:
        whole = make_table(Random(seed), source.theme, source.alphabet)
        _, left = damage(whole, source.dialect, Random(seed))
        assert 2 <= len(left.rows) <= len(whole.rows)
        assert same(left, type(left)(whole.schema, whole.rows[: len(left.rows)]))


@st.composite
def dialects(draw: st.DrawFn) -> Dialect:
    decimal, thousands = draw(st.sampled_from(NUMBER_MARKS))
    encoding = draw(st.sampled_from(["utf-8", "utf-8-sig", "utf-16-le", "utf-16-be", "cp1252", "cp850", "mac_roman"]))
    return Dialect(
        delimiter=draw(st.sampled_from(["comma", "semicolon", "tab", "pipe"])),
        quoting=draw(st.sampled_from(["doubled", "backslash", "single"])),
        decimal=decimal,
        thousands=thousands,
        date_format=draw(st.sampled_from(DATE_FORMATS)),
        null=draw(st.sampled_from(["empty", "NULL", "N/A", "-", "?"])),
        line_end=draw(st.sampled_from(["\n", "\r\n", "\r"])),
        preamble=draw(st.sampled_from([(), ("sep",), ("Report", "", "Page 1")])),
        repeats_header=draw(st.booleans()),
        footer=draw(st.sampled_from(["", "total", "remark"])),
        trailing_delimiter=draw(st.booleans()),
        record_padding=draw(st.booleans()),
        encoding=encoding,
        # stray bytes behind the end mark need not be whole characters of a wide encoding
        dos_sector=encoding in {"cp1252", "cp850", "mac_roman"} and draw(st.booleans()),
        wraps=tuple(draw(st.lists(st.sampled_from(["gzip", "zlib", "bz2", "xz", "base64", "hex"]), max_size=3))),
    )


@given(st.integers(0, 2**32), dialects())
def test_the_oracle_repairs_any_mixture_of_damages(seed: int, dialect: Dialect) -> None:
    table = make_table(Random(seed), "stock", "western")
    data, truth = damage(table, dialect, Random(seed))
    workspace = Workspace(data, truth.schema, lambda made: same(made, truth))
    assert solved(workspace, best_actions(dialect))


def test_every_placeholder_of_the_menu_is_told_from_a_value() -> None:
    table = make_table(Random(1), "tickets", "western")
    for null in NULLS:
        dialect = Dialect(null=null, delimiter="tab", quoting="none")
        data, truth = damage(table, dialect, Random(1))
        workspace = Workspace(data, truth.schema, lambda made, truth=truth: same(made, truth))  # type: ignore[misc]
        assert solved(workspace, best_actions(dialect))
