"""Import of the 150 tau-bench episodes including learning and embedding, by the real command.

The log may not be part of the project: its directory is `MEMORY_MCP_SHARED_DATA` or `../shared/data`.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import PROGRAM, ROOT, quantiles

RUNS = 3


def run() -> dict[str, Any]:
    root = Path(os.environ.get("MEMORY_MCP_SHARED_DATA", ROOT.parent / "shared" / "data"))
    log = root / "agent" / "tau_bench" / "gpt-4o-airline.json"
    if not log.is_file():
        return {"skipped": "the tau-bench log is not on this machine (set MEMORY_MCP_SHARED_DATA)"}
    times = []
    for _ in range(RUNS):
        with tempfile.TemporaryDirectory() as directory:
            started = time.perf_counter()
            done = subprocess.run(
                [str(PROGRAM), "import", "tau-bench", str(log), "--data-dir", directory],
                capture_output=True,
                text=True,
                check=True,
            )
            times.append(time.perf_counter() - started)
            told = json.loads(done.stdout)
    seconds = quantiles(times, unit=1.0)
    return {"seconds": seconds, "imported": told, "targets": {"<= 30 s": seconds["p50"] <= 30}}
