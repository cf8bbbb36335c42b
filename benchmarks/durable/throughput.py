"""Durable steps a second through the real stdio door, with one, eight and 32 clients, and what bare SQLite does."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import quantiles
from benchmarks.durable import bare
from benchmarks.durable.load import OUTPUT, Client, cpu_seconds, drive, peers

TOPOLOGIES = ("a server for each", "one server for all")
ROWS = (1, 10)


def run(clients: list[int], seconds: float) -> dict[str, Any]:
    told: dict[str, Any] = {
        "driver": "one thread of bare JSON-RPC for all clients; the official client would use most of two cores",
        "output_bytes_per_step": len(OUTPUT),
    }
    targets = {}
    for topology in TOPOLOGIES:
        for count in clients:
            for rows in ROWS:
                found = measure(topology, count, rows, seconds)
                told.setdefault(topology, {})[f"{count} clients, {rows} per call"] = found
                if count == 32:
                    name = f"{topology}, 32 clients, {rows} per call"
                    targets[f"{name}: >= 500 steps/s"] = found["steps_per_s"] >= 500
                    targets[f"{name}: >= 60 % of bare SQLite"] = found["of_bare_sqlite"] >= 0.6
    return {**told, "targets": targets}


def measure(topology: str, count: int, rows: int, seconds: float) -> dict[str, Any]:
    """Steps a second, milliseconds per call, shares of the clients, and who used the processors."""
    alone = topology == TOPOLOGIES[0]
    with tempfile.TemporaryDirectory() as directory, peers(Path(directory) / "data", count if alone else 1) as servers:
        clients = [Client(servers[number % len(servers)], rows) for number in range(count)]
        # so that every server is open and warm before anything is counted
        drive(clients, 0.5)
        before, own = cpu_seconds(servers), time.process_time()
        calls_before = [client.calls for client in clients]
        took = drive(clients, seconds)
        calls = [client.calls - known for client, known in zip(clients, calls_before, strict=True)]
        used, driver = cpu_seconds(servers) - before, time.process_time() - own
        times = [value for client in clients for value in client.times]
    reference = (bare.processes if alone else bare.threads)(count, min(seconds, 3.0), rows)
    rate = sum(calls) * rows / took
    return {
        "steps_per_s": round(rate, 1),
        "call_ms": quantiles(times),
        "least_share": round(min(calls) * count / max(1, sum(calls)), 3),
        "bare_sqlite": reference,
        "of_bare_sqlite": round(rate / reference["steps_per_s"], 3),
        "cores_used": {"servers": round(used / took, 2), "driver": round(driver / took, 2)},
    }
