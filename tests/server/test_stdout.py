"""Stdout belongs to the protocol, whatever libraries and child processes write there."""

from __future__ import annotations

from pathlib import Path

from tests.server.conftest import Gate
from tests.server.wire import Wire, is_rpc, legacy, request

# from the first import behind the claim of the streams on, everything that is imported prints, and so do two threads
_NOISE = """
import os, subprocess, sys, threading, time

def noise():
    print("noise: print", flush=True)
    print("noise: buffered")
    os.write(1, b"noise: write\\n")
    sys.__stdout__.write("noise: __stdout__\\n")

def keep_on(action):
    while True:
        action()
        time.sleep(0.002)

def child():
    subprocess.run(["/bin/echo", "noise: child"], check=False)
    subprocess.run("cat; echo noise: shell >&1", shell=True, check=False)

class Hook:
    on = False
    def find_spec(self, name, path=None, target=None):
        if name == "memory_mcp.server.frontend" and not Hook.on:
            Hook.on = True
            for action in (noise, child):
                threading.Thread(target=keep_on, args=(action,), daemon=True).start()
        if Hook.on:
            noise()
        return None

sys.meta_path.insert(0, Hook())
"""


def test_only_messages_reach_stdout_while_libraries_and_children_print(tmp_path: Path) -> None:
    (tmp_path / "noise").mkdir()
    (tmp_path / "noise" / "sitecustomize.py").write_text(_NOISE)
    env = {**Gate.with_path(tmp_path / "noise", tmp_path), "MEMORY_MCP_EMBEDDER": "minilm"}
    for _ in ("first start", "second start"):
        with Wire(tmp_path, env=env) as wire:
            wire.send(*legacy())
            wire.send(request("no/such/method", "unknown"), b"no message\n")
            started = wire.call("create_episode", task_description="Tidy up\nthe log")
            step = {"tool": "print", "result": {"type": "success", "output": "x" * 9_000}}
            wire.call("add_episode_step", episode_id=started["episode_id"], **step)
            wire.call("complete_episode", episode_id=started["episode_id"], outcome_type="success")
            assert wire.call("query_memory", query="tidy the log")["count"] > 0
            wire.call("health_check")
            assert wire.end() == 0
            assert all(is_rpc(line) for line in wire.lines), [line for line in wire.lines if not is_rpc(line)][:3]
            assert len(wire.lines) == 5 + 2 + 5
    said = wire.errors()
    for kind in ("print", "buffered", "write", "__stdout__", "child", "shell"):
        assert f"noise: {kind}" in said


def test_a_server_without_stdin_stdout_or_stderr_ends_by_itself(tmp_path: Path) -> None:
    for closed in ("<&-", ">&-", "2>&-", "<&- >&- 2>&-"):
        command = ("/bin/sh", "-c", f'exec "$0" "$@" {closed}', *Wire.COMMAND)
        with Wire(tmp_path, command=command) as wire:
            if "<&-" not in closed:
                wire.send(*legacy())
            wire.close()
            assert wire.wait() == 0
            assert all(is_rpc(line) for line in wire.lines)
            assert len(wire.lines) == (5 if closed == "2>&-" else 0)
