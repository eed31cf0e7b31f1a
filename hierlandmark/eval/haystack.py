"""A long text as tokens, and documents made of its start with needles in it: most of their segments are the text's.

A needle pushes what follows it on, and the segment it stands in drops as many tokens at its end: the text's other
segments stay as they are, and need no encoding of their own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import numpy as np

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.fillers import Filler

Tokenize = Callable[[str], Sequence[int]]
Decode = Callable[[Sequence[int]], str]
# characters tokenised beyond the length, so that its last token is not half a word's
SPARE = 64


@dataclass(frozen=True, eq=False)
class Haystack:
    """A text and where a sentence ends in it."""

    tokens: np.ndarray  # (n,) int32
    # places before which a statement may stand, ascending, the first 0
    cuts: np.ndarray

    def document(
        self,
        length: int,
        opening: Sequence[int],
        statements: Sequence[tuple[float, Sequence[int]]],
        closing: Sequence[int],
        capacity: int,
    ) -> np.ndarray:
        """Opening, the text's start with statements in it, and closing: exactly `length` tokens.

        Args:
            statements: depth (0 to 1, ascending) and tokens of each; it goes to the nearest sentence end before it.
            capacity: content tokens of a segment.

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
        put: list[tuple[int, int]] = []
        for cut, tokens in wanted:
            # where earlier statements pushed this place to; not beyond the segment that they stand in
            at = cut
            for size, edge in put:
                at = min(at + size, edge) if cut < edge else at
            stop = min(end, -(-(at + len(tokens)) // capacity) * capacity)
            out[at + len(tokens) : stop] = out[at : stop - len(tokens)].copy()
            out[at : at + len(tokens)] = tokens
            put.append((len(tokens), stop))
        return out


def make_haystack(tokenize: Tokenize, decode: Decode, text: Callable[[int], str], length: int) -> Haystack:
    """`length` tokens of a text.

    Args:
        text: gives that many characters at least of a text; what it gives for a larger number starts alike.

    Raises:
        InvalidArgument: the text runs out.
    """
    chars, tokens = length + SPARE, tokenize(text(length + SPARE))
    while len(tokens) < length + SPARE:
        chars = int(chars * 1.05 * (length + SPARE) / max(1, len(tokens))) + SPARE
        tokens = tokenize(text(chars))
    ids = np.asarray(tokens[:length], dtype=np.int32)
    return Haystack(ids, _sentence_ends(ids, decode))


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
