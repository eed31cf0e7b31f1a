"""Messages that share a block are told apart by the attention inside it."""

import numpy as np
import pytest
import torch

from hierlandmark import Memory, MemoryConfig, Message
from hierlandmark.memory.rank import block_shares, going_on, message_shares, rank_blocks
from hierlandmark.model.generate import push
from hierlandmark.model.prompts import search_prompt
from hierlandmark.store.protocol import MessageRun, SegmentRecord
from hierlandmark.testing import tiny_model

CHAT = [Message(id=i, role="user", content=f"{chr(97 + i) * (3 + i)}!") for i in range(9)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def parts(memory, query, n_read=99):
    """What `search` ranks, and the recall, votes and queries it comes from."""
    model = memory.model
    recall = memory._recall(model, memory._store, "hierarchical")
    window = model.window(None, collect=True)
    with torch.inference_mode():
        push(model.core, window, search_prompt(model.tokenizer, query))
    ranked = rank_blocks(recall, window.queries, model.retrieval, window.scale, "hierarchical", 99)
    return message_shares(recall, ranked, window.queries, window.scale, n_read), recall, ranked, window


@torch.inference_mode()
def test_shares_are_the_voting_heads_attention_inside_the_block(model):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        found, recall, ranked, window = parts(memory, "ccccc")
        record, first = recall.block_of(ranked.segments[0], 0)
        (shares,) = [each for _, block, each in found if block == first]
        content = recall.content(ranked.segments[0])[0]
        assert {head.layer for head in ranked.heads} == {0, 1}
        masses = torch.zeros(int(content.sum()))
        for i, head in enumerate(ranked.heads):
            H_kv, N = model.core.kv_heads, model.layout.blocks_per_segment
            group = head.head * H_kv // model.core.heads
            held, index = recall._hold(head.layer, [ranked.segments[0] * N * H_kv + group])
            logits = held[index[0], 0].float() @ window.queries[head.layer][head.head, -1] * window.scale
            masses += ranked.votes[i, 0, 0] * logits[content].softmax(-1)
        masses /= masses.sum()
        at, wanted = 0, {}
        for run in record.runs:
            mass = float(masses[at : at + run.n_tokens].sum())
            if mass:
                wanted[run.message_id] = mass
            at += run.n_tokens
        assert shares == pytest.approx(wanted, rel=1e-4)
        assert sum(shares.values()) == pytest.approx(1)


@torch.inference_mode()
def test_of_many_segments_a_sixteenth_is_opened(model):
    with Memory.open(":memory:", model=model) as memory:
        memory.add([Message(id=i, content=f"{i} " + "x" * 23) for i in range(80)])
        recall = memory._recall(model, memory._store, "hierarchical")
        queries, scale = model.search_queries("x")
        G = recall.n_segments
        assert G >= 80
        for least, opened in ((1, G // 16), (9, 9), (999, G)):
            ranked = rank_blocks(recall, queries, model.retrieval, scale, "hierarchical", least)
            assert len(ranked.segments) == opened and ranked.whole == (opened == G)
        # of the candidates, where a filter leaves fewer
        few = rank_blocks(recall, queries, model.retrieval, scale, "hierarchical", 1, {3, 40})
        assert len(few.segments) == 1


def test_a_query_decides_among_messages_of_one_block(model):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        block, shares = next((block, each) for _, block, each in parts(memory, "aaa")[0] if len(each) > 1)
        others = next(each for _, found, each in parts(memory, "ccccc")[0] if found == block)
        assert shares.keys() == others.keys() and shares != pytest.approx(others, rel=1e-6)


@pytest.mark.parametrize("n_read", [0, 1])
def test_beyond_the_best_blocks_shares_are_those_of_tokens(model, n_read):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        found, recall, ranked, _ = parts(memory, "ccccc", n_read)
        by_tokens = {}
        for s in ranked.segments:
            record, first = recall.block_of(s, 0)
            by_tokens |= {first + b: shares for b, shares in enumerate(block_shares(record))}
        differ = [block for _, block, shares in found if shares != pytest.approx(by_tokens[block])]
        assert len(differ) == n_read


def test_what_was_dropped_is_not_encoded_for_a_search(model, monkeypatch):
    with Memory.open(":memory:", model=model, config=MemoryConfig(kv_budget_bytes=0)) as memory:
        memory.add(CHAT)
        monkeypatch.setattr(type(model), "encode", None)
        assert len(memory.search("ccccc", 9).hits) == 9


def test_what_stands_in_other_segments_is_summed_in_text_order():
    """Whatever the id: a set of strings has another order in each process, and a sum in it another last digit."""
    shares = {0: 0.1, 1: 0.7, 3: 0.2, 4: 0.3}
    # the nearest are read first
    assert 0.7 + 0.2 + 0.1 + 0.3 != 0.7 + 0.2 + 0.3 + 0.1
    found = set()
    for message_id in [*range(64), *map(str, range(64))]:
        run = MessageRun(message_id, 1)
        opened = SegmentRecord(1, np.zeros(1, np.int32), (run,), (1,), closed=True, has_kv=True, version=0)
        beyond = going_on({2: opened}, 5, lambda places, one=message_id: [[{one: shares[at]}] for at in places])
        found.add(beyond[message_id])
    assert found == {0.1 + 0.7 + 0.2 + 0.3}
