"""Where a text is cut into segments: behind a whole message, sentence or word, as far as one ends late enough."""

from bisect import bisect_right
from collections.abc import Callable, Sequence
from enum import IntEnum

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import split_blocks

Decode = Callable[[Sequence[int]], str]

# what may stand behind the mark that ends a sentence
_CLOSING = "\"'”’»)]}*_"
# of which the first need a space behind them, for numbers and names hold them too
_STOPS, _WIDE_STOPS = (".", "!", "?", "…"), ("。", "！", "？", "؟", "।")
# tokens before and behind a place that are decoded: a character is made of four at most
_AROUND = 4
_BROKEN = "\ufffd"


class _Cut(IntEnum):
    """What a place between two tokens is, better ones greater."""

    CHARACTER = 0
    ANYWHERE = 1
    WORD = 2
    SENTENCE = 3


def segment_sizes(tokens: Sequence[int], config: LayoutConfig, decode: Decode, ends: Sequence[int] = ()) -> list[int]:
    """Content tokens of each segment of a text; they sum to its tokens.

    A segment on its own knows nothing of the one before: half a number there is no number. So one that is full ends
    within its last block, behind the last message that ends there, else the last sentence, else the last word; only
    what has none of them is cut in the middle. Every segment but the last is closed by what follows it, and a text that
    grows is cut where it would have been cut at once.

    Args:
        tokens: (n,) of the text.
        decode: token ids to text.
        ends: places behind each message, ascending.
    """
    capacity = config.segment_capacity
    # as late as the closing block
    early = capacity - split_blocks(capacity, config)[-1]
    sizes, start = [], 0
    while len(tokens) - start > capacity:
        last = bisect_right(ends, start + capacity)
        if last and ends[last - 1] > start + early:
            size = ends[last - 1] - start
        else:
            size = _best(tokens[start : start + capacity + _AROUND], early, capacity, decode)
        sizes.append(size)
        start += size
    return sizes + [len(tokens) - start] * (start < len(tokens))


def _best(piece: Sequence[int], early: int, capacity: int, decode: Decode) -> int:
    """The last of the best places in `early` < place <= `capacity`."""
    found, best = capacity, _Cut.CHARACTER
    for place in range(capacity, early, -1):
        if (kind := _kind(piece, place, decode)) > best:
            found, best = place, kind
            if best == _Cut.SENTENCE:
                break
    return found


def _kind(piece: Sequence[int], place: int, decode: Decode) -> _Cut:
    first = max(0, place - _AROUND)
    before, both = decode(piece[first:place]), decode(piece[first : place + _AROUND])
    behind = both[len(before) :]
    if not both.startswith(before) or before.endswith(_BROKEN) or behind.startswith(_BROKEN):
        return _Cut.CHARACTER
    spaced = behind[:1].isspace() or before[-1:].isspace()
    said = before.rstrip().rstrip(_CLOSING)
    if said.endswith(_WIDE_STOPS) or (spaced and (said.endswith(_STOPS) or "\n" in (before[-1:], behind[:1]))):
        return _Cut.SENTENCE
    return _Cut.WORD if spaced else _Cut.ANYWHERE
