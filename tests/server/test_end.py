"""However the end comes, the process is gone within a second, with code 0, and everything acknowledged is there."""

from __future__ import annotations

import array
import fcntl
import json
import os
import signal
import subprocess
import termios
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from memory_mcp.errors import EpisodeNotFoundError
from memory_mcp.memory import Memory
from memory_mcp.settings import Settings
from tests.conftest import PATIENCE
from tests.server.conftest import Gate
from tests.server.wire import Json, Wire, calling, encoded, environment, initialize, legacy, request

SECOND = 1.0

Ending = Callable[[Wire], None]

ENDINGS: dict[str, Ending] = {
    "stdin end": Wire.close,
    "SIGTERM": lambda wire: wire.signal(signal.SIGTERM),
    "SIGINT": lambda wire: wire.signal(signal.SIGINT),
}


def ends(wire: Wire, how: Ending) -> None:
    began = time.monotonic()
    how(wire)
    code = wire.wait()
    took = time.monotonic() - began
    assert code == 0, wire.errors()
    assert took < SECOND
    assert "Traceback" not in wire.errors()


async def stored(data_dir: Path, episode_id: str) -> Json | None:
    async with Memory(Settings(data_dir=data_dir, embedder="none")) as memory:
        try:
            return await memory.episodes.get(episode_id, "default")
        except EpisodeNotFoundError:
            return None


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the kept answers of a first start."""
    home = tmp_path_factory.mktemp("warm")
    with Wire(home) as wire:
        for message in legacy():
            if "id" in message:
                wire.ask(message)
        assert wire.end() == 0
    return home


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_idle_server_ends(tmp_path: Path, ending: str) -> None:
    with Wire(tmp_path) as wire:
        wire.handshake()
        wire.call("health_check")
        process = psutil.Process(wire.process.pid)
        assert process.children(recursive=True) == []
        ends(wire, ENDINGS[ending])
        assert wire.errors() == ""


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_server_that_is_starting_ends(warm: Path, ending: str) -> None:
    # with the model, whose loading holds the interpreter for longer than anything else
    env = environment(warm, MEMORY_MCP_EMBEDDER="minilm")
    for pause in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        with Wire(warm, env=env) as wire:
            wire.ask(initialize())
            time.sleep(pause)
            ends(wire, ENDINGS[ending])


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_front_end_ends(warm: Path, gate: Gate, ending: str) -> None:
    with Wire(warm, env=gate.environment(warm)) as wire:
        wire.ask(initialize())
        ends(wire, ENDINGS[ending])


def test_a_client_that_closes_stdin_at_once_is_let_go(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        ends(wire, Wire.close)
        assert wire.lines == []


@pytest.mark.parametrize("ending", ENDINGS)
async def test_writes_in_flight_are_there_if_they_were_acknowledged(tmp_path: Path, ending: str) -> None:
    with Wire(tmp_path) as wire:
        wire.handshake()
        wire.call("health_check")
        created = [calling("create_episode", n, task_description=f"Task {n}", domain="d" * n) for n in range(1, 21)]
        wire.send(*created)
        if ending != "stdin end":
            # somewhere in the middle
            wire.receive()
        ends(wire, ENDINGS[ending])
        answers = [answer for answer in wire.rest() if "result" in answer]
        if ending == "stdin end":
            assert len(answers) == 20
    async with Memory(Settings(data_dir=tmp_path / "data", embedder="none")) as memory:
        for answer in answers:
            episode_id = answer["result"]["structuredContent"]["episode_id"]
            found = await memory.episodes.get(episode_id, "default")
            assert found["task_description"] == f"Task {answer['id']}"


def test_what_was_asked_in_one_write_with_the_end_is_answered(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.send(*legacy(), calling("create_episode", "create", task_description="In a hurry"))
        wire.close()
        assert wire.wait() == 0
        answers = {answer["id"]: answer for answer in wire.rest()}
        assert answers["create"]["result"]["structuredContent"]["status"] == "open"
        assert len(answers) == 6


def test_an_answer_that_is_being_written_at_the_end_is_written_whole(tmp_path: Path) -> None:
    with Wire(tmp_path) as wire:
        wire.handshake()
        episode_id = wire.call("create_episode", task_description="Talkative")["episode_id"]
        steps = [{"tool": "cat", "result": {"type": "success", "output": "x" * 10_000}}] * 60
        wire.call("add_episode_step", episode_id=episode_id, steps=steps)
        assert wire.end() == 0
    with Wire(tmp_path, reading=False) as wire:
        # far more than a pipe takes
        wire.send(*legacy(), calling("get_episode", "all", episode_id=episode_id, token_budget=1_000_000))
        wait_until_stdout_is_full(wire)
        wire.close()
        assert wire.process.stdout is not None
        lines = wire.process.stdout.read().splitlines()
        assert wire.wait() == 0
        assert len(json.loads(lines[-1])["result"]["structuredContent"]["steps"]) == 60


def test_a_file_may_stand_for_the_client(tmp_path: Path) -> None:
    file = tmp_path / "requests"
    file.write_bytes(encoded(*legacy(), calling("create_episode", 9, task_description="From a file")).rstrip(b"\n"))
    for _ in range(2):
        with file.open("rb") as stdin:
            done = subprocess.run(
                [*Wire.COMMAND, "--data-dir", str(tmp_path / "data")],
                stdin=stdin,
                env=environment(tmp_path),
                capture_output=True,
                timeout=PATIENCE,
                check=True,
            )
        assert done.stderr == b""
        assert [json.loads(line)["id"] for line in done.stdout.splitlines()].count(9) == 1
        assert len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_client_that_does_not_read_cannot_hold_up_the_end(tmp_path: Path, ending: str) -> None:
    with Wire(tmp_path, reading=False) as wire:
        wire.send(initialize(), *(request("tools/list", n) for n in range(50)), b"no message\n" * 50)
        wait_until_stdout_is_full(wire)
        ends(wire, ENDINGS[ending])


def test_a_client_that_does_not_read_cannot_hold_up_the_end_of_the_front_end(warm: Path, gate: Gate) -> None:
    with Wire(warm, env=gate.environment(warm), reading=False) as wire:
        wire.send(initialize(), *(request("tools/list", n) for n in range(50)))
        wait_until_stdout_is_full(wire)
        ends(wire, ENDINGS["SIGTERM"])


def wait_until_stdout_is_full(wire: Wire) -> None:
    assert wire.process.stdout is not None
    waiting, before = array.array("i", [0]), -1
    until = time.monotonic() + 10
    while waiting[0] != before or waiting[0] < 40_000:
        assert time.monotonic() < until
        before = waiting[0]
        time.sleep(0.1)
        fcntl.ioctl(wire.process.stdout.fileno(), termios.FIONREAD, waiting)


async def test_a_client_that_has_closed_its_end_is_noticed_at_the_next_answer(tmp_path: Path) -> None:
    with Wire(tmp_path, reading=False) as wire:
        wire.send(*legacy(), calling("create_episode", "create", task_description="Before the client was gone"))
        assert wire.process.stdout is not None
        line = b""
        while b'"id":"create"' not in line:
            line = wire.process.stdout.readline()
        episode_id = json.loads(line)["result"]["structuredContent"]["episode_id"]
        wire.process.stdout.close()
        ends(wire, lambda wire: wire.send(request("ping", 5)))
    assert await stored(tmp_path / "data", episode_id) is not None


def test_a_host_that_does_not_read_stderr_does_not_stop_the_server(tmp_path: Path) -> None:
    unread, stderr = os.pipe()
    with Wire(tmp_path, stderr=stderr) as wire:
        os.close(stderr)
        wire.handshake()
        # each refusal is a warning in the log: together far more than a pipe takes
        wire.send(b"no message\n" * 3_000)
        for _ in range(3_000):
            assert wire.receive()["error"]["code"] == -32700
        assert wire.call("health_check")["overall"] == "healthy"
        ends(wire, ENDINGS["SIGTERM"])
    os.close(unread)
    logs = list((tmp_path / "data" / "logs").iterdir())
    assert sum(len(log.read_bytes().splitlines()) for log in logs) == 3_000
