"""What must not be imported before the handshake is answered, and what a server never imports."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.server.conftest import Gate
from tests.server.wire import Wire, environment, initialize

# each of these costs more than the whole way to the handshake
BEFORE_THE_HANDSHAKE = (
    "numpy",
    "scipy",
    "onnxruntime",
    "mcp",
    "mcp_types",
    "pydantic",
    "pydantic_settings",
    "typer",
    "click",
    "rich",
    "sqlcipher3",
    "aiosqlite",
    "lmdb",
    "asyncio",
    "logging",
    "pathlib",
    "inspect",
    "dataclasses",
    "importlib.metadata",
    "subprocess",
    "socket",
    "ssl",
    "platformdirs",
    "psutil",
    "httpx",
    "starlette",
)
# heavier still, and for other processes or other toolsets; uvicorn is not among them, because the SDK itself imports it
NEVER_IN_A_SERVER = ("scipy.stats", "statsforecast", "pandas", "sklearn", "torch", "sentence_transformers", "wasmtime")

# writes the names of all modules to a file, at the import of the server proper and at the end
_WITNESS = """
import os, sys

def note(name):
    with open(os.path.join(os.environ["TEST_WITNESS"], name), "w") as file:
        file.write("\\n".join(sys.modules))

class Witness:
    def find_spec(self, name, path=None, target=None):
        if name == "memory_mcp.server.serve":
            note("early")
        return None

sys.meta_path.insert(0, Witness())
exit_now = os._exit
os._exit = lambda code: (note("late"), exit_now(code))
"""


def _loaded(names: tuple[str, ...], modules: list[str]) -> list[str]:
    return [name for name in names if any(module == name or module.startswith(f"{name}.") for module in modules)]


def test_nothing_heavy_is_imported_before_the_handshake(tmp_path: Path) -> None:
    program = (
        "import sys; plain = set(sys.modules);"
        "import memory_mcp.cli.entry, memory_mcp.server.frontend, memory_mcp.server.faststart, json;"
        "print(json.dumps(sorted(set(sys.modules) - plain)))"
    )
    told = subprocess.run(
        [sys.executable, "-c", program], env=environment(tmp_path), capture_output=True, text=True, check=True
    )
    modules = json.loads(told.stdout)
    assert "memory_mcp.server.frontend" in modules
    assert _loaded(BEFORE_THE_HANDSHAKE, modules) == []
    # of our own package only what the front end is made of
    assert [name for name in modules if name.startswith("memory_mcp.server.")] == [
        "memory_mcp.server.faststart",
        "memory_mcp.server.frontend",
        "memory_mcp.server.streams",
    ]


def test_a_server_that_has_answered_every_tool_has_not_imported_what_it_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "witness").mkdir()
    (tmp_path / "witness" / "sitecustomize.py").write_text(_WITNESS)
    env = Gate.with_path(tmp_path / "witness", tmp_path)
    env |= {"TEST_WITNESS": str(tmp_path / "witness"), "MEMORY_MCP_EMBEDDER": "minilm"}
    with Wire(tmp_path, env=env) as wire:
        wire.handshake()
        episode = {"episode_id": wire.call("create_episode", task_description="Fix the login test")["episode_id"]}
        wire.call("add_episode_step", **episode, tool="pytest", result={"type": "error", "message": "TimeoutError"})
        wire.call("add_episode_step", **episode, tool="docker", result={"type": "success"})
        wire.call("complete_episode", **episode, outcome_type="success")
        wire.call("get_episode", **episode)
        assert wire.call("query_memory", query="login")["count"] == 1
        wire.call("recommend_playbook", task_description="Fix the login test")
        wire.call("analyze_patterns")
        wire.call("get_metrics")
        wire.call("health_check")
        assert wire.end() == 0
    early = (tmp_path / "witness" / "early").read_text().split("\n")
    late = (tmp_path / "witness" / "late").read_text().split("\n")
    assert _loaded(BEFORE_THE_HANDSHAKE, early) == []
    assert "numpy" in late
    assert _loaded(NEVER_IN_A_SERVER, late) == []


def test_a_second_handshake_is_answered_before_the_server_is_there(tmp_path: Path, gate: Gate) -> None:
    with Wire(tmp_path) as wire:
        wire.handshake()
        assert wire.end() == 0
    with Wire(tmp_path, env=gate.environment(tmp_path)) as wire:
        assert "result" in wire.ask(initialize())
