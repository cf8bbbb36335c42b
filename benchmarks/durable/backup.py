"""A backup of a big store while somebody writes, and what the writer notices of it."""

from __future__ import annotations

import json
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.common import PROGRAM, quantiles
from benchmarks.durable import seeding
from benchmarks.durable.load import Client, drive, peers


def run(episodes: int, quiet_seconds: float) -> dict[str, Any]:
    """Raises RuntimeError where `memory-mcp backup create` does not succeed."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        seeded = seeding.seed(data, episodes)
        with peers(data, 1) as servers:
            client = Client(servers[0], 1)
            drive([client], 0.5)
            drive([client], quiet_seconds)
            quiet = quantiles(client.times)
            done: dict[str, Any] = {}
            thread = threading.Thread(target=_backup, args=(data, done))
            thread.start()
            meanwhile: list[float] = []
            while thread.is_alive():
                drive([client], 0.25)
                meanwhile += client.times
            thread.join()
    if done["code"] != 0:
        raise RuntimeError(f"memory-mcp backup create failed: {done['stderr'][-2000:]}")
    busy = quantiles(meanwhile)
    return {
        "note": seeding.NOTE,
        "seeding": seeded,
        "backup_s": round(done["seconds"], 2),
        "told": json.loads(done["stdout"]),
        "step_ms_without": quiet,
        "step_ms_meanwhile": busy,
        "targets": {"writer's p99 <= 50 ms more": busy["p99"] <= quiet["p99"] + 50},
    }


def _backup(data: Path, done: dict[str, Any]) -> None:
    started = time.perf_counter()
    command = [str(PROGRAM), "backup", "create", "--data-dir", str(data)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    done.update(code=told.returncode, stdout=told.stdout, stderr=told.stderr, seconds=time.perf_counter() - started)
