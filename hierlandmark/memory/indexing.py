"""Verbs of `Memory` that make, use and clear an index of its namespace."""

import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hierlandmark.errors import IndexNotFound, ModelMismatch, StoreCorrupt, StoreNotWritable
from hierlandmark.memory.index_build import (
    Built,
    build,
    clear,
    clear_segments,
    current_build,
    index_folder,
    index_stats,
    mark,
    open_current,
    remove,
    stats_of,
)
from hierlandmark.memory.index_search import IndexSearch
from hierlandmark.memory.vectors import Voters
from hierlandmark.model import LandmarkModel
from hierlandmark.results import IndexReport, IndexStats
from hierlandmark.store.protocol import BlockStore, SegmentId


class IndexVerbs:
    """Of `Memory`: what it does with an index."""

    path: str | Path
    _where: Path
    namespace: str
    _lock: threading.RLock
    _index: IndexSearch | None
    _store: BlockStore | None
    _model: LandmarkModel | None
    if TYPE_CHECKING:

        @property
        def _is_file(self) -> bool: ...

        def _check_writable(self) -> None: ...

        def _check_open(self) -> None: ...

        def _ready(self) -> tuple[LandmarkModel, BlockStore]: ...

    def build_index(self, *, progress: Callable[[int, int], None] | None = None) -> IndexReport:
        """Index the namespace for `search(mode="index")`, in place of an index that is there.

        It stands in a folder beside the file (FILE.index), or in memory where the store does. What is added later is
        searched beside it, what is forgotten is overwritten in it, so that it is never wrong, only less of a help;
        `stats().index` says how much of the namespace it holds. Others search and write while it is built.

        Args:
            progress: called with segments done and segments in all.

        Raises:
            NamespaceNotFound: nothing was ever added here.
            StoreNotWritable: read-only folder, full disk.
        """
        began = time.perf_counter()
        self._check_writable()
        with self._lock:
            model, store = self._ready()
        voters = Voters(model, store.spec)
        folder = index_folder(self._where, self.namespace) if self._is_file else None
        with _named(folder):
            built = build(store, self.namespace, voters, folder, progress)
        with self._lock:
            if folder is None:
                clear(built.vectors, store.listing(self.namespace))
            self._use_index(IndexSearch(model, store, self.namespace, voters, built))
        vectors = built.vectors
        seconds = time.perf_counter() - began
        return IndexReport(segments=vectors.n_segments, blocks=len(vectors), bytes=vectors.index_bytes, seconds=seconds)

    def drop_index(self) -> None:
        """Remove the index, if there is one; `StoreNotWritable`."""
        self._check_writable()
        with self._lock:
            self._check_open()
            self._use_index(None)
            if self._is_file:
                folder = index_folder(self._where, self.namespace)
                with _named(folder):
                    remove(folder)

    def _through_index(self, model: LandmarkModel, store: BlockStore) -> IndexSearch:
        """The index in use; the one that is open where another cannot be opened."""
        if self._is_file:
            folder = index_folder(self._where, self.namespace)
            try:
                name = current_build(folder)
                if name is not None and (self._index is None or self._index.built.name != name):
                    voters = Voters(model, store.spec)
                    built = open_current(folder, mark(voters, store.spec.fingerprint))
                    if built is not None:
                        self._use_index(IndexSearch(model, store, self.namespace, voters, built))
            except (StoreCorrupt, ModelMismatch):
                if self._index is None:
                    raise
        if self._index is None:
            raise _missing(self.path, self.namespace)
        return self._index

    def _clear_index(self, ids: list[SegmentId], empty: bool) -> None:
        """Overwrite these segments, which are about to be written anew, in the index too, and what stands no more.

        The index of a namespace that will be empty is removed.
        """
        opened: Built | None = self._index.built if self._index else None
        assert self._store is not None
        listing = self._store.listing(self.namespace)
        if self._is_file:
            folder = index_folder(self._where, self.namespace)
            with _named(folder):
                clear_segments(folder, ids, opened, listing, empty)
        elif opened:
            clear(opened.vectors, listing, ids)
        if self._index:
            self._index.forget()
            # a namespace without a message is none
            if empty:
                self._use_index(None)

    def _use_index(self, index: IndexSearch | None) -> None:
        """From now on this one, in place of the one that is open; under the lock."""
        if self._index:
            self._index.built.vectors.close()
        self._index = index

    def _index_stats(self, store: BlockStore) -> IndexStats | None:
        if self._is_file:
            model, wanted = self._model, None
            # the heads that search are the model's, and none is loaded for this
            if model is not None and model.spec(store.spec.keep) == store.spec:
                wanted = mark(Voters(model, store.spec), store.spec.fingerprint)
            return index_stats(index_folder(self._where, self.namespace), store, self.namespace, wanted)
        if self._index is None:
            return None
        vectors = self._index.built.vectors
        return stats_of(vectors.tables, store.listing(self.namespace), vectors.index_bytes)


def check_indexed(path: str | Path, namespace: str) -> None:
    """Raises `IndexNotFound` where a file's namespace has none; no model is needed to tell."""
    if current_build(index_folder(Path(path).resolve(), namespace)) is None:
        raise _missing(path, namespace)


def _missing(path: str | Path, namespace: str) -> IndexNotFound:
    return IndexNotFound(
        f"no index of namespace {namespace!r} at {str(path)!r}",
        python="make one with `Memory.build_index`",
        command=f"make one with `hierlandmark index --db {shlex.quote(str(path))} "
        f"--namespace {shlex.quote(namespace)}`",
    )


def remove_all(path: str | Path) -> None:
    """Remove the indexes of a database whose keys are no more; what cannot be removed is passed over by its model."""
    shutil.rmtree(f"{Path(path).resolve()}.index", ignore_errors=True)


@contextmanager
def _named(folder: Path | None) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StoreNotWritable(
            f"the index in {str(folder)!r} cannot be written ({error}); free some space, or change the folder's mode"
        ) from error
