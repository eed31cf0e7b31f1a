"""Perplexity of documents in windows, through the same attention that memories use."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from statistics import fmean
from typing import Any

from hierlandmark.errors import InvalidArgument

# token ids of a window to the negative log-likelihood, in nats, of each token but the first
Score = Callable[[Sequence[int]], Sequence[float]]


# windows of one document, so that a few long books do not stand for all
PER_DOCUMENT = 4


def windows(documents: Iterable[Sequence[int]], length: int) -> Iterator[Sequence[int]]:
    """The first `PER_DOCUMENT` windows of exactly `length` tokens of each document, side by side."""
    for tokens in documents:
        for start in range(0, min(len(tokens) - length + 1, PER_DOCUMENT * length), length):
            yield tokens[start : start + length]


def perplexity(nlls: Sequence[float]) -> float:
    """Exponential of the mean negative log-likelihood in nats; infinite where that overflows."""
    try:
        return math.exp(fmean(nlls))
    except OverflowError:
        return math.inf


def evaluate_perplexity(
    documents: Callable[[], Iterable[Sequence[int]]],
    score: Score,
    *,
    lengths: Sequence[int],
    limit: int,
    mode: str,
) -> Iterator[dict[str, Any]]:
    """One row a window, the last of a length final: `{"length", "windows", "tokens", "perplexity", "mode", "cost"}`.

    `documents` is called once a length; `limit` windows of each are scored. `cost` is the mean of `ms` a window.
    Raises `InvalidArgument` for a length under 2, or when no document is as long as a length.
    """
    for length in lengths:
        if length < 2:
            raise InvalidArgument(f"expected lengths of at least 2 tokens, got {length!r}")
        nlls: list[float] = []
        spent: list[float] = []
        for window in islice(windows(documents(), length), limit):
            began = time.perf_counter()
            nlls.extend(float(one) for one in score(window))
            spent.append(1000 * (time.perf_counter() - began))
            yield {
                "length": length,
                "windows": len(spent),
                "tokens": len(nlls),
                "perplexity": perplexity(nlls),
                "mode": mode,
                "cost": {"ms": fmean(spent)},
            }
        if not spent:
            raise InvalidArgument(f"no document is {length} tokens long; give smaller --lengths or longer documents")
