"""Bytes written for a step, against the bytes of the step."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.durable.load import OUTPUT, Client, Peer, drive, peers


def run(seconds: float) -> dict[str, Any]:
    """With one step per call and with ten; skipped where the kernel does not count what a process writes."""
    if not Path("/proc/self/io").exists():
        return {"skipped": "this platform does not count what a process writes"}
    return {f"{rows} per call": _measure(rows, seconds) for rows in (1, 10)}


def _measure(rows: int, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "data"
        with peers(data, 1) as servers:
            client = Client(servers[0], rows)
            drive([client], 0.5)
            written, size, calls = _written(servers[0]), _size(data), client.calls
            drive([client], seconds)
            steps = (client.calls - calls) * rows
            written, grown = _written(servers[0]) - written, _size(data) - size
        # closing moves the log into the database
        final = _size(data) - size
    return {
        "steps": steps,
        "output_bytes_per_step": len(OUTPUT),
        "written_bytes_per_step": round(written / steps),
        "amplification": round(written / steps / len(OUTPUT), 1),
        "file_growth_per_step": round(grown / steps),
        "file_growth_per_step_after_closing": round(final / steps),
    }


def _written(peer: Peer) -> int:
    lines = Path(f"/proc/{peer.process.pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["write_bytes"])


def _size(data: Path) -> int:
    # blocks, because files of LMDB have holes
    return sum(path.stat().st_blocks * 512 for path in data.rglob("*") if path.is_file())
