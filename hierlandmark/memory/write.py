"""Changes to a namespace that others may be changing too.

Segments are read first and written later. What a store is given to write is lazy and consumed under its write lock,
where reading it shows the state that nobody else can change any more: so that is where the decision is made.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace

import numpy as np

from hierlandmark.errors import InvalidArgument, NamespaceNotFound
from hierlandmark.memory.text import to_tokens
from hierlandmark.messages import Message, MessageId
from hierlandmark.model import LandmarkModel
from hierlandmark.store.protocol import BlockStore, EncodedSegment, KVSpec, MessageRun, SegmentId, SegmentRecord

Progress = Callable[[int, int], None]


class _Changed(Exception):
    """Somebody else wrote between reading and writing."""


def append(
    store: BlockStore,
    namespace: str,
    model: LandmarkModel,
    new: Sequence[Message],
    progress: Progress | None,
    kv_budget: int | None,
) -> tuple[list[SegmentId], int]:
    """Add messages behind the open tail; ids of the segments written, and tokens added."""
    added, added_runs = to_tokens(model, new)
    while True:
        tail = store.tail(namespace)
        tokens, runs = added, added_runs
        if tail is not None:
            tokens, runs = np.concatenate((tail.tokens, added)), [*tail.runs, *added_runs]
        segments = _if_tail_is(store, namespace, tail, _encode(store, model, tokens, runs, progress))
        try:
            ids = store.append(namespace, new, segments, replaces=tail.id if tail else None, kv_budget=kv_budget)
            return ids, len(added)
        except _Changed:
            # somebody may have reset the keys: text without segments comes first
            complete(store, namespace, model, kv_budget)
        except InvalidArgument:
            # the tail is gone
            if _same(store.tail(namespace), tail):
                raise


def complete(
    store: BlockStore,
    namespace: str,
    model: LandmarkModel,
    kv_budget: int | None,
    progress: Progress | None = None,
) -> tuple[int, int, int]:
    """Encode a namespace that has text without segments: another model's, or one whose keys were reset.

    Segments that are there are encoded again too, as their text stands behind or between. Messages, tokens and segments
    written; zeros where all text had segments.
    """
    while _unencoded(store, namespace):
        held = store.messages(namespace)
        ids = [message.id for message in held]
        tokens, runs = to_tokens(model, held)
        if store.stats(namespace).segments:
            # killed after this, the namespace is text only, and the next call comes here again
            store.rewrite(namespace, [], _none_if_unencoded(store, namespace))

        def segments(
            ids: list[MessageId] = ids, tokens: np.ndarray = tokens, runs: list[MessageRun] = runs
        ) -> Iterator[EncodedSegment]:
            if store.segments(namespace) or [message.id for message in store.messages(namespace)] != ids:
                raise _Changed
            yield from _encode(store, model, tokens, runs, progress)

        with suppress(_Changed):
            return len(held), len(tokens), len(store.append(namespace, [], segments(), kv_budget=kv_budget))
    return 0, 0, 0


def _none_if_unencoded(store: BlockStore, namespace: str) -> Iterator[tuple[SegmentId, None]]:
    if _unencoded(store, namespace):
        for record in store.segments(namespace):
            yield record.id, None


def forget(
    store: BlockStore,
    namespace: str,
    model: LandmarkModel,
    ids: Sequence[MessageId],
    kv_budget: int | None,
    on_changed: Callable[[list[SegmentId], bool], None],
) -> None:
    """Remove messages, and encode what is left of every segment they were in.

    `on_changed` is told, under the write lock, which segments these are, and whether nothing is left of the namespace;
    whatever it raises leaves all as it was.
    """
    gone = {(type(i), i) for i in ids}

    def left() -> Iterator[tuple[SegmentId, EncodedSegment | None]]:
        changed, stays = [], False
        for record in store.segments(namespace):
            if not any((type(run.message_id), run.message_id) in gone for run in record.runs):
                stays = True
                continue
            changed.append(record.id)
            rest = _without(model, record, gone, store.spec)
            stays = stays or rest is not None
            yield record.id, rest
        on_changed(changed, not stays)

    store.rewrite(namespace, ids, left(), kv_budget=kv_budget)


def _encode(
    store: BlockStore,
    model: LandmarkModel,
    tokens: np.ndarray,
    runs: Sequence[MessageRun],
    progress: Progress | None,
) -> Iterator[EncodedSegment]:
    return model.encode(tokens, runs, _counting(len(tokens), progress), store.spec)


def _without(
    model: LandmarkModel, record: SegmentRecord, gone: set[tuple[type, MessageId]], spec: KVSpec
) -> EncodedSegment | None:
    """A segment encoded again with only the tokens of messages that stay; None when none does."""
    kept: list[np.ndarray] = []
    runs: list[MessageRun] = []
    at = 0
    for run in record.runs:
        if (type(run.message_id), run.message_id) not in gone:
            kept.append(record.tokens[at : at + run.n_tokens])
            runs.append(run)
        at += run.n_tokens
    if not kept:
        return None
    (segment,) = model.encode(np.concatenate(kept), runs, spec=spec)
    # a shortened segment in the middle stays closed: only the open tail goes on
    return replace(segment, closed=record.closed)


def _unencoded(store: BlockStore, namespace: str) -> bool:
    try:
        return bool(store.unencoded(namespace))
    except NamespaceNotFound:
        return False


def _if_tail_is(
    store: BlockStore, namespace: str, tail: SegmentRecord | None, segments: Iterable[EncodedSegment]
) -> Iterator[EncodedSegment]:
    if _unencoded(store, namespace) or not _same(store.tail(namespace), tail):
        raise _Changed
    yield from segments


def _same(a: SegmentRecord | None, b: SegmentRecord | None) -> bool:
    if a is None or b is None:
        return a is b
    # an id may come again for another text
    return a.id == b.id and a.runs == b.runs and np.array_equal(a.tokens, b.tokens)


def _counting(total: int, progress: Progress | None) -> Callable[[int], None]:
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(done, total)

    return step
