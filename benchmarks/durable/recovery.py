"""From the start of a new server to its first answer, after the last one was killed while it was writing."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import Wire, quantiles
from benchmarks.durable import seeding
from benchmarks.durable.load import OUTPUT

_BUSY_SECONDS = 1.0
_FIRST = {
    "query_memory": {"query": "How did we fix the search index when it times out under load?"},
    "get_episode": {"episode_id": "synthetic:7"},
}


def run(sizes: list[int], runs: int) -> dict[str, Any]:
    told: dict[str, Any] = {"note": seeding.NOTE}
    targets = {}
    for size in sizes:
        with tempfile.TemporaryDirectory() as directory:
            data = Path(directory) / "data"
            found: dict[str, Any] = {"seeding": seeding.seed(data, size)}
            for tool, arguments in _FIRST.items():
                seconds = [_once(data, tool, arguments) for _ in range(runs)]
                found[f"{tool}_s"] = quantiles(seconds, unit=1.0)
                targets[f"{size} episodes, {tool} <= 2 s"] = found[f"{tool}_s"]["p50"] <= 2
        told[f"{size} episodes"] = found
    return {**told, "targets": targets}


def _once(data: Path, tool: str, arguments: dict[str, Any]) -> float:
    """Kill a server that writes; the seconds that the next one needs from its start to an answer."""
    wire = Wire(data, "--embedder", "none")
    wire.initialize()
    episode = wire.call("create_episode", task_description="write until the end")["episode_id"]
    until = time.perf_counter() + _BUSY_SECONDS
    number = 0
    while time.perf_counter() < until and number < 900:
        wire.call("add_episode_step", episode_id=episode, tool="t", result={"output": OUTPUT})
        number += 1
    # one that is under way
    assert wire.process.stdin is not None
    call = b'{"jsonrpc":"2.0","id":"x","method":"tools/call","params":{"name":"add_episode_step","arguments":'
    wire.process.stdin.write(call + f'{{"episode_id":"{episode}","tool":"last"}}}}}}\n'.encode())
    wire.process.stdin.flush()
    wire.process.kill()
    wire.process.wait()
    started = time.perf_counter()
    wire = Wire(data, "--embedder", "none")
    wire.initialize()
    wire.call(tool, **arguments)
    took = time.perf_counter() - started
    steps = wire.call("get_episode", episode_id=episode, token_budget=1_000_000, fields=["episode_id", "steps"])[
        "steps"
    ]
    if len(steps) - number not in (0, 1):
        raise RuntimeError(f"{number} steps were acknowledged and {len(steps)} are there")
    wire.close()
    return took
