"""How heads that search come to one ranking: each by a vote of its own, or all as one retriever.

An adapter says which (`AdapterMeta.ranking`), since its heads are trained for it. Stored keys are the same under both.

H heads that search, P positions a block.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hierlandmark.messages import MessageId
from hierlandmark.model import Ranking, RetrievalHead

# score, block id, and each message's share of the block
Share = tuple[float, int, dict[MessageId, float]]


class Rule(Protocol):
    """What is made of the heads' logits. Scores are greater for the better."""

    # whether `judged` looks at how much of the text messages are
    damps: bool

    def scores(self, logits: Tensor, masses: Tensor, weight: Tensor) -> Tensor:
        """Of gates or landmarks: (H, ...), (H, ...), (H,) -> (...).

        Args:
            logits: scaled, -inf for what may not be found, for all heads alike.
            masses: each head's own softmax of them, times its weight.
        """

    def whole(self, heads: Sequence[RetrievalHead]) -> float:
        """What the scores of all that was looked at sum to."""

    def of_products(self, summed: np.ndarray, heads: Sequence[RetrievalHead]) -> Tensor:
        """Scores of blocks known by the weighted sums of their logits alone, up to a factor: (n,) float64 -> (n,)."""

    def inside(self, parts: Iterable[tuple[int, Tensor]], masses: Tensor, weight: Tensor) -> Tensor:
        """The share of a block's attention that each of its positions gets: (n, P), rows that sum to 1.

        Args:
            parts: of each head, in any order, its place and its logits of n blocks' content (n, P), -inf where there
                is none.
            masses: (H, n), as `scores` takes them, of the blocks.
        """

    def judged(self, shares: Sequence[Share], extents: Mapping[MessageId, float]) -> Sequence[Share]:
        """What `rank.rank_messages` is to judge messages by.

        Args:
            extents: how many blocks each message would fill (`rank.extents`); empty where the rule does not damp.
        """

    def mass(self, masses: Tensor, scores: Tensor) -> Tensor:
        """What a trace says: the heads' parts of 1 (H, ...), and the scores as parts of 1 (...) -> (...)."""


class Votes:
    """Each head spreads its weight by a softmax of its own, and what places get is summed.

    A message is judged by its best block, whose score is damped by the root of the message's share.
    """

    damps = False

    def scores(self, logits: Tensor, masses: Tensor, weight: Tensor) -> Tensor:
        """See `Rule.scores`."""
        return masses.sum(0)

    def whole(self, heads: Sequence[RetrievalHead]) -> float:
        """See `Rule.whole`."""
        return sum(head.weight for head in heads)

    def of_products(self, summed: np.ndarray, heads: Sequence[RetrievalHead]) -> Tensor:
        """The geometric mean of the heads' votes; see `Rule.of_products`."""
        mean = summed / np.asarray([head.weight for head in heads]).sum()
        return torch.from_numpy(np.exp(mean - mean.max())).float()

    def inside(self, parts: Iterable[tuple[int, Tensor]], masses: Tensor, weight: Tensor) -> Tensor:
        """The heads' softmaxes, by what each gave to the block; see `Rule.inside`."""
        total: Tensor | None = None
        for head, logits in parts:
            part = masses[head].unsqueeze(-1) * logits.softmax(-1)
            total = part if total is None else total + part
        assert total is not None
        return total / total.sum(-1, keepdim=True).clamp_min(torch.finfo(total.dtype).tiny)

    def judged(self, shares: Sequence[Share], extents: Mapping[MessageId, float]) -> Sequence[Share]:
        """See `Rule.judged`."""
        return shares

    def mass(self, masses: Tensor, scores: Tensor) -> Tensor:
        """See `Rule.mass`."""
        return masses.sum(0)


class Sum:
    """The heads' logits are summed by weight, as the product of two long vectors is, and one softmax goes over them.

    A message gets, of every block, its part of the attention inside it: the mass of one attention over all tokens. It
    is judged by that mass over one more than the blocks it would fill: a long message gathers some from each, and a
    short one has little to be weighed by. Blocks of segments that were not opened count too.
    """

    damps = True

    def scores(self, logits: Tensor, masses: Tensor, weight: Tensor) -> Tensor:
        """See `Rule.scores`."""
        summed = _summed(enumerate(logits), weight)
        return summed.flatten().softmax(-1).view_as(summed)

    def whole(self, heads: Sequence[RetrievalHead]) -> float:
        """See `Rule.whole`."""
        return 1.0

    def of_products(self, summed: np.ndarray, heads: Sequence[RetrievalHead]) -> Tensor:
        """See `Rule.of_products`."""
        return torch.from_numpy(summed).softmax(-1)

    def inside(self, parts: Iterable[tuple[int, Tensor]], masses: Tensor, weight: Tensor) -> Tensor:
        """See `Rule.inside`."""
        return _summed(parts, weight).softmax(-1)

    def judged(self, shares: Sequence[Share], extents: Mapping[MessageId, float]) -> Sequence[Share]:
        """Each message as if it alone held the block that gave it most; see `Rule.judged`."""
        total: dict[MessageId, float] = {}
        best: dict[MessageId, tuple[float, int]] = {}
        # in text order, so that equal ones stay as the text has them
        for score, block, parts in sorted(shares, key=lambda row: row[1]):
            for message_id, share in parts.items():
                value = score * share
                total[message_id] = total.get(message_id, 0.0) + value
                if message_id not in best or value > best[message_id][0]:
                    best[message_id] = (value, block)
        return [(mass / (1 + extents[one]), best[one][1], {one: 1.0}) for one, mass in total.items()]

    def mass(self, masses: Tensor, scores: Tensor) -> Tensor:
        """See `Rule.mass`."""
        return scores


def _summed(parts: Iterable[tuple[int, Tensor]], weight: Tensor) -> Tensor:
    """Weighted sum of the heads' logits, fp64: they lie so far apart that masses in fp32 would round to 0."""
    total = absent = torch.empty(0)
    for head, logits in parts:
        if not len(total):
            total, absent = torch.zeros_like(logits, dtype=torch.float64), logits.isneginf()
        # -inf times a weight of 0 is no number
        total.add_(logits.masked_fill(absent, 0.0), alpha=float(weight[head]))
    return total.masked_fill(absent, float("-inf"))


RULES: dict[Ranking, Rule] = {"votes": Votes(), "sum": Sum()}
VOTES = RULES["votes"]
