"""What a store of blocks does. Numpy in, numpy out; no model, no torch.

Words: docs/design.md, section 2. Shapes: N blocks of one segment, L layers that are kept, C parts of a block's arrays
(2, keys and values; 1, keys alone, where `KVSpec.keep` is "search"), S layers of a model's search part, kept behind
those and with keys alone (`KVSpec.search`; none where search and attention share their keys), H_kv key-value heads, D
head width, P positions of a block (`block_size`). Arrays that hold bfloat16 are uint16 bit patterns; `KVSpec.dtype`
says which.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from hierlandmark.config import Keep
from hierlandmark.errors import InvalidArgument
from hierlandmark.filters import Filter
from hierlandmark.messages import Message, MessageId

SegmentId = int
# segment id * blocks_per_segment + index of the block in its segment
BlockId = int


@dataclass(frozen=True, slots=True)
class KVSpec:
    """Shape and element type of every array in one database, and whose keys they are."""

    layers: int
    kv_heads: int
    head_dim: int
    block_size: int
    blocks_per_segment: int
    dtype: Literal["bfloat16", "float16", "float32"]
    # hex digest over base model, adapter and layout
    fingerprint: str
    # "search": keys without values, of the layers that search looks at
    keep: Keep = "all"
    # which of the model's layers these are, lowest first: those that look into a memory; none named: all of them
    kept: tuple[int, ...] = ()
    # with "all": layers of which search has keys of its own, by weights of its own, lowest first
    search: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # lists where it was read from a database
        object.__setattr__(self, "kept", tuple(self.kept))
        object.__setattr__(self, "search", tuple(self.search))
        if self.keep not in ("all", "search") or (self.keep == "search" and not self.kept):
            raise InvalidArgument(f"expected layers to be named with keep 'search', got {self.kept!r}")
        if self.kept and (len(self.kept) != self.layers or list(self.kept) != sorted(set(self.kept))):
            raise InvalidArgument(f"expected {self.layers} layers in order, got {self.kept!r}")
        if self.search and (self.keep == "search" or list(self.search) != sorted(set(self.search))):
            raise InvalidArgument(f"expected layers of search in order, with keep 'all' only, got {self.search!r}")

    @property
    def model_layers(self) -> tuple[int, ...]:
        """Layers of the model, in the order of the arrays."""
        return self.kept or tuple(range(self.layers))

    @property
    def parts(self) -> int:
        """Keys and values, or keys alone."""
        return 1 if self.keep == "search" else 2

    @property
    def slots(self) -> int:
        """L + S: layers in the arrays of gates and landmarks, and rows of a block."""
        return self.layers + len(self.search)

    def parts_of(self, slot: int) -> int:
        """Parts of a block in one of its rows."""
        return self.parts if slot < self.layers else 1

    def reading(self) -> "KVSpec":
        """What attention reads: the first L slots of the arrays."""
        return replace(self, search=()) if self.search else self

    def searching(self) -> "KVSpec":
        """What search reads: where it has keys of its own, those of a store kept for it alone, behind L other slots."""
        if not self.search:
            return self
        return replace(self, layers=len(self.search), keep="search", kept=self.search, search=())

    @property
    def search_first(self) -> int:
        """Slot from which the layers of `searching` stand."""
        return self.layers if self.search else 0

    def search_slots(self) -> dict[int, int]:
        """Where in the arrays search finds each layer."""
        return {layer: self.search_first + slot for slot, layer in enumerate(self.searching().model_layers)}

    @property
    def numpy_dtype(self) -> np.dtype:
        """Element type of the arrays: bfloat16 travels as uint16 bits."""
        return np.dtype({"bfloat16": np.uint16, "float16": np.float16, "float32": np.float32}[self.dtype])


@dataclass(frozen=True, slots=True)
class MessageRun:
    """Content tokens that one message put into one segment, in order."""

    message_id: MessageId
    n_tokens: int


@dataclass(frozen=True, slots=True, eq=False)
class EncodedSegment:
    """One segment as the model made it, before the store gives it an id."""

    tokens: np.ndarray  # (n_content,) int32
    runs: tuple[MessageRun, ...]  # sum of n_tokens == n_content
    block_content: tuple[int, ...]  # content tokens of each block, N entries
    closed: bool  # False for the open tail: the next append replaces it
    gate_key: np.ndarray  # (L + S, H_kv, D), unrotated
    landmark_keys: np.ndarray  # (N, L + S, H_kv, D), unrotated
    kv: np.ndarray | None  # (N, L, C, H_kv, P, D), keys [.., 0] unrotated, values [.., 1]; zero where not content
    search_kv: np.ndarray | None = None  # (N, S, 1, H_kv, P, D), the keys of search; None with kv, or where S is 0

    @property
    def kv_bytes(self) -> int:
        """Of both."""
        return sum(array.nbytes for array in (self.kv, self.search_kv) if array is not None)

    def row(self, block: int, slot: int) -> np.ndarray:
        """Of one block in one slot: (C, H_kv, P, D), or (1, H_kv, P, D) of the keys of search."""
        kv, search = self.kv, self.search_kv
        assert kv is not None
        if search is None or slot < kv.shape[1]:
            return kv[block, slot]  # type: ignore[no-any-return]
        return search[block, slot - kv.shape[1]]  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """A stored segment without its keys and values."""

    id: SegmentId
    tokens: np.ndarray  # (n_content,) int32
    runs: tuple[MessageRun, ...]
    block_content: tuple[int, ...]
    closed: bool
    has_kv: bool
    version: int  # CRC-32 of the tokens: a rewritten segment keeps its id, and its text tells it apart


class Listing(NamedTuple):
    """What tells the segments of one namespace from those of another moment, in text order: int64 each, (G,)."""

    ids: np.ndarray
    versions: np.ndarray
    # how many each has
    blocks: np.ndarray


@dataclass(frozen=True, slots=True)
class StoreStats:
    """Counts and bytes of one namespace."""

    messages: int
    segments: int
    blocks: int
    tokens: int
    kv_bytes: int
    key_bytes: int  # gates and landmarks
    text_bytes: int


@runtime_checkable
class BlockStore(Protocol):
    """Durable blocks. Every write is one transaction: all of it, or nothing.

    Messages keep the order they were appended in; segments keep the order of the text they hold.
    A namespace exists from its first `append` until its last message is removed.
    Reads of an unknown namespace raise `NamespaceNotFound`.
    """

    spec: KVSpec

    def append(
        self,
        namespace: str,
        messages: Sequence[Message],
        segments: Iterable[EncodedSegment],
        *,
        replaces: SegmentId | None = None,
        kv_budget: int | None = None,
    ) -> list[SegmentId]:
        """Add messages and, after the last segment, `segments`; return their ids.

        `segments` may be lazy: it is consumed inside the transaction, and whatever it raises rolls all back.
        `replaces` names the open tail that the first of them continues; it is deleted in the same transaction.
        `kv_budget` is in bytes of the namespace's keys and values: the oldest segments' are dropped on the way, so that
        no more of them ever stand in the file than this and one segment's.
        Raises `DuplicateMessageId` before consuming `segments`; `StoreNotWritable` on a full disk or read-only folder;
        `InvalidArgument` when `replaces` is not the namespace's open tail.
        """

    def rewrite(
        self,
        namespace: str,
        remove: Sequence[MessageId],
        segments: Iterable[tuple[SegmentId, EncodedSegment | None]],
        *,
        kv_budget: int | None = None,
    ) -> None:
        """Remove messages, and put each given segment in the place of the one it names, or nothing where None.

        Afterwards no trace of the removed text is left in the file: not in the index, not in freed pages.
        `kv_budget` as in `append`.
        An empty `remove` only replaces segments (encoding again after a model change or an eviction).
        Raises `MessageNotFound` when an id of `remove` is not there; then nothing is changed.
        """

    def messages(self, namespace: str, ids: Sequence[MessageId] | None = None) -> list[Message]:
        """Messages in the order they were appended, or those named, in the order named; `MessageNotFound`."""

    def has_message(self, namespace: str, message_id: MessageId) -> bool:
        """Whether the id is there; False also for an unknown namespace. 1 and "1" differ."""

    def unencoded(self, namespace: str) -> list[MessageId]:
        """Messages of which no segment holds a token, in the order they were appended."""

    def segments(self, namespace: str, ids: Sequence[SegmentId] | None = None) -> list[SegmentRecord]:
        """Segments in text order, or those named, in the order named."""

    def tail(self, namespace: str) -> SegmentRecord | None:
        """The last segment when it is open, else None; None also for an unknown namespace."""

    def gate_keys(self, namespace: str) -> tuple[np.ndarray, np.ndarray]:
        """Segment ids (G,) int64 in text order, and gate keys (G, L + S, H_kv, D)."""

    def index(self, namespace: str, ids: Sequence[SegmentId] | None = None) -> tuple[list[SegmentRecord], np.ndarray]:
        """Segments in text order, or those named, in the order named, and their gate keys (G, L + S, H_kv, D).

        All as they are at one moment. Raises `KeyError` for an id that is not in the namespace.
        """

    def listing(self, namespace: str) -> Listing:
        """Ids, versions and numbers of blocks of all segments: no text and no keys are read."""

    def holding(self, namespace: str, message_ids: Iterable[MessageId]) -> np.ndarray:
        """Ids of the segments that hold tokens of any of these messages, in text order: (n,) int64."""

    def changes(self) -> int:
        """A number that is another one after every write, whoever wrote; one object's numbers compare, no others."""

    def landmark_keys(
        self, segment_ids: Sequence[SegmentId], versions: Sequence[int] | None = None
    ) -> list[np.ndarray]:
        """For each segment (N, L + S, H_kv, D).

        Raises `KeyError` when one is unknown or, with `versions`, was rewritten since it had that one.
        """

    def read_blocks(
        self,
        slot: int,
        block_ids: Sequence[BlockId],
        versions: Sequence[int] | None = None,
        groups: Sequence[int] | None = None,
    ) -> np.ndarray:
        """Keys and values (n, C, H_kv, P, D) of one of the kept layers, in the order asked; writable memory of its own.

        Slots from L on are those of search, (n, 1, H_kv, P, D). With `groups`, of each block what one group of heads
        reads, (n, C, P, D); a block may be asked for once a group.

        Raises `StoreCorrupt` when a checksum fails, `KeyError` when a block is unknown, its KV was dropped or, with
        `versions` (of each block's segment), its segment was rewritten since it had that one.
        """

    def drop_kv(self, namespace: str, segment_ids: Sequence[SegmentId]) -> None:
        """Forget keys and values of these segments; text, gates and landmarks stay."""

    def matching(self, namespace: str, where: Filter) -> list[MessageId]:
        """Messages that the filter lets through, in the order they were appended."""

    def around(self, namespace: str, message_id: MessageId, n: int) -> tuple[list[Message], list[Message]]:
        """Up to n messages before one and up to n after it, both in the order appended; `MessageNotFound`."""

    def search_text(
        self, namespace: str, query: str, k: int, where: Filter | None = None
    ) -> list[tuple[MessageId, float]]:
        """Best messages by BM25 over the text, higher is better, of those the filter lets through.

        Any query string is legal; [] when none match. Equal scores keep the order appended.
        """

    def namespaces(self) -> list[str]:
        """Names in alphabetical order."""

    def stats(self, namespace: str) -> StoreStats:
        """Counts and bytes."""

    def close(self) -> None:
        """Release the file; safe to call twice. Any later call raises `InvalidArgument`."""
