"""Landmark vectors: inner products are sums of the heads' logits, blocks become messages as in a search."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from hierlandmark import Memory
from hierlandmark.memory.rules import RULES
from hierlandmark.memory.vectors import LandmarkVectors
from hierlandmark.model import LandmarkModel, Ranking, RetrievalHead
from hierlandmark.results import Cost
from hierlandmark.testing import tiny_model

HEADS = {"all": (), "some": (RetrievalHead(layer=0, head=3), RetrievalHead(layer=1, head=1, weight=0.5))}


@pytest.fixture(params=HEADS)
def memory(request: pytest.FixtureRequest) -> Iterator[Memory]:
    found = tiny_model()
    model = LandmarkModel(
        found.core, found.tokenizer, "vectors", kv_dtype=torch.float32, retrieval=HEADS[request.param]
    )
    with Memory.open(":memory:", model=model) as memory:
        memory.add([{"id": i, "role": "user", "content": f"word {i} of {i * 7}"} for i in range(12)])
        yield memory


def test_an_inner_product_is_the_sum_of_the_logits(memory: Memory) -> None:
    vectors = LandmarkVectors(memory)
    query = vectors.query("word 3")
    recall = vectors._recall
    heads = vectors._heads
    every = list(range(recall.n_segments))
    wanted_blocks = torch.zeros(len(vectors.blocks))
    wanted_gates = torch.zeros(len(vectors.gates))
    for head in heads:
        q = query.queries[head.layer][:, -1:].contiguous()
        landmarks = recall.landmark_logits(head.layer, q, every, query.scale)[head.head, 0]
        wanted_blocks += head.weight * landmarks[recall.present]
        wanted_gates += head.weight * recall.gate_logits(head.layer, q, query.scale)[head.head, 0]
    for vectors_of, wanted in ((vectors.blocks, wanted_blocks), (vectors.gates, wanted_gates)):
        found = vectors_of @ query.vector * query.scale
        np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean(), rtol=1e-4, atol=1e-4)


def test_shapes_and_starts(memory: Memory) -> None:
    vectors = LandmarkVectors(memory)
    stats = memory.stats()
    assert (len(vectors.blocks), len(vectors.gates)) == (stats.blocks, stats.segments)
    assert vectors.starts[0] == 0 and vectors.starts[-1] == stats.blocks
    assert vectors.blocks.shape[1] == vectors.keys_a_vector * memory.model.core.head_dim
    np.testing.assert_allclose(vectors.blocks.mean(0), 0, atol=1e-5)


def test_messages_hold_tokens_of_the_found_blocks(memory: Memory) -> None:
    vectors = LandmarkVectors(memory)
    query = vectors.query("word 3")
    ranking, cost = vectors.messages(query, [0], [1.0])
    assert ranking == [vectors.records[0].runs[0].message_id]
    best = np.argsort(-(vectors.blocks @ query.vector))
    ranking, cost = vectors.messages(query, best.tolist(), (vectors.blocks @ query.vector)[best].tolist())
    assert sorted(ranking) == list(range(12))
    assert cost.blocks_read > 0


@pytest.mark.parametrize("rule", RULES)
def test_no_blocks_are_no_messages(memory: Memory, rule: Ranking) -> None:
    vectors = LandmarkVectors(memory)
    vectors._voters.rule = RULES[rule]
    assert vectors.messages(vectors.query("word 3"), [], []) == ([], Cost())


def test_vectors_are_those_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()
    with Memory.open(tmp_path / "m.db", model=model) as memory:
        memory.add([{"id": i, "role": "user", "content": f"word {i} of {i * 7}"} for i in range(12)])
        alone = LandmarkVectors(memory)
        listed = memory._recall

        def and_then_another_writes(*args: object) -> object:
            recall = listed(*args)
            with Memory.open(tmp_path / "m.db", model=model) as other:
                other.forget([3])
                other.add([{"id": i, "role": "user", "content": f"more {i}"} for i in range(20, 40)])
            return recall

        monkeypatch.setattr(memory, "_recall", and_then_another_writes)
        memory._recalls.clear()
        vectors = LandmarkVectors(memory)
        assert vectors._recall.n_segments == len(vectors.records) == len(vectors.gates) < memory.stats().segments
        np.testing.assert_allclose(vectors.blocks, alone.blocks, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(vectors.gates, alone.gates)
        query = vectors.query("word 3")
        ranking, _ = vectors.messages(query, list(range(len(vectors.blocks))), (vectors.blocks @ query.vector).tolist())
        assert sorted(ranking) == list(range(12))


def test_one_head_ranks_as_a_flat_search_does() -> None:
    found = tiny_model()
    head = (RetrievalHead(layer=1, head=2),)
    model = LandmarkModel(found.core, found.tokenizer, "one", kv_dtype=torch.float32, retrieval=head)
    with Memory.open(":memory:", model=model) as memory:
        memory.add([{"id": i, "role": "user", "content": f"word {i} of {i * 7}"} for i in range(12)])
        vectors = LandmarkVectors(memory)
        query = vectors.query("word 3")
        scores = vectors.blocks @ query.vector
        ranking, _ = vectors.messages(query, list(range(len(scores))), scores.tolist())
        assert ranking == [hit.message_ids[0] for hit in memory.search("word 3", 12, mode="flat").hits]
