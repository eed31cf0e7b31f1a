"""Chats to search and queries for them: what a step takes that trains the search alone.

Nothing is read on the way to a query's last token, as in `Memory.search`: every segment and every query is encoded by
itself. Memories and queries are those of `train.links`; all other messages of a memory are a query's negatives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.layout import Layout, block_start
from hierlandmark.minilm import MAX_TOKENS
from hierlandmark.model.prompts import search_text
from hierlandmark.train.corpus import Corpus
from hierlandmark.train.links import Linked, linked_memory

# queries of a memory: so many, and as many more for each segment of it; one more costs little, as its memory is
# encoded anyway
_QUERIES, _A_SEGMENT, _MOST_QUERIES = 6, 6, 400
# share of messages that say a made-up fact and are asked for it
_FACTS = 0.12
# draws before a corpus is taken for one without anything to ask
_TRIES = 20


@dataclass(frozen=True, eq=False)
class Padded:
    """Token ids of texts, padding behind: (n, T) int64, and how many of each are real (n,)."""

    ids: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]]) -> "Padded":
        """Rows of any lengths."""
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        ids = np.zeros((len(rows), int(lengths.max(initial=1))), dtype=np.int64)
        for at, row in enumerate(rows):
            ids[at, : len(row)] = row
        return cls(ids, lengths)


@dataclass(frozen=True, eq=False)
class Pairs:
    """B memories, S segments, P positions, at most M messages a memory; n queries."""

    ids: np.ndarray  # (B, S, P) int64
    layout: Layout  # no segment looks into another
    owners: np.ndarray  # (B, S, P) int64, the message of each content token; M where there is none
    queries: Padded  # (n, Q), the sink first where the layout has one
    rows: np.ndarray  # (n,) memory of each query, in order
    targets: np.ndarray  # (n, M) bool, messages that hold what it looks for
    # the same as a teacher's tokens: messages of all memories one after another, and queries
    messages: Padded | None = None
    asked: Padded | None = None
    # messages of each memory: (B,)
    counts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))


def build_pairs(
    corpus: Corpus,
    config: LayoutConfig,
    batch: int,
    segments: int,
    sink_id: int,
    rng: np.random.Generator,
    teacher: Any | None = None,
) -> Pairs:
    """A random batch of memories of so many full segments each, and queries for them.

    Args:
        sink_id: token at the head of every segment, and of every query, where the layout has a sink.
        teacher: a transformers tokenizer whose ids of messages and queries are wanted too.

    Raises:
        InvalidArgument: the chats hold nothing that could be asked for.
    """
    lengths = [config.segment_capacity] * segments
    made = [_memory(corpus, lengths, min(_MOST_QUERIES, _QUERIES + _A_SEGMENT * segments), rng) for _ in range(batch)]
    M = max(len(one.spans) for one in made)
    contents, owners, prompts, rows, targets = [], [], [], [], []
    head = [sink_id] if config.sink else []
    room = config.block_size - 1 - block_start(0, config)
    for b, one in enumerate(made):
        text = np.concatenate(one.segments)
        owner = np.full(len(text), M)
        for at, (first, last) in enumerate(one.spans):
            owner[first:last] = at
        contents.append(text)
        owners.append(owner)
        for query in one.queries:
            wanted = np.zeros(M, dtype=bool)
            wanted[list(query.where)] = True
            targets.append(wanted)
            # what is longer than a block loses its start
            prompts.append([*head, *corpus.tokenize(search_text(query.text))[-room:]])
            rows.append(b)
    layout = Layout.of([lengths] * batch, config, reads=np.zeros((segments, segments), dtype=bool))
    messages = asked = None
    if teacher is not None:
        texts = [
            corpus.decode(text[a:b]).strip() for one, text in zip(made, contents, strict=True) for a, b in one.spans
        ]
        messages, asked = (
            Padded.of(teacher(x, truncation=True, max_length=MAX_TOKENS)["input_ids"])
            for x in (texts, [query.text for one in made for query in one.queries])
        )
    return Pairs(
        layout.place(contents), layout, layout.place(owners, fill=M), Padded.of(prompts), np.asarray(rows),
        np.stack(targets), messages, asked, np.array([len(one.spans) for one in made]),
    )  # fmt: skip


def _memory(corpus: Corpus, lengths: list[int], most: int, rng: np.random.Generator) -> Linked:
    for _ in range(_TRIES):
        if made := linked_memory(corpus, lengths, rng, most=most, facts=_FACTS):
            return made
    raise nothing_to_search(
        "expected chats with questions, links, turns or sentences to train the search on, found nothing to ask for "
        f"in {_TRIES} memories"
    )


def nothing_to_search(message: str) -> InvalidArgument:
    """What to raise where a search is to be trained without chats that it could be asked about."""
    return InvalidArgument(message, python="give chats, or search_share=0", command="give --chats, or --search-share 0")
