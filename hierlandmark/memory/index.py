"""`VectorIndex`: gates in memory, landmarks in a file; a search opens a few segments and reads theirs only.

Over a million blocks even the gates are too many to look at one by one, so they are dealt to cells, about as many as
the root of their number, by spherical k-means (the coarse quantiser of an inverted file). A query scores the cells'
centres, the gates of the best cells, and the landmarks of the best segments: keys scored grow with the root of the
memory.

Every file carries the id of its build, and all that it holds is under a checksum: of landmarks one a segment, looked
at when they are read. Building writes beside the files that are there and then puts its own in their place, so that an
index opened before goes on with what it opened.

Shapes: N blocks, G segments, C cells, V width of a vector (`memory.vectors`).
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np

from hierlandmark.errors import InvalidArgument, StoreCorrupt
from hierlandmark.memory.cells import checksum, filled, tables_of
from hierlandmark.memory.index_files import overwrite, read, write

# cells whose gates a query looks at, and segments whose landmarks it reads: under a tenth of 10,000 blocks' keys
CELLS, SEGMENTS = 12, 64
# not on Windows
_PREAD = hasattr(os, "pread")


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

    Searches may run in several threads. To add blocks, build it anew; `close` it behind the last search.
    """

    def __init__(
        self, blocks: np.ndarray, gates: np.ndarray, tables: Mapping[str, np.ndarray], file: FileIO | None = None
    ) -> None:
        """From arrays as `build` makes them.

        Args:
            blocks: (N, V) in text order, may be a memory map.
            gates: (G, V) cell by cell, those of wiped segments 0.
            tables: starts (G + 1,), first block of each segment, in text order, and N; order (G,), segment of each row
                of `gates`; cells (C + 1,), first row of each cell, and G; checks (G,), CRC-32 of each segment's
                landmarks; gone (G,), 1 where a segment was wiped; and what else was given.
            file: what `blocks` maps, open; without one they are read from `blocks` itself.
        """
        self._blocks, self._gates, self._tables, self._file = blocks, gates, dict(tables), file
        self._starts, self._order, self._cells = (self._tables[name] for name in ("starts", "order", "cells"))
        # a read costs less than the page faults of a map, and leaves no landmark in this process
        self._offset = blocks.offset if isinstance(blocks, np.memmap) else 0
        # where it is written, None in memory; the id of its build and the bytes of its files
        self._folder: Path | None = None
        self._build, self._size = "", 0
        self._settle()

    def _settle(self) -> None:
        """What is computed from gates and tables."""
        self._there = self._tables["gone"] == 0
        # wiped rows are 0, and count for nothing
        counts = np.add.reduceat(self._there[self._order], self._cells[:-1], dtype=np.int64)
        sums = np.stack([self._gates[a:b].sum(0) for a, b in pairwise(self._cells)])
        self._centres = sums / np.maximum(counts, 1)[:, None].astype(np.float32)

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
        shaped = starts.shape == (G + 1,) and gates.shape[1:] == blocks.shape[1:]
        if not (G and shaped and _rise(starts) and starts[-1] == len(blocks)):
            raise InvalidArgument(
                f"expected gates (G, V), blocks (N, V) and starts (G + 1,) that rises from 0 to N, got {gates.shape}, "
                f"{blocks.shape} and {starts.shape}"
            )
        return cls.write(folder, [(gates, blocks)], starts, gates.shape[1], cells=cells)

    @classmethod
    def write(
        cls,
        folder: Path,
        pieces: Iterable[tuple[np.ndarray, np.ndarray]],
        starts: np.ndarray,
        width: int,
        *,
        cells: int | None = None,
        tables: Mapping[str, np.ndarray] | None = None,
    ) -> Self:
        """As `build`, from pieces of the text in order: gates (g, V) and blocks (n, V) of each.

        Args:
            width: V.
            tables: arrays of names of one's own, kept with the index; see `tables`.
        """
        _check_layout(starts, cells)
        write(folder, pieces, starts, width, cells, tables or {})
        return cls.open(folder)

    @classmethod
    def hold(
        cls,
        pieces: Iterable[tuple[np.ndarray, np.ndarray]],
        starts: np.ndarray,
        width: int,
        *,
        cells: int | None = None,
        tables: Mapping[str, np.ndarray] | None = None,
    ) -> Self:
        """As `write`, all of it in memory."""
        _check_layout(starts, cells)
        blocks = np.empty((int(starts[-1]), width), np.float32)
        gates, checks = filled(blocks, pieces, starts)
        made = tables_of(gates, starts, checks, cells) | dict(tables or {})
        return cls(blocks, gates[made["order"]], made)

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open what `build` wrote: gates are read into memory, landmarks stay in their file.

        Raises:
            StoreCorrupt: a file is missing, damaged or of another build, as it is for a moment while one replaces it.
        """
        files = read(folder)
        if not _PREAD:
            # the map has it open by itself
            files.file.close()
        found = cls(files.blocks, files.gates, files.tables, files.file if _PREAD else None)
        found._folder, found._build, found._size = folder, files.build, files.size
        return found

    def close(self) -> None:
        """Release the file of landmarks; safe to call twice. No search and no landmark comes after it."""
        if self._file is not None:
            self._file.close()

    @property
    def tables(self) -> Mapping[str, np.ndarray]:
        """Arrays kept beside the vectors; `gone` (G,) is 1 where a segment was wiped."""
        return self._tables

    def wipe(self, segments: np.ndarray) -> None:
        """Overwrite vectors of these segments, in the files too: no search finds them from now on.

        One process at a time. One that has the files open finds the landmarks fail their checksum.

        Raises:
            StoreCorrupt: the files are damaged, or another build stands in their place: it is left alone.
        """
        self._tables["gone"] = self._tables["gone"].copy()
        self._tables["gone"][segments] = 1
        rows = self._tables["gone"][self._order] != 0
        self._gates[rows] = 0
        self._settle()
        spans = [(int(self._starts[s]), int(self._starts[s + 1])) for s in np.flatnonzero(~self._there)]
        if self._folder is not None:
            overwrite(self._folder, self._build, self._tables, self._gates, spans, np.flatnonzero(rows))
            return
        for a, b in spans:
            self._blocks[a:b] = 0

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
        return self._gates.nbytes + self._centres.nbytes + sum(table.nbytes for table in self._tables.values())

    @property
    def index_bytes(self) -> int:
        """Of its files, landmarks included; held in memory where it has none."""
        return self._size or self.resident_bytes + self._blocks.nbytes

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
        near, scores, n_gates = self.near(query, query[:, None], cells)
        # in text order, and so are equal ones
        order = np.argsort(near)
        near, scores = near[order], scores[order, 0]
        opened = np.sort(near[_best(scores, segments)])
        if not len(opened):
            return Found(np.empty(0, np.int64), np.empty(0, np.float32), n_gates, 0, 0)
        ids = np.concatenate([np.arange(self._starts[s], self._starts[s + 1]) for s in opened])
        parts = [part for part in self.landmarks(opened) if part is not None]
        if len(parts) < len(opened):
            raise StoreCorrupt(
                f"landmarks in {str(self._folder)!r} are damaged, or their file is shorter than it was; build the "
                "vector index anew"
            )
        landmarks = np.concatenate(parts)
        scores = landmarks @ query
        best = _best(scores, k)
        return Found(ids[best], scores[best], n_gates, len(ids), landmarks.nbytes)

    def near(
        self, query: np.ndarray, by: np.ndarray, cells: int, usable: np.ndarray | None = None, least: int = 1
    ) -> tuple[np.ndarray, np.ndarray, int]:
        """Segments of the cells best for a query, cell by cell, and what their gates give.

        Args:
            query: (V,), what cells are chosen by.
            by: (V, n), what gates are multiplied with.
            cells: how many of those that hold a usable segment; C of them are all, and no centre is scored.
            usable: (G,) bool in text order; None for all.
            least: so many segments at least, in more cells if need be, where there are so many.

        Returns:
            Segments (m,) int64, products (m, n), and vectors compared, centres among them.
        """
        there = self._there if usable is None else usable & self._there
        rows = there[self._order]
        counts = np.add.reduceat(rows, self._cells[:-1], dtype=np.int64)
        chosen, n_keys = np.flatnonzero(counts), 0
        if cells < len(chosen):
            scores = self._centres[chosen] @ query
            n_keys = len(chosen)
            chosen = chosen[np.argsort(-scores, kind="stable")]
            enough = int(np.searchsorted(counts[chosen].cumsum(), least)) + 1
            chosen = chosen[: max(cells, enough)]
        found, products = [np.empty(0, np.int64)], [np.empty((0, by.shape[1]), np.float32)]
        for cell in chosen:
            a, b = int(self._cells[cell]), int(self._cells[cell + 1])
            mine = slice(a, b) if counts[cell] == b - a else a + np.flatnonzero(rows[a:b])
            found.append(self._order[mine])
            products.append(self._gates[mine] @ by)
        segments = np.concatenate(found)
        return segments, np.concatenate(products), n_keys + len(segments)

    def landmarks(self, segments: Sequence[int] | np.ndarray) -> list[np.ndarray | None]:
        """Landmarks of segments, in the order given: (n, V) each; None where their checksum fails."""
        found: list[np.ndarray | None] = []
        for s in segments:
            a, b = int(self._starts[s]), int(self._starts[s + 1])
            part = self._blocks[a:b] if self._file is None else self._read(a, b)
            whole = len(part) == b - a and checksum(part) == self._tables["checks"][s]
            found.append(part if whole else None)
        return found

    def _read(self, a: int, b: int) -> np.ndarray:
        assert self._file is not None
        width = self._gates.shape[1]
        data = os.pread(self._file.fileno(), (b - a) * width * 4, self._offset + a * width * 4)
        return np.frombuffer(data[: len(data) // (4 * width) * 4 * width], np.float32).reshape(-1, width)


def _rise(starts: np.ndarray) -> bool:
    whole = starts.ndim == 1 and len(starts) > 1 and starts.dtype.kind in "iu"
    return bool(whole and starts[0] == 0 < starts[-1] and (starts[1:] >= starts[:-1]).all())


def _check_layout(starts: np.ndarray, cells: int | None) -> None:
    if not _rise(starts):
        raise InvalidArgument(f"expected starts (G + 1,), whole numbers that rise from 0, got {starts}")
    G = len(starts) - 1
    if cells is not None and not 1 <= cells <= G:
        raise InvalidArgument(f"expected 1 to {G} cells, got {cells!r}")


def _best(scores: np.ndarray, k: int) -> np.ndarray:
    """Places of the k greatest, greatest first; equal ones in order of place."""
    if k < len(scores):
        # all that equal the k-th stay in, so that ties do not depend on the partition
        kept = np.flatnonzero(scores >= np.partition(scores, -k)[-k])
        return kept[np.argsort(-scores[kept], kind="stable")][:k]
    return np.argsort(-scores, kind="stable")
