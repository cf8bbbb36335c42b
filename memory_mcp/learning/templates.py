"""Error texts as templates, so that the same kind of error is recognised with other values in it."""

from __future__ import annotations

import re

MAX_TEMPLATE = 200

_QUOTED = re.compile(r"'([^'\n]*)'|\"([^\"\n]*)\"|`([^`\n]*)`")
_MASKS = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.I), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.I), "<hex>"),
    (re.compile(r"(?:[A-Za-z]:)?(?:[\\/][\w.@+-]+){2,}[\\/]?"), "<path>"),
    (re.compile(r"\b(?=[0-9a-f]*\d)[0-9a-f]{12,}\b", re.I), "<hex>"),
    (re.compile(r"\d+"), "<n>"),
)
_SPACE = re.compile(r"\s+")
_ERROR_NAME = re.compile(r"^([A-Za-z_][\w.]*(?:Error|Exception|Warning|Interrupt|Exit|Timeout|Failure))\b")
_SHAPE_RUN = re.compile(r"(?:w ?)+")


def template(message: str) -> str:
    """The first line of an error with its values masked.

    Numbers, ids and paths become marks; quoted text is reduced to its shape (letters `w`, digits `n`, punctuation
    kept), because shapes such as `'n.n,n'` tell a decimal comma from a date while the values themselves never repeat.
    """
    lines = message.strip().splitlines()
    line = lines[0][:1_000] if lines else ""
    line = _QUOTED.sub(lambda match: f"'{_shape(match[1] or match[2] or match[3] or '')}'", line)
    for pattern, mark in _MASKS:
        line = pattern.sub(mark, line)
    return _SPACE.sub(" ", line)[:MAX_TEMPLATE]


def error_name(message: str) -> str:
    """The exception's name at the beginning of an error text, or an empty text."""
    match = _ERROR_NAME.match(message.strip())
    return match[1] if match else ""


def _shape(text: str) -> str:
    letters = re.sub(r"[^\W\d_]+", "w", text)
    digits = re.sub(r"\d+", "n", letters)
    spaced = _SPACE.sub(" ", digits).strip()
    return _SHAPE_RUN.sub("w", spaced)[:24]
