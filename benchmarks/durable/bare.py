"""What bare SQLite does with the same number of writers: no checks, no index, no ledger, no protocol, one row a step.

`processes`: each writer has a process and a connection of its own, and commits its own transactions, in turns by the
product's file lock or by SQLite's own; the faster one counts. `threads`: one process, whose one writer commits
whatever is waiting in one transaction.
"""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from sqlcipher3 import dbapi2 as sqlite

from benchmarks.common import ROOT
from benchmarks.durable.load import OUTPUT

_INSERT = "INSERT INTO t (body) VALUES (?)"


def connect(path: Path) -> Any:
    connection = sqlite.connect(str(path), isolation_level=None, timeout=60, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("CREATE TABLE IF NOT EXISTS t (id INTEGER PRIMARY KEY, body TEXT)")
    return connection


def one_process(path: Path, seconds: float, rows: int, lock_file: str) -> dict[str, Any]:
    """A writer with a process of its own; it begins when its stdin ends."""
    from memory_mcp.storage.filelock import FileLock

    connection = connect(path)
    lock = FileLock(Path(lock_file)) if lock_file else None
    print("ready", flush=True)
    sys.stdin.read()
    times: list[float] = []
    until = time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        with lock.held(60) if lock else nullcontext():
            connection.execute("BEGIN IMMEDIATE")
            for _ in range(rows):
                connection.execute(_INSERT, (OUTPUT,))
            connection.execute("COMMIT")
        times.append(time.perf_counter() - started)
    connection.close()
    return {"calls": len(times)}


def processes(writers: int, seconds: float, rows: int) -> dict[str, Any]:
    """Rows a second of that many processes: with the file lock, and without."""
    found = {}
    for name in ("file_lock", "begin_immediate"):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "bare.db"
            connect(path).close()
            lock = str(Path(directory) / "bare.lock") if name == "file_lock" else ""
            command = [sys.executable, "-m", "benchmarks.durable.bare", str(path), str(seconds), str(rows), lock]
            running = [
                subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
                for _ in range(writers)
            ]
            for process in running:
                assert process.stdout is not None
                assert process.stdout.readline() == "ready\n"
            for process in running:
                assert process.stdin is not None
                process.stdin.close()
            calls = [json.loads(process.stdout.read())["calls"] for process in running]  # type: ignore[union-attr]
            for process in running:
                process.wait()
                process.stdout.close()  # type: ignore[union-attr]
        found[name] = round(sum(calls) * rows / seconds, 1)
    return {**found, "steps_per_s": max(found.values())}


def threads(writers: int, seconds: float, rows: int) -> dict[str, Any]:
    """Rows a second of one process with group commit for that many threads."""
    with tempfile.TemporaryDirectory() as directory:
        connection = connect(Path(directory) / "bare.db")
        waiting: queue.SimpleQueue[threading.Event | None] = queue.SimpleQueue()
        calls = [0] * writers

        def commit() -> None:
            while (first := waiting.get()) is not None:
                group = [first]
                while not waiting.empty():
                    group.append(waiting.get())  # type: ignore[arg-type]
                connection.execute("BEGIN IMMEDIATE")
                for _ in group:
                    for _ in range(rows):
                        connection.execute(_INSERT, (OUTPUT,))
                connection.execute("COMMIT")
                for done in group:
                    done.set()

        def write(number: int, until: float) -> None:
            done = threading.Event()
            while time.perf_counter() < until:
                done.clear()
                waiting.put(done)
                done.wait()
                calls[number] += 1

        writer = threading.Thread(target=commit)
        writer.start()
        until = time.perf_counter() + seconds
        crowd = [threading.Thread(target=write, args=(number, until)) for number in range(writers)]
        for thread in crowd:
            thread.start()
        for thread in crowd:
            thread.join()
        waiting.put(None)
        writer.join()
        connection.close()
    return {"steps_per_s": round(sum(calls) * rows / seconds, 1)}


if __name__ == "__main__":
    print(json.dumps(one_process(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4])))
