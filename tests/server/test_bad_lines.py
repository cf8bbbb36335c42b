"""Lines that are no messages: each is answered with a clear error, and the next request is served as ever."""

from __future__ import annotations

import json
from typing import Any

import pytest

from memory_mcp.server.refusals import check_message, unparsable
from memory_mcp.server.streams import MAX_LINE, Lines, Overlong
from tests.server.wire import Json, Wire, calling, encoded, initialize, request

PARSE_ERROR, INVALID_REQUEST, INVALID_PARAMS = -32700, -32600, -32602


def call_with(text: bytes, identity: int = 9) -> bytes:
    """A tool call in which one text, given as it stands in JSON, is the task description."""
    whole = encoded(calling("create_episode", identity, task_description="TEXT"))
    return whole.replace(b'"TEXT"', text)


REFUSED: dict[str, tuple[bytes, Any, int, str]] = {
    "no JSON": (b"hello\n", None, PARSE_ERROR, "parse_error"),
    "cut off": (b'{"jsonrpc": "2.0", "id": 9, "method": "ping", "params": {\n', 9, PARSE_ERROR, "parse_error"),
    "cut off inside an argument": (b'{"method": "ping", "params": {"id": 9}\n', None, PARSE_ERROR, "parse_error"),
    "two on a line": (encoded(request("ping", 9)).strip() * 2 + b"\n", 9, PARSE_ERROR, "parse_error"),
    "byte order mark": (b"\xef\xbb\xbf" + encoded(request("ping", 9)), None, PARSE_ERROR, "parse_error"),
    "UTF-16": (json.dumps(request("ping", 9)).encode("utf-16-le") + b"\n\n", None, PARSE_ERROR, "parse_error"),
    "not UTF-8": (call_with(b'"\xff\xfe"'), 9, PARSE_ERROR, "invalid_text"),
    "control character": (call_with(b'"\x01"'), 9, PARSE_ERROR, "parse_error"),
    "a number": (b"5\n", None, INVALID_REQUEST, "invalid_request"),
    "null": (b"null\n", None, INVALID_REQUEST, "invalid_request"),
    "a text": (b'"ping"\n', None, INVALID_REQUEST, "invalid_request"),
    "an empty object": (b"{}\n", None, INVALID_REQUEST, "invalid_request"),
    "no version": (b'{"id": 9, "method": "ping"}\n', 9, INVALID_REQUEST, "invalid_request"),
    "version 1": (b'{"jsonrpc": "1.0", "id": 9, "method": "ping"}\n', 9, INVALID_REQUEST, "invalid_request"),
    "no method": (b'{"jsonrpc": "2.0", "id": 9}\n', 9, INVALID_REQUEST, "invalid_request"),
    "method of a wrong type": (encoded(request("ping", 9) | {"method": 5}), 9, INVALID_REQUEST, "invalid_request"),
    "parameters of a wrong type": (encoded(request("ping", 9, [1])), 9, INVALID_REQUEST, "invalid_request"),
    "id null": (encoded(request("ping", None)), None, INVALID_REQUEST, "invalid_request"),
    "id true": (encoded(request("ping", True)), None, INVALID_REQUEST, "invalid_request"),
    "id 1.5": (encoded(request("ping", 1.5)), None, INVALID_REQUEST, "invalid_request"),
    "id list": (encoded(request("ping", [9])), None, INVALID_REQUEST, "invalid_request"),
    "malformed response": (b'{"jsonrpc": "2.0", "id": 9, "result": 5}\n', None, INVALID_REQUEST, "invalid_request"),
    "empty batch": (b"[]\n", None, INVALID_REQUEST, "batch_unsupported"),
    "lone surrogate": (call_with(rb'"\ud800"'), 9, INVALID_PARAMS, "invalid_text"),
    "second half of a surrogate": (call_with(rb'"a\udc00b"'), 9, INVALID_PARAMS, "invalid_text"),
    "surrogate as a name": (call_with(rb'"x", "\ud800": 1'), 9, INVALID_PARAMS, "invalid_text"),
    "nested 250 deep": (call_with(b"[" * 250 + b"]" * 250), 9, INVALID_REQUEST, "too_large"),
    "nested 100,000 deep": (call_with(b"[" * 100_000 + b"]" * 100_000), 9, INVALID_REQUEST, "too_large"),
    "100,000 open brackets": (b"[" * 100_000 + b"\n", None, INVALID_REQUEST, "too_large"),
    "40 MB": (call_with(b'"' + b"x" * 40_000_000 + b'"'), 9, INVALID_REQUEST, "too_large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_line_that_is_no_message_is_refused_and_the_next_one_served(server: Wire, name: str) -> None:
    line, identity, number, code = REFUSED[name]
    server.send(line)
    answer = server.receive()
    assert answer["id"] == identity
    assert answer["error"]["code"] == number
    assert answer["error"]["data"] == {"code": code}
    assert 10 < len(answer["error"]["message"]) < 300
    assert server.ask(request("ping", "next")) == {"jsonrpc": "2.0", "id": "next", "result": {}}
    assert server.silent()


def test_each_request_of_a_batch_is_told_that_batches_are_refused(server: Wire) -> None:
    batch = [request("ping", 1), request("ping", "two"), {"jsonrpc": "2.0", "method": "note"}, 5, None]
    server.send(json.dumps(batch).encode() + b"\n")
    for identity in (1, "two"):
        assert server.answer(identity)["error"]["data"]["code"] == "batch_unsupported"
    assert server.ask(request("ping", 3))["result"] == {}
    assert server.silent()


def test_empty_lines_and_carriage_returns_are_tolerated(server: Wire) -> None:
    line = encoded(request("ping", 1)).strip()
    server.send(b"\n\r\n \t \n" + line + b"\r\n" + b"\n")
    assert server.answer(1)["result"] == {}
    assert server.silent()


def test_unknown_methods_notifications_and_responses_do_no_harm(server: Wire) -> None:
    server.send(
        {"jsonrpc": "2.0", "method": "notifications/unknown", "params": {"a": 1}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "never asked"}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": {}}},
        {"jsonrpc": "2.0", "method": "notifications/cancelled"},
        {"jsonrpc": "2.0", "id": 77, "result": {}},
        {"jsonrpc": "2.0", "id": 78, "error": {"code": 1, "message": "what?"}},
    )
    assert server.ask(request("no/such/method", 1))["error"]["code"] == -32601
    assert server.ask(request("tools/call", 2, {"arguments": {}}))["error"]["code"] == INVALID_PARAMS
    assert (
        server.ask(request("tools/call", 3, {"name": "query_memory", "arguments": "x"}))["error"]["code"]
        == INVALID_PARAMS
    )
    assert server.ask(request("ping", 4))["result"] == {}
    assert server.silent()


def test_requests_with_the_same_id_are_each_answered(server: Wire) -> None:
    server.send(*[request("ping", 5)] * 3, *[request("ping", "5")] * 2)
    for identity in (5, 5, 5, "5", "5"):
        assert server.answer(identity)["result"] == {}
    assert server.silent()


def test_a_request_may_be_cancelled(server: Wire) -> None:
    cancelled = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 6}}
    server.send(calling("health_check", 6), cancelled, request("ping", 7))
    assert server.answer(7)["result"] == {}
    # an answer that was under way may still come, but no more than one
    server.silent(0.1)
    assert [message["id"] for message in server.rest()] in ([], [6])


def test_a_thousand_requests_at_once_are_all_answered(server: Wire) -> None:
    server.send(*(request("ping", number) for number in range(1_000)))
    assert sorted(server.receive()["id"] for _ in range(1_000)) == list(range(1_000))


def test_refusals_do_not_tear_large_answers_apart(server: Wire) -> None:
    # answers of more than a pipe's buffer are written by a thread while refusals are made
    for number in range(40):
        server.send(request("tools/list", number), b"no message\n" * 5)
    received = [server.receive() for _ in range(40 * 6)]
    assert sum("result" in message for message in received) == 40
    assert sum(message.get("error", {}).get("code") == PARSE_ERROR for message in received) == 200


def test_an_id_is_found_where_it_can_be_told_and_nowhere_else() -> None:
    def found(line: bytes) -> Any:
        return [json.loads(reply)["id"] for reply in unparsable(line, "too_large", "x").replies()]

    assert found(b'{"jsonrpc": "2.0", "id": 7, "method": "x", "params": {"a": "bbb') == [7]
    assert found(b'{"id":"a\\"b","params":{') == ['a"b']
    assert found(b'{"params": {"id": 5, "b": "cccc"}, "id": 7}') == [7]
    assert found(b'"cccc ... "}, "id": 7, "jsonrpc": "2.0"}') == [None]
    assert found(b'{"params": {"text": "cccc ... c"}, "id": 7, "jsonrpc": "2.0", "method": "x" }\r') == [7]
    assert found(b'{"params": {"id": 5, "b": "ccc ... c"}, "method": "x"}') == [None]
    assert found(b'{"params": {"x": "\\"id\\": 5}') == [None]
    assert found(b'{"id": {"id": 5}, "params": {') == [None]
    assert found(b"") == [None]
    # of a line that is cut off the end may be inside anything
    assert [json.loads(reply)["id"] for reply in check_message(b'{"params": {"a": 1, "id": 5}').replies()] == [None]


def test_lines_are_cut_however_they_arrive() -> None:
    data = b"one\n\ntwo\r\nthree"
    for size in range(1, len(data) + 1):
        lines = Lines()
        found = [line for at in range(0, len(data), size) for line in lines.feed(data[at : at + size])]
        assert [*found, lines.end()] == [b"one", b"", b"two\r", b"three"]
        assert lines.end() == b""


def test_of_an_overlong_line_both_ends_are_kept() -> None:
    lines = Lines()
    chunk = b"x" * 65_536
    found = lines.feed(b"head" + chunk)
    for _ in range(MAX_LINE // len(chunk)):
        found += lines.feed(chunk)
    found += lines.feed(b"tail\nnext\n")
    long, following = found
    assert isinstance(long, Overlong)
    assert long.startswith(b"head")
    assert long.endswith(b"tail")
    assert len(long) <= 2 * len(chunk)
    assert following == b"next"
    assert not isinstance(following, Overlong)


def test_the_first_line_may_be_bad_too(tmp_path: Any) -> None:
    with Wire(tmp_path) as wire:
        bad: list[Json | bytes] = [b"\n", b"hello\n", b"[]\n", b"[" * 5_000 + b"\n"]
        wire.send(*bad, initialize(1))
        assert [wire.receive()["error"]["data"]["code"] for _ in range(3)] == [
            "parse_error",
            "batch_unsupported",
            "too_large",
        ]
        assert wire.answer(1)["result"]["serverInfo"]
        assert wire.end() == 0
