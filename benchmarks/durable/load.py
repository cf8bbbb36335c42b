"""Many clients on the wire, driven by one thread: bytes in, bytes out, and no SDK that would share the two cores."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from benchmarks.common import INITIALIZE, PROGRAM

OUTPUT = "the quick brown fox jumps over the lazy dog " * 5
# an episode holds up to a thousand steps
STEPS_EACH = 900
_CHUNK = 1 << 18


@dataclass(eq=False)
class Peer:
    """A server process, and whoever waits for an answer of it, by the id of the request."""

    process: subprocess.Popen[bytes]
    waiting: dict[int, Client] = field(default_factory=dict)
    rest: bytes = b""
    last_id: int = 0

    def send(self, method: str, params: str, client: Client) -> None:
        self.last_id += 1
        self.waiting[self.last_id] = client
        line = f'{{"jsonrpc":"2.0","id":{self.last_id},"method":"{method}","params":{params}}}\n'
        os.write(self.process.stdin.fileno(), line.encode())  # type: ignore[union-attr]

    def receive(self) -> Iterator[tuple[Client, Any]]:
        chunk = os.read(self.process.stdout.fileno(), _CHUNK)  # type: ignore[union-attr]
        if not chunk:
            raise RuntimeError("a server has ended")
        *lines, self.rest = (self.rest + chunk).split(b"\n")
        for line in lines:
            message = json.loads(line)
            if message.get("id") in self.waiting:
                yield self.waiting.pop(message["id"]), message["result"]


@dataclass(eq=False)
class Client:
    """Who writes steps, one call after the other."""

    peer: Peer
    steps_per_call: int
    episode: str = ""
    steps: int = 0
    calls: int = 0
    since: float = 0.0
    creating: bool = False
    times: list[float] = field(default_factory=list)

    def next(self) -> None:
        """Send the next call: a new episode where the old one is full."""
        self.creating = not self.episode or self.steps >= STEPS_EACH
        if self.creating:
            self.call("create_episode", '{"task_description":"measure how many steps a second are durable"}')
            return
        step = f'{{"tool":"read_file","parameters":{{"path":"src/{self.calls}.py"}},"result":{{"output":"{OUTPUT}"}}'
        if self.steps_per_call == 1:
            self.call("add_episode_step", f'{step},"episode_id":"{self.episode}"}}')
        else:
            steps = ",".join([step + "}"] * self.steps_per_call)
            self.call("add_episode_step", f'{{"episode_id":"{self.episode}","steps":[{steps}]}}')

    def call(self, tool: str, arguments: str) -> None:
        self.since = time.perf_counter()
        self.peer.send("tools/call", f'{{"name":"{tool}","arguments":{arguments}}}', self)

    def answered(self, result: Any) -> None:
        told = result["structuredContent"]
        if result.get("isError") or told.get("pending"):
            raise RuntimeError(f"not committed: {told}")
        if self.creating:
            self.episode, self.steps = told["episode_id"], 0
            return
        self.times.append(time.perf_counter() - self.since)
        self.calls += 1
        self.steps += self.steps_per_call


@contextmanager
def peers(data_dir: Path, count: int, **environment: str) -> Iterator[list[Peer]]:
    """That many server processes on one data directory, past their handshake."""
    own = {**os.environ, "MEMORY_MCP_CACHE_DIR": str(data_dir.parent / "user-cache"), **environment}
    command = [str(PROGRAM), "serve", "--embedder", "none", "--data-dir", str(data_dir)]
    started = [
        Peer(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=own)
        )
        for _ in range(count)
    ]
    try:
        for peer in started:
            client = Client(peer, 1)
            peer.send("initialize", json.dumps(INITIALIZE), client)
            while peer.waiting:
                list(peer.receive())
            os.write(peer.process.stdin.fileno(), b'{"jsonrpc":"2.0","method":"notifications/initialized"}\n')  # type: ignore[union-attr]
        yield started
    finally:
        for peer in started:
            peer.process.stdin.close()  # type: ignore[union-attr]
        for peer in started:
            peer.process.wait(30)
            peer.process.stdout.close()  # type: ignore[union-attr]


def drive(clients: list[Client], seconds: float) -> float:
    """Let clients write for that long; the seconds until the last answer. Their first call is not measured."""
    with selectors.DefaultSelector() as selector:
        for peer in {client.peer for client in clients}:
            selector.register(peer.process.stdout, selectors.EVENT_READ, peer)  # type: ignore[arg-type]
        until = 0.0
        for phase in ("warm", "measured"):
            for client in clients:
                client.times.clear()
                client.next()
            open_calls = len(clients)
            started = time.perf_counter()
            until = started + (seconds if phase == "measured" else 0.0)
            while open_calls:
                for key, _ in selector.select():
                    for client, result in key.data.receive():
                        client.answered(result)
                        if time.perf_counter() < until:
                            client.next()
                        else:
                            open_calls -= 1
        return time.perf_counter() - started


def cpu_seconds(peers: list[Peer]) -> float:
    """What processes have used so far, in seconds of one core."""
    return sum(sum(psutil.Process(peer.process.pid).cpu_times()[:2]) for peer in peers)
