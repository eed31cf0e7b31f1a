"""Where a text is cut into segments: behind a whole message, sentence or word, as far as one ends late enough."""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from enum import IntEnum

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import split_blocks

Decode = Callable[[Sequence[int]], str]

# what may stand behind the mark that ends a sentence
_CLOSING = "\"'”’»)]}*_」』）】》〉］"
# the first need a space behind them, for numbers and names hold them too
_STOPS, _WIDE_STOPS = (".", "!", "?", "…"), ("。", "！", "？", "؟", "।")
_CLAUSES = tuple(",;:，、；：،؛")
# a dot that ends no sentence
_SHORT = re.compile(r"(?:^|[\s(\"'])(?:Mrs?|Ms|Dr|St|No|Prof|vs|e\.g|i\.e|[A-Z])\.$")
# a character is made of four tokens at most; some tokenizers tell none of a run of bytes unless all of them are whole
_MOST = 4
_BROKEN = "\ufffd"


class _Cut(IntEnum):
    """What a place between two tokens is, better ones greater."""

    CHARACTER = 0
    # inside a number or a word of Latin letters
    INSIDE = 1
    ANYWHERE = 2
    CLAUSE = 3
    WORD = 4
    SENTENCE = 5


def segment_sizes(tokens: Sequence[int], config: LayoutConfig, decode: Decode, ends: Sequence[int] = ()) -> list[int]:
    """Content tokens of each segment of a text; they sum to its tokens.

    A segment on its own knows nothing of the one before: half a number there is no number. So one that is full ends
    within its last block, behind the last message that ends there, else the last sentence, else the last word; text
    without spaces behind a comma, else between two characters, and a number only where nothing else ends. Every segment
    but the last is closed by what follows it, and a text that grows is cut where it would have been cut at once.

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
            size = _best(tokens[start : start + capacity + _MOST], early, capacity, decode)
        sizes.append(size)
        start += size
    return sizes + [len(tokens) - start] * (start < len(tokens))


def _best(piece: Sequence[int], early: int, capacity: int, decode: Decode) -> int:
    """The last of the best places in `early` < place <= `capacity`."""
    found, best = capacity, _Cut.CHARACTER
    for place in range(capacity, early, -1):
        if (kind := _kind(*_around(piece, place, decode))) > best:
            found, best = place, kind
            if best == _Cut.SENTENCE:
                break
    return found


def _around(piece: Sequence[int], place: int, decode: Decode) -> tuple[str, str]:
    """Some text before a place, and at least a character behind it; nothing where a character is cut there."""
    for first in range(max(0, place - _MOST), max(0, place - 2 * _MOST) - 1, -1):
        before = decode(piece[first:place])
        if _BROKEN in before:
            continue
        for last in range(place + 1, min(len(piece), place + _MOST) + 1):
            both = decode(piece[first:last])
            if both.startswith(before) and _BROKEN not in both:
                return before, both[len(before) :]
        break
    return "", ""


def _kind(before: str, behind: str) -> _Cut:
    if not before or not behind:
        return _Cut.CHARACTER
    said = before.rstrip().rstrip(_CLOSING)
    if "\n" in behind[: len(behind) - len(behind.lstrip())] or behind[0] in _CLOSING:
        # these belong to what they end
        return _Cut.ANYWHERE
    if before[-1] == "\n" or said.endswith(_WIDE_STOPS):
        return _Cut.SENTENCE
    if behind[0].isspace() or before[-1].isspace():
        ended = said.endswith(_STOPS) and not _SHORT.search(said) and not behind.lstrip()[:1].isdigit()
        return _Cut.SENTENCE if ended else _Cut.WORD
    if before[-1] in _CLAUSES:
        return _Cut.CLAUSE
    inside = all(one.isascii() and one.isalnum() for one in (before[-1], behind[0]))
    return _Cut.INSIDE if inside else _Cut.ANYWHERE
