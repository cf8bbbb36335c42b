"""What the benchmarks share: a bare client on the wire, synthetic episodes, quantiles, and the manifest."""

from __future__ import annotations

import json
import os
import platform
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PROGRAM = Path(sys.executable).with_name("memory-mcp")

INITIALIZE = {
    "protocolVersion": "2025-11-25",
    "capabilities": {},
    "clientInfo": {"name": "benchmark", "version": "1"},
}


class Wire:
    """A client without an SDK: what it measures is the server."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [str(PROGRAM), "serve", "--data-dir", str(data_dir), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **environment},
        )
        self._id = 0

    def request(self, method: str, params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request and wait for its answer."""
        self._id += 1
        message = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params or {}}
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        assert answer["id"] == self._id, answer
        return answer

    def initialize(self) -> None:
        self.request("initialize", INITIALIZE)
        assert self.process.stdin is not None
        self.process.stdin.write(b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')
        self.process.stdin.flush()

    def call(self, tool: str, /, **arguments: Any) -> dict[str, Any]:
        """Call a tool that is expected to succeed."""
        answer = self.request("tools/call", {"name": tool, "arguments": arguments})
        result = answer["result"]
        if result.get("isError"):
            raise RuntimeError(result["content"])
        told: dict[str, Any] = result["structuredContent"]
        return told

    def wait_until_ready(self) -> None:
        """Wait for the model, so that what follows is warm."""
        while self.call("health_check")["memory_system"]["semantic_search"] == "loading":
            pass

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(10)


@contextmanager
def server(data_dir: Path, *arguments: str, **environment: str) -> Iterator[Wire]:
    """A server process, initialised; it ends with the block."""
    wire = Wire(data_dir, *arguments, **environment)
    try:
        wire.initialize()
        yield wire
    finally:
        wire.close()


def quantiles(values: Sequence[float], unit: float = 1000.0) -> dict[str, float]:
    """Median, p95, p99 and maximum, by default of seconds in milliseconds."""
    ordered = sorted(values)

    def at(share: float) -> float:
        return round(unit * ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))], 3)

    return {"count": len(ordered), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0)}


def manifest() -> dict[str, Any]:
    """Where and of what a figure was measured."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return {
        "commit": commit.stdout.strip(),
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
    }


_VERBS = [
    "fix",
    "migrate",
    "refactor",
    "test",
    "document",
    "analyse",
    "speed-up",
    "deploy",
    "roll-back",
    "monitor",
    "review",
    "port",
    "debug",
]
_THINGS = [
    "login form",
    "payment webhook",
    "search index",
    "image resizer",
    "invoice export",
    "cache layer",
    "database migration",
    "job queue",
    "rate limiter",
    "audit log",
    "user profile page",
    "email template",
    "feature flag",
    "upload handler",
    "report generator",
    "token refresh",
    "session store",
    "metrics endpoint",
    "backup script",
    "permission check",
]
_PLACES = [
    "checkout",
    "billing",
    "inventory",
    "shipping",
    "support",
    "analytics",
    "identity",
    "catalogue",
    "mobile",
    "gateway",
]
_SYMPTOMS = [
    "times out under load",
    "loses the last row",
    "rejects valid dates",
    "shows the wrong currency",
    "leaks memory over night",
    "fails on the second try",
    "ignores the locale",
    "returns an empty page",
    "sorts umlauts wrongly",
    "crashes on large files",
    "double-charges customers",
    "drops the session",
    "logs secrets",
    "breaks after the upgrade",
]
_TOOLS = ["read_file", "edit_file", "run_tests", "search_code", "git_diff", "shell", "http_get", "query_db"]
_ERRORS = [
    "TimeoutError: waited 30 s for {place}:{n}",
    "ValueError: invalid literal for int() with base 10: 'x{n}'",
    "KeyError: '{thing}'",
    "ConnectionRefusedError: [Errno 111] {place}:{n}",
    "AssertionError: expected {n}, got 0",
]


def synthetic_episode(rng: random.Random, number: int) -> dict[str, Any]:
    """An episode of invented but plausible work, as the fields of `ImportedEpisode`."""
    thing, place, symptom = rng.choice(_THINGS), rng.choice(_PLACES), rng.choice(_SYMPTOMS)
    steps: list[dict[str, Any]] = []
    for _ in range(rng.randint(3, 7)):
        tool = rng.choice(_TOOLS)
        failed = rng.random() < 0.2
        message = rng.choice(_ERRORS).format(place=place, n=rng.randint(1, 9999), thing=thing)
        steps.append(
            {
                "tool": tool,
                "action": f"{tool.replace('_', ' ')} of the {thing}",
                "parameters": {"path": f"src/{place}/{thing.replace(' ', '_')}.py", "line": rng.randint(1, 900)},
                "result": {"type": "error", "message": message}
                if failed
                else {"type": "success", "output": f"{thing} in {place}: {rng.randint(1, 400)} lines looked at"},
                "latency_ms": rng.uniform(5, 900),
            }
        )
    good = rng.random() < 0.6
    return {
        "source_id": f"synthetic:{number}",
        "task_description": f"{rng.choice(_VERBS)} the {thing} of {place}: it {symptom} (ticket {number})",
        "domain": place,
        "task_type": rng.choice(["debugging", "refactoring", "testing", "code_generation", "other"]),
        "steps": steps,
        "outcome": {"type": "success", "verdict": f"the {thing} works again"}
        if good
        else {"type": "failure", "reason": f"the {thing} still {symptom}"},
    }


def questions(rng: random.Random, count: int) -> list[str]:
    """Questions about such work."""
    return [
        f"How did we {rng.choice(_VERBS)} the {rng.choice(_THINGS)} when it {rng.choice(_SYMPTOMS)} in"
        f" {rng.choice(_PLACES)}?"
        for _ in range(count)
    ]


async def seed_store(data_dir: Path, episodes: int, seed: int = 1) -> None:
    """Fill a data directory through the Python interface, with learning and embedding."""
    import asyncio

    from memory_mcp import ImportedEpisode, Memory, load_settings

    rng = random.Random(seed)
    async with Memory(load_settings(data_dir=data_dir)) as memory:
        for start in range(0, episodes, 64):
            batch = [
                ImportedEpisode.model_validate(synthetic_episode(rng, number))
                for number in range(start, min(start + 64, episodes))
            ]
            await asyncio.gather(*(memory.episodes.import_episode(item, "default") for item in batch))
        await memory.settle()
