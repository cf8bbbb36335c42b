"""The true best way to repair the files of a source. For tests and calibration only: no agent is shown it."""

from __future__ import annotations

from memory_mcp.evaluation.workbench.faults import Dialect
from memory_mcp.evaluation.workbench.menu import Action, usual


def best_actions(dialect: Dialect) -> list[Action]:
    """The shortest sequence of calls that ends with the truth handed in."""
    unwrap = [usual("unpack", codec=wrap) for wrap in reversed(dialect.wraps)]
    if dialect.truncated:
        unwrap[0] = usual("salvage", **unwrap[0].parameters)
    return [
        *unwrap,
        usual("decode", encoding=dialect.encoding),
        *_mending(dialect),
        usual(
            "parse",
            delimiter=dialect.delimiter,
            quoting="doubled" if dialect.quoting == "not_doubled" else dialect.quoting,
        ),
        usual(
            "convert",
            decimal=dialect.decimal,
            thousands=dialect.thousands,
            date_format=dialect.date_format,
            null=dialect.null,
        ),
        usual("submit"),
    ]


def _mending(dialect: Dialect) -> list[Action]:
    steps = [usual("repair_mojibake", via=encoding) for encoding in reversed(dialect.misread_as)]
    if dialect.dos_sector:
        steps.append(usual("strip_padding", what="after_end_mark"))
    if dialect.record_padding:
        steps.append(usual("strip_padding", what="nul"))
    if dialect.line_end == "\r":
        steps.append(usual("normalize_line_ends", style="carriage_return"))
    elif dialect.line_end == "\x85":
        steps.append(usual("normalize_line_ends", style="unicode"))
    elif dialect.line_end == "\\n":
        steps.append(usual("normalize_line_ends", style="spelt_out"))
    if dialect.preamble:
        steps.append(usual("skip_preamble", lines="until_columns" if len(dialect.preamble) > 1 else "1"))
    if dialect.trailing_delimiter:
        steps.append(usual("strip_line_tails"))
    if dialect.repeats_header:
        steps.append(usual("drop_repeated_headers"))
    if dialect.footer or dialect.truncated:
        steps.append(usual("drop_footer", lines="1"))
    if dialect.quoting == "not_doubled":
        steps.append(usual("mend_quotes"))
    return steps
