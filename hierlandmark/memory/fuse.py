"""Two rankings of messages as one: what the attention points at, and what holds the query's words."""

from collections.abc import Iterable, Sequence

from hierlandmark.memory.rank import block_shares
from hierlandmark.messages import MessageId
from hierlandmark.recall import Recall

# of reciprocal rank fusion (Cormack, Clarke & Buettcher 2009, whose section 3 has 60 for lists of a thousand): a chat
# has few messages, and with 60 what both have far down beats the best of one; chosen on development chats (docs/log.md)
RANK_OFFSET = 10
# messages that words may add: those further down add less than one place of the other ranking
DEPTH = 100


def reciprocal_ranks(
    rankings: Iterable[Sequence[MessageId]], offset: int = RANK_OFFSET
) -> list[tuple[MessageId, float]]:
    """Sum of 1 / (offset + place) over rankings, greatest first; equal sums keep the order of first appearance.

    >>> [one for one, _ in reciprocal_ranks([["a", "b"], ["b", "c"]])]
    ['b', 'a', 'c']
    """
    scores: dict[MessageId, float] = {}
    for ranking in rankings:
        for place, message_id in enumerate(ranking, start=1):
            scores[message_id] = scores.get(message_id, 0.0) + 1 / (offset + place)
    return sorted(scores.items(), key=lambda row: -row[1])


def fuse(
    recall: Recall, found: Sequence[tuple[MessageId, float, int]], words: Sequence[MessageId]
) -> list[tuple[MessageId, float, int]]:
    """Message, score and block, best first, of `rank.rank_messages`' ranking and one by words.

    A message found by its words only has its first block; one that has none yet is left out.
    """
    blocks = {message_id: block for message_id, _, block in found}
    # words come first where sums are equal: the best of either ranking may be missing in the other
    fused = reciprocal_ranks((words, [message_id for message_id, _, _ in found]))
    blocks |= _first_blocks(recall, {message_id for message_id in words if message_id not in blocks})
    return [(message_id, score, blocks[message_id]) for message_id, score in fused if message_id in blocks]


def _first_blocks(recall: Recall, wanted: set[MessageId]) -> dict[MessageId, int]:
    out: dict[MessageId, int] = {}
    for segment in range(recall.n_segments):
        record, first = recall.block_of(segment, 0)
        here = {run.message_id for run in record.runs} & wanted - out.keys()
        for block, shares in enumerate(block_shares(record)) if here else ():
            for message_id in here & shares.keys() - out.keys():
                out[message_id] = first + block
    return out
