"""Embedders: texts to vectors, behind one protocol. Importing this package loads neither numpy nor a model."""

from __future__ import annotations

from memory_mcp.errors import EmbedderError
from memory_mcp.retrieval.embedders.base import Embedder

__all__ = ["Embedder", "create_embedder"]

_PROVIDERS = "Use 'minilm' (the default), 'sentence-transformers' with a model, or 'none' for lexical search only."


def create_embedder(provider: str, model: str = "") -> Embedder | None:
    """The embedder of `provider`: "minilm", "sentence-transformers" (which needs `model`) or "none" (gives None).

    Loads the model, so call it in a worker thread.

    Raises:
        EmbedderError: an unknown provider, a package that is not installed, or a model that cannot be loaded.
    """
    match provider:
        case "none":
            return None
        case "minilm":
            from memory_mcp.retrieval.embedders.minilm import MiniLMEmbedder

            if model:
                raise EmbedderError(f"The embedder 'minilm' has one model and cannot load {model!r}.", hint=_PROVIDERS)
            return MiniLMEmbedder()
        case "sentence-transformers":
            from memory_mcp.retrieval.embedders.sentence_transformers import SentenceTransformersEmbedder

            return SentenceTransformersEmbedder(model)
        case _:
            raise EmbedderError(f"There is no embedder {provider!r}.", hint=_PROVIDERS)
