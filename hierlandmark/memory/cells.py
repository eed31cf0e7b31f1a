"""Gates dealt to cells, the coarse quantiser of an inverted file, and the arrays that an index is made of.

Shapes: N blocks, G segments, C cells, V width of a vector (`memory.vectors`).
"""

import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

# of k-means: rounds, gates a cell that it learns from, rows compared at once
_ROUNDS, _SAMPLE, _ROWS = 10, 64, 8192


def filled(
    out: np.ndarray, pieces: Iterable[tuple[np.ndarray, np.ndarray]], starts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Copy pieces' blocks; their gates (G, V), and the checksum of each segment's blocks (G,)."""
    gates = np.empty((len(starts) - 1, out.shape[1]), np.float32)
    row = block = 0
    for some, blocks in pieces:
        for part in _pieces(len(blocks)):
            out[block + part.start : block + part.stop] = blocks[part]
        gates[row : row + len(some)] = some
        row, block = row + len(some), block + len(blocks)
    checks = [checksum(out[a:b]) for a, b in pairwise(starts.tolist())]
    return gates, np.array(checks, np.int64)


def checksum(vectors: np.ndarray) -> int:
    """CRC-32 of their bytes."""
    return zlib.crc32(np.ascontiguousarray(vectors).data)


def tables_of(gates: np.ndarray, starts: np.ndarray, checks: np.ndarray, cells: int | None) -> dict[str, np.ndarray]:
    """Gates dealt to cells, and what else `VectorIndex` is told; `cells` is C, by default the root of G."""
    # what all have in common tells no cell from another
    cell = _cells(gates - gates.mean(0), round(len(gates) ** 0.5) if cells is None else cells)
    # empty ones are left out
    counts = np.bincount(cell)
    return {
        "starts": np.asarray(starts, np.int64),
        "order": np.argsort(cell, kind="stable").astype(np.int64),
        "cells": np.cumsum([0, *counts[counts > 0]], dtype=np.int64),
        "checks": checks,
        "gone": np.zeros(len(gates), np.int64),
    }


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
