"""What a match shows: success curves with intervals, their difference, and steps per task."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from statistics import mean

from memory_mcp.evaluation.workbench.match import Attempt, Match
from memory_mcp.records.base import Json

RESAMPLES = 4_000
_Z = 1.96


def wilson(successes: int, count: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927); the whole of 0..1 where there is nothing to count."""
    if not count:
        return 0.0, 1.0
    share = successes / count
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def paired_difference(ours: Sequence[float], theirs: Sequence[float], seed: int = 1) -> tuple[float, float, float]:
    """`(difference of the means, low, high)`: 95 % percentile bootstrap over pairs (Efron and Tibshirani 1993)."""
    pairs = [a - b for a, b in zip(ours, theirs, strict=True)]
    rng = Random(seed)
    means = sorted(mean(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    return mean(pairs), means[round(0.025 * RESAMPLES)], means[round(0.975 * RESAMPLES) - 1]


def blocks(attempts: Sequence[Attempt], count: int) -> list[Json]:
    """Success in consecutive blocks of the run: `{from, to, success, low, high, steps}`."""
    found = []
    for number in range(count):
        first, last = number * len(attempts) // count, (number + 1) * len(attempts) // count
        part = attempts[first:last]
        successes = sum(attempt.succeeded for attempt in part)
        low, high = wilson(successes, len(part))
        found.append(
            {
                "from": first + 1,
                "to": last,
                "success": successes / len(part),
                "low": low,
                "high": high,
                "steps": mean(attempt.steps for attempt in part),
            }
        )
    return found


def summary(match: Match, count: int = 6) -> Json:
    """Both curves in `count` blocks, the difference over all tasks and over the last third, and steps per task."""
    total = len(match.with_memory)
    end = slice(total - total // 3, total)
    return {
        "tasks_per_arm": total,
        "families": match.families,
        "tool_calls": match.calls,
        "with_memory": blocks(match.with_memory, count),
        "without_memory": blocks(match.without, count),
        "success_difference": _difference(match, slice(0, total), "succeeded"),
        "success_difference_at_the_end": _difference(match, end, "succeeded"),
        "steps_difference_at_the_end": _difference(match, end, "steps"),
        "success_at_the_end": {
            "with_memory": mean(attempt.succeeded for attempt in match.with_memory[end]),
            "without_memory": mean(attempt.succeeded for attempt in match.without[end]),
        },
        "lessons": {
            "failed_steps": match.failed_steps,
            "answered": match.answered_steps,
            "followed": len(match.lessons),
            "worked": sum(lesson.worked for lesson in match.lessons),
        },
    }


def _difference(match: Match, part: slice, name: str) -> Json:
    ours = [float(getattr(attempt, name)) for attempt in match.with_memory[part]]
    theirs = [float(getattr(attempt, name)) for attempt in match.without[part]]
    value, low, high = paired_difference(ours, theirs)
    return {"value": value, "low": low, "high": high, "pairs": len(ours)}


def picture(told: Json) -> str:
    """The two success curves with their intervals as an SVG drawing."""
    width, height, left, top, right, bottom = 640, 360, 56, 34, 16, 48
    inner_width, inner_height = width - left - right, height - top - bottom
    total = told["tasks_per_arm"]

    def x(task: float) -> float:
        return float(left + inner_width * task / total)

    def y(share: float) -> float:
        return float(top + inner_height * (1 - share))

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        f'<text x="{left}" y="20" font-size="14">Share of tasks solved, {total} tasks, {told["families"]} kinds of'
        " damage (bands: 95 %)</text>",
    ]
    for share in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y(share):.1f}" y2="{y(share):.1f}" stroke="#ddd"/>')
        parts.append(f'<text x="{left - 8}" y="{y(share) + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for block in told["with_memory"]:
        parts.append(f'<text x="{x(block["to"]):.1f}" y="{height - 28}" text-anchor="middle">{block["to"]}</text>')
    parts.append(f'<text x="{left + inner_width / 2}" y="{height - 8}" text-anchor="middle">task</text>')
    for arm, colour, name in (
        ("without_memory", "#888888", "without memory"),
        ("with_memory", "#0a7d4f", "with memory"),
    ):
        points = [((block["from"] + block["to"]) / 2, block) for block in told[arm]]
        band = [f"{x(at):.1f},{y(block['high']):.1f}" for at, block in points]
        band += [f"{x(at):.1f},{y(block['low']):.1f}" for at, block in reversed(points)]
        line = " ".join(f"{x(at):.1f},{y(block['success']):.1f}" for at, block in points)
        parts.append(f'<polygon points="{" ".join(band)}" fill="{colour}" opacity="0.15"/>')
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2.5"/>')
        last, block = points[-1]
        parts.append(
            f'<text x="{x(last):.1f}" y="{y(block["success"]) - 8:.1f}" text-anchor="middle"'
            f' fill="{colour}">{name}</text>'
        )
    parts.append("</svg>")
    return "\n".join(parts)
