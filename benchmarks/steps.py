"""`add_episode_step` acknowledged durable over stdio, one at a time.

Baseline in the same run, taken in turns with it: one row committed by bare SQLite with synchronous=FULL, in the same
file system and with a row of the same size.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlite

from benchmarks.common import quantiles, server

ROUNDS = 20
STEPS = 30
OUTPUT = "the quick brown fox jumps over the lazy dog " * 20


def run() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        bare = sqlite.connect(str(Path(directory) / "bare.db"), isolation_level=None)
        bare.execute("PRAGMA journal_mode = WAL").fetchall()
        bare.execute("PRAGMA synchronous = FULL")
        bare.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        ours, theirs = [], []
        with server(Path(directory) / "data") as wire:
            wire.wait_until_ready()
            for _ in range(ROUNDS):
                episode = wire.call("create_episode", task_description="measure the cost of a durable step")
                for number in range(STEPS):
                    started = time.perf_counter()
                    bare.execute("INSERT INTO t (body) VALUES (?)", (OUTPUT,))
                    theirs.append(time.perf_counter() - started)
                    started = time.perf_counter()
                    wire.call(
                        "add_episode_step",
                        episode_id=episode["episode_id"],
                        tool="read_file",
                        parameters={"path": f"src/{number}.py"},
                        result={"type": "success", "output": OUTPUT},
                    )
                    ours.append(time.perf_counter() - started)
        bare.close()
    step, commit = quantiles(ours), quantiles(theirs)
    return {
        "add_episode_step": step,
        "bare_sqlite_full_commit": commit,
        "targets": {
            "p50 <= 8 ms": step["p50"] <= 8,
            "p50 <= 3 x bare + 2 ms": step["p50"] <= 3 * commit["p50"] + 2,
        },
    }
