"""The tokenizer against ids that the reference (`tokenizers` 0.23 with the model's own files) gives."""

import unicodedata
from pathlib import Path

import pytest

from memory_mcp.retrieval import embedders
from memory_mcp.retrieval.embedders.minilm import MAX_TOKENS
from memory_mcp.retrieval.embedders.wordpiece import WordPieceTokenizer

CLS, SEP, UNKNOWN = 101, 102, 100


@pytest.fixture(scope="module")
def tokenizer():
    lines = (Path(embedders.__file__).parent / "data" / "vocab.txt").read_text(encoding="utf-8").splitlines()
    return WordPieceTokenizer({token: number for number, token in enumerate(lines)}, max_tokens=MAX_TOKENS)


# fmt: off
REFERENCE = {
    "": [],
    "Hello, World!": [7592, 1010, 2088, 999],
    "naïve café résumé": [15743, 7668, 13746],
    "unaffable electroencephalography": [14477, 20961, 3468, 16175, 10127, 21890, 21197, 26228],
    "def parse(line: str) -> list[int]:\n\treturn [int(x) for x in line.split(',')]": [
        13366, 11968, 3366, 1006, 2240, 1024, 2358, 2099, 1007, 1011, 1028, 2862, 1031, 20014, 1033, 1024, 2709, 1031,
        20014, 1006, 1060, 1007, 2005, 1060, 1999, 2240, 1012, 3975, 1006, 1005, 1010, 1005, 1007, 1033],
    "__init__.py $HOME ~/.bashrc": [
        1035, 1035, 1999, 4183, 1035, 1035, 1012, 1052, 2100, 1002, 2188, 1066, 1013, 1012, 24234, 11890],
    "東京 tower": [1879, 1755, 3578],
    "한국어": [1469, 30006, 30021, 29991, 30014, 30020, 29999, 30008],
    "ΟΔΥΣΣΕΥΣ": [1169, 29722, 29735, 29733, 29733, 29723, 29735, 29733],
    "tests passed 🎉": [5852, 2979, UNKNOWN],
    "a\u200bb\x07c\ufffdd\u00a0e": [5925, 2094, 1041],
    "≠ ﬁ Ⅷ ½": [1027, 1984, UNKNOWN, 1092],
    "x" * 101: [UNKNOWN],
}
# fmt: on


@pytest.mark.parametrize(("text", "ids"), REFERENCE.items())
def test_ids_are_those_of_the_reference(tokenizer, text, ids):
    assert tokenizer.encode(text) == [CLS, *ids, SEP]


def test_composed_and_decomposed_accents_give_the_same_ids(tokenizer):
    text = "Ångström señor İstanbul"
    assert tokenizer.encode(unicodedata.normalize("NFD", text)) == tokenizer.encode(unicodedata.normalize("NFC", text))


@pytest.mark.parametrize("token", ["[CLS]", "[SEP]", "[PAD]", "[UNK]", "[MASK]"])
def test_a_control_token_in_the_text_is_plain_text(tokenizer, token):
    opening, name, closing = token[0], token[1:-1], token[-1]
    assert tokenizer.encode(f"a {token} b") == tokenizer.encode(f"a {opening} {name} {closing} b")


@pytest.mark.parametrize("text", ["word " * 5_000, "x," * 5_000, "東" * 10_000, "electroencephalography " * 100])
def test_a_long_text_is_cut_to_the_limit_and_still_ends_with_sep(tokenizer, text):
    ids = tokenizer.encode(text)
    assert len(ids) == MAX_TOKENS
    assert ids[0] == CLS
    assert ids[-1] == SEP


def test_a_text_of_exactly_the_limit_is_not_cut(tokenizer):
    room = MAX_TOKENS - 2
    assert tokenizer.encode("word " * room) == tokenizer.encode("word " * (room + 1))
    assert len(tokenizer.encode("word " * (room - 1))) == MAX_TOKENS - 1


@pytest.mark.parametrize("text", ["\x00\x01\x02", "\ud800", "\u0301" * 10_000, "\u0301\u0316" * 5_000, " \n\t "])
def test_text_without_any_visible_character_gives_only_the_frame(tokenizer, text):
    assert tokenizer.encode(text) == [CLS, SEP]
