"""BM25 by bm25s (Lù 2024, arXiv 2407.03618), with that library's defaults and its English stop words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hierlandmark.errors import MissingExtra


class BM25:
    """An index over texts.

    Raises:
        MissingExtra: bm25s is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self._library = library()
        self._n = len(texts)
        tokens = self._tokens(texts)
        # the library takes no empty vocabulary
        self._index = self._library.BM25() if any(tokens) else None
        if self._index is not None:
            self._index.index(tokens, show_progress=False)

    def _tokens(self, texts: Sequence[str]) -> list[list[str]]:
        found: list[list[str]] = self._library.tokenize(
            list(texts), stopwords="english", return_ids=False, show_progress=False
        )
        return found

    @property
    def index_bytes(self) -> int:
        """Of the matrix of scores; words are not counted."""
        return sum(a.nbytes for a in self._matrix().values()) if self._index is not None else 0

    def _matrix(self) -> dict[str, np.ndarray]:
        scores = self._index.scores  # type: ignore[union-attr]
        return {name: np.asarray(scores[name]) for name in ("data", "indices", "indptr")}

    def search(self, query: str, k: int) -> tuple[list[int], int]:
        """Places of the texts that hold a word of the query, best first, at most k; and postings scored."""
        (tokens,) = self._tokens([query])
        words = [word for word in tokens if self._index is not None and word in self._index.vocab_dict]
        if self._index is None or not words:
            return [], 0
        bounds = self._matrix()["indptr"]
        ids = [self._index.vocab_dict[word] for word in words]
        postings = sum(int(bounds[i + 1] - bounds[i]) for i in ids)
        scores = self._index.get_scores(words)
        order = np.argsort(-scores, kind="stable")[:k]
        return [int(i) for i in order if scores[i] > 0], postings


def library() -> Any:
    """bm25s."""
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtra("the row bm25 needs bm25s; run: pip install 'hierlandmark[eval]'") from error
    return bm25s
