"""Hybrid search on the tiny model: mechanics, not quality."""

import math

import pytest

from hierlandmark import Memory, Message
from hierlandmark.errors import InvalidArgument
from hierlandmark.memory import rank
from hierlandmark.memory.fuse import WORDS, fuse, matched
from hierlandmark.memory.rank import Holders, block_shares, candidates, filled, rank_blocks
from hierlandmark.testing import tiny_model

CHAT = [Message(id=i, role="user", content=f"message {i} says plain things " * 3) for i in range(40)]
RARE = Message(id="rare", role="user", content="the quokka sleeps")


@pytest.fixture(scope="module")
def memory():
    with Memory.open(":memory:", model=tiny_model()) as memory:
        memory.add([*CHAT[:20], RARE, *CHAT[20:]])
        yield memory


def test_the_best_match_keeps_its_score_and_others_are_damped(memory):
    recall = memory._recall(memory.model, memory._store, "hierarchical")
    found = [(0, 0.4, 0), (1, 0.3, 1), (2, 0.1, 2)]
    # messages of one length
    fused = fused_with(recall, found, [(1, 8.0), (3, 4.0), (4, 1e-6), ("gone", 9.0)])
    assert [one for one, _, _ in fused] == [1, 3, 0, 4, 2]
    scores = {one: score for one, score, _ in fused}
    half = math.exp(-WORDS * (1 - 4 * extent(recall, 1) ** 0.5 / (8 * extent(recall, 3) ** 0.5)))
    wanted = {1: 0.3, 3: 0.1 * half, 0: 0.4 * math.exp(-WORDS)}
    wanted |= dict.fromkeys((2, 4), 0.1 * math.exp(-WORDS))
    assert scores == pytest.approx(wanted)


def test_words_that_two_messages_hold_lift_these_above_what_landmarks_find_alone(memory):
    recall = memory._recall(memory.model, memory._store, "hierarchical")
    found = [(0, 0.5, 0), (1, 0.3, 1), (2, 0.001, 2)]
    scores = {one: score for one, score, _ in fused_with(recall, found, [(2, 8.0)])}
    assert max(scores, key=scores.get) == 2 and scores[2] == pytest.approx(0.15)
    # one that landmarks like keeps what they gave it
    assert fused_with(recall, found, [(0, 8.0)])[0][:2] == (0, pytest.approx(0.5))
    # and words of many messages tell less
    assert fused_with(recall, found, [(2, 8.0), (3, 1e-6), (4, 1e-6)])[0][0] == 0


def fused_with(recall, found, words):
    stands = Holders(recall, [one for one, _ in words], range(recall.n_segments)).standing()
    return fuse(stands, found, matched(stands, words))


def extent(recall, message_id):
    return 1 + filled(map(Holders(recall).shares, range(recall.n_segments)), {})[message_id]


def test_a_longer_message_needs_a_better_match(memory):
    recall = memory._recall(memory.model, memory._store, "hierarchical")
    assert extent(recall, "rare") < extent(recall, 5)
    fused = fused_with(recall, [], [(5, 8.0), ("rare", 7.5)])
    assert [one for one, _, _ in fused] == ["rare", 5]


def test_a_message_with_a_rare_word_comes_first_whatever_the_model_thinks(memory):
    hits = memory.search("quokka", 5, mode="hybrid").hits
    assert hits[0].message_ids == ["rare"]
    assert all(0 < hit.score <= 1 for hit in hits)


def test_a_hit_says_what_its_score_is_made_of(memory):
    found = memory.search("quokka", 41, mode="hierarchical").hits
    assert {(hit.landmarks, hit.words) for hit in found} == {(None, None)}
    plain = {hit.message_ids[0]: hit.score for hit in found}
    best, *others = memory.search("quokka", 41, mode="hybrid").hits
    assert (best.message_ids, best.words) == (["rare"], 1.0) and {hit.words for hit in others} == {0.0}
    for hit in (best, *others):
        assert hit.landmarks == pytest.approx(plain[hit.message_ids[0]])
    for hit in others:
        assert hit.score == pytest.approx(hit.landmarks * math.exp(-WORDS))
    # no other has the word, so it is worth a part of the best
    assert best.score == pytest.approx(max(best.landmarks, 0.3 * max(plain.values())))


def test_a_hit_in_a_segment_that_was_not_opened_was_found_by_words_alone(memory, monkeypatch):
    # as in a memory of more segments than are opened for k and for the best matches
    monkeypatch.setattr(Holders, "best_matching", lambda *_: [])
    hits = memory.search("message says quokka", 20, mode="hybrid").hits
    alone = [hit for hit in hits if hit.landmarks is None]
    assert alone and all(hit.words > 0 for hit in alone)


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


def test_segments_of_the_best_matches_are_opened_whatever_their_gates_say(memory):
    model = memory.model
    recall = memory._recall(model, memory._store, "hierarchical")
    queries, scale = model.search_queries("something else")
    plain = rank_blocks(recall, queries, model.retrieval, scale, "hierarchical", 1)
    (passed_over, *_) = [s for s in range(recall.n_segments) if s not in plain.segments]
    message = recall.block_of(passed_over, 0)[0].runs[0].message_id
    also = rank_blocks(recall, queries, model.retrieval, scale, "hierarchical", 1, words=[message])
    assert passed_over in also.segments
    holding = candidates(recall, {message}, range(recall.n_segments))
    assert also.segments == plain.segments + [s for s in holding if s not in plain.segments]


def test_a_search_looks_through_the_text_once(memory, monkeypatch):
    walked, counted = [], []
    plain = rank.candidates

    def walk(recall, ids, places):
        walked.append(len(places))
        return plain(recall, ids, places)

    def count(record):
        counted.append(record.id)
        return block_shares(record)

    monkeypatch.setattr(rank, "candidates", walk)
    monkeypatch.setattr(rank, "block_shares", count)
    memory.search("quokka", 3, mode="hybrid")
    # all of it for every match, and what was found for the best
    whole, found = walked
    assert whole == memory.stats().segments and found < 5
    assert len(counted) == len(set(counted)) > found
