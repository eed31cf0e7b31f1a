"""A long text as tokens, and documents made of its start with needles in it: most of their segments are the text's.

A needle pushes what follows it on, and the segment it stands in drops as many tokens at its end: the text's other
segments stay as they are, and need no encoding of their own. As a memory cuts texts behind sentences, a needle that a
segment has no room for stands at the head of the next, unless that leaves too little room for those behind it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.fillers import Filler

Tokenize = Callable[[str], Sequence[int]]
Cut = Callable[[np.ndarray], Sequence[int]]
Decode = Callable[[Sequence[int]], str]
# characters tokenised beyond the length, so that its last token is not half a word's
SPARE = 64


@dataclass(frozen=True, eq=False)
class Haystack:
    """A text and where a sentence ends in it."""

    tokens: np.ndarray  # (n,) int32
    # places before which a statement may stand, ascending, the first 0
    cuts: np.ndarray
    # places behind its segments, ascending, the last n
    ends: np.ndarray

    def document(
        self,
        length: int,
        opening: Sequence[int],
        statements: Sequence[tuple[float, Sequence[int]]],
        closing: Sequence[int],
    ) -> tuple[np.ndarray, list[int]]:
        """Opening, the text's start with statements in it, and closing: exactly `length` tokens, and each segment's.

        Args:
            statements: depth (0 to 1, ascending) and tokens of each; it goes to the nearest sentence end before it, and
                where its segment would cut it to the start of the next.

        Raises:
            InvalidArgument: the text is shorter than that, or what is put in is longer.
        """
        end = length - len(closing)
        hidden = len(opening) + sum(len(tokens) for _, tokens in statements)
        # the last place from which everything still fits
        last = end - hidden
        if last < 0 or length > len(self.tokens):
            raise InvalidArgument(
                f"expected a document of {hidden + len(closing)} to {len(self.tokens)} tokens, got {length}"
            )
        out = self.tokens[:length].copy()
        out[end:] = closing
        cuts = self.cuts[: np.searchsorted(self.cuts, last, side="right")]
        wanted = [(0, opening)]
        wanted += [(int(cuts[np.searchsorted(cuts, depth * last, side="right") - 1]), x) for depth, x in statements]
        ends = np.append(self.ends[self.ends < length], length)
        put: list[tuple[int, int, int]] = []
        first, left = 0, hidden
        for cut, tokens in wanted:
            at = max(first, _pushed(cut, put))
            edge = int(ends[np.searchsorted(ends, at, side="right")])
            # as long as this one and all behind it fit there
            if first and at + len(tokens) > edge and edge + left <= end:
                at = edge
            first, left = at + len(tokens), left - len(tokens)
            stop = min(end, int(ends[np.searchsorted(ends, at + len(tokens))]))
            out[at + len(tokens) : stop] = out[at : stop - len(tokens)].copy()
            out[at : at + len(tokens)] = tokens
            put.append((at, len(tokens), stop))
        return out, np.diff(ends, prepend=0).tolist()


def _pushed(place: int, put: Sequence[tuple[int, int, int]]) -> int:
    """Where statements, each at a place and so long, pushed it to: not beyond the segment that they stand in."""
    for at, size, stop in put:
        place = min(place + size, stop) if at <= place < stop else place
    return place


def make_haystack(tokenize: Tokenize, decode: Decode, cut: Cut, text: Callable[[int], str], length: int) -> Haystack:
    """`length` tokens of a text.

    Args:
        cut: tokens to the sizes of their segments.
        text: gives that many characters at least of a text; what it gives for a larger number starts alike.

    Raises:
        InvalidArgument: the text runs out.
    """
    chars, tokens = length + SPARE, tokenize(text(length + SPARE))
    while len(tokens) < length + SPARE:
        chars = int(chars * 1.05 * (length + SPARE) / max(1, len(tokens))) + SPARE
        tokens = tokenize(text(chars))
    ids = np.asarray(tokens[:length], dtype=np.int32)
    return Haystack(ids, _sentence_ends(ids, decode), np.cumsum(cut(ids)))


def filler_text(filler: Filler, rng: Random) -> Callable[[int], str]:
    """Text of a filler from a place drawn once."""
    start = filler.start(rng)
    return lambda chars: filler.take(start, chars)


def _sentence_ends(tokens: np.ndarray, decode: Decode) -> np.ndarray:
    """Places of tokens that begin with a space or a line break behind one that ends a sentence."""
    ids, where = np.unique(tokens, return_inverse=True)
    texts = [decode([int(i)]) for i in ids]
    ends = np.asarray([text.rstrip("\"'”’)").endswith((".", "!", "?")) for text in texts])
    begins = np.asarray([text[:1].isspace() for text in texts])
    return np.concatenate(([0], 1 + np.flatnonzero(ends[where][:-1] & begins[where][1:])))
