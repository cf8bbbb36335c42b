"""The default embedder: all-MiniLM-L6-v2 with 8-bit weights, run by onnxruntime, without torch or network.

`data/NOTICE` tells where the model comes from, `tools/export_minilm.py` how its file was made.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_mcp.errors import EmbedderError
from memory_mcp.retrieval.embedders.wordpiece import WordPieceTokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MODEL_SHA256 = "cf7e5bfcf4138d2d45991f3ef7593d6110d224209564bd36ad7982b95ae20dd5"
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
MAX_TOKENS = 256
DIMENSIONS = 384
_MAX_THREADS = 2
_DATA = Path(__file__).parent / "data"
_REINSTALL = "Install memory-mcp again: a file of the package is missing or damaged."


class MiniLMEmbedder:
    """See `Embedder`. Loading checks and reads 24 MB and takes 0.1 s with the imports.

    Texts run one at a time. Batches gain a quarter on short texts and nothing on long ones, but padding and other
    summation orders would make a vector depend on its neighbours, and the memory of a batch stays allocated.
    """

    def __init__(self, directory: Path = _DATA) -> None:
        """`directory` holds `minilm-l6-v2.onnx` and `vocab.txt`.

        Raises:
            EmbedderError: one of the files is missing or damaged, or onnxruntime cannot load the model.
        """
        self.model_id = f"all-MiniLM-L6-v2/onnx-q8-block32/{MODEL_SHA256[:12]}"
        self.dimensions = DIMENSIONS
        self._tokenizer = _load_tokenizer(directory / "vocab.txt")
        self._session = _load_session(directory / "minilm-l6-v2.onnx")

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of `texts`, shape `[len(texts), 384]`.

        Raises:
            EmbedderError: onnxruntime failed.
        """
        from memory_mcp.numerics import np

        vectors = np.empty((len(texts), DIMENSIONS), dtype=np.float32)
        for row, text in enumerate(texts):
            ids = np.array(self._tokenizer.encode(text), dtype=np.int64)
            try:
                vectors[row] = self._session.run(None, {"input_ids": ids})[0]
            except Exception as error:
                raise EmbedderError(f"onnxruntime failed to embed a text of {len(ids)} tokens: {error}") from error
        return vectors


def _load_tokenizer(path: Path) -> WordPieceTokenizer:
    _check(path, VOCABULARY_SHA256)
    tokens = path.read_text(encoding="utf-8").splitlines()
    return WordPieceTokenizer({token: number for number, token in enumerate(tokens)}, max_tokens=MAX_TOKENS)


def _load_session(path: Path) -> Any:
    # first of all, because onnxruntime imports numpy too
    import memory_mcp.numerics  # noqa: F401

    # damage in the middle of the weights would pass unseen and spoil every stored vector; the check takes 20 ms
    _check(path, MODEL_SHA256)
    try:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = min(_MAX_THREADS, os.cpu_count() or 1)
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # a plan per text length would hold memory for each of the 255 lengths; the arena stays on, as without it the
        # allocations of concurrent runs fragment the heap (330 MB instead of 155 MB after 8 threads)
        options.enable_mem_pattern = False
        return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise EmbedderError(f"onnxruntime cannot load {path.name}: {error}", hint=_REINSTALL) from error


def _check(path: Path, sha256: str) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EmbedderError(f"The model file {path.name} cannot be read: {error.strerror}", hint=_REINSTALL) from error
    if found != sha256:
        raise EmbedderError(f"The model file {path.name} is damaged: its SHA-256 is {found}", hint=_REINSTALL)
