"""The tokenizer of uncased BERT models: text to WordPiece ids.

Source: Devlin et al. 2019, and the normalizer and pre-tokenizer that Hugging Face `tokenizers` calls BertNormalizer and
BertPreTokenizer. One difference is meant: control tokens written out in a text, such as "[SEP]", are plain text.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from functools import lru_cache

_MAX_WORD = 100  # characters; longer words are unknown, as in the reference
_CACHED_WORDS = 16_384
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")
_IDEOGRAPHS = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


class _Normalizer(dict[int, str]):
    """A table for `str.translate` that fills itself: what becomes of one character.

    By character, because NFD of a whole text takes quadratic time on long runs of accents. That is no loss: accents,
    the only characters that NFD brings into a new order, are dropped.
    """

    def __missing__(self, code: int) -> str:
        self[code] = result = "".join(map(_normalized, unicodedata.normalize("NFD", chr(code))))
        return result


def _normalized(character: str) -> str:
    if character in "\t\n\r":
        return " "
    category = unicodedata.category(character)
    if category in {"Mn", "Cc", "Cf", "Co", "Cs"} or character == "\ufffd":
        return ""
    if character.isspace():
        return " "
    if category.startswith("P") or character in _ASCII_PUNCTUATION or _is_ideograph(ord(character)):
        return f" {character} "
    # str.lower() of a whole word would make a final sigma, which the reference does not
    return character.lower()


def _is_ideograph(code: int) -> bool:
    return any(low <= code <= high for low, high in _IDEOGRAPHS)


class WordPieceTokenizer:
    """Uncased WordPiece over a vocabulary. Thread-safe; remembers the ids of frequent words.

    `vocabulary` maps tokens to ids and must hold "[CLS]", "[SEP]" and "[UNK]". `max_tokens` includes [CLS] and [SEP].
    """

    def __init__(self, vocabulary: Mapping[str, int], *, max_tokens: int) -> None:
        self._vocabulary = vocabulary
        self._first, self._last = vocabulary["[CLS]"], vocabulary["[SEP]"]
        self._unknown = (vocabulary["[UNK]"],)
        self._room = max_tokens - 2
        self._normalizer = _Normalizer()
        self._word_ids = lru_cache(_CACHED_WORDS)(self._split)

    def encode(self, text: str) -> list[int]:
        """The ids of `text` between [CLS] and [SEP], at most `max_tokens`; the end of a long text is cut."""
        ids = [self._first]
        for word in text.translate(self._normalizer).split():
            ids.extend(self._word_ids(word) if len(word) <= _MAX_WORD else self._unknown)
            if len(ids) > self._room:
                del ids[self._room + 1 :]
                break
        ids.append(self._last)
        return ids

    def _split(self, word: str) -> tuple[int, ...]:
        """Greedy longest match first; a word with a part that is not in the vocabulary is unknown as a whole."""
        ids: list[int] = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                piece = word[start:end] if start == 0 else "##" + word[start:end]
                if (found := self._vocabulary.get(piece)) is not None:
                    ids.append(found)
                    start = end
                    break
            else:
                return self._unknown
        return tuple(ids)
