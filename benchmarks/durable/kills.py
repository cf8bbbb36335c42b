"""What was acknowledged, and what is found, after servers were killed at random instants."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

CHECK_EVERY = 25


def run(kills: int, seed: int) -> dict[str, Any]:
    """The checker of `tests/durability`, as long as it is told to go on."""
    from tests.durability.killing import Run

    async def check() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            return await Run(Path(directory), seed=seed).run(kills, check_every=CHECK_EVERY)

    figures = asyncio.run(check())
    return {
        **figures,
        "seed": seed,
        "targets": {
            "found == acknowledged": figures["found"] == figures["acknowledged"] > 0,
            "nothing else is wrong": not figures["problems"],
            f"{kills} kills": figures["kills"] >= kills,
        },
    }
