"""A namespace's index: made from its store, kept beside its file, cleared of what is forgotten.

It stands in FILE.index, a folder a namespace: each build in a folder of its own there, and a file that names the one
in use. That file changes, and vectors are overwritten, only under the store's write lock, where the state of the
namespace cannot change.

Keys are a function of text and model, and a segment's version is that of its text: a segment is in the index as long as
id and version are those that it was built with, and anything else in it is passed over, whatever it came from.
"""

import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np

from hierlandmark.errors import InvalidArgument, ModelMismatch, StoreCorrupt
from hierlandmark.memory.index import VectorIndex
from hierlandmark.memory.index_files import read_tables, size_of
from hierlandmark.memory.vectors import Voters
from hierlandmark.results import IndexStats
from hierlandmark.store.protocol import BlockStore, EncodedSegment, Listing, SegmentId

_CURRENT = "current"
# segments read together
_AT_ONCE = 128
# seconds after which a build that was never put in use is taken for one that broke off
_ABANDONED = 3600.0
Progress = Callable[[int, int], None]


@dataclass
class Built:
    """An open index, and which state of which segments it holds."""

    vectors: VectorIndex
    # of its folder; None in memory
    name: str | None
    ids: np.ndarray  # (G,) int64, in text order
    versions: np.ndarray  # (G,) int64

    @classmethod
    def of(cls, vectors: VectorIndex, name: str | None, mark: str) -> "Built":
        """Takes the vectors over, and closes them where it raises.

        Raises:
            ModelMismatch: they are not those that `mark` names.
            StoreCorrupt: it is no index of a memory.
        """
        try:
            ids, versions, of = _state(vectors.tables)
            if of != mark:
                raise ModelMismatch(
                    "the index was built for another model, or for other heads that search",
                    python="build it anew with `Memory.build_index`",
                    command="build it anew with `hierlandmark index`",
                )
        except BaseException:
            vectors.close()
            raise
        return cls(vectors, name, ids, versions)

    def standing(self, listing: Listing) -> np.ndarray:
        """Which of its segments are as they were: (G,) bool."""
        return _standing(self.vectors.tables, listing)


def mark(voters: Voters, fingerprint: str) -> str:
    """What the vectors of an index depend on beside the text."""
    return f"{fingerprint} {voters.pairs}"


def index_folder(path: str | Path, namespace: str) -> Path:
    """Where the index of a namespace is; a name of any letters becomes one that every file system takes."""
    return Path(f"{path}.index") / sha256(namespace.encode()).hexdigest()[:32]


def current_build(folder: Path) -> str | None:
    """The name of the build in use, None where there is none; `StoreCorrupt`."""
    try:
        name = (folder / _CURRENT).read_bytes().decode(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not re.fullmatch("[0-9a-f]{32}", name):
        raise StoreCorrupt(f"{str(folder / _CURRENT)!r} names no index, build it anew")
    return name


def open_current(folder: Path, mark: str) -> Built | None:
    """The index in use; None where there is none. `StoreCorrupt`, `ModelMismatch`."""
    while (name := current_build(folder)) is not None:
        try:
            return Built.of(VectorIndex.open(folder / name), name, mark)
        except StoreCorrupt:
            # another one may have taken its place
            if current_build(folder) == name:
                raise
    return None


def build(
    store: BlockStore, namespace: str, voters: Voters, folder: Path | None, progress: Progress | None = None
) -> Built:
    """Read every landmark once and put an index in use; others write and search meanwhile.

    Args:
        folder: None for one in memory, which is to be cleared (`clear`) of what was forgotten meanwhile.
        progress: called with segments done and segments in all.

    Raises:
        NamespaceNotFound: nothing is remembered, or not any more.
        OSError: of the disk.
    """
    listing = store.listing(namespace)
    if not len(listing.ids):
        raise InvalidArgument(f"expected segments to index in namespace {namespace!r}, got none")
    starts = np.concatenate([[0], listing.blocks.cumsum()])
    of = mark(voters, store.spec.fingerprint)
    # written to while the pieces are read: what is gone by then has no version
    versions = listing.versions.copy()
    tables = {"ids": listing.ids, "versions": versions, "model": np.array(of)}
    name = uuid.uuid4().hex

    def alive(done: int, total: int) -> None:
        # or another's `_sweep` takes a long build for one that broke off
        with suppress(OSError):
            if folder is not None:
                os.utime(folder / name)
        if progress:
            progress(done, total)

    pieces = _pieces(store, namespace, voters, listing, versions, alive)
    if folder is None:
        return Built.of(VectorIndex.hold(pieces, starts, voters.width, tables=tables), None, of)
    made = None
    try:
        made = Built.of(VectorIndex.write(folder / name, pieces, starts, voters.width, tables=tables), name, of)
        _locked(store, namespace, partial(_publish, store, namespace, made, folder, name))
    except BaseException:
        if made is not None:
            made.vectors.close()
        shutil.rmtree(folder / name, ignore_errors=True)
        raise
    return made


def _pieces(
    store: BlockStore,
    namespace: str,
    voters: Voters,
    listing: Listing,
    versions: np.ndarray,
    progress: Progress | None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Gates and landmarks of some segments after the others; zeros, and no version, for those that are gone."""
    bounds = [*range(0, len(versions), _AT_ONCE), len(versions)]
    for a, b in pairwise(bounds):
        gates, blocks = [], []
        for i in range(a, b):
            try:
                records, gate = store.index(namespace, [int(listing.ids[i])])
                keys = store.landmark_keys([records[0].id], [int(versions[i])])
            except KeyError:
                versions[i] = -1
                gates.append(np.zeros((1, voters.width), np.float32))
                blocks.append(np.zeros((int(listing.blocks[i]), voters.width), np.float32))
                continue
            gates.append(voters.gates(records, gate).numpy())
            blocks.append(voters.landmarks(records[0], keys[0]).numpy())
        yield np.concatenate(gates), np.concatenate(blocks)
        if progress:
            progress(b, len(versions))


def _locked(store: BlockStore, namespace: str, act: Callable[[], None]) -> None:
    """Do something while nobody else writes."""

    def nothing() -> Iterator[EncodedSegment]:
        act()
        yield from ()

    store.append(namespace, [], nothing())


def clear(vectors: VectorIndex, listing: Listing, ids: Sequence[SegmentId] = ()) -> None:
    """Overwrite what does not stand, and these segments: what was forgotten leaves no trace.

    A tail that was written anew since is listed under its old id no more, and holds messages as well.
    """
    held, _, _ = _state(vectors.tables)
    gone = np.flatnonzero(np.isin(held, ids) | ~_standing(vectors.tables, listing))
    if len(gone):
        vectors.wipe(gone)


def _publish(store: BlockStore, namespace: str, built: Built, folder: Path, name: str) -> None:
    clear(built.vectors, store.listing(namespace))
    before: str | None = None
    with suppress(StoreCorrupt):
        before = current_build(folder)
    new = folder / f"{name}.current"
    new.write_text(name)
    new.replace(folder / _CURRENT)
    if before is not None:
        shutil.rmtree(folder / before, ignore_errors=True)
    _sweep(folder, name)


def _sweep(folder: Path, name: str) -> None:
    """Remove what builds that broke off have left."""
    for other in folder.iterdir():
        with suppress(OSError):
            if other.name not in (name, _CURRENT) and time.time() - other.stat().st_mtime > _ABANDONED:
                shutil.rmtree(other) if other.is_dir() else other.unlink()


def clear_segments(folder: Path, ids: list[SegmentId], opened: Built | None, listing: Listing, empty: bool) -> None:
    """Overwrite what the index in use holds of these segments; called under the write lock.

    What stands no more goes too: an open segment that was written anew since may hold what is forgotten now.

    One that is damaged is removed, and that of a namespace that will be empty.

    Args:
        opened: an index that is open, which may be another one than that in use.

    Raises:
        OSError: of the disk.
    """
    try:
        name = current_build(folder)
        if name is None:
            return
        if opened and opened.name == name:
            clear(opened.vectors, listing, ids)
        else:
            with closing(VectorIndex.open(folder / name)) as vectors:
                clear(vectors, listing, ids)
        if empty:
            remove(folder)
        else:
            _sweep(folder, name)
    except StoreCorrupt:
        remove(folder)


def remove(folder: Path) -> None:
    """Remove the index of one namespace; `OSError`."""
    with suppress(FileNotFoundError):
        # first what names it: nobody opens a part of it
        (folder / _CURRENT).unlink()
    if folder.is_dir():
        shutil.rmtree(folder)
    with suppress(OSError):
        folder.parent.rmdir()


def index_stats(folder: Path, store: BlockStore, namespace: str, mark: str | None = None) -> IndexStats | None:
    """What stands in a folder, without reading a vector; None where there is no index.

    Args:
        mark: what its vectors are to depend on; None where nothing but the store is known.
    """
    while True:
        name = None
        try:
            name = current_build(folder)
            if name is None:
                return None
            listing = store.listing(namespace)
            tables = read_tables(folder / name)
            _, _, of = _state(tables)
            size = size_of(folder / name)
        except (StoreCorrupt, OSError) as error:
            with suppress(StoreCorrupt):
                if name is not None and current_build(folder) != name:
                    continue
            return IndexStats(behind=len(store.listing(namespace).ids), problem=str(error))
        if of.split(" ")[0] != store.spec.fingerprint:
            return IndexStats(behind=len(listing.ids), bytes=size, problem="it was built for another model")
        if mark not in (None, of):
            return IndexStats(behind=len(listing.ids), bytes=size, problem="it was built for other heads that search")
        return stats_of(tables, listing, size)


def stats_of(tables: Mapping[str, np.ndarray], listing: Listing, size: int) -> IndexStats:
    """How much of a namespace is in an index of these tables."""
    current = int(_standing(tables, listing).sum())
    return IndexStats(segments=len(tables["ids"]), current=current, behind=len(listing.ids) - current, bytes=size)


def _state(tables: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, str]:
    """Ids, versions, and whose vectors they are; `StoreCorrupt` where these tables are not of an index of ours."""
    ids, versions, of = (tables.get(name) for name in ("ids", "versions", "model"))
    shape = tables["gone"].shape
    if ids is None or versions is None or of is None or not ids.shape == versions.shape == shape:
        raise StoreCorrupt("the index is not one of a memory, build it anew")
    return ids, versions, str(of)


def _standing(tables: Mapping[str, np.ndarray], listing: Listing) -> np.ndarray:
    if not len(listing.ids):
        return np.zeros(len(tables["ids"]), bool)
    order = np.argsort(listing.ids)
    at = order[np.minimum(np.searchsorted(listing.ids, tables["ids"], sorter=order), len(order) - 1)]
    same = (listing.ids[at] == tables["ids"]) & (listing.versions[at] == tables["versions"])
    return np.asarray(same & (tables["gone"] == 0))
