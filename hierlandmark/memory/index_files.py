"""Files of a `VectorIndex`: what stands in them, written beside and put in place, read with every fault named.

landmarks.npy, gates.npy: vectors, and behind them the build's id. tables.npz: arrays, under zip's checksums.
index.json: build and sizes.
"""

import json
import os
import struct
import uuid
import zlib
from collections.abc import Iterable, Mapping, Sequence
from io import FileIO
from pathlib import Path
from tempfile import TemporaryDirectory
from tokenize import TokenError
from typing import Any, NamedTuple
from zipfile import BadZipFile

import numpy as np

from hierlandmark.errors import StoreCorrupt
from hierlandmark.memory.cells import checksum, filled, tables_of

_BLOCKS, _GATES, _TABLES, _META = "landmarks.npy", "gates.npy", "tables.npz", "index.json"
# tables that every index has
_OWN = ("starts", "order", "cells", "checks", "gone", "gates_check")
# characters of a build's id, which ends both files of vectors
_ID = 32
# what damaged bytes make numpy and zipfile raise
_DAMAGE = (
    OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, NotImplementedError, RuntimeError, SyntaxError,
    BadZipFile, TokenError, struct.error, zlib.error,
)  # fmt: skip


def write(
    folder: Path,
    pieces: Iterable[tuple[np.ndarray, np.ndarray]],
    starts: np.ndarray,
    width: int,
    cells: int | None,
    tables: Mapping[str, np.ndarray],
) -> None:
    """Build into a folder, in place of what is there; arguments as `VectorIndex.write`."""
    folder.mkdir(parents=True, exist_ok=True)
    N, build = int(starts[-1]), uuid.uuid4().hex
    meta = {"build": build, "blocks": N, "segments": len(starts) - 1, "width": width}
    with TemporaryDirectory(dir=folder, prefix=".new-") as name:
        new = Path(name)
        out = np.lib.format.open_memmap(new / _BLOCKS, "w+", np.float32, (N, width))
        gates, checks = filled(out, pieces, starts)
        out.flush()
        del out
        made = tables_of(gates, starts, checks, cells) | dict(tables)
        gates = gates[made["order"]]
        np.save(new / _GATES, gates)
        for vectors in (_BLOCKS, _GATES):
            with (new / vectors).open("ab") as file:
                file.write(build.encode())
        _save_tables(new / _TABLES, build, made, gates)
        (new / _META).write_text(json.dumps(meta) + "\n")
        for part in (_BLOCKS, _GATES, _TABLES, _META):
            (new / part).replace(folder / part)


class Files(NamedTuple):
    """What `read` finds in a folder."""

    build: str
    # bytes of all files
    size: int
    gates: np.ndarray
    # a map of `file`, which is open, for the caller to close
    blocks: np.ndarray
    tables: dict[str, np.ndarray]
    file: FileIO


def read(folder: Path) -> Files:
    """All of an index; `StoreCorrupt`."""
    try:
        build, N, G, width, tables = _described(folder)
        with _opened(folder / _GATES, (G, width), build) as file:
            gates = np.fromfile(file, np.float32, G * width).reshape(G, width)
        # whether or not their bytes are overwritten yet
        gates[tables["gone"][tables["order"]] != 0] = 0
        if tables["gates_check"].tolist() != [checksum(gates)]:
            raise ValueError(f"{_GATES} fails its checksum")
        size = size_of(folder)
        # one opening of it for map and reads: by its name a newer one may stand there in a moment
        file = _opened(folder / _BLOCKS, (N, width), build)
        try:
            blocks = np.memmap(file, np.float32, "r", file.tell(), (N, width))
        except BaseException:
            file.close()
            raise
        return Files(build, size, gates, blocks, tables, file)
    except _DAMAGE as error:
        raise _broken(folder, error) from error


def size_of(folder: Path) -> int:
    """Bytes of its files; `OSError`."""
    return sum(file.stat().st_size for file in folder.iterdir() if file.is_file())


def read_tables(folder: Path) -> dict[str, np.ndarray]:
    """The tables alone; `StoreCorrupt`."""
    try:
        return _described(folder)[-1]
    except _DAMAGE as error:
        raise _broken(folder, error) from error


def overwrite(
    folder: Path,
    build: str,
    tables: Mapping[str, np.ndarray],
    gates: np.ndarray,
    blocks: Sequence[tuple[int, int]],
    rows: np.ndarray,
) -> None:
    """Say in the tables that segments are gone, and put zeros in the place of their vectors; `StoreCorrupt`.

    Args:
        build: id of the index; another one that stands there is left as it is.
        tables: those of the index; `gone` is 1 where a segment is.
        gates: (G, V) as they are from now on.
        blocks: places of their landmarks, from and to.
        rows: places of their gates.
    """
    try:
        there, N, G, width, held = _described(folder)
        if there != build:
            raise ValueError("another build stands there")
        with TemporaryDirectory(dir=folder, prefix=".new-") as name:
            _save_tables(Path(name) / _TABLES, build, held | {"gone": tables["gone"]}, gates)
            (Path(name) / _TABLES).replace(folder / _TABLES)
        # behind the tables: where a process is killed here, the index is whole, and the next call comes here again
        for part, shape, places in (
            (_BLOCKS, (N, width), blocks),
            (_GATES, (G, width), [(row, row + 1) for row in rows.tolist()]),
        ):
            with _opened(folder / part, shape, build) as file:
                start = file.tell()
            with (folder / part).open("r+b") as out:
                for a, b in places:
                    out.seek(start + a * width * 4)
                    out.write(bytes((b - a) * width * 4))
                out.flush()
                os.fsync(out.fileno())
    except _DAMAGE as error:
        raise _broken(folder, error) from error


def _save_tables(path: Path, build: str, tables: Mapping[str, np.ndarray], gates: np.ndarray) -> None:
    arrays: dict[str, Any] = {**tables, "build": np.array(build), "gates_check": np.array([checksum(gates)], np.int64)}
    np.savez(path, **arrays)


def _broken(folder: Path, error: Exception) -> StoreCorrupt:
    return StoreCorrupt(f"no whole vector index in {str(folder)!r}, build it anew: {error}")


def _described(folder: Path) -> tuple[str, int, int, int, dict[str, np.ndarray]]:
    """Build, N, G, V and tables of a folder; any of `_DAMAGE`."""
    meta = json.loads((folder / _META).read_text())
    if not isinstance(meta, dict) or not isinstance(meta.get("build"), str):
        raise ValueError(f"{_META} names no build")
    sizes = [meta.get(name) for name in ("blocks", "segments", "width")]
    N, G, width = (size if type(size) is int else 0 for size in sizes)
    if min(N, G, width) < 1:
        raise ValueError(f"{_META} gives sizes {sizes}")
    with np.load(folder / _TABLES) as held:
        tables = {name: held[name] for name in held.files}
    same = str(tables.pop("build")) == meta["build"]
    starts, order, cells, checks, gone, _ = (_row(tables[name]) for name in _OWN)
    if not same or not _fit(starts, order, cells, N, G) or not len(checks) == len(gone) == G:
        raise ValueError(f"{_TABLES} and {_META} do not fit")
    return meta["build"], N, G, width, tables


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
