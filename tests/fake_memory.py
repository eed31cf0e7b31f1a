"""A memory without a model: words shared with the query are its attention. Same interface as `hierlandmark.Memory`."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import DuplicateMessageId, InvalidArgument, InvalidMessage, MessageNotFound, NamespaceNotFound
from hierlandmark.filters import Filter, TimeSpan, matches
from hierlandmark.memory.arguments import checked_filter
from hierlandmark.memory.index_build import index_folder
from hierlandmark.messages import Message, MessageId
from hierlandmark.results import (
    AddReport,
    Answer,
    BlockTrace,
    Cost,
    HeadMass,
    Hit,
    IndexReport,
    IndexStats,
    MemoryStats,
    SearchResult,
    SegmentTrace,
    Trace,
)
from hierlandmark.store import KVSpec, SQLiteStore

SPEC = KVSpec(1, 1, 2, 4, 1, "float32", "f" * 64)
MAY = datetime(2024, 5, 1, tzinfo=UTC)


class FakeModel:
    """A tokenizer of characters; its plain attention reads everything."""

    longest_text = 100

    loaded: ClassVar[list[tuple[Any, Any]]] = []
    layout = LayoutConfig()

    @classmethod
    def from_pretrained(cls, base: Any = None, *, adapter: Any = "default", **_: Any) -> "FakeModel":
        cls.loaded.append((base, adapter))
        return cls()

    def tokenize(self, text: str) -> list[int]:
        return [ord(char) for char in text]

    def nll(self, token_ids: Sequence[int], *, mode: str, **_: Any) -> list[float]:
        return [1.0 if mode == "hierarchical" else 2.0] * (len(token_ids) - 1)

    def complete_full(self, prompt: str, *, max_new_tokens: int) -> Answer:
        return Answer(text=" 1", tokens=[49], cost=Cost(ms=5.0), first_token_s=3.0)


class FakeMemory:
    """Keeps databases in `files`, by path and namespace."""

    files: ClassVar[dict[tuple[str, str], dict[MessageId, Message]]] = {}
    # those that have an index
    indexed: ClassVar[set[tuple[str, str]]] = set()

    def __init__(self, path: str | Path, namespace: str) -> None:
        self.path, self.namespace = path, namespace
        self.key = (str(path), namespace)

    @classmethod
    def open(
        cls,
        path: str | Path,
        namespace: str = "default",
        *,
        model: Any = None,
        config: Any = None,
        read_only: bool = False,
    ) -> "FakeMemory":
        # commands look into the file before they open it
        SQLiteStore(path, SPEC).close()
        return cls(path, namespace)

    def __enter__(self) -> "FakeMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _held(self) -> dict[MessageId, Message]:
        if not self.files.get(self.key):
            raise NamespaceNotFound(f"no namespace {self.namespace!r} in {self.path}")
        return self.files[self.key]

    def add(
        self, messages: Iterable[Message | Mapping[str, Any]], *, progress: Callable[[int, int], None] | None = None
    ) -> AddReport:
        given = [one if isinstance(one, Message) else Message(**one) for one in messages]
        held = self.files.get(self.key, {})
        for one in given:
            if one.id in held:
                raise DuplicateMessageId(f"message id {one.id!r} is in namespace {self.namespace!r} already")
            if not one.content.strip():
                raise InvalidMessage(f"message {one.id!r} is empty")
        self.files[self.key] = held | {one.id: one for one in given}
        # commands look for the namespace before they open the memory
        with SQLiteStore(self.path, SPEC) as store:
            store.append(self.namespace, given, [])
        tokens = sum(len(one.content) for one in given)
        if progress:
            progress(tokens, tokens)
        return AddReport(messages=len(given), tokens=tokens, segments=1, seconds=0.1)

    def search(
        self,
        query: str,
        k: int = 10,
        *,
        mode: str | None = None,
        where: Any = None,
        neighbours: int = 0,
        parse_time: bool = False,
    ) -> SearchResult:
        if k < 1:
            raise InvalidArgument(f"expected k of at least 1, got {k!r}")
        wanted = checked_filter(where) or Filter()
        words = set(query.lower().split())
        when = TimeSpan(expressions=["in May"], since=MAY) if parse_time and "in may" in query else None
        all_held = list(self._held.values())
        held = [one for one in all_held if matches(wanted, one)]
        scored = [(len(words & set(one.content.lower().split())), one) for one in held]
        best = sorted(scored, key=lambda pair: -pair[0])[:k]
        hits = [
            Hit(
                message_ids=[one.id],
                text=one.content,
                score=float(score),
                landmarks=0.25 if mode == "hybrid" else None,
                words=float(score > 0) if mode == "hybrid" else None,
                block=index,
                segment=0,
                messages=[one],
                before=all_held[max(all_held.index(one) - neighbours, 0) : all_held.index(one)],
            )
            for index, (score, one) in enumerate(best)
        ]
        cost = Cost(
            gate_keys=1 if mode != "flat" else 0, landmark_keys=len(scored), blocks_read=0, bytes_read=8, ms=2.0
        )
        return SearchResult(hits=hits, cost=cost, trace=self._trace(), when=when)

    def _trace(self) -> Trace:
        heads = [HeadMass(layer=3, head=1, mass=0.75)]
        block = BlockTrace(block=0, segment=0, mass=0.5, text="a text", message_ids=[1], heads=heads)
        return Trace(segments=[SegmentTrace(segment=0, mass=0.625, heads=heads)], blocks=[block])

    def ask(
        self,
        question: str,
        *,
        max_new_tokens: int = 128,
        mode: str | None = None,
        among: int | None = None,
        on_token: Callable[[str], None] | None = None,
    ) -> Answer:
        among = 8 if among is None else among
        hits = self.search(question, among or 1).hits
        text = hits[0].text
        if on_token:
            on_token(text)
        cost = Cost(blocks_read=4, ms=1.0)
        return Answer(
            text=text, tokens=[1, 2], cost=cost, trace=self._trace(), first_token_s=0.5, per_token_s=0.05,
            among=[hit.message_ids[0] for hit in hits] if among else None,
            found=hits if among else [],
        )  # fmt: skip

    def complete(self, prompt: str, *, max_new_tokens: int = 128, mode: str | None = None) -> Answer:
        text = next(iter(self._held.values())).content
        found = text.split("The pass key is ")[1].split(".")[0]
        return Answer(text=f" {found}. Remember", tokens=[], cost=Cost(blocks_read=2))

    def forget(self, message_ids: Sequence[MessageId]) -> None:
        self.messages(message_ids)
        with SQLiteStore(self.path, SPEC) as store:
            store.rewrite(self.namespace, message_ids, [])
        for one in message_ids:
            del self._held[one]

    def messages(self, ids: Sequence[MessageId] | None = None) -> list[Message]:
        held = self._held
        for one in ids or ():
            if not any(type(one) is type(key) and one == key for key in held):
                raise MessageNotFound(f"no message {one!r} in namespace {self.namespace!r}")
        return list(held.values()) if ids is None else [held[one] for one in ids]

    def namespaces(self) -> list[str]:
        return sorted(namespace for path, namespace in self.files if path == str(self.path))

    def stats(self) -> MemoryStats:
        counts = dict.fromkeys(("tokens", "segments", "blocks", "kv_bytes", "key_bytes", "text_bytes", "file_bytes"), 7)
        index = IndexStats(segments=6, current=5, behind=2, bytes=900) if self.key in self.indexed else None
        return MemoryStats(namespace=self.namespace, messages=len(self._held), **counts, index=index)

    def build_index(self, *, progress: Callable[[int, int], None] | None = None) -> IndexReport:
        assert self._held
        self.indexed.add(self.key)
        # commands look for it
        folder = index_folder(Path(self.path).resolve(), self.namespace)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "current").write_text("0" * 32)
        return IndexReport(segments=7, blocks=7, bytes=900, seconds=0.1)

    def drop_index(self) -> None:
        self.indexed.discard(self.key)

    @classmethod
    def reencode(
        cls,
        path: str | Path,
        *,
        model: Any = None,
        config: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> AddReport:
        messages = sum(len(held) for (file, _), held in cls.files.items() if file == str(path))
        return AddReport(messages=messages, tokens=7, segments=1, seconds=0.1)

    def close(self) -> None:
        """Nothing is held open."""
