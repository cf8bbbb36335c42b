"""What every embedder can do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Embedder(Protocol):
    """Turns texts into unit vectors whose dot product is their cosine similarity.

    Making one loads its model, which blocks for 0.1 s (minilm) to seconds (sentence-transformers): do that, and embed,
    in a worker thread. All methods may be called from any thread.

    Attributes:
        model_id: names the model, the recipe and a short hash of the weights; only vectors with equal `model_id` may be
            compared.
        dimensions: length of every vector.
    """

    model_id: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One unit vector per text, in the order of `texts`: shape `[len(texts), dimensions]`.

        The vector of a text does not depend on the other texts. Only the first tokens of a long text count (256 of
        all-MiniLM-L6-v2); the empty text has a vector, too.

        Raises:
            EmbedderError: the model failed.
        """
        ...
