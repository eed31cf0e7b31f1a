"""`VectorIndex`: gates in memory, landmarks in a file; a search opens a few segments and reads theirs only.

Over a million blocks even the gates are too many to look at one by one, so they are dealt to cells, about as many as
the root of their number, by spherical k-means (the coarse quantiser of an inverted file). A query scores the cells'
centres, the gates of the best cells, and the landmarks of the best segments: keys scored grow with the root of the
memory.

Shapes: N blocks, G segments, C cells, V width of a vector (`memory.vectors`).
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from hierlandmark.errors import InvalidArgument, StoreCorrupt

# cells whose gates a query looks at, and segments whose landmarks it reads: under a tenth of 10,000 blocks' keys
CELLS, SEGMENTS = 12, 64
_BLOCKS, _GATES, _TABLES, _META = "landmarks.npy", "gates.npy", "tables.npz", "index.json"
# not on Windows
_PREAD = hasattr(os, "pread")
# of k-means: rounds, gates a cell that it learns from, rows compared at once
_ROUNDS, _SAMPLE, _ROWS = 10, 64, 8192


@dataclass(frozen=True)
class Found:
    """Places of blocks, best first, and the work that found them."""

    blocks: np.ndarray  # (k,) int64
    scores: np.ndarray  # (k,) float32, inner products
    # vectors compared: centres and gates, landmarks
    gate_keys: int
    landmark_keys: int
    # of landmarks, fetched from the file
    bytes_read: int


class VectorIndex:
    """Blocks of one memory by inner product, two levels and cells over the upper one. Make it with `build` or `open`.

    Searches may run in several threads. To add blocks, build it anew.
    """

    def __init__(
        self, blocks: np.ndarray, gates: np.ndarray, starts: np.ndarray, order: np.ndarray, cells: np.ndarray
    ) -> None:
        """From arrays as `build` makes them; `blocks` may be a memory map.

        Args:
            blocks: (N, V) in text order.
            gates: (G, V) cell by cell.
            starts: (G + 1,) first block of each segment, in text order, and N.
            order: (G,) segment of each row of `gates`.
            cells: (C + 1,) first row of each cell, and G.
        """
        self._blocks, self._gates, self._starts, self._order, self._cells = blocks, gates, starts, order, cells
        # a read costs less than the page faults of a map, and leaves no landmark in this process
        self._file = FileIO(blocks.filename) if isinstance(blocks, np.memmap) and blocks.filename and _PREAD else None
        self._offset = blocks.offset if isinstance(blocks, np.memmap) else 0
        self._centres = np.stack([gates[a:b].mean(0) for a, b in pairwise(cells)])

    @classmethod
    def build(
        cls, folder: Path, gates: np.ndarray, blocks: np.ndarray, starts: np.ndarray, *, cells: int | None = None
    ) -> Self:
        """Write an index into a folder, which may exist, and open it.

        Args:
            gates: (G, V) float32.
            blocks: (N, V) float32, may be a memory map: it is copied in pieces.
            starts: (G + 1,) first block of each segment, and N.
            cells: C; by default the root of G.

        Raises:
            InvalidArgument: shapes do not fit, or there is no block.
        """
        G = len(gates)
        if not G or starts.shape != (G + 1,) or starts[-1] != len(blocks) or gates.shape[1:] != blocks.shape[1:]:
            raise InvalidArgument(
                f"expected gates (G, V), blocks (N, V) and starts (G + 1,) that ends with N, got {gates.shape}, "
                f"{blocks.shape} and {starts.shape}"
            )
        if cells is not None and not 1 <= cells <= G:
            raise InvalidArgument(f"expected 1 to {G} cells, got {cells!r}")
        cell = _cells(gates, round(G**0.5) if cells is None else cells)
        order = np.argsort(cell, kind="stable")
        # empty ones are left out
        counts = np.bincount(cell)
        bounds = np.cumsum([0, *counts[counts > 0]], dtype=np.int64)
        folder.mkdir(parents=True, exist_ok=True)
        out = np.lib.format.open_memmap(folder / _BLOCKS, "w+", np.float32, blocks.shape)
        for rows in _pieces(len(blocks)):
            out[rows] = blocks[rows]
        out.flush()
        del out
        np.save(folder / _GATES, np.asarray(gates, np.float32)[order])
        np.savez(folder / _TABLES, starts=np.asarray(starts, np.int64), order=order, cells=bounds)
        (folder / _META).write_text(json.dumps({"blocks": len(blocks), "segments": G, "width": gates.shape[1]}) + "\n")
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `build` wrote: gates are read into memory, landmarks stay in their file.

        Raises:
            StoreCorrupt: a file is missing, damaged or of another index.
        """
        try:
            meta = json.loads((folder / _META).read_text())
            blocks = np.load(folder / _BLOCKS, mmap_mode="r")
            gates = np.load(folder / _GATES)
            with np.load(folder / _TABLES) as tables:
                starts, order, cells = tables["starts"], tables["order"], tables["cells"]
        except (OSError, ValueError, KeyError) as error:
            raise StoreCorrupt(f"no whole vector index in {str(folder)!r}, build it anew: {error}") from error
        width = meta.get("width")
        if blocks.shape != (meta.get("blocks"), width) or gates.shape != (meta.get("segments"), width):
            raise StoreCorrupt(f"the files of the vector index in {str(folder)!r} do not fit, build it anew")
        return cls(blocks, gates, starts, order, cells)

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def n_segments(self) -> int:
        """G."""
        return len(self._gates)

    @property
    def n_cells(self) -> int:
        """C."""
        return len(self._centres)

    @property
    def resident_bytes(self) -> int:
        """Held in memory: gates, centres and tables; no landmark."""
        return sum(a.nbytes for a in (self._gates, self._centres, self._starts, self._order, self._cells))

    @property
    def index_bytes(self) -> int:
        """On disk, landmarks included."""
        return int(self._blocks.nbytes + self._gates.nbytes + self._starts.nbytes + self._order.nbytes)

    def search(self, query: np.ndarray, k: int = 10, *, cells: int = CELLS, segments: int = SEGMENTS) -> Found:
        """The k best blocks of the best segments of the best cells, fewer when those hold fewer.

        Args:
            query: (V,).
            cells: whose gates are scored; C of them score every gate.
            segments: whose landmarks are read; G of them, with every gate scored, is brute force.

        Raises:
            InvalidArgument: k, cells or segments < 1, or a query of another width.
        """
        for name, value in (("k", k), ("cells", cells), ("segments", segments)):
            if value < 1:
                raise InvalidArgument(f"expected {name} of at least 1, got {value!r}")
        query = np.ascontiguousarray(query, np.float32)
        if query.shape != self._gates.shape[1:]:
            raise InvalidArgument(f"expected a query of shape {self._gates.shape[1:]}, got {query.shape}")
        rows, n_gates = self._rows(query, cells)
        scores = np.concatenate([self._gates[a:b] @ query for a, b in rows])
        places = np.concatenate([np.arange(a, b) for a, b in rows])
        opened = np.sort(self._order[places[_best(scores, segments)]])
        ids = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in opened])
        landmarks = self._read(opened)
        scores = landmarks @ query
        best = _best(scores, k)
        return Found(ids[best], scores[best], n_gates, len(ids), landmarks.nbytes)

    def _read(self, segments: np.ndarray) -> np.ndarray:
        """Landmarks of segments, in the order given: (n, V)."""
        bounds = [(int(self._starts[s]), int(self._starts[s + 1])) for s in segments]
        if self._file is None:
            return np.concatenate([self._blocks[a:b] for a, b in bounds])
        width = self._gates.shape[1]
        data = b"".join(
            os.pread(self._file.fileno(), (b - a) * width * 4, self._offset + a * width * 4) for a, b in bounds
        )
        if len(data) != sum(b - a for a, b in bounds) * width * 4:
            raise StoreCorrupt(f"{self._file.name!r} is shorter than it was, build the vector index anew")
        return np.frombuffer(data, np.float32).reshape(-1, width)

    def _rows(self, query: np.ndarray, cells: int) -> tuple[list[tuple[int, int]], int]:
        """Rows of the gates to score, and keys scored for it, theirs among them."""
        if cells >= self.n_cells:
            return [(0, len(self._gates))], len(self._gates)
        chosen = _best(self._centres @ query, cells)
        rows = [(int(self._cells[c]), int(self._cells[c + 1])) for c in chosen]
        return rows, self.n_cells + sum(b - a for a, b in rows)


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k greatest, greatest first; equal ones in order of place."""
    if k < len(scores):
        # all that equal the k-th stay in, so that ties do not depend on the partition
        kept = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        return kept[np.argsort(-scores[kept], kind="stable")][:k]
    return np.argsort(-scores, kind="stable")


def _cells(vectors: np.ndarray, count: int) -> np.ndarray:
    """The cell of each vector, (G,), by spherical k-means from a seeded sample."""
    if count < 2:
        return np.zeros(len(vectors), dtype=np.int64)
    rng = np.random.default_rng(0)
    sample = np.asarray(vectors, np.float32)[rng.permutation(len(vectors))[: _SAMPLE * count]]
    centres = _unit(sample[:count])
    for _ in range(_ROUNDS):
        nearest = _nearest(sample, centres)
        counts = np.bincount(nearest, minlength=count)
        full = np.flatnonzero(counts)
        # a cell that nobody is nearest to starts again elsewhere
        sums = sample[rng.integers(len(sample), size=count)]
        sums[full] = np.add.reduceat(sample[np.argsort(nearest, kind="stable")], (counts.cumsum() - counts)[full])
        centres = _unit(sums)
    return _nearest(vectors, centres)


def _nearest(vectors: np.ndarray, centres: np.ndarray) -> np.ndarray:
    return np.concatenate(
        [(np.asarray(vectors[rows], np.float32) @ centres.T).argmax(1) for rows in _pieces(len(vectors))]
    )


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), np.finfo(np.float32).tiny)


def _pieces(n: int) -> Iterator[slice]:
    for start in range(0, n, _ROWS):
        yield slice(start, min(start + _ROWS, n))
