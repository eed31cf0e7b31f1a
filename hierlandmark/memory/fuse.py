"""One ranking of messages out of two: what the attention points at, and what holds the query's words."""

import math
from collections.abc import Mapping, Sequence

from hierlandmark.messages import MessageId

# messages that words may add
DEPTH = 100
# what the best match by words is worth, in powers of e of the landmarks' score, over none; chosen with `_LENGTH` on
# development chats (docs/log.md)
WORDS = 3.0
# BM25 over one more than the blocks that a message would fill, to this power: made for texts of like lengths, it
# prefers long ones among very short and very long
_LENGTH = 0.5
_LEAST = 1e-30
# words that no more messages hold tell much, a name or a number: these have at least such a part of the best score that
# landmarks gave any
_RARE, _PART = 2, 0.3


def matched(
    stands: Mapping[MessageId, tuple[int, float]], words: Sequence[tuple[MessageId, float]]
) -> dict[MessageId, float]:
    """How well messages match by BM25's scores: 1 the best of them, 0 none. One that has no block yet is left out.

    Args:
        stands: `rank.Holders.standing` of the messages of `words`.
    """
    matches = {
        message_id: max(score, 0.0) / (1 + stands[message_id][1]) ** _LENGTH
        for message_id, score in words
        if message_id in stands
    }
    # where none of the words weighs anything all are 0
    best = max(matches.values(), default=0.0) or 1.0
    return {message_id: match / best for message_id, match in matches.items()}


def fuse(
    stands: Mapping[MessageId, tuple[int, float]],
    found: Sequence[tuple[MessageId, float, int]],
    matches: Mapping[MessageId, float],
) -> list[tuple[MessageId, float, int]]:
    """Message, score and block, best first, of `rank.rank_messages`' ranking and of how well messages `matched`.

    The landmarks' score is divided by e cubed where a message has none of the words, by nothing where it is the best
    match, and by what is between in between. A message of segments that were not opened has the least score of any
    found by landmarks, and its first block. Where two messages at most have any of the words, these have three tenths
    of the best of the landmarks' scores at least.
    """
    scores = {message_id: (score, block) for message_id, score, block in found}
    least = min((score for score, _ in scores.values()), default=1.0)
    for message_id in matches:
        scores.setdefault(message_id, (least, stands[message_id][0]))
    if len(having := [message_id for message_id, match in matches.items() if match > 0]) <= _RARE:
        best = max((score for score, _ in scores.values()), default=0.0)
        scores |= {one: (max(scores[one][0], _PART * best), scores[one][1]) for one in having}
    fused = [
        (message_id, max(score, _LEAST) * math.exp(-WORDS * (1 - matches.get(message_id, 0.0))), block)
        for message_id, (score, block) in scores.items()
    ]
    # equal ones stay as landmarks, then words have them
    return sorted(fused, key=lambda row: -row[1])
