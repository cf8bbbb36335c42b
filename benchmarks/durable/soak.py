"""Minutes of mixed load: whether memory and files keep growing once the first minutes are over.

Retention is what keeps the live data constant; its settings are given as environment, for instance
`--env MEMORY_MCP_RETENTION_…=…`. Without them the files grow with what is written, and only memory is judged.
"""

from __future__ import annotations

import random
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import Wire, synthetic_episode

SERVERS = 2
_PER_HOUR_FLAT = 0.5
"""Growth of the second half, as a share of the mean and run out to an hour, that still counts as flat."""


def run(seconds: float, every: float, environment: dict[str, str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        wires = [
            Wire(data, *(() if number == 0 else ("--embedder", "none")), **environment) for number in range(SERVERS)
        ]
        try:
            for wire in wires:
                wire.initialize()
            wires[0].wait_until_ready()
            samples, calls = _load(wires, data, seconds, every)
            metrics = wires[0].call("get_metrics")
        finally:
            for wire in wires:
                wire.close()
    second_half = samples[len(samples) // 2 :]
    slopes = {name: _slope(second_half, name) for name in ("rss_mb", "files_mb")}
    flat = {name: abs(slope["share_per_hour"]) <= _PER_HOUR_FLAT for name, slope in slopes.items()}
    judged = ("rss_mb", "files_mb") if environment else ("rss_mb",)
    return {
        "seconds": seconds,
        "environment": environment,
        "calls": calls,
        "live_episodes": metrics["episodes"]["total"],
        "samples": samples,
        "slopes_of_second_half": slopes,
        "judgement": {name: "flat" if level else "not flat" for name, level in flat.items()},
        "targets": {f"{name} is flat": flat[name] for name in judged},
    }


def _load(wires: list[Wire], data: Path, seconds: float, every: float) -> tuple[list[dict[str, float]], dict[str, int]]:
    rng = random.Random(5)
    samples: list[dict[str, float]] = []
    calls: dict[str, int] = {}
    started = time.perf_counter()
    number = 0
    while (passed := time.perf_counter() - started) < seconds:
        if passed >= every * len(samples):
            samples.append(_sample(wires, data, passed))
        _life(wires, rng, number, calls)
        number += 1
    samples.append(_sample(wires, data, time.perf_counter() - started))
    return samples, calls


def _life(wires: list[Wire], rng: random.Random, number: int, calls: dict[str, int]) -> None:
    """One episode, as agents live it: begun at one server, continued at whichever, with questions in between."""

    def call(tool: str, /, **arguments: Any) -> dict[str, Any]:
        calls[tool] = calls.get(tool, 0) + 1
        return rng.choice(wires).call(tool, **arguments)

    draft = synthetic_episode(rng, number)
    task = {name: draft[name] for name in ("task_description", "domain", "task_type")}
    episode = call("create_episode", **task)["episode_id"]
    for step in draft["steps"]:
        call("add_episode_step", episode_id=episode, **step)
    outcome = draft["outcome"]
    told = {name: outcome[name] for name in ("verdict", "reason") if name in outcome}
    call("complete_episode", episode_id=episode, outcome_type=outcome["type"], **told)
    call("query_memory", query=draft["task_description"])
    if number % 10 == 0:
        call("health_check")


def _sample(wires: list[Wire], data: Path, passed: float) -> dict[str, float]:
    resident = sum(psutil.Process(wire.process.pid).memory_info().rss for wire in wires)
    files = sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())
    return {"at_s": round(passed, 1), "rss_mb": round(resident / 1e6, 1), "files_mb": round(files / 1e6, 2)}


def _slope(samples: list[dict[str, float]], name: str) -> dict[str, float]:
    """Least squares: megabytes an hour, and as a share of the mean."""
    at = [sample["at_s"] for sample in samples]
    values = [sample[name] for sample in samples]
    middle, mean = sum(at) / len(at), sum(values) / len(values)
    spread = sum((x - middle) ** 2 for x in at)
    slope = sum((x - middle) * (y - mean) for x, y in zip(at, values, strict=True)) / spread if spread else 0.0
    return {"mb_per_hour": round(3600 * slope, 1), "share_per_hour": round(3600 * slope / mean, 3)}
