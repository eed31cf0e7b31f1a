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


@given(st.lists(IDS, unique_by=repr), st.lists(IDS, min_size=1, unique_by=repr), st.integers(1, 20))
def test_hit_and_ndcg_hold_with_recall(ranking: list[int | str], evidence: list[int | str], k: int) -> None:
    recall, ndcg = metrics.recall_at(ranking, evidence, k), metrics.ndcg_at(ranking, evidence, k)
    assert metrics.hit_at(ranking, evidence, k) == (recall > 0) == (ndcg > 0)
    assert 0 <= ndcg <= 1 + 1e-12


def test_ndcg_is_one_where_evidence_comes_first_and_falls_with_its_place() -> None:
    assert metrics.ndcg_at([1, 2, 3], [2, 1], 10) == 1
    found = [metrics.ndcg_at([*range(9, 9 + place), 1], [1], 10) for place in range(10)]
    assert found == sorted(found, reverse=True) and found[1] == pytest.approx(0.6309, abs=1e-4)
    # more evidence than places: the first k are all that can be had
    assert metrics.ndcg_at([1], [1, 2, 3], 1) == 1


def test_an_interval_holds_the_mean_and_shrinks_with_more_questions() -> None:
    few, many = metrics.bootstrap([0.0, 1.0] * 10), metrics.bootstrap([0.0, 1.0] * 500)
    assert few[0] < many[0] < 0.5 < many[1] < few[1]
    assert metrics.bootstrap([0.0, 1.0] * 10) == few
    # of a share p of n questions, about p +- 1.96 sqrt(p (1 - p) / n)
    assert many == pytest.approx((0.469, 0.531), abs=0.004)
    with pytest.raises(ValueError, match="at least one question"):
        metrics.bootstrap([])
