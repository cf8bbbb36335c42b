"""What the default embedder costs, as JSON: start, memory, query latency, throughput, file size.

    .venv/bin/python benchmarks/embedder.py [--runs 5]

Every run is a process of its own; each figure is the median over the runs. Times hold for an idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

QUERY = "How did we fix the login timeout after the upgrade of the HTTP client?"
SHORT = "The agent ran the unit tests again, and two of them still failed with a timeout."  # 21 tokens
LONG = "The tool answered with a long report about files, errors and the steps that were taken. " * 10  # 182 tokens
QUERIES, SHORT_TEXTS, LONG_TEXTS = 300, 200, 40


def resident_mb() -> float:
    """Resident memory of this process in MB (2**20 bytes)."""
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**20


def peak_mb() -> float:
    """The most resident memory that this process ever had, in MB (2**20 bytes)."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def measure(started_at: float) -> dict[str, float]:
    """One run; `started_at` is the wall-clock time at which the parent started this process."""
    from memory_mcp.retrieval.embedders import create_embedder

    embedder = create_embedder("minilm")
    assert embedder is not None
    embedder.embed([QUERY])
    first_vector = time.time() - started_at
    memory_first = resident_mb()

    latencies = []
    for number in range(QUERIES):
        begin = time.perf_counter()
        embedder.embed([f"{QUERY} {number}"])
        latencies.append((time.perf_counter() - begin) * 1000)
    percentiles = statistics.quantiles(latencies, n=20)

    def texts_per_second(text: str, count: int) -> float:
        begin = time.perf_counter()
        embedder.embed([text] * count)
        return count / (time.perf_counter() - begin)

    short, long = texts_per_second(SHORT, SHORT_TEXTS), texts_per_second(LONG, LONG_TEXTS)
    before_idle = time.process_time()
    time.sleep(0.5)
    return {
        "start_to_first_vector_s": first_vector,
        "rss_after_first_vector_mb": memory_first,
        "rss_after_all_mb": resident_mb(),
        "rss_peak_mb": peak_mb(),
        "query_p50_ms": percentiles[9],
        "query_p95_ms": percentiles[18],
        "short_texts_per_s": short,
        "long_texts_per_s": long,
        "idle_cpu_percent": (time.process_time() - before_idle) / 0.5 * 100,
    }


def run_in_a_process() -> dict[str, float]:
    command = [sys.executable, __file__, "--started-at", repr(time.time())]
    finished = subprocess.run(command, capture_output=True, text=True, check=True)
    measured: dict[str, float] = json.loads(finished.stdout)
    return measured


def summary(runs: list[dict[str, float]]) -> dict[str, Any]:
    from memory_mcp.retrieval.embedders import minilm

    return {
        "benchmark": "embedder",
        "machine": {"cpus": os.cpu_count(), "machine": platform.machine(), "python": platform.python_version()},
        "runs": len(runs),
        "model_file_bytes": (Path(minilm.__file__).parent / "data" / "minilm-l6-v2.onnx").stat().st_size,
        "median": {name: round(statistics.median(run[name] for run in runs), 3) for name in runs[0]},
        "all": {name: [round(run[name], 3) for run in runs] for name in runs[0]},
    }


def run(runs: int = 5) -> dict[str, Any]:
    """All figures as `benchmarks/run.py` wants them."""
    return summary([run_in_a_process() for _ in range(runs)])


def main() -> None:
    parser = argparse.ArgumentParser(description="Measures the default embedder and prints JSON.")
    parser.add_argument("--runs", type=int, default=5, help="number of processes to measure")
    parser.add_argument("--started-at", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.started_at is not None:
        print(json.dumps(measure(arguments.started_at)))
    else:
        print(json.dumps(run(arguments.runs), indent=2))


if __name__ == "__main__":
    main()
