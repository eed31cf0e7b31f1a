"""`Memory`: messages in, found messages and answers out."""

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Self

from hierlandmark.config import Keep, MemoryConfig, Mode, SearchMode, Use
from hierlandmark.errors import InvalidArgument, ModelMismatch
from hierlandmark.filters import Filter
from hierlandmark.memory.aio import AsyncVerbs
from hierlandmark.memory.answer import answer, answered_among
from hierlandmark.memory.arguments import check_asked, check_kept, check_opening, checked_ids, checked_search
from hierlandmark.memory.index_search import IndexSearch
from hierlandmark.memory.indexing import IndexVerbs, remove_all
from hierlandmark.memory.rank import rank_blocks
from hierlandmark.memory.rules import RULES
from hierlandmark.memory.search import Look, search
from hierlandmark.memory.text import checked
from hierlandmark.memory.write import append, complete, forget
from hierlandmark.messages import Message, MessageId
from hierlandmark.model import LandmarkModel
from hierlandmark.model.answering import AnswerDecoding
from hierlandmark.model.generate import greedy
from hierlandmark.recall import Recall, Source
from hierlandmark.results import AddReport, Answer, MemoryStats, SearchResult
from hierlandmark.store import InMemoryStore, SQLiteStore
from hierlandmark.store.protocol import BlockStore, KVSpec, SegmentId, SegmentRecord
from hierlandmark.store.records import (
    check_namespace,
    database_missing,
    namespace_missing,
    opened_read_only,
    reencode_command,
)
from hierlandmark.when import time_span

IN_MEMORY = ":memory:"


class Memory(IndexVerbs, AsyncVerbs):
    """What one namespace of a database remembers. Open it with `Memory.open`; safe to share between threads."""

    def __init__(
        self,
        path: str | Path,
        namespace: str,
        model: LandmarkModel | None,
        config: MemoryConfig,
        read_only: bool = False,
    ) -> None:
        check_opening(path, model, config)
        check_namespace(namespace)
        self.path, self.namespace, self.config, self.read_only = path, namespace, config, read_only
        # the file itself, whatever becomes of links and of the working directory: its index lies beside it
        self._where = Path(path).resolve()
        self._model = model
        # one query or change at a time; counts and messages do not wait for it
        self._lock = threading.RLock()
        # each held for as long as it says; loading comes within opening where a file is new
        self._opening, self._loading = threading.RLock(), threading.RLock()
        self._store: BlockStore | None = None
        # of each use: its mode, the state of the store and that of the namespace, and a view of it
        self._recalls: dict[Use, tuple[Mode, int, object, Recall]] = {}
        self._index: IndexSearch | None = None
        # state of the store in which all text was found encoded
        self._ready_at: int | None = None
        self._closed = False
        if read_only and not self._is_file:
            raise InvalidArgument("expected read_only with a file, got it with ':memory:', which holds nothing yet")
        if read_only or self._exists:
            self._open_store()

    @classmethod
    def open(
        cls,
        path: str | Path,
        namespace: str = "default",
        *,
        model: LandmarkModel | None = None,
        config: MemoryConfig | None = None,
        read_only: bool = False,
    ) -> Self:
        """Open a database, or create it with the first `add`.

        Args:
            path: file, or ":memory:" for a store that ends with this object.
            namespace: owner of the memory: a tenant, user, thread.
            model: by default `LandmarkModel.from_pretrained()`, loaded when it is first needed.
            read_only: open a file that is there, in a folder or of a mode that may not be written too; `add` and
                `forget` raise `StoreNotWritable`.

        Raises:
            InvalidArgument: a path, namespace, model or config that is none.
            KeepMismatch: `config.keep` is given, and the database was made with another.
            ModelMismatch: the database was written by another base model, adapter or layout.
            StoreCorrupt, StoreTooNew, StoreNotWritable: the file cannot be used; the message says why.
        """
        return cls(path, namespace, model, MemoryConfig() if config is None else config, read_only)

    @property
    def _is_file(self) -> bool:
        return str(self.path) != IN_MEMORY

    @property
    def model(self) -> LandmarkModel:
        """The model, loaded if it was not yet."""
        with self._loading:
            if self._model is None:
                self._model = LandmarkModel.from_pretrained()
            return self._model

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidArgument(f"the memory at {str(self.path)!r} is closed; open it again")

    def _open_store(self) -> BlockStore:
        """The store; a file that exists is opened without loading a model."""
        with self._opening:
            self._check_open()
            if self._store is None:
                if not self._is_file:
                    self._store = InMemoryStore(self.model.spec(self.config.keep or "all"))
                else:
                    self._store = SQLiteStore(self._where, self._file_spec(), read_only=self.read_only)
            return self._store

    def _file_spec(self) -> KVSpec:
        """What to open the file with; no model is loaded for one that is there."""
        keep, stored = self.config.keep, None
        # SQLite makes a database of a file without a byte
        if self.read_only or (self._where.exists() and (self._model is None or os.path.getsize(self._where))):
            stored = SQLiteStore.peek(self._where).spec
        if stored is not None and self._model is None and keep in (None, stored.keep):
            return stored
        return self.model.spec(keep or (stored.keep if stored else "all"))

    def _check_writable(self) -> None:
        if self.read_only:
            raise opened_read_only(self.path)

    def _with_model(self) -> tuple[LandmarkModel, BlockStore]:
        store = self._open_store()
        if store.spec != (wanted := self.model.spec(store.spec.keep)):
            same = store.spec.fingerprint == wanted.fingerprint
            raise ModelMismatch(
                f"the database at {str(self.path)!r} was written by model {store.spec.fingerprint[:12]}, this one is "
                f"{'the same, but looks into or searches in other layers' if same else wanted.fingerprint[:12]}",
                python="open it with that model, or take its text to this one with `Memory.reencode`",
                command="name that one by --model and --adapter, or take its text to this one with "
                + f"{reencode_command(self.path)}, with --model and --adapter as here",
            )
        return self.model, store

    def add(
        self,
        messages: Iterable[Message | Mapping[str, Any]],
        *,
        progress: Callable[[int, int], None] | None = None,
    ) -> AddReport:
        """Remember messages, in order, after all that is remembered: all of them, or on any error none.

        Args:
            messages: `Message` objects or mappings with id, role, content, time and metadata, and no other key.
            progress: called with tokens done and tokens in all.

        Raises:
            InvalidMessage: empty, too long, not UTF-8, a field of another type, or a mapping with another key.
            DuplicateMessageId: an id is there already, or twice in `messages`.
            StoreNotWritable: read-only folder, full disk, locked database.
        """
        began = time.perf_counter()
        self._check_writable()
        new = checked(messages, self.config.max_message_bytes)
        if not new:
            return AddReport(messages=0, tokens=0, segments=0, seconds=0.0)
        with self._lock:
            model, store = self._with_model()
            budget = self.config.kv_budget_bytes
            complete(store, self.namespace, model, budget)
            ids, tokens = append(store, self.namespace, model, new, progress, budget)
            self._recalls.clear()
        seconds = time.perf_counter() - began
        return AddReport(messages=len(new), tokens=tokens, segments=len(ids), seconds=seconds)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        mode: SearchMode | None = None,
        where: Filter | Mapping[str, Any] | None = None,
        neighbours: int = 0,
        parse_time: bool = False,
        now: datetime | None = None,
    ) -> SearchResult:
        """The k messages that answer a query best, best first; all there are when there are fewer.

        "hierarchical" ranks by where the model's attention points: gate and landmark keys are looked at; of blocks only
        the best that hold several messages are read, to tell these apart. "hybrid", the default
        (`RecallConfig.search_mode`), multiplies these scores by how well words match by BM25 (`memory.fuse`); how rare
        a word is counts over all namespaces of the file, so what others add may change an order a little.
        "index" looks at the gates of a few cells of an index (`build_index`) instead of all, and beside it at those of
        segments that are not in it.
        What a score means: `results.Hit`. A query longer than a segment (502 tokens in the shipped layout) is cut at
        its start: its last tokens search. A message that somebody else forgets meanwhile is left out.

        Args:
            where: which messages may be found; k of them come where k match, and only segments that hold some are
                opened. A mapping is read as `Filter`.
            neighbours: messages before and after each hit, in the order added, that come with it as context, whatever
                the filter says; each once, with the best hit it stands beside, and hits not again.
            parse_time: narrow `where` by the time expressions of the query ("last week", "in March 2025"), in English
                (`hierlandmark.when`). What they came to is `SearchResult.when`. The text of the query stays as it is.
            now: what they are relative to; its zone is the one that days begin in, UTC where it names none. By default
                the current time in UTC.

        Raises:
            InvalidArgument: k < 1, neighbours < 0, no mode, no filter, or no time.
            IndexNotFound: mode "index", and none was built.
            InvalidMessage: the query is empty, too long, or not UTF-8.
            MissingExtra: `parse_time` without the extra `time`.
            NamespaceNotFound: nothing was ever added here.
        """
        narrowed = checked_search(query, k, mode, where, neighbours, now, self.config.max_message_bytes)
        span = None
        if parse_time and (span := time_span(query, now)):
            narrowed = span.narrow(narrowed)
        mode = mode or self.config.recall.search_mode
        with self._lock:
            model, store = self._ready()
            began = time.perf_counter()
            result = search(
                model,
                store,
                self.namespace,
                self._look(model, store, mode),
                query,
                k,
                least=self.config.recall.search_segments,
                hybrid=mode == "hybrid",
                where=narrowed,
                neighbours=neighbours,
                began=began,
            )
        return result.model_copy(update={"when": span})

    def _look(self, model: LandmarkModel, store: BlockStore, mode: SearchMode) -> Look:
        if mode == "index":
            through = self._through_index(model, store)
            through.begin()
            return partial(through.look, self.config.recall)
        recall = self._recall(model, store, "hierarchical" if mode == "hybrid" else mode, "search")
        rule = RULES[model.ranking]
        return lambda queries, scale, n_open, allowed, words: (
            recall,
            rank_blocks(recall, queries, model.retrieval, scale, recall.config.mode, n_open, allowed, rule, words),
        )

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        mode: Mode | None = None,
        among: int | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Answer:
        """Answer a question; the attention of the model's memory layers recalls blocks from the store.

        Greedy, but the first few ends of an answer that says no word but the question's are passed over, and one that
        says the same again and again ends (`model.answering.AnswerDecoding`).

        Args:
            max_new_tokens: the answer ends there, or earlier by itself.
            among: search first (`search(mode="hybrid")`), and recall from the segments that hold the so many best
                messages only, whatever `mode` says; `Answer.found` has them. 0: recall from all segments. By default
                `RecallConfig.among`. Where a chat holds much that is alike, a small model answers better from few
                (docs/results.md).
            on_token: called with each piece of text as it is made.

        Raises:
            InvalidArgument: `max_new_tokens` < 1, `among` < 0, or no mode.
            KeepMismatch: the database was made for search only.
            InvalidMessage: the question is empty, too long, or not UTF-8.
            NamespaceNotFound: nothing was ever added here.
        """
        check_asked(question, max_new_tokens, mode, among, max_bytes=self.config.max_message_bytes)
        among = self.config.recall.among if among is None else among
        return self._answer(question, max_new_tokens, mode, on_token, asks=True, among=among)

    def complete(
        self,
        prompt: str,
        *,
        max_new_tokens: int = 128,
        mode: Mode | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Answer:
        """Go on with a text as it stands, without a question's form; otherwise as `ask`."""
        check_asked(prompt, max_new_tokens, mode, what="the prompt", max_bytes=self.config.max_message_bytes)
        return self._answer(prompt, max_new_tokens, mode, on_token)

    def _answer(
        self,
        text: str,
        max_new_tokens: int,
        mode: Mode | None,
        on_token: Callable[[str], None] | None,
        *,
        asks: bool = False,
        among: int = 0,
    ) -> Answer:
        with self._lock:
            # before a model is loaded for nothing
            check_kept(self._existing().spec.keep, self.path)
            model, store = self._ready()
            began = time.perf_counter()
            found = None
            if among:
                recall, found = self._narrowed(model, store, mode, text, among)
            else:
                recall = self._recall(model, store, mode)
            said = answer(
                model,
                recall,
                model.ask_prompt(text) if asks else model.tokenize(text),
                max_new_tokens=max_new_tokens,
                choose=AnswerDecoding(model, text) if asks else greedy,
                on_token=on_token,
                began=began,
            )
            return said if found is None else answered_among(said, found)

    def _narrowed(
        self, model: LandmarkModel, store: BlockStore, mode: Mode | None, query: str, k: int
    ) -> tuple[Recall, SearchResult]:
        """A view of the segments that hold the k best messages, and the search that found them; of all it is kept."""
        while True:
            found = self.search(query, k, mode="hybrid")
            ids = store.holding(self.namespace, [one for hit in found.hits for one in hit.message_ids])
            if len(ids) == self._recall(model, store, "hierarchical", "search").n_segments:
                return self._recall(model, store, mode), found  # all there are, as of a document by itself
            try:
                records, gates = store.index(self.namespace, ids.tolist())
            except KeyError:
                # somebody else rewrote one meanwhile
                continue
            return self._build(model, [Source(store, records, gates)], mode or self.config.recall.mode, "read"), found

    def forget(self, message_ids: Sequence[MessageId]) -> None:
        """Remove messages without a trace: text, index, and the keys of every segment they were in.

        Raises:
            InvalidArgument: no list of ids.
            MessageNotFound: an id is not there; then nothing is changed.
            NamespaceNotFound: nothing was ever added here.
            StoreNotWritable: read-only; or the messages are gone but their bytes are not yet, and the message says why.
        """
        ids = list(dict.fromkeys(checked_ids(message_ids)))
        self._check_writable()
        if not ids:
            return
        with self._lock:
            model, store = self._ready()
            # named errors before any work
            store.messages(self.namespace, ids)
            self._recalls.clear()
            forget(store, self.namespace, model, ids, self.config.kv_budget_bytes, self._clear_index)

    def messages(self, ids: Sequence[MessageId] | None = None) -> list[Message]:
        """All messages in order, or those named; `NamespaceNotFound`, `MessageNotFound`, `InvalidArgument`."""
        named = None if ids is None else checked_ids(ids)
        return self._existing().messages(self.namespace, named)

    def namespaces(self) -> list[str]:
        """Names of all memories in this database."""
        return self._open_store().namespaces() if self._exists else []

    def stats(self) -> MemoryStats:
        """Counts and bytes of this namespace, and of the file; loads no model. `NamespaceNotFound`."""
        store = self._existing()
        counts = store.stats(self.namespace)
        files = [Path(f"{self._where}{end}") for end in ("", "-wal")] if self._is_file else []
        size = sum(file.stat().st_size for file in files if file.exists())
        return MemoryStats(
            namespace=self.namespace,
            keep=store.spec.keep,
            messages=counts.messages,
            tokens=counts.tokens,
            segments=counts.segments,
            blocks=counts.blocks,
            kv_bytes=counts.kv_bytes,
            key_bytes=counts.key_bytes,
            text_bytes=counts.text_bytes,
            file_bytes=size,
            index=self._index_stats(store),
        )

    @classmethod
    def reencode(
        cls,
        path: str | Path,
        *,
        model: LandmarkModel | None = None,
        config: MemoryConfig | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AddReport:
        """Take a database's text to another model: every namespace is encoded anew, ids and order kept.

        `config.keep` says what is kept from now on; None is what was kept before.
        A process killed on the way loses no text; the rest is encoded when it is next needed.
        """
        began = time.perf_counter()
        model = model or LandmarkModel.from_pretrained()
        config = config or MemoryConfig()
        keep: Keep = config.keep or SQLiteStore.peek(path).spec.keep
        SQLiteStore.reset_keys(path, model.spec(keep))
        remove_all(path)
        budget = config.kv_budget_bytes
        messages = tokens = segments = 0
        with cls.open(path, model=model) as memory:
            store = memory._open_store()
            for name in store.namespaces():
                done = complete(store, name, model, budget, progress)
                messages, tokens, segments = messages + done[0], tokens + done[1], segments + done[2]
        seconds = time.perf_counter() - began
        return AddReport(messages=messages, tokens=tokens, segments=segments, seconds=seconds)

    def close(self) -> None:
        """Release the file; safe to call twice. Any later verb raises `InvalidArgument`."""
        with self._lock, self._opening:
            self._closed = True
            self._recalls.clear()
            self._use_index(None)
            if self._store is not None:
                self._store.close()
                self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _exists(self) -> bool:
        return self._store is not None or self._closed or (self._is_file and self._where.exists())

    def _existing(self) -> BlockStore:
        """The store, without creating a file for a question about nothing."""
        if not self._exists:
            raise database_missing(self.path, self.namespace) if self._is_file else namespace_missing(self.namespace)
        return self._open_store()

    def _ready(self) -> tuple[LandmarkModel, BlockStore]:
        store = self._existing()
        changes = store.changes()
        if changes != self._ready_at:
            store.stats(self.namespace)  # NamespaceNotFound before a model is loaded
        model, store = self._with_model()
        if changes != self._ready_at:
            complete(store, self.namespace, model, self.config.kv_budget_bytes)
            self._ready_at = changes
        return model, store

    def _recall(self, model: LandmarkModel, store: BlockStore, mode: Mode | None, use: Use = "read") -> Recall:
        """A view of the namespace as it is now; blocks read for the last query stay cached while it is the same."""
        mode = mode or self.config.recall.mode
        # a search and an answer look at the same keys, unless search has its own
        use = use if store.spec.search else "read"
        kept, changes = self._recalls.get(use), store.changes()
        if kept is not None and kept[0] == mode:
            _, seen, mark, recall = kept
            # listed again only where somebody wrote, to this namespace or another
            if seen == changes or mark == _mark(store.segments(self.namespace)):
                self._recalls[use] = (mode, changes, mark, recall)
                recall.begin()
                return recall
        records, gates = store.index(self.namespace)
        recall = self._build(model, [Source(store, records, gates)], mode, use)
        # one view of a use at a time: its cache is most of the memory a query takes
        self._recalls[use] = (mode, changes, _mark(records), recall)
        return recall

    def _build(self, model: LandmarkModel, sources: Sequence[Source], mode: Mode, use: Use) -> Recall:
        config = self.config.recall.model_copy(update={"mode": mode})
        return model.recall(sources, config, use)


def _mark(records: Sequence[SegmentRecord]) -> list[tuple[SegmentId, bool, int]]:
    """Tells one state of a namespace from another."""
    return [(record.id, record.has_kv, record.version) for record in records]
