"""One search over what a recall can see: from a query to k messages, and those that stand beside them."""

import time
from collections.abc import Callable, Sequence, Set
from contextlib import suppress

from torch import Tensor

from hierlandmark.errors import MessageNotFound
from hierlandmark.filters import Filter
from hierlandmark.memory.fuse import DEPTH, fuse, matched
from hierlandmark.memory.rank import Ranked, judged, message_shares, rank_messages
from hierlandmark.memory.trace import ranked_trace
from hierlandmark.messages import MessageId
from hierlandmark.model import LandmarkModel
from hierlandmark.recall import Recall
from hierlandmark.results import Cost, Hit, SearchResult
from hierlandmark.store.protocol import BlockStore

# queries of each layer, their scale, segments to open, messages that may be found, and those that words found, best
# first, to blocks with their scores, and where those are read; see `rank.rank_blocks`
Look = Callable[[Sequence[Tensor], float, int, Set[MessageId] | None, Sequence[MessageId]], tuple[Recall, Ranked]]


def search(
    model: LandmarkModel,
    store: BlockStore,
    namespace: str,
    look: Look,
    query: str,
    k: int,
    *,
    least: int,
    hybrid: bool,
    where: Filter | None,
    neighbours: int,
    began: float,
) -> SearchResult:
    """What `Memory.search` says, arguments checked.

    Args:
        look: opens segments and lets heads rank.
        least: segments to open at least.
        began: when its work did, by `time.perf_counter`.
    """
    allowed = None if where is None or where.everything else set(store.matching(namespace, where))
    if allowed is not None and not allowed:
        return SearchResult(hits=[], cost=Cost(ms=(time.perf_counter() - began) * 1e3))
    words = None
    if hybrid:
        words = store.search_text(namespace, query, max(DEPTH, k), where)
        # others may have come since
        words = [row for row in words if allowed is None or row[0] in allowed]
    queries, scale = model.search_queries(query)
    n_open = max(least, 2 * k)
    while True:
        # gates may have passed over what the words find
        recall, ranked = look(queries, scale, n_open, allowed, [message_id for message_id, _ in words or ()])
        shares = message_shares(recall, ranked, queries, scale, n_open)
        if allowed is not None:
            shares = [
                (score, block, {one: share for one, share in parts.items() if one in allowed})
                for score, block, parts in shares
            ]
        # shares of 1, whatever the heads' weights sum to
        whole = ranked.rule.whole(ranked.heads)
        shares = [(score / whole, block, parts) for score, block, parts in shares]
        found = rank_messages(judged(recall, ranked, shares))
        by_landmarks = {message_id: score for message_id, score, _ in found}
        matches: dict[MessageId, float] = {}
        if words is not None:
            stands = ranked.holders.standing()
            matches = matched(stands, words)
            found = fuse(stands, found, matches)
        hits = _hits(store, namespace, found, k)
        if len(hits) == k or ranked.whole:
            break
        # few long messages: open more, so that k are found where k exist
        n_open *= 4
    if hybrid:
        ids = [hit.message_ids[0] for hit in hits]
        parts = [{"landmarks": by_landmarks.get(one), "words": matches.get(one, 0.0)} for one in ids]
        hits = [hit.model_copy(update=part) for hit, part in zip(hits, parts, strict=True)]
    trace = ranked_trace(recall, ranked, model.decode)
    cost = recall.tally.cost((time.perf_counter() - began) * 1e3)
    return SearchResult(hits=_beside(store, namespace, hits, neighbours), cost=cost, trace=trace)


def _hits(store: BlockStore, namespace: str, found: Sequence[tuple[MessageId, float, int]], k: int) -> list[Hit]:
    """The first k that are still there."""
    per_segment, hits = store.spec.blocks_per_segment, list[Hit]()
    for message_id, score, block in found:
        if len(hits) == k:
            break
        with suppress(MessageNotFound):
            (m,) = store.messages(namespace, [message_id])
            segment = block // per_segment
            hits.append(
                Hit(message_ids=[m.id], text=m.content, score=score, block=block, segment=segment, messages=[m])
            )
    return hits


def _beside(store: BlockStore, namespace: str, hits: list[Hit], n: int) -> list[Hit]:
    """Hits with up to n messages before and after each; a message is shown once, with the best hit it stands beside."""
    if not n:
        return hits
    shown = {message_id for hit in hits for message_id in hit.message_ids}
    out = []
    for hit in hits:
        with suppress(MessageNotFound):
            sides = store.around(namespace, hit.message_ids[0], n)
            before, after = ([one for one in side if one.id not in shown] for side in sides)
            shown |= {one.id for one in (*before, *after)}
            hit = hit.model_copy(update={"before": before, "after": after})
        out.append(hit)
    return out
