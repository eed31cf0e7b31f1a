"""`VectorIndex`: gates in memory, landmarks in a file; a search opens a few segments and reads theirs only.

Over a million blocks even the gates are too many to look at one by one, so they are dealt to cells, about as many as
the root of their number, by spherical k-means (the coarse quantiser of an inverted file). A query scores the cells'
centres, the gates of the best cells, and the landmarks of the best segments: keys scored grow with the root of the
memory.

Every file carries the id of its build. Building writes beside the files that are there and then puts its own in their
place, so that an index opened before goes on with what it opened.

Shapes: N blocks, G segments, C cells, V width of a vector (`memory.vectors`).
"""

import json
import os
import struct
import uuid
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from tokenize import TokenError
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from hierlandmark.errors import InvalidArgument, StoreCorrupt

# cells whose gates a query looks at, and segments whose landmarks it reads: under a tenth of 10,000 blocks' keys
CELLS, SEGMENTS = 12, 64
_BLOCKS, _GATES, _TABLES, _META = "landmarks.npy", "gates.npy", "tables.npz", "index.json"
# not on Windows
_PREAD = hasattr(os, "pread")
# characters of a build's id, which ends both files of vectors
_ID = 32
# what damaged bytes make numpy and zipfile raise
_DAMAGE = (
    OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
    BadZipFile, TokenError, struct.error, zlib.error,
)  # fmt: skip
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
        self,
        blocks: np.ndarray,
        gates: np.ndarray,
        starts: np.ndarray,
        order: np.ndarray,
        cells: np.ndarray,
        *,
        file: FileIO | None = None,
    ) -> None:
        """From arrays as `build` makes them; `blocks` may be a memory map.

        Args:
            blocks: (N, V) in text order.
            gates: (G, V) cell by cell.
            starts: (G + 1,) first block of each segment, in text order, and N.
            order: (G,) segment of each row of `gates`.
            cells: (C + 1,) first row of each cell, and G.
            file: what `blocks` maps, open; without one they are read from `blocks` itself.
        """
        self._blocks, self._gates, self._starts, self._order, self._cells = blocks, gates, starts, order, cells
        # a read costs less than the page faults of a map, and leaves no landmark in this process
        self._file = file
        self._offset = blocks.offset if isinstance(blocks, np.memmap) else 0
        self._centres = np.stack([gates[a:b].mean(0) for a, b in pairwise(cells)])

    @classmethod
    def build(
        cls, folder: Path, gates: np.ndarray, blocks: np.ndarray, starts: np.ndarray, *, cells: int | None = None
    ) -> Self:
        """Write an index into a folder, which may exist and hold an older one, and open it.

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
        build = uuid.uuid4().hex
        meta = {"build": build, "blocks": len(blocks), "segments": G, "width": gates.shape[1]}
        with TemporaryDirectory(dir=folder, prefix=".new-") as name:
            new = Path(name)
            out = np.lib.format.open_memmap(new / _BLOCKS, "w+", np.float32, blocks.shape)
            for rows in _pieces(len(blocks)):
                out[rows] = blocks[rows]
            out.flush()
            del out
            np.save(new / _GATES, np.asarray(gates, np.float32)[order])
            for vectors in (_BLOCKS, _GATES):
                with (new / vectors).open("ab") as file:
                    file.write(build.encode())
            np.savez(
                new / _TABLES,
                build=np.array(build),
                starts=np.asarray(starts, np.int64),
                order=order.astype(np.int64),
                cells=bounds,
            )
            (new / _META).write_text(json.dumps(meta) + "\n")
            for part in (_BLOCKS, _GATES, _TABLES, _META):
                (new / part).replace(folder / part)
        return cls.open(folder)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `build` wrote: gates are read into memory, landmarks stay in their file.

        Raises:
            StoreCorrupt: a file is missing, damaged or of another build, as it is for a moment while one replaces it.
        """
        try:
            build, N, G, width = _described(json.loads((folder / _META).read_text()))
            with np.load(folder / _TABLES) as tables:
                starts, order, cells = (_row(tables[name]) for name in ("starts", "order", "cells"))
                same = str(tables["build"]) == build
            if not same or not _fit(starts, order, cells, N, G):
                raise ValueError(f"{_TABLES} and {_META} do not fit")
            with _opened(folder / _GATES, (G, width), build) as file:
                gates = np.fromfile(file, np.float32, G * width).reshape(G, width)
            # one opening of it for map and reads: by its name a newer one may stand there in a moment
            file = _opened(folder / _BLOCKS, (N, width), build)
            blocks = np.memmap(file, np.float32, "r", file.tell(), (N, width))
        except _DAMAGE as error:
            raise StoreCorrupt(f"no whole vector index in {str(folder)!r}, build it anew: {error}") from error
        return cls(blocks, gates, starts, order, cells, file=file if _PREAD else None)

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


def _described(meta: Any) -> tuple[str, int, int, int]:
    """Build, N, G and V as a folder's description has them."""
    if not isinstance(meta, dict) or not isinstance(meta.get("build"), str):
        raise ValueError(f"{_META} names no build")
    sizes = [meta.get(name) for name in ("blocks", "segments", "width")]
    N, G, width = (size if type(size) is int else 0 for size in sizes)
    if min(N, G, width) < 1:
        raise ValueError(f"{_META} gives sizes {sizes}")
    return meta["build"], N, G, width


def _opened(path: Path, shape: tuple[int, int], build: str) -> FileIO:
    """A file of vectors, at the first of them; `ValueError` where it is of another shape or build, or cut."""
    file = FileIO(path)
    try:
        np.lib.format.read_magic(file)
        found, fortran, dtype = np.lib.format.read_array_header_1_0(file)
        start = file.tell()
        end = file.seek(-_ID, os.SEEK_END)
        whole = end == start + shape[0] * shape[1] * 4 and file.read(_ID) == build.encode()
        if found != shape or fortran or dtype != np.float32 or not whole:
            raise ValueError(f"{path.name} and {_META} do not fit")
        file.seek(start)
    except BaseException:
        file.close()
        raise
    return file


def _row(array: np.ndarray) -> np.ndarray:
    if array.ndim != 1 or array.dtype != np.int64 or not len(array):
        raise ValueError(f"expected whole numbers in a row, got {array.dtype} {array.shape}")
    return array


def _fit(starts: np.ndarray, order: np.ndarray, cells: np.ndarray, N: int, G: int) -> bool:
    """Whether tables name each of N blocks, G segments and G rows once."""
    return (
        len(starts) == G + 1
        and (starts[0], starts[-1], cells[0], cells[-1]) == (0, N, 0, G)
        and bool((np.diff(starts) >= 0).all() and (np.diff(cells) > 0).all())
        and np.array_equal(np.sort(order), np.arange(G))
    )


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
