"""The workbench match: success with memory minus success without, through two real servers."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

from memory_mcp.evaluation.workbench.match import play_match
from memory_mcp.evaluation.workbench.report import summary
from memory_mcp.evaluation.workbench.tasks import make_tasks

SEEDS = (1, 2, 3, 4, 5)
TASKS = 120
FAMILIES = 12


def run() -> dict[str, Any]:
    """One match for each seed; every seed draws its own kinds of damage."""
    matches = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as directory:
            match = asyncio.run(play_match(make_tasks(seed, TASKS, FAMILIES), Path(directory), seed))
        matches.append({"seed": seed, **summary(match)})
    ends = [match["success_difference_at_the_end"] for match in matches]
    return {
        "mean_difference_at_the_end": mean(end["value"] for end in ends),
        "mean_difference": mean(match["success_difference"]["value"] for match in matches),
        "matches": matches,
        "targets": {
            "at the end >= +25 points (mean of seeds)": mean(end["value"] for end in ends) >= 0.25,
            "interval above zero at the end (every seed)": all(end["low"] > 0 for end in ends),
        },
    }
