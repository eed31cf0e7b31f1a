"""One ranking of messages out of two: what the attention points at, and what holds the query's words."""

import math
from collections.abc import Sequence, Set

from hierlandmark.memory.rank import block_shares, candidates
from hierlandmark.messages import MessageId
from hierlandmark.recall import Recall

# messages that words may add
DEPTH = 100
# what the best match by words is worth, in powers of e of the landmarks' score, over none; chosen with `_LENGTH` on
# development chats (docs/log.md)
WORDS = 3.0
# BM25 over one more than the blocks that a message would fill, to this power: made for texts of like lengths, it
# prefers long ones among very short and very long
_LENGTH = 0.5
_LEAST = 1e-30


def fuse(
    recall: Recall, found: Sequence[tuple[MessageId, float, int]], words: Sequence[tuple[MessageId, float]]
) -> list[tuple[MessageId, float, int]]:
    """Message, score and block, best first, of `rank.rank_messages`' ranking and of BM25's scores.

    The landmarks' score is divided by e cubed where a message has none of the words, by nothing where it is the best
    match, and by what is between in between. A message of segments that were not opened has the least score of any
    found by landmarks, and its first block; one that has no block yet is left out.
    """
    stands = _stands(recall, {message_id for message_id, _ in words})
    matches = {
        message_id: max(score, 0.0) / (1 + stands[message_id][1]) ** _LENGTH
        for message_id, score in words
        if message_id in stands
    }
    # where none of the words weighs anything all are 0
    best = max(matches.values(), default=0.0) or 1.0
    scores = {message_id: (score, block) for message_id, score, block in found}
    least = min((score for score, _ in scores.values()), default=1.0)
    for message_id in matches:
        scores.setdefault(message_id, (least, stands[message_id][0]))
    fused = [
        (message_id, max(score, _LEAST) * math.exp(-WORDS * (1 - matches.get(message_id, 0.0) / best)), block)
        for message_id, (score, block) in scores.items()
    ]
    # equal ones stay as landmarks, then words have them
    return sorted(fused, key=lambda row: -row[1])


def _stands(recall: Recall, wanted: Set[MessageId]) -> dict[MessageId, tuple[int, float]]:
    """Of messages that have blocks: the first of them, and how many each would fill."""
    out: dict[MessageId, tuple[int, float]] = {}
    for segment in candidates(recall, wanted) if wanted else ():
        record, first = recall.block_of(segment, 0)
        for block, shares in enumerate(block_shares(record)):
            for message_id in wanted & shares.keys():
                at, extent = out.get(message_id, (first + block, 0.0))
                out[message_id] = (at, extent + shares[message_id])
    return out
