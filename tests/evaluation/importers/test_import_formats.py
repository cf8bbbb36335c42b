"""The registry of formats, and failures that concern a whole file."""

import pytest

from memory_mcp.errors import ImportFormatError
from memory_mcp.evaluation.importers import FORMATS, read


def test_every_format_has_a_reader_and_one_line_of_description() -> None:
    assert list(FORMATS) == ["jsonl", "tau-bench", "tau2-bench", "claude-code"]
    for known in FORMATS.values():
        assert callable(known.read)
        assert known.description
        assert "\n" not in known.description


@pytest.mark.parametrize(("typed", "meant"), [("jsonlines", "jsonl"), ("tau_bench", "tau-bench"), ("Claude", "claude")])
def test_an_unknown_format_is_answered_with_the_nearest_name(typed, meant, tmp_path) -> None:
    with pytest.raises(ImportFormatError) as caught:
        read(typed, tmp_path / "x")
    assert meant in caught.value.hint


def test_a_format_like_no_other_is_answered_with_all_names(tmp_path) -> None:
    with pytest.raises(ImportFormatError) as caught:
        read("parquet", tmp_path / "x")
    assert all(name in caught.value.hint for name in FORMATS)


@pytest.mark.parametrize("format", FORMATS)
def test_a_missing_file_and_a_directory_are_refused_at_once(format, tmp_path) -> None:
    for path in (tmp_path / "missing", tmp_path):
        with pytest.raises(ImportFormatError) as caught:
            read(format, path)
        assert str(path) in caught.value.message
        assert caught.value.hint


@pytest.mark.parametrize("format", ["tau-bench", "tau2-bench"])
@pytest.mark.parametrize("content", [b"", b"not json", b'{"a":', b"\xff\xfe\x00", b"[" * 100_000, b"7" * 5_000])
def test_a_benchmark_file_that_is_not_json_is_refused_as_a_whole(format, content, tmp_path) -> None:
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(ImportFormatError):
        read(format, path)


def test_the_two_benchmark_formats_point_to_each_other(tmp_path) -> None:
    path = tmp_path / "results.json"
    path.write_text("[]", encoding="utf-8")
    with pytest.raises(ImportFormatError) as caught:
        read("tau2-bench", path)
    assert "tau-bench" in caught.value.hint
    path.write_text('{"simulations": []}', encoding="utf-8")
    with pytest.raises(ImportFormatError) as caught:
        read("tau-bench", path)
    assert "tau2-bench" in caught.value.hint


@pytest.mark.parametrize("format", ["jsonl", "claude-code"])
def test_an_empty_file_holds_nothing_and_no_problem(format, tmp_path) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_bytes(b"\xef\xbb\xbf\n \r\n")
    assert list(read(format, path)) == []
