"""Rankings and costs to numbers; no model, no store."""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from statistics import fmean

import numpy as np

from hierlandmark.messages import MessageId
from hierlandmark.results import Cost, Hit

# cut-offs that results are given at
CUTOFFS = (1, 5, 10, 20)
# of the intervals: resamples, their seed, and the percentiles that they end at
RESAMPLES, SEED, ENDS = 2_000, 0, (2.5, 97.5)


def recall_at(ranking: Sequence[MessageId], evidence: Iterable[MessageId], k: int) -> float:
    """Share of the evidence among the first `k` of the ranking, 0 to 1.

    >>> recall_at([3, 1, 2], [1, 9], 2)
    0.5
    """
    wanted = set(evidence)
    if not wanted:
        raise ValueError("recall needs at least one evidence id")
    return len(wanted & set(ranking[:k])) / len(wanted)


def hit_at(ranking: Sequence[MessageId], evidence: Iterable[MessageId], k: int) -> float:
    """1 when any evidence is among the first `k` of the ranking, else 0.

    >>> hit_at([3, 1, 2], [1, 9], 2)
    1.0
    """
    return float(not set(evidence).isdisjoint(ranking[:k]))


def ndcg_at(ranking: Sequence[MessageId], evidence: Iterable[MessageId], k: int) -> float:
    """Normalised discounted cumulative gain of the first `k` (Järvelin & Kekäläinen 2002), a gain of 1 for evidence.

    >>> ndcg_at([1, 2, 9], [1, 9], 3) == (1 + 1 / 2) / (1 + 1 / math.log2(3))
    True
    """
    wanted = set(evidence)
    if not wanted:
        raise ValueError("nDCG needs at least one evidence id")
    gain = sum(1 / math.log2(place + 1) for place, one in enumerate(ranking[:k], start=1) if one in wanted)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(len(wanted), k) + 1))


def reciprocal_rank(ranking: Sequence[MessageId], evidence: Iterable[MessageId]) -> float:
    """One over the rank of the first evidence message, 0 when none is in the ranking.

    >>> reciprocal_rank([3, 1, 2], [1, 2])
    0.5
    """
    wanted = set(evidence)
    return next((1 / rank for rank, one in enumerate(ranking, start=1) if one in wanted), 0.0)


def question_scores(ranking: Sequence[MessageId], evidence: Sequence[MessageId]) -> dict[str, float]:
    """Every figure of one question with evidence: `recall@k` and `hit@k` at each cut-off, `ndcg@10`, `mrr`."""
    scores = {f"recall@{k}": recall_at(ranking, evidence, k) for k in CUTOFFS}
    scores |= {f"hit@{k}": hit_at(ranking, evidence, k) for k in CUTOFFS}
    return scores | {"ndcg@10": ndcg_at(ranking, evidence, 10), "mrr": reciprocal_rank(ranking, evidence)}


def bootstrap(values: Sequence[float]) -> tuple[float, float]:
    """Ends of the 95% percentile interval of the mean, questions resampled with replacement.

    The same number of questions is resampled in the same way, so that two rows of a table can be compared question by
    question: `bootstrap` of their differences is the paired test.

    >>> bootstrap([0.5, 0.5, 0.5])
    (0.5, 0.5)
    """
    if not values:
        raise ValueError("an interval needs at least one question")
    array = np.asarray(values, dtype=np.float64)
    low, high = np.percentile(array[_picks(len(array))].mean(1), ENDS)
    return float(low), float(high)


@lru_cache(maxsize=1)
def _picks(n: int) -> np.ndarray:
    return np.random.default_rng(SEED).integers(n, size=(RESAMPLES, n), dtype=np.int32)


def ranked_ids(hits: Iterable[Hit]) -> list[MessageId]:
    """Message ids of hits, best first, each once."""
    return list(dict.fromkeys(one for hit in hits for one in hit.message_ids))


def mean_cost(costs: Sequence[Cost]) -> dict[str, float]:
    """Mean of each field; zeros when there is nothing to average."""
    return {name: fmean(getattr(cost, name) for cost in costs) if costs else 0.0 for name in Cost.model_fields}
