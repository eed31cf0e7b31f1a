"""Rankings and costs to numbers; no model, no store."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from hierlandmark.messages import MessageId
from hierlandmark.results import Cost, Hit

# cut-offs that results are given at
CUTOFFS = (1, 5, 10, 20)


def recall_at(ranking: Sequence[MessageId], evidence: Iterable[MessageId], k: int) -> float:
    """Share of the evidence among the first `k` of the ranking, 0 to 1.

    >>> recall_at([3, 1, 2], [1, 9], 2)
    0.5
    """
    wanted = set(evidence)
    if not wanted:
        raise ValueError("recall needs at least one evidence id")
    return len(wanted & set(ranking[:k])) / len(wanted)


def reciprocal_rank(ranking: Sequence[MessageId], evidence: Iterable[MessageId]) -> float:
    """One over the rank of the first evidence message, 0 when none is in the ranking.

    >>> reciprocal_rank([3, 1, 2], [1, 2])
    0.5
    """
    wanted = set(evidence)
    return next((1 / rank for rank, one in enumerate(ranking, start=1) if one in wanted), 0.0)


def ranked_ids(hits: Iterable[Hit]) -> list[MessageId]:
    """Message ids of hits, best first, each once."""
    return list(dict.fromkeys(one for hit in hits for one in hit.message_ids))


def mean_cost(costs: Sequence[Cost]) -> dict[str, float]:
    """Mean of each field; zeros when there is nothing to average."""
    return {name: fmean(getattr(cost, name) for cost in costs) if costs else 0.0 for name in Cost.model_fields}
