"""Text analysis: the same words for what is stored and for what is asked."""

from __future__ import annotations

import re
import threading
import unicodedata
from collections.abc import Callable
from functools import lru_cache

# English words that carry no content in a task, a question or an error (a subset of the SMART list)
STOP_WORDS = frozenset(
    [
        "a",
        "about",
        "after",
        "all",
        "also",
        "am",
        "an",
        "and",
        "any",
        "are",
        "as",
        "at",
        "be",
        "because",
        "been",
        "before",
        "being",
        "but",
        "by",
        "can",
        "could",
        "did",
        "do",
        "does",
        "doing",
        "done",
        "for",
        "from",
        "get",
        "had",
        "has",
        "have",
        "having",
        "he",
        "her",
        "here",
        "him",
        "his",
        "how",
        "i",
        "if",
        "in",
        "into",
        "is",
        "it",
        "its",
        "just",
        "me",
        "more",
        "most",
        "my",
        "no",
        "nor",
        "not",
        "now",
        "of",
        "off",
        "on",
        "once",
        "only",
        "or",
        "other",
        "our",
        "out",
        "over",
        "own",
        "she",
        "should",
        "so",
        "some",
        "such",
        "than",
        "that",
        "the",
        "their",
        "them",
        "then",
        "there",
        "these",
        "they",
        "this",
        "those",
        "through",
        "to",
        "too",
        "under",
        "until",
        "up",
        "use",
        "used",
        "using",
        "very",
        "was",
        "we",
        "were",
        "what",
        "when",
        "where",
        "which",
        "while",
        "who",
        "why",
        "will",
        "with",
        "would",
        "you",
        "your",
    ]
)

MAX_CHARACTERS = 20_000

_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\x00-\x7f]+")
# Thai, Lao, Burmese, Khmer, Japanese, Chinese, Korean
_WIDE = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3005\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    r"\U00020000-\U0003ffff]+"
)
# of the marks only those that make another sound of a Japanese syllable are more than accents
_VOICED = frozenset("\u3099\u309a")


def terms(text: str) -> list[str]:
    """Search terms in order: lower case, without accents, stemmed (Porter 1980), stop words kept.

    Identifiers count whole and in parts (`UnicodeDecodeError` is also unicode, decode, error); scripts that write no
    spaces are cut into overlapping pairs of characters. Text behind 20,000 characters is not analysed.
    """
    found: list[str] = []
    text = text[:MAX_CHARACTERS]
    # marks come off first: in many scripts they stand inside of words, which would fall apart there
    for match in _WORD.finditer(text if text.isascii() else _plain(text)):
        word = match[0]
        if not word.isascii() and _WIDE.search(word):
            found.extend(_pairs(word))
            continue
        found.append(_stem(word.casefold()))
        if word not in (word.lower(), word.upper()) and not word.istitle():
            found.extend(_stem(part.casefold()) for part in _CAMEL.findall(word))
    return found


def content_terms(text: str) -> list[str]:
    """Distinct terms of a question without stop words; if nothing else is in it, the stop words themselves."""
    found = dict.fromkeys(term for term in terms(text) if term not in _stopped())
    return list(found or dict.fromkeys(terms(text)))


@lru_cache(maxsize=1)
def _stopped() -> frozenset[str]:
    return frozenset(_stem(word) for word in STOP_WORDS) | STOP_WORDS


class _Stemmers(threading.local):
    """A stemmer for each thread: it keeps the word it works on in itself, and two words at once spoil each other."""

    def __init__(self) -> None:
        import snowballstemmer

        self.stem: Callable[[str], str] = snowballstemmer.stemmer("porter").stemWord


@lru_cache(maxsize=1)
def _stemmers() -> _Stemmers:
    return _Stemmers()


@lru_cache(maxsize=65_536)
def _stem(word: str) -> str:
    return str(_stemmers().stem(word)) if word.isascii() and len(word) < 40 else word


def _plain(text: str) -> str:
    decomposed = unicodedata.normalize("NFKD", text)
    kept = (c for c in decomposed if c in _VOICED or not unicodedata.category(c).startswith("M"))
    return unicodedata.normalize("NFC", "".join(kept))


def _pairs(word: str) -> list[str]:
    found = []
    position = 0
    for match in _WIDE.finditer(word):
        if match.start() > position:
            found.append(_stem(word[position : match.start()].casefold()))
        run = match[0]
        found.extend(run[at : at + 2] for at in range(max(1, len(run) - 1)))
        position = match.end()
    if position < len(word):
        found.append(_stem(word[position:].casefold()))
    return found
