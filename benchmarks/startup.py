"""Process start to the answers of `initialize`, `tools/list`, `health_check` and a first question by meaning.

Baseline in the same run: an interpreter that does nothing (`python -I -S -c pass`).
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import INITIALIZE, Wire, quantiles, seed_store

RUNS = 20


def one_start(data_dir: Path, *arguments: str) -> dict[str, float]:
    """Seconds from process start to each first answer."""
    times: dict[str, float] = {}
    started = time.perf_counter()
    wire = Wire(data_dir, *arguments)
    wire.request("initialize", INITIALIZE)
    times["initialize"] = time.perf_counter() - started
    wire.request("tools/list")
    times["tools_list"] = time.perf_counter() - started
    wire.call("health_check")
    times["health_check"] = time.perf_counter() - started
    answer = wire.call("query_memory", query="How did we fix the payment webhook when it timed out?")
    while answer["provenance"]["leg"] == "lexical":
        answer = wire.call("query_memory", query="How did we fix the payment webhook when it timed out?")
    times["query_by_meaning"] = time.perf_counter() - started
    closing = time.perf_counter()
    wire.close()
    times["exit_after_stdin_end"] = time.perf_counter() - closing
    return times


def bare() -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", "pass"], check=True)
    return time.perf_counter() - started


def run() -> dict[str, Any]:
    """All figures in milliseconds; ratios to the bare interpreter."""
    with tempfile.TemporaryDirectory() as directory:
        data_dir = Path(directory)
        asyncio.run(seed_store(data_dir, 200))
        one_start(data_dir)
        starts, bares = [], []
        for _ in range(RUNS):
            bares.append(bare())
            starts.append(one_start(data_dir))
        slow = [one_start(data_dir, "--no-fast-start") for _ in range(RUNS // 4)]
    baseline = quantiles(bares)
    answer: dict[str, Any] = {"bare_interpreter": baseline}
    for name in starts[0]:
        answer[name] = quantiles([start[name] for start in starts])
    answer["initialize_without_fast_start"] = quantiles([start["initialize"] for start in slow])
    answer["initialize_ratio_to_bare"] = round(answer["initialize"]["p50"] / baseline["p50"], 2)
    answer["targets"] = {
        "initialize p50 <= 60 ms": answer["initialize"]["p50"] <= 60,
        "initialize <= 5 x bare": answer["initialize_ratio_to_bare"] <= 5,
        "health_check <= 800 ms": answer["health_check"]["p50"] <= 800,
        "query by meaning <= 2 s": answer["query_by_meaning"]["p50"] <= 2000,
    }
    return answer
