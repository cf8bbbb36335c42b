"""The analysis of text, where threads meet in it: a store writes on one, and reads on others."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import snowballstemmer

from memory_mcp.retrieval.text import terms

WORDS = [
    f"{stem}{end}" for stem in ("gener", "hesit", "conform", "oper", "relat") for end in ("ations", "izing", "ally")
]


@pytest.fixture
def often_interrupted() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("often_interrupted")
def test_threads_that_analyse_texts_at_once_do_not_spoil_each_others_words() -> None:
    # each word is new to the analysis, which remembers what it has seen
    texts = [
        " ".join(f"{chr(97 + part)}{chr(97 + number % 26)}{word}" for word in WORDS)
        for part in range(4)
        for number in range(26)
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(terms, texts))
    stemmer = snowballstemmer.stemmer("porter")
    assert found == [[stemmer.stemWord(word) for word in text.split()] for text in texts]
