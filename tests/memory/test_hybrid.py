"""Hybrid search on the tiny model: mechanics, not quality."""

import pytest

from hierlandmark import Memory, Message
from hierlandmark.errors import InvalidArgument
from hierlandmark.memory.fuse import reciprocal_ranks
from hierlandmark.memory.rank import block_shares
from hierlandmark.testing import tiny_model

CHAT = [Message(id=i, role="user", content=f"message {i} says plain things " * 3) for i in range(40)]
RARE = Message(id="rare", role="user", content="the quokka sleeps")


@pytest.fixture(scope="module")
def memory():
    with Memory.open(":memory:", model=tiny_model()) as memory:
        memory.add([*CHAT[:20], RARE, *CHAT[20:]])
        yield memory


def test_ranks_are_fused_by_their_reciprocals():
    fused = reciprocal_ranks([[1, "1", 2], ["1", 3]])
    assert fused == [("1", 1 / 12 + 1 / 11), (1, 1 / 11), (3, 1 / 12), (2, 1 / 13)]


def test_a_message_with_a_rare_word_comes_first_whatever_the_model_thinks(memory):
    hit = memory.search("quokka", 1, mode="hybrid").hits[0]
    assert hit.message_ids == ["rare"]
    assert 1 / 11 <= hit.score <= 2 / 11


def test_a_message_found_by_words_only_has_a_block_that_holds_it(memory):
    hit = memory.search("quokka", 1, mode="hybrid").hits[0]
    recall = memory._recall(memory.model, memory._store, "hierarchical")
    segments = [recall.block_of(s, 0) for s in range(recall.n_segments)]
    (shares,) = [block_shares(one)[hit.block - first] for one, first in segments if one.id == hit.segment]
    assert "rare" in shares


@pytest.mark.parametrize("k", [1, 3, 41, 99])
def test_exactly_k_where_k_exist_best_first_each_once(memory, k):
    hits = memory.search("message 7 says", k, mode="hybrid").hits
    assert len(hits) == min(k, 41) == len({hit.message_ids[0] for hit in hits})
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_a_query_without_words_ranks_as_the_attention_does(memory):
    hybrid, plain = memory.search("?!", 9, mode="hybrid").hits, memory.search("?!", 9, mode="hierarchical").hits
    assert [hit.message_ids for hit in hybrid] == [hit.message_ids for hit in plain]


def test_an_answer_has_no_hybrid_mode(memory):
    with pytest.raises(InvalidArgument, match="hierarchical, flat"):
        memory.ask("quokka?", mode="hybrid")
