"""Error texts of the same kind have the same template, and no text takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memory_mcp.learning.templates import MAX_TEMPLATE, error_name, telling_line, template


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("line 12: expected 3 fields, saw 5", "line 7: expected 10 fields, saw 2"),
        ("FileNotFoundError: '/srv/app/a.py'", "FileNotFoundError: '/home/me/b/c.txt'"),
        ("cannot read src/login.py:12", "cannot read lib/users/api.py:340"),
        ("can't open 'data.csv' for user's sake", "can't open 'x.csv' for user's sake"),
        ("no row 123e4567-e89b-12d3-a456-426614174000", "no row 00000000-0000-4000-8000-0123456789ab"),
        ("object at 0x7f1b44e5ea00", "object at 0xDEADBEEF"),
        ("GET https://example.com/a?b=1 failed", "GET http://other.org/x failed"),
        ('unknown column "price"', 'unknown column "amount"'),
        ("unknown column `price`", "unknown column 'amount'"),
        ("Pfad „C:\\Users\\me\\a.txt“ fehlt", "Pfad „C:\\Users\\you\\b\\c.txt“ fehlt"),
        ("café déjà 3", "cafe\u0301 de\u0301ja\u0300 4"),
        ("第3行にエラー", "第17行にエラー"),
    ],
)
def test_other_values_do_not_make_another_error(one: str, other: str) -> None:
    assert template(one) == template(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("HTTP 404", "HTTP 503"),
        ("HTTPError: 404 for url https://a.b/c", "HTTPError: 503 for url https://a.b/c"),
        ("process ended with exit code 1", "process ended with exit code 137"),
        ("[Errno 2] '/a/b'", "[Errno 13] '/a/b'"),
        ("status: 401", "status: 500"),
        ("could not convert '1.234,56'", "could not convert '2024-01-02'"),
        ("KeyError: 'user_id'", "KeyError: 'user id'"),
    ],
)
def test_what_tells_kinds_of_errors_apart_is_kept(one: str, other: str) -> None:
    assert template(one) != template(other)


def test_of_a_traceback_the_exception_at_its_end_tells() -> None:
    text = 'Traceback (most recent call last):\n  File "a.py", line 3, in <module>\n    f()\nValueError: bad 7\n'
    assert template(text) == "ValueError: bad <n>"
    assert error_name(text) == "ValueError"


def test_an_exit_code_does_not_hide_what_went_wrong() -> None:
    assert template("Exit code 1\n\nfatal: no such ref") == "fatal: no such ref"
    assert template("Exit code 1") == "Exit code 1"


@pytest.mark.parametrize(
    ("message", "name"),
    [
        ("json.decoder.JSONDecodeError: Expecting value", "json.decoder.JSONDecodeError"),
        ("Error: no reservation", ""),
        ("the ValueError was caught", ""),
        ("", ""),
        ("KeyboardInterrupt", "KeyboardInterrupt"),
    ],
)
def test_the_name_of_an_exception_is_known_where_it_stands_first(message: str, name: str) -> None:
    assert error_name(message) == name


@given(st.text(max_size=300))
def test_a_template_is_one_short_line_and_its_own_template_is_stable(message: str) -> None:
    made = template(message)
    assert len(made) <= MAX_TEMPLATE
    assert "\n" not in made
    assert made == template(message)
    assert telling_line(message) == telling_line(telling_line(message))


HOSTILE = [
    "a", "'", '"', "`", "/", "\\", "/a", "a/", "a.", '"a', "a'b", "C:", "0", "0a", "0x", "-", "_", "(", " ", "w ", "\t",
    "code ", "HTTP ", "a://", "Error", ".Error", "a.Error ", "\u0301", "é", "日", "\n", "\r\n", "x\n", "aError\n",
]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
@pytest.mark.parametrize("start", ["", "Traceback (most recent call last)\n"])
def test_no_text_of_ten_thousand_characters_takes_long(unit: str, start: str) -> None:
    text = start + (unit * 10_000)[:10_000]
    fastest = min(timed(text) for _ in range(3))
    # a millisecond on an idle machine; what is not linear takes seconds
    assert fastest < 0.05


def timed(text: str) -> float:
    begin = time.perf_counter()
    template.__wrapped__(text)
    error_name(text)
    return time.perf_counter() - begin
