"""The front end of the real program: first and second start, however the client sends, and never in the way."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.server.conftest import Gate
from tests.server.inside import same
from tests.server.wire import (
    INITIALIZED,
    MODERN,
    Json,
    Wire,
    calling,
    encoded,
    environment,
    initialize,
    legacy,
    modern,
    request,
)

CONVERSATIONS = {"handshake": legacy(), "modern": MODERN}


def converse(home: Path, messages: list[Json], *arguments: str, env: dict[str, str] | None = None) -> list[str]:
    """The answers to messages that are sent one after the other."""
    with Wire(home, *arguments, env=env) as wire:
        answers = []
        for message in messages:
            if "id" in message:
                answers.append(wire.ask(message))
            else:
                wire.send(message)
        assert wire.end() == 0
        assert wire.rest() == []
    return same(answers)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], None]:
    """Puts the kept answers of a first start into a home."""
    home = tmp_path_factory.mktemp("warm")
    converse(home, legacy())
    return lambda other: shutil.copytree(home / "user-cache", other / "user-cache") and None


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_first_and_second_start_answer_what_the_sdk_answers(tmp_path: Path, gate: Gate, name: str) -> None:
    messages = CONVERSATIONS[name]
    expected = converse(tmp_path / "sdk", messages, "--no-fast-start")
    assert not (tmp_path / "sdk" / "user-cache").exists()
    assert converse(tmp_path, messages) == expected

    with Wire(tmp_path, env=gate.environment(tmp_path)) as wire:
        # the SDK is not there yet: every answer comes from the front end
        wire.send(*messages)
        assert same([wire.answer(message["id"]) for message in messages if "id" in message]) == expected
        gate.open()
        # and once it is there, it repeats none of them, and is in the state that the client believes in
        call = {"name": "get_metrics", "arguments": {"metric_type": "episodes"}}
        last = modern("tools/call", "last", **call) if name == "modern" else request("tools/call", "last", call)
        assert wire.ask(last)["result"]["structuredContent"]["episodes"]["total"] == 0
        assert wire.end() == 0
        assert wire.rest() == []
    assert "out of date" not in wire.errors()


def test_requests_in_one_write_are_each_answered_once_and_kept(tmp_path: Path, gate: Gate) -> None:
    messages = [*legacy(), request("ping", "ping"), calling("get_metrics", "call")]
    with Wire(tmp_path) as wire:
        wire.send(*messages)
        for message in messages:
            if "id" in message:
                assert "result" in wire.answer(message["id"])
        assert wire.end() == 0
        assert wire.rest() == []
    with Wire(tmp_path, env=gate.environment(tmp_path)) as wire:
        wire.send(*messages)
        for message in legacy():
            if "id" in message:
                assert "result" in wire.answer(message["id"])
        gate.open()
        assert "result" in wire.answer("ping")
        assert "result" in wire.answer("call")
        assert wire.end() == 0
        assert wire.rest() == []


def test_requests_split_over_several_writes_are_answered(
    tmp_path: Path, gate: Gate, warm: Callable[[Path], None]
) -> None:
    warm(tmp_path)
    data = encoded(initialize("ä/\u2028"), INITIALIZED, request("tools/list", 2))
    with Wire(tmp_path, env=gate.environment(tmp_path)) as wire:
        for at in range(0, len(data), 97):
            wire.send(data[at : at + 97])
        assert wire.answer("ä/\u2028")["result"]["serverInfo"]["name"] == "memory-mcp"
        assert wire.answer(2)["result"]["tools"]
        # the first half of a line is read by the front end, the second by the server
        call = encoded(calling("get_metrics", 3))
        wire.send(call[:40])
        time.sleep(0.05)
        gate.open()
        wire.send(call[40:])
        assert "result" in wire.answer(3)
        assert wire.end() == 0
        assert wire.rest() == []


def test_ids_keep_their_type_and_duplicates_are_answered_as_often_as_they_were_asked(
    tmp_path: Path, warm: Callable[[Path], None]
) -> None:
    warm(tmp_path)
    ids: list[Any] = [0, -7, 7, "7", "", 'ü"\\', 2**70]
    with Wire(tmp_path) as wire:
        wire.send(initialize(7), INITIALIZED, *(request("tools/list", identity) for identity in ids))
        wire.send(request("prompts/list", 5), request("resources/list", 5))
        for identity in [7, *ids, 5, 5]:
            assert "result" in wire.answer(identity)
        # an id that the front end has answered may be used again
        assert "tools" in wire.ask(request("tools/list", 5))["result"]
        assert wire.end() == 0
        assert wire.rest() == []


def test_cancelling_what_was_answered_early_does_not_swallow_a_later_answer(
    tmp_path: Path, gate: Gate, warm: Callable[[Path], None]
) -> None:
    warm(tmp_path)
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "2"}}
    with Wire(tmp_path, env=gate.environment(tmp_path)) as wire:
        wire.ask(initialize(1))
        wire.ask(request("tools/list", 2))
        wire.send(INITIALIZED, cancelled)
        gate.open()
        assert "tools" in wire.ask(request("tools/list", 2))["result"]
        assert wire.end() == 0
        assert wire.rest() == []


def test_a_client_may_take_its_time(tmp_path: Path, warm: Callable[[Path], None]) -> None:
    warm(tmp_path)
    with Wire(tmp_path) as wire:
        time.sleep(0.2)
        assert wire.silent()
        wire.handshake()
        time.sleep(0.2)
        assert wire.ask(request("tools/list", 2))["result"]["tools"]
        assert wire.end() == 0


def test_a_tool_call_before_the_handshake_is_refused_as_the_sdk_does(
    tmp_path: Path, warm: Callable[[Path], None]
) -> None:
    warm(tmp_path)
    with Wire(tmp_path) as wire:
        wire.send(request("ping", 1), calling("health_check", 2), initialize(3), calling("health_check", 4))
        assert wire.answer(1)["result"] == {}
        assert wire.answer(2)["error"]["code"] == -32602
        assert wire.answer(3)["result"]["protocolVersion"]
        assert wire.answer(4)["result"]["structuredContent"]["overall"] == "healthy"
        assert wire.end() == 0


def test_a_cache_directory_that_cannot_be_written_costs_nothing_but_time(tmp_path: Path) -> None:
    (tmp_path / "user-cache").write_text("a file where the directory should be")
    assert len(converse(tmp_path, legacy())) == 5
    assert (tmp_path / "stderr.txt").read_text().count("cannot keep") == 1


def test_fast_start_can_be_switched_by_flag_environment_and_file(
    tmp_path: Path, gate: Gate, warm: Callable[[Path], None]
) -> None:
    warm(tmp_path)
    file = tmp_path / "settings.toml"
    file.write_text("fast_start = false\n")
    cases: list[tuple[bool, tuple[str, ...], dict[str, str]]] = [
        (False, ("--no-fast-start",), {}),
        (False, (), {"MEMORY_MCP_FAST_START": "false"}),
        (False, (), {"MEMORY_MCP_CONFIG": str(file)}),
        (True, ("--fast-start",), {"MEMORY_MCP_FAST_START": "false"}),
        (True, (), {"MEMORY_MCP_CONFIG": str(file), "MEMORY_MCP_FAST_START": "true"}),
        # what another client has set does not make the kept answers foreign
        (True, (), {"MEMORY_MCP_ACTOR": "another", "MEMORY_MCP_FAST_START": ""}),
    ]
    for fast, flags, variables in cases:
        with Wire(tmp_path, *flags, env={**gate.environment(tmp_path), **variables}) as wire:
            wire.send(initialize(1))
            if fast:
                assert "result" in wire.answer(1)
            else:
                assert wire.silent(0.2)


def test_the_cache_directory_of_the_settings_file_is_used(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(f"cache_dir = {json.dumps(str(tmp_path / 'elsewhere'))}\n")
    env = environment(tmp_path, MEMORY_MCP_CONFIG=str(file))
    del env["MEMORY_MCP_CACHE_DIR"]
    converse(tmp_path, [modern("server/discover")], env=env)
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
