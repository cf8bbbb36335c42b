"""The tools run on real bytes, and their errors are those of the standard library."""

from __future__ import annotations

import base64
import bz2
import csv
import gzip
import lzma
import zlib
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.evaluation.workbench.menu import TOOLS, Action, choose, usual
from memory_mcp.evaluation.workbench.tables import Column, Table
from memory_mcp.evaluation.workbench.tasks import make_task
from memory_mcp.evaluation.workbench.tools import LIBRARY_ERRORS, UNCHANGED, ToolResult, Workspace, tools

SCHEMA = (Column("name", "text"), Column("amount", "decimal"), Column("pieces", "integer"), Column("day", "date"))
CLEAN = "name,amount,pieces,day\nZoë,1.50,7,2024-03-09\n"
EVERY_ACTION = [action for spec in tools() if spec.name != "convert" for action in spec.actions()] + [
    usual("convert"),
    usual("convert", decimal="comma", thousands="dot", date_format="%d/%m/%Y"),
]


def workspace(data: bytes | str) -> Workspace:
    return Workspace(data.encode() if isinstance(data, str) else data, SCHEMA, lambda table: False)


def run(space: Workspace, *tool_names: str) -> ToolResult:
    results = [space.call(tool) for tool in tool_names]
    return results[-1]


def raised(operation: Callable[[], object]) -> BaseException:
    with pytest.raises(LIBRARY_ERRORS) as caught:
        operation()
    return caught.value


def in_columns(text: str, separator: str = ",") -> str:
    return separator.join(column.name for column in SCHEMA) + "\n" + text


@pytest.mark.parametrize(
    ("data", "call", "operation"),
    [
        (b"\xe9t\xe9", usual("decode"), lambda: b"\xe9t\xe9".decode("utf-8")),
        (b"\x81", usual("decode", encoding="cp1252"), lambda: b"\x81".decode("cp1252")),
        (b"abc", usual("decode", encoding="utf-16-le"), lambda: b"abc".decode("utf-16-le")),
        (b"id,x", usual("unpack", codec="gzip"), lambda: gzip.decompress(b"id,x")),
        (b"id,x", usual("unpack", codec="zlib"), lambda: zlib.decompress(b"id,x")),
        (b"id,x", usual("unpack", codec="bz2"), lambda: bz2.decompress(b"id,x")),
        (b"id,x", usual("unpack", codec="xz"), lambda: lzma.decompress(b"id,x")),
        (b"id,x", usual("unpack", codec="base64"), lambda: base64.b64decode(b"id,x", validate=True)),
        (b"id,x", usual("unpack", codec="hex"), lambda: bytes.fromhex("id,x")),
        (b"id,x", usual("salvage", codec="gzip"), lambda: zlib.decompressobj(wbits=31).decompress(b"id,x")),
    ],
)
def test_errors_on_bytes_are_the_exceptions_of_the_library(
    data: bytes, call: Action, operation: Callable[[], object]
) -> None:
    error = raised(operation)
    result = workspace(data).call(call.tool, call.parameters)
    assert not result.ok
    assert result.error_type.split(".")[-1] == type(error).__name__
    assert result.error_message == str(error)


@pytest.mark.parametrize(
    ("row", "operation"),
    [
        ("Zoë,1,7,09.03.2024", lambda: datetime.strptime("09.03.2024", "%Y-%m-%d")),  # noqa: DTZ007
        ("Zoë,1,7 000,2024-03-09", lambda: int("7 000")),
        ('Zoë,"1,5",7,2024-03-09', lambda: Decimal("1,5")),
    ],
)
def test_errors_of_conversion_are_the_exceptions_of_the_library(row: str, operation: Callable[[], object]) -> None:
    error = raised(operation)
    result = run(workspace(in_columns(row)), "decode", "parse", "convert")
    assert not result.ok
    assert result.error_type.split(".")[-1] == type(error).__name__
    assert result.error_message == str(error)
    assert "row 1, column" in result.output


@pytest.mark.parametrize("row", ['a,"b "c" d",1,x', 'a,"b', "a,b\rc,d"])
def test_errors_of_parsing_are_the_exceptions_of_the_library(row: str) -> None:
    text = in_columns(row)
    error = raised(lambda: list(csv.reader(text.split("\n"), strict=True)))
    result = run(workspace(text), "decode", "parse")
    assert (result.error_type, result.error_message) == ("_csv.Error", str(error))


def test_a_truncated_archive_says_so_and_can_be_salvaged() -> None:
    packed = gzip.compress(CLEAN.encode() * 40, mtime=0)[:-9]
    space = workspace(packed)
    assert space.call("unpack", {"codec": "gzip"}).error_type == "EOFError"
    assert space.call("salvage", {"codec": "gzip"}).ok
    assert space.call("decode").ok


def test_a_wrong_header_is_reported_with_what_was_seen() -> None:
    result = run(workspace("name;amount;pieces;day\n"), "decode", "parse")
    assert result.error_type == "ValueError"
    assert "0 of 4 columns named in a first line of 1 fields: ['name;amount;pieces;day']" in result.error_message


def test_a_row_of_another_length_is_reported_with_its_line() -> None:
    result = run(workspace(in_columns("a,1,2\n")), "decode", "parse")
    assert result.text == "ValueError: line 2: expected 4 fields, saw 3: ['a', '1', '2']"


def test_a_header_without_rows_is_no_table() -> None:
    assert "no rows" in run(workspace(in_columns("")), "decode", "parse").error_message


@pytest.mark.parametrize(("tool", "lack"), [("parse", "no text"), ("convert", "no rows"), ("submit", "no typed table")])
def test_a_tool_out_of_turn_says_what_is_lacking(tool: str, lack: str) -> None:
    assert lack in workspace(CLEAN).call(tool).error_message


@pytest.mark.parametrize(
    ("tool", "parameters"),
    [
        ("format_disk", {}),
        ("decode", {"encoding": "klingon"}),
        ("decode", {"codec": "gzip"}),
        ("parse", {"quoting": 3}),
    ],
)
def test_a_call_that_the_menu_does_not_have_is_refused(tool: str, parameters: dict[str, object]) -> None:
    result = workspace(CLEAN).call(tool, parameters)
    assert result.error_type == "ValueError"
    assert "no such call" in result.error_message


def test_a_failed_call_leaves_the_work_as_it_was() -> None:
    space = workspace(CLEAN)
    run(space, "decode", "parse")
    assert not space.call("unpack", {"codec": "gzip"}).ok
    assert not space.call("repair_mojibake").ok
    assert not space.call("parse", {"delimiter": "pipe"}).ok
    assert space.call("convert").ok


@pytest.mark.parametrize(("again", "parameters"), [("decode", {"encoding": "cp1252"}), ("restart", {})])
def test_an_earlier_tool_discards_the_later_results(again: str, parameters: dict[str, str]) -> None:
    space = workspace(CLEAN)
    run(space, "decode", "parse", "convert")
    assert space.call(again, parameters).ok
    assert not space.call("convert").ok
    assert not space.call("submit").ok


def test_a_tool_that_changes_nothing_says_so_and_keeps_the_later_results() -> None:
    space = workspace(CLEAN)
    run(space, "decode", "parse", "convert")
    for tool in ("drop_repeated_headers", "mend_quotes", "strip_line_tails", "convert"):
        assert space.call(tool).output.startswith(UNCHANGED)
    assert space.call("submit").output == "rejected"


def test_submit_says_accepted_or_rejected_and_nothing_else() -> None:
    task = make_task("t", "city_library", Random(1))
    space = task.open()
    for tool in ("decode", "parse", "convert"):
        assert space.call(tool).ok
    assert (space.call("submit").text, space.accepted) == ("accepted", True)

    wrong = Workspace(task.data, task.schema, lambda table: False)
    result = run(wrong, "decode", "parse", "convert", "submit")
    assert (result.ok, result.text, wrong.accepted) == (False, "rejected", False)


def test_latency_is_taken_from_the_clock() -> None:
    ticks = count()
    space = Workspace(CLEAN.encode(), SCHEMA, lambda table: False, clock=lambda: float(next(ticks)))
    assert space.call("decode").latency_ms == 1000
    assert space.call("unpack").latency_ms == 1000


def test_the_menu_is_finite_and_described() -> None:
    assert [spec.name for spec in tools()] == list(TOOLS)
    for spec in tools():
        assert spec.description
        assert all(values and len(set(values)) == len(values) for values in spec.menu.values())
        assert all(choose(action.tool, action.parameters) == action for action in spec.actions())


@given(
    st.one_of(st.binary(max_size=300), st.text(max_size=200).map(str.encode), st.just(CLEAN.encode())),
    st.lists(st.sampled_from(EVERY_ACTION), max_size=12),
)
def test_whatever_the_bytes_the_answers_are_short_and_storable(data: bytes, actions: list[Action]) -> None:
    space = workspace(data)
    for action in actions:
        result = space.call(action.tool, action.parameters)
        for text in (result.text, result.output, result.error_message):
            assert len(text) < 400
            assert "\0" not in text
            text.encode()
        assert result.ok or result.text


def test_acceptance_is_the_judgement_of_whoever_set_the_task() -> None:
    seen: list[Table] = []

    def judge(table: Table) -> bool:
        seen.append(table)
        return len(seen) == 2

    space = Workspace(CLEAN.encode(), SCHEMA, judge)
    assert not run(space, "decode", "parse", "convert", "submit").ok
    assert space.call("submit").ok
    assert seen[0].rows[0][0] == "Zoë"
