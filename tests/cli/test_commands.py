"""The command line: help, version, unknown options, settings and where they come from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from memory_mcp import __version__
from memory_mcp.cli.entry import serve_options
from memory_mcp.errors import SettingsError
from memory_mcp.settings import Settings, load_settings
from tests.cli.conftest import Run
from tests.server.wire import Wire, environment


def test_help_names_the_commands_and_their_options(run: Run) -> None:
    for arguments, expected in (
        (["--help"], ["serve", "import", "--version"]),
        (["serve", "--help"], ["--data-dir", "MEMORY_MCP_DATA_DIR", "--namespace", "--no-fast-start", "--embedder"]),
        (["import", "--help"], ["--data-dir", "FORMAT", "tau-bench", "claude-code"]),
    ):
        ran = run(*arguments)
        assert ran.code == 0
        assert ran.err == ""
        for word in expected:
            assert word in ran.out


def test_the_version_is_told(run: Run) -> None:
    assert run("--version").out == f"memory-mcp {__version__}\n"
    module = [sys.executable, "-m", "memory_mcp", "--version"]
    assert subprocess.run(module, capture_output=True, text=True, check=True).stdout == f"memory-mcp {__version__}\n"


def test_what_cannot_be_understood_ends_with_code_2_and_a_sentence(run: Run, tmp_path: Path) -> None:
    for arguments, sentence in (
        (["serve", "--wrong"], "No such option: --wrong"),
        (["serve", "extra"], "unexpected extra argument"),
        (["serve", "--data-dir"], "--data-dir"),
        (["sreve"], "No such command 'sreve'"),
        (["import", "jsonl"], "Missing argument"),
        (["import", "jsonl", "x", "--wrong"], "No such option: --wrong"),
        (["serve", "--embedder", "magic"], "embedder: input should be 'minilm'"),
        (["serve", "--log-level", "loud"], "log_level: input should be"),
        (["serve", "--namespace", ""], "namespace:"),
        (["serve", "--data-dir", ""], "data_dir: must not be empty"),
    ):
        ran = run(*arguments)
        assert ran.code == 2, ran
        assert sentence in ran.err.splitlines()[-1]
        assert ran.out == ""
        assert "Traceback" not in ran.err
    # nothing was begun
    assert list(tmp_path.iterdir()) == []


def test_the_quick_way_understands_exactly_the_flags_of_serve() -> None:
    assert serve_options([]) == {}
    assert serve_options(["--data-dir", "x", "--namespace=a=b", "--no-fast-start"]) == {
        "data_dir": "x",
        "namespace": "a=b",
        "fast_start": False,
    }
    for arguments in (["--help"], ["--data-dir"], ["--wrong", "x"], ["x"], ["--fast-start=no"], ["--"]):
        assert serve_options(arguments) is None
    flags = ["--data-dir", "--namespace", "--actor", "--embedder", "--embedding-model", "--log-level"]
    named = serve_options([part for flag in flags for part in (flag, "x")])
    assert named is not None
    assert set(named) <= set(Settings.model_fields)


def test_flags_come_before_environment_before_file_before_defaults(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MEMORY_MCP_DATA_DIR")
    assert load_settings().data_dir.name == "memory-mcp"
    file = tmp_path / "settings.toml"
    file.write_text('data_dir = "/from/file"\nnamespace = "file"\nactor = "file"\ntoken_budget = 7\n')
    monkeypatch.setenv("MEMORY_MCP_CONFIG", str(file))
    monkeypatch.setenv("MEMORY_MCP_NAMESPACE", "environment")
    monkeypatch.setenv("MEMORY_MCP_ACTOR", "environment")
    settings = load_settings(actor="flag", namespace=None)
    assert settings.data_dir == Path("/from/file")
    assert settings.namespace == "environment"
    assert settings.actor == "flag"
    assert settings.token_budget == 7
    assert settings.guidance_tokens == Settings.model_fields["guidance_tokens"].default
    # what a host leaves empty is not a value
    monkeypatch.setenv("MEMORY_MCP_NAMESPACE", "")
    assert load_settings().namespace == "file"


def test_the_home_directory_may_be_written_as_a_tilde(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # hosts start the program without a shell
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("MEMORY_MCP_DATA_DIR", "~/memory")
    assert load_settings().data_dir == tmp_path / "memory"


def test_levels_may_be_written_small() -> None:
    assert load_settings(log_level="debug").log_level == "DEBUG"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("nmaespace = 'x'", "nmaespace: there is no such setting, did you mean namespace?"),
        ("[server]\nport = 1", "server: there is no such setting"),
        ("token_budget = 'many'", "token_budget:"),
        ("token_budget = -1\npoll_seconds = 0", "token_budget:"),
        ("token_budget = -1\npoll_seconds = 0", "poll_seconds:"),
        ("data_dir = 5", "data_dir:"),
        ("data_dir = ''", "data_dir: must not be empty"),
        ("embedder = 'magic'", "embedder:"),
        ("namespace = ", "settings.toml"),
        ("namespace = '\xff'", "settings.toml"),
    ],
)
def test_a_bad_value_in_the_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, named: str
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="latin-1")
    monkeypatch.delenv("MEMORY_MCP_DATA_DIR")
    monkeypatch.setenv("MEMORY_MCP_CONFIG", str(file))
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert named in caught.value.message
    assert "pydantic" not in caught.value.message


def test_a_bad_value_in_the_environment_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEMORY_MCP_POLL_SECONDS", "soon")
    with pytest.raises(SettingsError, match="poll_seconds"):
        load_settings()


def test_a_settings_file_that_is_not_there_is_an_error(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.toml", tmp_path):
        for arguments in (["serve"], ["import", "jsonl", "x"]):
            ran = run(*arguments, MEMORY_MCP_CONFIG=str(path))
            assert ran.code == 2
            assert "MEMORY_MCP_CONFIG" in ran.err


def test_a_bad_setting_ends_a_server_that_is_spoken_to_as_well(tmp_path: Path) -> None:
    with Wire(tmp_path, env=environment(tmp_path, MEMORY_MCP_RETRY_ATTEMPTS="none")) as wire:
        wire.send(b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n')
        assert wire.wait() == 2
        assert wire.lines == []
    assert wire.errors().startswith("memory-mcp: retry_attempts:")
    assert len(wire.errors().splitlines()) == 1


def test_the_server_works_where_its_settings_say(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"data_dir = {json.dumps(str(tmp_path / 'file'))}\nnamespace = 'team/one'\n")
    env = environment(tmp_path, MEMORY_MCP_CONFIG=str(file))
    with Wire(tmp_path, "--data-dir", str(tmp_path / "flag"), env=env) as wire:
        wire.handshake()
        episode_id = wire.call("create_episode", task_description="x")["episode_id"]
        assert wire.call("get_episode", episode_id=episode_id, fields=["namespace"])["namespace"] == "team/one"
        assert wire.end() == 0
    assert (tmp_path / "flag" / "memory.db").is_file()
    assert not (tmp_path / "file").exists()
