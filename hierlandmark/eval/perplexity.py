"""Perplexity of documents in windows, through the same attention that memories use."""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from dataclasses import asdict, dataclass, field
from itertools import islice
from statistics import fmean
from typing import Any, Literal

from hierlandmark.config import Granularity, RecallConfig, WeighBy
from hierlandmark.errors import InvalidArgument
from hierlandmark.ops.selected import Counts

# windows of one document, so that a few long books do not stand for all
PER_DOCUMENT = 4


@dataclass(frozen=True)
class Setting:
    """How a window is read: one row of a table."""

    # "full" is plain attention to all, "xl" plain attention to the last `window` tokens, or to `cache` tokens before
    # each step of `window` and what came before in the step (Transformer-XL)
    mode: Literal["hierarchical", "flat", "full", "xl"] = "hierarchical"
    # tokens of the local window: a segment's positions, or all that "xl" sees; None for the model's segments
    window: int | None = None
    cache: int | None = None
    # blocks that a query reads; None for every block
    blocks: int | None = None
    segments: int = 4
    granularity: Granularity = "head_token"
    threshold: float = 0.0
    weigh_by: WeighBy = "gates"

    @property
    def select(self) -> RecallConfig | None:
        """What queries select; None for every block."""
        if self.blocks is None or self.mode in ("full", "xl"):
            return None
        return RecallConfig(
            segments=self.segments, blocks=self.blocks, granularity=self.granularity, threshold=self.threshold,
            weigh_by=self.weigh_by,
        )  # fmt: skip

    def attention_size(self, length: int, layout_window: int, block_size: int) -> int:
        """Positions a token attends to at most: the paper's "attention size", without landmarks and gates."""
        if self.mode == "full":
            return length
        window = self.window or layout_window
        if self.mode == "xl":
            return min(length, window + (self.cache or 0))
        return length if self.blocks is None else min(length, window + self.blocks * block_size)


# token ids of a window, its setting and where work is counted, to the negative log-likelihood in nats of each token
# but the first
Score = Callable[[Sequence[int], Setting, Counts], Sequence[float]]


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


@dataclass
class _Sums:
    nlls: list[float] = field(default_factory=list)
    ms: list[float] = field(default_factory=list)
    counts: Counts = field(default_factory=Counts)


def check_lengths(lengths: Sequence[int], documents: Iterable[Sized]) -> None:
    """Raises `InvalidArgument` unless all are lengths, and some document is as long as the longest."""
    for length in lengths:
        if length < 2:
            raise InvalidArgument(f"expected lengths of at least 2 tokens, got {length!r}")
    longest = max(lengths, default=0)
    if lengths and not any(len(one) >= longest for one in documents):
        raise InvalidArgument(
            f"no document is {longest} tokens long",
            python="give smaller lengths or longer documents",
            command="give smaller --lengths or longer documents",
        )


def evaluate_perplexity(
    documents: Callable[[], Iterable[Sequence[int]]],
    score: Score,
    *,
    lengths: Sequence[int],
    limit: int,
    settings: Sequence[Setting],
    longest_full: int | None = None,
) -> Iterator[dict[str, Any]]:
    """One row a window and setting; the last of a length and setting is its result.

    Every setting scores the same windows, one after another. A row holds `length`, `windows`, `tokens`, `perplexity`,
    `mode`, `cost` (mean of `ms` a window) and the other fields of its setting; where blocks are selected also
    `reads_skipped`, shares of what could read: heads and tokens, tokens with all heads, segments; and `counts`.

    Args:
        documents: called once for all lengths, which are checked before this returns, and once for each.
        limit: windows of each length.
        longest_full: tokens of the longest text for "full"; longer ones get no row.

    Raises:
        InvalidArgument: a length is under 2, or no document is as long as the longest.
    """
    check_lengths(lengths, documents())
    return _rows(documents, score, lengths, limit, settings, longest_full)


def _rows(
    documents: Callable[[], Iterable[Sequence[int]]],
    score: Score,
    lengths: Sequence[int],
    limit: int,
    settings: Sequence[Setting],
    longest_full: int | None,
) -> Iterator[dict[str, Any]]:
    for length in lengths:
        used = [one for one in settings if not (one.mode == "full" and longest_full and length > longest_full)]
        sums = {setting: _Sums() for setting in used}
        for window in islice(windows(documents(), length), limit):
            for setting, total in sums.items():
                began = time.perf_counter()
                total.nlls.extend(float(one) for one in score(window, setting, total.counts))
                total.ms.append(1000 * (time.perf_counter() - began))
                yield _row(length, setting, total)


def _row(length: int, setting: Setting, total: _Sums) -> dict[str, Any]:
    row: dict[str, Any] = {
        "length": length,
        "windows": len(total.ms),
        "tokens": len(total.nlls),
        "perplexity": perplexity(total.nlls),
        "cost": {"ms": fmean(total.ms)},
        **asdict(setting),
    }
    if counts := total.counts.get():
        row["reads_skipped"] = {
            "head_token": counts["queries_skipped"] / max(1, counts["queries"]),
            "token": counts["tokens_skipped"] / max(1, counts["tokens"]),
            "window": counts["windows_skipped"] / max(1, counts["windows"]),
        }
        row["counts"] = counts
    return row
