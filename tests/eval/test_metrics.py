"""Metrics against a slow reading of their definition, and at their limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hierlandmark.eval import metrics
from hierlandmark.results import Cost, Hit

IDS = st.integers(0, 9) | st.text("0123456789", min_size=1, max_size=1)


def hit(*ids: int | str) -> Hit:
    return Hit(message_ids=list(ids), text="", score=0.0, block=0, segment=0)


@given(st.lists(IDS, unique_by=repr), st.lists(IDS, min_size=1, unique_by=repr), st.integers(1, 20))
def test_recall_counts_evidence_in_the_first_k(ranking: list[int | str], evidence: list[int | str], k: int) -> None:
    found = [one for one in evidence if any(type(one) is type(r) and one == r for r in ranking[:k])]
    assert metrics.recall_at(ranking, evidence, k) == len(found) / len(evidence)


@given(st.lists(IDS, unique_by=repr), st.lists(IDS, min_size=1))
def test_reciprocal_rank_is_of_the_first(ranking: list[int | str], evidence: list[int | str]) -> None:
    ranks = [ranking.index(one) + 1 for one in evidence if one in ranking]
    assert metrics.reciprocal_rank(ranking, evidence) == (1 / min(ranks) if ranks else 0)


def test_integers_and_strings_are_different_ids() -> None:
    assert metrics.recall_at(["1"], [1], 1) == 0
    assert metrics.ranked_ids([hit(1, "1"), hit("1", 2)]) == [1, "1", 2]


def test_repeated_evidence_counts_once() -> None:
    assert metrics.recall_at([1], [1, 1], 1) == 1


def test_no_evidence_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one evidence id"):
        metrics.recall_at([1], [], 1)


def test_mean_cost_names_every_field() -> None:
    assert metrics.mean_cost([Cost(gate_keys=1, ms=1.0), Cost(gate_keys=2)]) == {
        "gate_keys": 1.5,
        "landmark_keys": 0,
        "blocks_read": 0,
        "bytes_read": 0,
        "ms": 0.5,
    }
    assert set(metrics.mean_cost([])) == set(Cost.model_fields)
