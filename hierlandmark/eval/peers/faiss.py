"""FAISS (Douze et al. 2024, arXiv 2401.08281) over vectors that are given: flat, IVF and HNSW, by inner product."""

from typing import Any, Literal, get_args

import numpy as np

from hierlandmark.errors import InvalidArgument, MissingExtra

Kind = Literal["flat", "ivf", "hnsw"]
# of IVF: lists for each root of the number of vectors, the share of them that is looked into, vectors a list that it
# learns from
LISTS, PROBED, LEARN = 1.0, 1 / 16, 64
# of HNSW: neighbours, and candidates kept while building and searching
NEIGHBOURS, BUILD, SEARCH = 32, 80, 128


class Faiss:
    """An index over vectors.

    Args:
        vectors: (N, V) float32.

    Raises:
        MissingExtra: faiss-cpu is not installed.
        InvalidArgument: no such kind.
    """

    def __init__(self, vectors: np.ndarray, kind: Kind) -> None:
        if kind not in get_args(Kind):
            raise InvalidArgument(f"expected the kind to be one of {', '.join(get_args(Kind))}, got {kind!r}")
        self._library, self.kind = library(), kind
        vectors = np.ascontiguousarray(vectors, np.float32)
        self._n, width = vectors.shape
        self._index = getattr(self, f"_{kind}")(width, self._n)
        if kind == "ivf":
            self._index.train(vectors)
        self._index.add(vectors)

    def _flat(self, width: int, n: int) -> Any:
        return self._library.IndexFlatIP(width)

    def _ivf(self, width: int, n: int) -> Any:
        lists = max(1, min(round(LISTS * n**0.5), n // 39))
        quantizer = self._library.IndexFlatIP(width)
        index = self._library.IndexIVFFlat(quantizer, width, lists, self._library.METRIC_INNER_PRODUCT)
        index.cp.max_points_per_centroid = LEARN
        index.cp.min_points_per_centroid = 1
        index.nprobe = max(1, min(lists, 8), round(PROBED * lists))
        return index

    def _hnsw(self, width: int, n: int) -> Any:
        index = self._library.IndexHNSWFlat(width, NEIGHBOURS, self._library.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction, index.hnsw.efSearch = BUILD, SEARCH
        return index

    @property
    def index_bytes(self) -> int:
        """Of the index as FAISS writes it."""
        # counted as it is written: a copy would double the memory that a million vectors take
        total = 0

        def count(part: bytes) -> int:
            nonlocal total
            total += len(part)
            return len(part)

        self._library.write_index(self._index, self._library.PyCallbackIOWriter(count))
        return total

    def search(self, query: np.ndarray, k: int) -> tuple[list[int], list[float], int]:
        """Places of at most k vectors, best first, their inner products, and vectors compared."""
        before = self._compared()
        scores, places = self._index.search(np.ascontiguousarray(query, np.float32)[None], min(k, self._n))
        found = places[0] >= 0
        compared = self._n if self.kind == "flat" else self._compared() - before
        return places[0][found].tolist(), scores[0][found].tolist(), compared

    def _compared(self) -> int:
        """Counted by FAISS since the process began, centres of lists among them."""
        if self.kind == "ivf":
            stats = self._library.cvar.indexIVF_stats
            return int(stats.ndis) + int(stats.nq) * int(self._index.nlist)
        return int(self._library.cvar.hnsw_stats.ndis) if self.kind == "hnsw" else 0


def library() -> Any:
    """faiss."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("the rows faiss-* need faiss-cpu; run: pip install 'hierlandmark[eval]'") from error
    return faiss
