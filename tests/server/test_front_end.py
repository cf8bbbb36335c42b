"""The front end answers only what the SDK would answer, and the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, MODERN_PROTOCOL_VERSIONS

from memory_mcp.server.faststart import Answers
from memory_mcp.settings import Settings
from tests.server.inside import front_end, same, sdk
from tests.server.wire import (
    HANDSHAKE_VERSIONS,
    LISTS,
    MODERN,
    MODERN_VERSION,
    Json,
    calling,
    encoded,
    initialize,
    legacy,
    modern,
    request,
)

CONVERSATIONS = {
    **{version: legacy(version) for version in HANDSHAKE_VERSIONS},
    "unknown version": legacy("1999-01-01"),
    "modern version in a handshake": legacy(MODERN_VERSION),
    "two handshakes": [*legacy("2024-11-05"), initialize("again"), request("tools/list", "again")],
    "modern": MODERN,
}


@pytest.fixture
def kept(tmp_path: Path, settings: Settings) -> Path:
    """Answers to a full conversation of each era."""
    file = tmp_path / "kept.json"
    sdk(settings, *legacy(), kept=file)
    sdk(settings, *MODERN, kept=file)
    return file


def test_the_versions_of_these_tests_are_those_of_the_sdk() -> None:
    assert tuple(HANDSHAKE_PROTOCOL_VERSIONS) == HANDSHAKE_VERSIONS
    assert tuple(MODERN_PROTOCOL_VERSIONS) == (MODERN_VERSION,)


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_the_front_end_answers_what_the_sdk_has_answered(tmp_path: Path, settings: Settings, name: str) -> None:
    messages = CONVERSATIONS[name]
    expected = same(sdk(settings, *messages))
    file = tmp_path / "kept.json"
    assert front_end(file, *messages) == []
    assert same(sdk(settings, *messages, kept=file)) == expected
    given = same(front_end(file, *messages))
    # which version the answers behind a second handshake were made for is not certain, so they are not kept
    assert given == (expected[:-2] if name == "two handshakes" else expected)


def test_what_the_sdk_refuses_is_left_to_it(kept: Path, settings: Settings) -> None:
    good = initialize()
    params = good["params"]
    faulty: list[Json | bytes] = [
        request("initialize", 1),
        request("initialize", 1, {}),
        request("initialize", 1, []),
        request("initialize", 1, {key: value for key, value in params.items() if key != "clientInfo"}),
        request("initialize", 1, {**params, "clientInfo": None}),
        request("initialize", 1, {**params, "clientInfo": {"name": "test"}}),
        request("initialize", 1, {**params, "clientInfo": {"name": 7, "version": "1"}}),
        request("initialize", 1, {**params, "capabilities": []}),
        request("initialize", 1, {**params, "_meta": {"progressToken": {}}}),
        {**good, "jsonrpc": "1.0"},
        {key: value for key, value in good.items() if key != "jsonrpc"},
        {**good, "id": None},
        {**good, "id": True},
        {**good, "id": 1.5},
        {**good, "method": ["initialize"]},
        encoded(good).replace(b'"test"', rb'"\ud800"'),
        encoded(good).replace(b'"test"', b'"\xff"'),
        encoded(good).replace(b'{"jsonrpc"', b'\xef\xbb\xbf{"jsonrpc"'),
        encoded(good).replace(b'"capabilities": {}', b'"capabilities": {"x": ' + b"[" * 600 + b"]" * 600 + b"}"),
        b"[" + encoded(good).strip() + b"]\n",
    ]
    for message in faulty:
        assert front_end(kept, message) == [], message
    assert all("error" in answer for answer in sdk(settings, *faulty))
    assert len(front_end(kept, good)) == 1


def test_what_an_answer_depends_on_is_respected(kept: Path, settings: Settings) -> None:
    orders: list[list[Json]] = [
        [request("tools/list", 1), initialize(2)],
        [request("ping", 1), initialize(2), request("tools/list", 3)],
        # the first request settles the era, and what belongs to the other one is refused
        [modern("tools/list", 1), initialize(2), request("prompts/list", 3)],
        [request("ping", 1), modern("tools/list", 2)],
        [initialize(1), modern("tools/list", 2), request("tools/list", 3)],
        [request("no/such/method", 1), modern("tools/list", 2)],
        [initialize(1), request("tools/list", 2, {"cursor": 5}), request("tools/list", 3, {"cursor": "x"})],
        [modern("tools/list", 1, cursor="x"), modern("tools/list", 2)],
    ]
    for messages in orders:
        expected = same(sdk(settings, *messages))
        given = same(front_end(kept, *messages))
        assert given == expected[: len(given)]
    # a client without a name, and one with more than a name, are not the client whose answer is kept
    assert front_end(kept, initialize(1, client={"name": "other", "version": "2", "title": "Other"})) != []
    assert front_end(kept, initialize(1, client={"name": "other", "version": "2", "icons": []})) == []


def test_an_answer_depends_on_the_protocol_version(tmp_path: Path, settings: Settings) -> None:
    file = tmp_path / "kept.json"
    sdk(settings, *legacy("2024-11-05"), kept=file)
    sdk(settings, initialize(0), kept=file)
    assert [answer["id"] for answer in front_end(file, *legacy())] == [0]


def test_calls_that_cannot_be_answered_hold_back_what_follows(kept: Path) -> None:
    messages = [*legacy(), calling("health_check", "call"), request("tools/list", "late")]
    assert [answer["id"] for answer in front_end(kept, *messages)] == [0, *LISTS]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[]",
        b"null",
        b'{"identity": 1}',
        b'{"identity": 1, "answers": []}',
        b"[" * 100_000,
    ],
)
def test_a_damaged_cache_file_is_written_anew(kept: Path, settings: Settings, damage: bytes) -> None:
    whole = json.loads(kept.read_text())
    kept.write_bytes(damage)
    assert front_end(kept, *legacy()) == []
    sdk(settings, *legacy(), kept=kept)
    sdk(settings, *MODERN, kept=kept)
    assert json.loads(kept.read_text()) == whole


def test_answers_of_another_program_are_not_given(kept: Path, settings: Settings) -> None:
    whole = json.loads(kept.read_text())
    foreign = {key: {"tools": [], "foreign": True} for key in whole["answers"]}
    for identity, answers in (
        (["3.9", *whole["identity"][1:]], foreign),
        ([whole["identity"][0], 0, whole["identity"][2]], foreign),
        ([*whole["identity"][:2], ["mcp-2.0.0.dist-info"]], foreign),
        (whole["identity"], dict.fromkeys(foreign, 5)),
    ):
        kept.write_text(json.dumps({"identity": identity, "answers": answers}))
        assert front_end(kept, *legacy()) == []
    sdk(settings, *legacy(), kept=kept)
    sdk(settings, *MODERN, kept=kept)
    assert json.loads(kept.read_text()) == whole


def test_an_answer_that_has_gone_stale_is_replaced(kept: Path, settings: Settings) -> None:
    whole = json.loads(kept.read_text())
    stale = {key: {"gone": True} for key in whole["answers"]}
    # something that the SDK refuses must not live on either
    refused = json.dumps(["tools/list", {"cursor": 5}, [], HANDSHAKE_VERSIONS[-1]], sort_keys=True)
    kept.write_text(json.dumps({**whole, "answers": {**stale, refused: {"tools": []}}}))
    cursor = request("tools/list", "cursor", {"cursor": 5})
    assert [answer["result"] for answer in front_end(kept, initialize(0))] == [{"gone": True}]
    sdk(settings, *legacy(), cursor, kept=kept)
    sdk(settings, *MODERN, kept=kept)
    assert json.loads(kept.read_text()) == whole


def test_a_cache_that_cannot_be_written_is_reported_once(
    tmp_path: Path, settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("a file where the directory should be")
    sdk(settings, *legacy(), kept=tmp_path / "file" / "kept.json")
    (tmp_path / "kept.json").mkdir()
    sdk(settings, *legacy(), kept=tmp_path / "kept.json")
    assert capsys.readouterr().err.count("cannot keep") == 2
    # nothing half-written is left behind
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "kept.json"]


def test_the_number_of_kept_answers_is_bounded(tmp_path: Path) -> None:
    answers = Answers(str(tmp_path / "kept.json"))
    for number in range(200):
        answers.keep(str(number), {"number": number})
    answers.save()
    kept = json.loads((tmp_path / "kept.json").read_text())["answers"]
    assert len(kept) <= 64
    assert kept["199"] == {"number": 199}
