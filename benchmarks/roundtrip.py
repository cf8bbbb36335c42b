"""Round trips of `query_memory` over stdio, warm, with 200 and 10,000 episodes, and the memory of the idle server."""

from __future__ import annotations

import asyncio
import random
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import quantiles, questions, seed_store, server

SIZES = {200: 30, 10_000: 40}
QUERIES = 300


def measure(episodes: int) -> dict[str, Any]:
    """Milliseconds per question, and resident megabytes afterwards."""
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory)
        asyncio.run(seed_store(data_dir, episodes))
        with server(data_dir) as wire:
            wire.wait_until_ready()
            asked = questions(random.Random(7), QUERIES + 20)
            times = []
            for number, question in enumerate(asked):
                started = time.perf_counter()
                answer = wire.call("query_memory", query=question)
                if number >= 20:
                    times.append(time.perf_counter() - started)
                assert answer["provenance"]["leg"] == "hybrid"
            resident = psutil.Process(wire.process.pid).memory_info().rss / 1e6
        files = sum(path.stat().st_size for path in data_dir.rglob("*") if path.is_file())
    return {"milliseconds": quantiles(times), "resident_mb": round(resident, 1), "data_mb": round(files / 1e6, 1)}


def run() -> dict[str, Any]:
    answer: dict[str, Any] = {}
    targets = {}
    for size, limit in SIZES.items():
        answer[f"episodes_{size}"] = measured = measure(size)
        targets[f"p95 with {size} episodes <= {limit} ms"] = measured["milliseconds"]["p95"] <= limit
    targets["resident <= 250 MB"] = answer["episodes_200"]["resident_mb"] <= 250
    return {**answer, "targets": targets}
