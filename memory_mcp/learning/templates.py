"""Error texts as templates, so that the same kind of error is recognised with other values in it."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

MAX_TEMPLATE = 200
_MAX_LINE = 1_000

# an apostrophe inside a word (can't, user's) neither opens nor closes a quotation
_QUOTED = re.compile(r"(?<!\w)(?:'([^'\n]*)'|\"([^\"\n]*)\"|`([^`\n]*)`)(?!\w)")
_NAME = r"[\w.@+-]+"
_FIRST = r"(?<![\w.@+\-\\/])"
_MASKS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.I), "<hex>"),
    (re.compile(r"\b\w+://[^\s'\"]+"), "<url>"),
    (re.compile(rf"{_FIRST}(?:[A-Za-z]:)?(?:[\\/]{_NAME}){{2,}}[\\/]?"), "<path>"),
    (re.compile(rf"{_FIRST}(?:{_NAME}[\\/])+[\w@+-]+\.[A-Za-z][\w.]*"), "<path>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b", re.I), "<hex>"),
)
# numbers that name a kind of error are no values: HTTP 404, exit code 127, [Errno 13], status: 503
_NUMBER = re.compile(r"(?P<code>\b(?:HTTP\w*|status|code|errno)\b(?:[ /:=]{0,2}code)?[ :=]{0,2}\d{1,3}\b)|\d+", re.I)
_SPACE = re.compile(r"\s+")
_ERROR_NAME = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit|Timeout|Failure))\b")
_SHAPE_RUN = re.compile(r"(?:w ?)+")
_MARK = re.compile(r"<\w+>")
_WORD = re.compile(r"[^\W\d_]{2,}")
_TRACEBACK = "Traceback (most recent call last)"
_SAYS_NOTHING = re.compile(r"^(?:exit code|exited with|error:?$|command failed|traceback)", re.I)


def telling_line(message: str) -> str:
    """The line of an error text that says what went wrong.

    Of a Python traceback that is the exception at its end; otherwise the first line that is more than an exit code.
    """
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if not lines:
        return ""
    if _TRACEBACK in message:
        named = [line for line in lines if _ERROR_NAME.match(line)]
        if named:
            return named[-1]
    return next((line for line in lines if not _SAYS_NOTHING.match(line)), lines[0])


@lru_cache(maxsize=256)
def template(message: str) -> str:
    """The telling line of an error with its values masked.

    Numbers, ids and paths become marks; quoted text is reduced to its shape (letters `w`, digits `n`, punctuation
    kept), because shapes such as `'n.n,n'` tell a decimal comma from a date while the values themselves never repeat.
    """
    line = unicodedata.normalize("NFC", telling_line(message)[:_MAX_LINE])
    line = _QUOTED.sub(lambda match: f"'{_shape(match[1] or match[2] or match[3] or '')}'", line)
    for pattern, mark in _MASKS:
        line = pattern.sub(mark, line)
    line = _NUMBER.sub(lambda match: match["code"] or "<n>", line)
    return _SPACE.sub(" ", line)[:MAX_TEMPLATE]


def error_name(message: str) -> str:
    """The exception's name at the beginning of an error text, or an empty text."""
    match = _ERROR_NAME.match(telling_line(message))
    return match[1] if match else ""


def words_of(line: str) -> frozenset[str]:
    """The words of a template, without its marks."""
    return frozenset(_WORD.findall(_MARK.sub(" ", line.casefold())))


def _shape(text: str) -> str:
    letters = re.sub(r"[^\W\d_]+", "w", text)
    digits = re.sub(r"\d+", "n", letters)
    spaced = _SPACE.sub(" ", digits).strip()
    return _SHAPE_RUN.sub("w", spaced)[:24]
