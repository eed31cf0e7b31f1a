"""Cost against size: indexes over the same vectors, from thousands of blocks to a million and on.

The vectors are made: either from nothing (topics, segments of a topic, blocks of a segment), or from a memory's own,
which are repeated with noise until there are enough. So times, keys and bytes are those of real memories of that size,
and what is found is not: it says only how much of the exact order an index keeps on vectors so shaped.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from hierlandmark.errors import InvalidArgument

if TYPE_CHECKING:
    from hierlandmark.memory.vectors import LandmarkVectors

# numpy is every vector's product, what flat search is when it holds one vector a block
ROWS = ("index", "numpy", "faiss-flat", "faiss-ivf", "faiss-hnsw")
# blocks of a segment, width of made vectors, questions asked at each size, and how many blocks each wants
BLOCKS, WIDTH, QUERIES, K = 8, 512, 50, 10
# segments made at once
_AT_ONCE = 4096


@dataclass(frozen=True)
class Vectors:
    """Made vectors of one size, landmarks in a file."""

    gates: np.ndarray  # (G, V)
    blocks: np.ndarray  # (N, V), a memory map
    starts: np.ndarray  # (G + 1,)
    queries: np.ndarray  # (Q, V): real questions', or each a block with noise


class _Search(Protocol):
    def __call__(self, query: np.ndarray) -> tuple[Sequence[int], int]:
        """Places of blocks, best first, and vectors compared."""


@dataclass(frozen=True)
class _Built:
    search: _Search
    # bytes in memory and on disk; a call, since counting them is no part of building
    sizes: Callable[[], tuple[int, int]]


def measure_scale(
    sizes: Sequence[int],
    rows: Sequence[str] = ROWS,
    *,
    source: "LandmarkVectors | None" = None,
    questions: Sequence[str] = (),
    width: int = WIDTH,
) -> Iterator[dict[str, Any]]:
    """One record a size and row: `blocks`, `row`, `p50_ms`, `p95_ms`, `keys_scored`, `resident_bytes`, `index_bytes`,
    `build_s`, `agreement@10` (share of the exact first ten that are found) and `best@10` (is the first of them found).

    Args:
        sizes: numbers of blocks; segments hold eight.
        rows: of `ROWS`.
        source: whose vectors are repeated; None for vectors made from nothing.
        questions: asked of them, at most `QUERIES`; without any, queries are made of blocks.
        width: of those.

    Raises:
        InvalidArgument: a size under 100, or no row.
        MissingExtra: a row's library is not installed.
    """
    check_sizes(sizes, width)
    wanted = scale_rows(rows)
    asked = [source.query(one).vector for one in questions[:QUERIES]] if source is not None else []
    for size in sizes:
        with TemporaryDirectory() as folder:
            vectors = make(size, Path(folder), source, width)
            if asked:
                vectors = replace(vectors, queries=np.stack(asked))
            exact = _exact(vectors)
            for row in wanted:
                yield {"blocks": len(vectors.blocks), "row": row} | _measure(row, vectors, exact, Path(folder))


def scale_rows(rows: Sequence[str]) -> list[str]:
    """Those of `ROWS`, in its order; raises `InvalidArgument` where there is none."""
    wanted = [row for row in ROWS if row in rows]
    if not wanted:
        raise InvalidArgument(f"expected rows among {', '.join(ROWS)} for a scale, got {', '.join(rows)}")
    return wanted


def check_sizes(sizes: Sequence[int], width: int = WIDTH) -> None:
    """Raises `InvalidArgument`, before any work."""
    for size in sizes:
        if size < 100:
            raise InvalidArgument(f"expected sizes of at least 100 blocks, got {size!r}")
    if width < 1:
        raise InvalidArgument(f"expected a width of at least 1, got {width!r}")


def make(size: int, folder: Path, source: "LandmarkVectors | None", width: int = WIDTH) -> Vectors:
    """At least `size` blocks in whole segments, seeded."""
    rng = np.random.default_rng(0)
    G = -(-size // BLOCKS)
    width = width if source is None else source.blocks.shape[1]
    blocks = np.lib.format.open_memmap(folder / "made.npy", "w+", np.float32, (G * BLOCKS, width))
    gates = np.empty((G, width), np.float32)
    topics = rng.normal(size=(max(8, round(G**0.5)), width)).astype(np.float32)
    for start in range(0, G, _AT_ONCE):
        n = min(_AT_ONCE, G - start)
        if source is None:
            middle = topics[rng.integers(len(topics), size=n)] + rng.standard_normal((n, width), np.float32)
            own = middle[:, None] + rng.standard_normal((n, BLOCKS, width), np.float32)
            gate = own.mean(1)
        else:
            own, gate = _repeated(source, rng, n)
        blocks[start * BLOCKS : (start + n) * BLOCKS] = own.reshape(-1, width)
        gates[start : start + n] = gate
    picked = np.asarray(blocks[np.sort(rng.choice(len(blocks), size=QUERIES, replace=False))])
    queries = picked + picked.std() * rng.standard_normal(picked.shape, np.float32)
    return Vectors(gates, blocks, np.arange(G + 1, dtype=np.int64) * BLOCKS, queries)


def _repeated(source: "LandmarkVectors", rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Whole segments drawn from a memory's, with noise of its own on each: (n, BLOCKS, V), (n, V)."""
    counts = np.diff(source.starts)
    segments = rng.integers(len(counts), size=n)
    # a short segment repeats its blocks
    places = source.starts[segments][:, None] + np.arange(BLOCKS) % counts[segments][:, None]
    own, gate = source.blocks[places], source.gates[segments]
    # what sets two copies apart is seen by the gate as by the blocks, as it is with segments that differ
    apart = 0.5 * rng.standard_normal(gate.shape, np.float32)
    own = own + source.blocks.std() * (apart[:, None] + 0.2 * rng.standard_normal(own.shape, np.float32))
    return own, gate + source.gates.std() * apart


def _exact(vectors: Vectors) -> np.ndarray:
    """The best K blocks of each query by brute force: (Q, K)."""
    scores = np.concatenate(
        [
            vectors.queries @ np.asarray(vectors.blocks[start : start + 65_536]).T
            for start in range(0, len(vectors.blocks), 65_536)
        ],
        axis=1,
    )
    return np.argsort(-scores, axis=1, kind="stable")[:, :K]


def _measure(row: str, vectors: Vectors, exact: np.ndarray, folder: Path) -> dict[str, Any]:
    began = perf_counter()
    built = _build(row, vectors, folder)
    build_s = perf_counter() - began
    resident, on_disk = built.sizes()
    # pages and code paths that only the first query would pay for
    built.search(vectors.queries[0])
    times, keys, same, found = [], [], [], []
    for query, best in zip(vectors.queries, exact, strict=True):
        began = perf_counter()
        places, compared = built.search(query)
        times.append((perf_counter() - began) * 1e3)
        keys.append(compared)
        same.append(len(set(best.tolist()) & set(places)) / K)
        found.append(float(int(best[0]) in places))
    return {
        "p50_ms": float(np.percentile(times, 50)),
        "p95_ms": float(np.percentile(times, 95)),
        "keys_scored": float(np.mean(keys)),
        "resident_bytes": resident,
        "index_bytes": on_disk,
        "build_s": build_s,
        f"agreement@{K}": float(np.mean(same)),
        f"best@{K}": float(np.mean(found)),
    }


def _build(row: str, vectors: Vectors, folder: Path) -> _Built:
    if row == "index":
        from hierlandmark.memory.index import VectorIndex

        index = VectorIndex.build(folder / "index", vectors.gates, vectors.blocks, vectors.starts)

        def search(query: np.ndarray) -> tuple[Sequence[int], int]:
            found = index.search(query, K)
            return found.blocks.tolist(), found.gate_keys + found.landmark_keys

        return _Built(search, lambda: (index.resident_bytes, index.index_bytes))
    if row == "numpy":
        blocks = np.array(vectors.blocks)

        def brute(query: np.ndarray) -> tuple[Sequence[int], int]:
            scores = blocks @ query
            best = np.argpartition(-scores, K)[:K]
            return best[np.argsort(-scores[best])].tolist(), len(blocks)

        return _Built(brute, lambda: (blocks.nbytes, blocks.nbytes))
    from hierlandmark.eval.peers.faiss import Faiss

    peer = Faiss(vectors.blocks, row.removeprefix("faiss-"))  # type: ignore[arg-type]

    def by_faiss(query: np.ndarray) -> tuple[Sequence[int], int]:
        places, _, compared = peer.search(query, K)
        return places, compared

    return _Built(by_faiss, lambda: (peer.index_bytes,) * 2)


def scale_cells(records: Sequence[dict[str, Any]]) -> list[list[str]]:
    """Heads, then a row each, as text."""
    from hierlandmark.eval.table import size

    heads = ["row", "blocks", "p50 ms", "p95 ms", "keys", "resident", "index", "build s", "agreement@10", "best@10"]
    found = [
        [
            one["row"],
            f"{one['blocks']:,}",
            f"{one['p50_ms']:,.2f}",
            f"{one['p95_ms']:,.2f}",
            f"{one['keys_scored']:,.0f}",
            size(one["resident_bytes"]),
            size(one["index_bytes"]),
            f"{one['build_s']:,.1f}",
            f"{one['agreement@10']:.3f}",
            f"{one['best@10']:.3f}",
        ]
        for one in records
    ]
    return [heads, *found]
