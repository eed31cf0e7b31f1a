"""Heads that rank as one retriever: one softmax over their summed logits, and messages by the mass they get of it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from hierlandmark import Memory, MemoryConfig
from hierlandmark.config import RecallConfig
from hierlandmark.memory.fuse import WORDS
from hierlandmark.memory.rank import (
    Holders,
    block_shares,
    blocks_beyond,
    filled,
    message_shares,
    rank_blocks,
    rank_messages,
)
from hierlandmark.memory.rules import RULES
from hierlandmark.memory.vectors import LandmarkVectors
from hierlandmark.messages import MessageId
from hierlandmark.model import LandmarkModel, Ranking, RetrievalHead
from hierlandmark.testing import tiny_model

HEADS = {
    "all": (),
    "some": (
        RetrievalHead(layer=1, head=1, weight=0.5),
        RetrievalHead(layer=0, head=3),
        RetrievalHead(layer=1, head=2, weight=1.7),
        RetrievalHead(layer=0, head=0, weight=0.0),
    ),
}
# some shorter than a block of 8, some longer than a segment of 32
CHAT = [
    {"id": i, "role": "user" if i % 3 else "assistant", "content": f"{'abcdefg'[i % 7] * (1 + i * 5 % 23)} {i}"}
    for i in range(30)
]
N = len(CHAT)
QUERIES = ("aaa 7", "what of 12", "ggg")
# every segment is opened, and every shared block read
OPEN = MemoryConfig(recall=RecallConfig(search_segments=500))


def model_of(name: str = "some", ranking: Ranking = "sum") -> LandmarkModel:
    found = tiny_model()
    heads = HEADS[name]
    return LandmarkModel(found.core, found.tokenizer, "rules", kv_dtype=torch.float32, retrieval=heads, ranking=ranking)


@pytest.fixture(params=HEADS)
def memory(request: pytest.FixtureRequest) -> Iterator[Memory]:
    with Memory.open(":memory:", model=model_of(request.param), config=OPEN) as memory:
        memory.add(CHAT)
        yield memory


def scores(memory: Memory, query: str, k: int = N, **options: object) -> dict[MessageId, float]:
    return {hit.message_ids[0]: hit.score for hit in memory.search(query, k, **options).hits}


def close(found: Mapping[MessageId, float], wanted: Mapping[MessageId, float]) -> None:
    assert found == pytest.approx(dict(wanted), rel=1e-4, abs=1e-9)
    # scores apart by rounding alone may stand either way
    placed = [wanted[one] for one in found]
    assert placed == pytest.approx(sorted(placed, reverse=True), rel=1e-4, abs=1e-9)


@torch.inference_mode()
def by_hand(memory: Memory, query: str, allowed: set[MessageId] | None = None, read: bool = True) -> dict:
    """p(m) over one more than the blocks that m would fill, token by token; without `read` shares are of tokens."""
    model = memory.model
    recall = memory._recall(model, memory._store, "flat")
    queries, scale = model.search_queries(query)
    heads = LandmarkVectors(memory)._heads
    last = [q[:, -1:].contiguous() for q in queries]
    blocks, logits = [], []
    for s in range(recall.n_segments):
        record, _ = recall.block_of(s, 0)
        for b, parts in enumerate(block_shares(record)):
            if allowed is None or allowed & parts.keys():
                blocks.append((s, b))
                logits.append(
                    sum(
                        h.weight * float(recall.landmark_logits(h.layer, last[h.layer], [s], scale)[h.head, 0, 0, b])
                        for h in heads
                    )
                )
    masses = np.exp(np.array(logits) - max(logits))
    out: dict[MessageId, float] = {}
    fills: dict[MessageId, float] = {}
    for (s, b), mass in zip(blocks, masses / masses.sum(), strict=True):
        record, _ = recall.block_of(s, 0)
        owners = [run.message_id for run in record.runs for _ in range(run.n_tokens)]
        start = sum(record.block_content[:b])
        owners = owners[start : start + record.block_content[b]]
        inside = np.full(len(owners), 1 / len(owners))
        if read:
            content = recall.content(s)[b]
            summed = sum(
                h.weight
                * recall.content_logits(h.layer, last[h.layer], [(s, b)], scale)[h.head, 0, 0][content].double()
                for h in heads
            )
            inside = summed.softmax(-1).numpy()
        for owner, share in zip(owners, inside, strict=True):
            if allowed is None or owner in allowed:
                out[owner] = out.get(owner, 0.0) + float(mass * share)
                fills[owner] = fills.get(owner, 0.0) + 1 / len(owners)
    return {one: mass / (1 + fills[one]) for one, mass in out.items()}


def test_a_score_is_the_mass_a_message_gets_of_one_attention(memory: Memory) -> None:
    for query in QUERIES:
        found = scores(memory, query, mode="flat")
        close(found, by_hand(memory, query))
        assert 0 < sum(found.values()) <= 1


def test_all_ways_agree_where_everything_is_opened(memory: Memory) -> None:
    memory.build_index()
    memory.add([{"id": N + i, "role": "user", "content": f"later {i} aaa"} for i in range(4)])
    vectors = LandmarkVectors(memory)
    for query in QUERIES:
        flat = scores(memory, query, N + 4, mode="flat")
        assert len(flat) == N + 4
        for mode in ("hierarchical", "index"):
            close(scores(memory, query, N + 4, mode=mode), flat)
        asked = vectors.query(query)
        products = vectors.blocks @ asked.vector
        ranking, _ = vectors.messages(asked, list(range(len(products))), products.tolist(), n_read=500)
        close({one: flat[one] for one in ranking}, flat)


def test_an_inner_product_is_the_logarithm_of_a_blocks_score(memory: Memory) -> None:
    vectors = LandmarkVectors(memory)
    asked = vectors.query("aaa 7")
    recall = memory._recall(memory.model, memory._store, "flat")
    ranked = rank_blocks(
        recall, asked.queries, memory.model.retrieval, asked.scale, "flat", 0, rule=RULES[memory.model.ranking]
    )
    found = ranked.block_scores[recall.present].log().numpy()
    products = vectors.blocks @ asked.vector * asked.scale
    np.testing.assert_allclose(found - found.mean(), products - products.mean(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["flat", "hierarchical", "index"])
def test_a_filter_applies_before_the_softmax(memory: Memory, mode: str) -> None:
    memory.build_index()
    allowed = {one["id"] for one in CHAT if one["role"] == "assistant"}
    for query in QUERIES:
        found = scores(memory, query, mode=mode, where={"roles": ["assistant"]})
        assert found.keys() == allowed
        close(found, by_hand(memory, query, allowed))


def test_dropped_content_counts_by_tokens() -> None:
    config = OPEN.model_copy(update={"kv_budget_bytes": 0})
    with Memory.open(":memory:", model=model_of(), config=config) as memory:
        memory.add(CHAT)
        for mode in ("flat", "hierarchical"):
            close(scores(memory, "aaa 7", mode=mode), by_hand(memory, "aaa 7", read=False))


def test_few_segments_are_opened_by_summed_gates(memory: Memory) -> None:
    model = memory.model
    recall = memory._recall(model, memory._store, "hierarchical")
    queries, scale = model.search_queries("what of 12")
    heads = LandmarkVectors(memory)._heads
    summed = sum(
        h.weight * recall.gate_logits(h.layer, queries[h.layer][:, -1:].contiguous(), scale)[h.head, 0] for h in heads
    )
    ranked = rank_blocks(recall, queries, model.retrieval, scale, "hierarchical", 3, rule=RULES["sum"])
    assert ranked.segments == summed.topk(3).indices.tolist()
    torch.testing.assert_close(ranked.segment_scores.float(), summed.softmax(-1), rtol=1e-4, atol=1e-7)
    assert float(ranked.block_scores.sum()) == pytest.approx(1)
    shares = message_shares(recall, ranked, queries, scale, 1)
    by_tokens = {
        first + b: parts
        for record, first in (recall.block_of(s, 0) for s in ranked.segments)
        for b, parts in enumerate(block_shares(record))
    }
    # but in the best shared one
    assert sum(parts != pytest.approx(by_tokens[block]) for _, block, parts in shares) == 1


def test_a_message_has_the_sum_of_its_blocks_over_one_more_than_it_would_fill_and_the_best_is_named() -> None:
    shares = [
        (0.2, 4, {"a": 1.0}),
        (0.3, 5, {"a": 0.5, "b": 0.5}),
        (0.25, 6, {"b": 0.4, "c": 0.6}),
        (0.25, 7, {"c": 0.4, "d": 0.6}),
    ]
    extents = {"a": 1.5, "b": 0.9, "c": 1.0, "d": 0.6}
    wanted = [("a", 0.35 / 2.5, 4), ("b", 0.25 / 1.9, 5), ("c", 0.25 / 2.0, 6), ("d", 0.15 / 1.6, 7)]
    for rows in (shares, shares[::-1]):
        found = rank_messages(RULES["sum"].judged(rows, extents))
        assert [(one, pytest.approx(score), block) for one, score, block in wanted] == found
    alike = [(0.5, 2, {"b": 0.5, "c": 0.5}), (0.5, 1, {"z": 0.5, "a": 0.5})]
    assert [one for one, _, _ in rank_messages(RULES["sum"].judged(alike, dict.fromkeys("zabc", 0.5)))] == [
        "z",
        "a",
        "b",
        "c",
    ]


def test_blocks_that_were_not_opened_count_too(memory: Memory) -> None:
    recall = memory._recall(memory.model, memory._store, "hierarchical")
    records = [recall.block_of(s, 0)[0] for s in range(recall.n_segments)]
    everywhere = filled(map(block_shares, records), {})
    cut = 0
    for opened in ([3], [0, 5], [2, 4], list(range(recall.n_segments))):
        beyond = blocks_beyond(recall, opened, Holders(recall).shares)
        cut += len(beyond)
        seen = filled([block_shares(records[s]) for s in opened], {})
        assert {one: n + beyond.get(one, 0.0) for one, n in seen.items()} == pytest.approx(
            {one: everywhere[one] for one in seen}
        )
    assert cut > 4
    assert RULES["sum"].judged([(0.6, 4, {"a": 1.0})], {"a": 3})[0][0] == pytest.approx(0.15)


def test_far_logits_keep_their_order() -> None:
    logits = torch.tensor([[0.0, -150.0, -300.0, float("-inf")], [0.0, -150.0, -301.0, float("-inf")]])
    found = RULES["sum"].scores(logits, logits.softmax(-1), torch.tensor([1.0, 1.0]))
    assert found.tolist() == pytest.approx([1.0, np.exp(-300.0), np.exp(-601.0), 0.0], rel=1e-4, abs=0)
    one = RULES["sum"].scores(logits, logits.softmax(-1), torch.tensor([0.0, 1.0]))
    assert one.tolist() == pytest.approx([1.0, np.exp(-150.0), np.exp(-301.0), 0.0], rel=1e-4, abs=0)


def test_words_are_fused_with_this_ranking(memory: Memory) -> None:
    plain = scores(memory, "zzz", mode="hierarchical")
    # no message has that word
    wanted = {one: score * np.exp(-WORDS) for one, score in plain.items()}
    assert scores(memory, "zzz", mode="hybrid") == pytest.approx(wanted)


@pytest.mark.parametrize("mode", ["flat", "hierarchical", "index"])
def test_a_trace_has_the_mass_of_blocks_and_each_heads_own(memory: Memory, mode: str) -> None:
    memory.build_index()
    trace = memory.search("aaa 7", N, mode=mode).trace
    recall = memory._recall(memory.model, memory._store, "flat")
    queries, scale = memory.model.search_queries("aaa 7")
    flat = rank_blocks(recall, queries, memory.model.retrieval, scale, "flat", 0, rule=RULES["sum"])
    ids = {recall.block_of(s, b)[1]: (s, b) for s in range(recall.n_segments) for b in range(recall.present.shape[1])}
    weight = sum(head.weight for head in flat.heads)
    places = {(head.layer, head.head): at for at, head in enumerate(flat.heads)}
    best = [block.mass for block in trace.blocks]
    assert best == pytest.approx(sorted(flat.block_scores.flatten().tolist(), reverse=True)[: len(best)], rel=1e-4)
    for block in trace.blocks:
        s, b = ids[block.block]
        assert block.mass == pytest.approx(float(flat.block_scores[s, b]), rel=1e-4)
        for head in block.heads:
            own = flat.votes[places[head.layer, head.head], s, b] / weight
            assert head.mass == pytest.approx(float(own), rel=1e-3)
    masses = [segment.mass for segment in trace.segments]
    assert masses == sorted(masses, reverse=True) and sum(masses) <= 1 + 1e-9


def test_the_rule_changes_no_cost_and_no_database(tmp_path: Path) -> None:
    with Memory.open(tmp_path / "m.db", model=model_of(ranking="votes"), config=OPEN) as memory:
        memory.add(CHAT)
        memory.build_index()
        votes = {mode: memory.search("aaa 7", N, mode=mode) for mode in ("flat", "hierarchical", "index")}
    with Memory.open(tmp_path / "m.db", model=model_of(), config=OPEN) as memory:
        for mode, before in votes.items():
            found = memory.search("aaa 7", N, mode=mode)
            close({hit.message_ids[0]: hit.score for hit in found.hits}, by_hand(memory, "aaa 7"))
            assert [hit.score for hit in found.hits] != pytest.approx([hit.score for hit in before.hits])
            for name in ("gate_keys", "landmark_keys", "blocks_read"):
                assert getattr(found.cost, name) == getattr(before.cost, name)
