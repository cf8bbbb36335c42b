"""The program as a person runs it, and small files of the four formats."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PATIENCE, PROGRAM
from tests.server.wire import environment

Json = dict[str, Any]


@dataclass(frozen=True)
class Ran:
    """What a command has left behind."""

    code: int
    out: str
    err: str

    @property
    def summary(self) -> Json:
        """What `import` prints."""
        return dict(json.loads(self.out))


Run = Callable[..., Ran]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs the program in a directory of its own, with nothing on stdin; keywords are environment variables."""

    def ran(*arguments: str | Path, **variables: str) -> Ran:
        done = subprocess.run(
            [str(PROGRAM), *map(str, arguments)],
            env=environment(tmp_path, **{"MEMORY_MCP_DATA_DIR": str(tmp_path / "data"), **variables}),
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return ran


def episode(name: str, **fields: Any) -> Json:
    """An episode in our own format."""
    steps = [
        {"tool": "pytest", "result": {"type": "error", "message": f"TimeoutError in {name}"}},
        {"tool": "docker", "parameters": {"service": "redis"}, "result": {"type": "success", "output": "started"}},
        {"tool": "pytest", "result": {"type": "success", "output": "3 passed"}},
    ]
    common = {"source_id": f"test:{name}", "task_description": f"Fix the flaky test of {name}", "steps": steps}
    return {**common, "outcome": {"type": "success"}, **fields}


def lines(*items: Json | str) -> str:
    return "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in items)


def _tau(number: int) -> Json:
    call = {"id": "c", "function": {"name": "refund", "arguments": json.dumps({"order": number})}}
    return {
        "task_id": number,
        "trial": 0,
        "reward": 1.0,
        "info": {"task": {"user_id": "u", "instruction": f"Refund order {number}.", "actions": [], "outputs": []}},
        "traj": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "name": "refund", "content": "done"},
        ],
    }


def _tau2(number: int) -> Json:
    call = {"id": "c", "name": "refund", "arguments": {"order": number}, "requestor": "assistant"}
    return {
        "id": f"s{number}",
        "task_id": "t1",
        "trial": number,
        "termination_reason": "user_stop",
        "start_time": "2025-08-01T10:00:00",
        "end_time": "2025-08-01T10:01:00",
        "reward_info": {"reward": 1.0, "action_checks": None, "reward_basis": ["DB"]},
        "messages": [
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "id": "c", "content": "done", "error": False, "requestor": "assistant"},
        ],
    }


def _claude(number: int) -> list[Json]:
    use = {"type": "tool_use", "id": f"u{number}", "name": "Bash", "input": {"command": "pytest -q"}}
    result = {"type": "tool_result", "tool_use_id": f"u{number}", "content": "ok", "is_error": False}
    return [
        {"type": "user", "uuid": f"p{number}", "message": {"role": "user", "content": f"Fix module {number}"}},
        {"type": "assistant", "uuid": f"a{number}", "message": {"id": f"m{number}", "content": [use]}},
        {"type": "user", "uuid": f"r{number}", "message": {"role": "user", "content": [result]}},
    ]


_INSTRUCTIONS = {"domain": "retail", "reason_for_call": "Refund it.", "task_instructions": "Be brief."}
FILES: dict[str, str] = {
    "jsonl": lines(*(episode(name) for name in ("login", "search"))),
    "tau-bench": json.dumps([_tau(1), _tau(2)]),
    "tau2-bench": json.dumps(
        {
            "info": {"environment_info": {"domain_name": "retail"}, "agent_info": {"llm": "model"}},
            "tasks": [{"id": "t1", "user_scenario": {"instructions": _INSTRUCTIONS}, "ticket": "A refund."}],
            "simulations": [_tau2(1), _tau2(2)],
        }
    ),
    "claude-code": lines(*_claude(1), *_claude(2)),
}
