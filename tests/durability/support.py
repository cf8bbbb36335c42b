"""What the tests of faults share: file systems of their own, and a server process spoken to in short."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE
from tests.server.wire import Wire, environment

Json = dict[str, Any]

# breakers that try again soon, so that no test has to wait for them
SOON = {"MEMORY_MCP_BREAKER_RESET_SECONDS": "0.2", "MEMORY_MCP_POLL_SECONDS": "0.05"}
WHOLE = 1_000_000


@contextmanager
def server(home: Path, *arguments: str, **more: str) -> Iterator[Wire]:
    """A server over `home/data`, ready to be called. It is killed at the end, if it is still there."""
    with Wire(home, *arguments, env=environment(home, **SOON, **more)) as wire:
        wire.handshake()
        yield wire


def mount(directory: Path, size: str) -> None:
    """Put a small file system in memory over a directory, or skip the test where that is not allowed."""
    directory.mkdir(parents=True, exist_ok=True)
    if shutil.which("mount") is None:
        pytest.skip("this platform has no mount")
    done = _mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(directory))
    if done.returncode:
        pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")


def remount(directory: Path, options: str) -> None:
    done = _mount("-o", f"remount,{options}", str(directory))
    assert done.returncode == 0, done.stderr


def unmount(directory: Path) -> None:
    # lazily: what a process of a failed test still holds must not keep the file system there for ever
    subprocess.run(["umount", "-l", str(directory)], capture_output=True, check=False)


def _mount(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)


def tools_of(wire: Wire, episode_id: str) -> list[str]:
    """The tools of the steps of an episode, which have numbers without gaps."""
    steps = wire.call("get_episode", episode_id=episode_id, token_budget=WHOLE)["steps"]
    assert [step["step_number"] for step in steps] == list(range(1, len(steps) + 1))
    return [step["tool"] for step in steps]


def begin(wire: Wire, task: str = "live through a fault", steps: int = 0) -> str:
    """An episode with that many steps, called `t0`, `t1`, …"""
    episode_id = str(wire.call("create_episode", task_description=task)["episode_id"])
    for number in range(steps):
        wire.call("add_episode_step", episode_id=episode_id, tool=f"t{number}")
    return episode_id


def fill(wire: Wire, episode_id: str, first: int, *, most: int = 2_000) -> tuple[int, Json]:
    """Add big steps `t<first>`, … until one is refused or has to wait; the number that were taken, and that answer."""
    for number in range(first, first + most):
        # random, because nothing here is to become smaller on its way
        output = f"{number} {os.urandom(3_500).hex()}"
        result = wire.result(
            "add_episode_step", {"episode_id": episode_id, "tool": f"t{number}", "result": {"output": output}}
        )
        answer = dict(result["structuredContent"])
        if result.get("isError") or answer.get("pending"):
            return number - first, answer
    raise AssertionError(f"{most} steps fit")


def wait_until(condition: Callable[[], Any]) -> None:
    """Wait, within bounds, for another process."""
    until = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < until, "it has not come so far"
        time.sleep(0.01)


def healthy(wire: Wire) -> bool:
    return bool(wire.call("health_check")["overall"] == "healthy")


def names(count: int) -> list[str]:
    return [f"t{number}" for number in range(count)]


@contextmanager
def file_system(directory: Path, size: str) -> Iterator[Path]:
    """A small file system in memory."""
    mount(directory, size)
    try:
        yield directory
    finally:
        with suppress(OSError):
            unmount(directory)
