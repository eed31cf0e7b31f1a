"""Answers: what is told while they are made, what they cost and why, and texts that outgrow the window."""

import asyncio
import time

import pytest

from hierlandmark import Memory, MemoryConfig, Message
from hierlandmark.errors import InvalidArgument, InvalidMessage
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.testing import tiny_model

CHAT = [Message(id=f"m{i}", content=f"{i}: word{i} " * (1 + i % 5)) for i in range(24)]
LONG = "abc " * 40


def remembering(seed=0):
    memory = Memory.open(":memory:", model=tiny_model(seed=seed))
    memory.add(CHAT)
    return memory


@pytest.fixture(scope="module")
def memory():
    with remembering() as one:
        yield one


@pytest.mark.parametrize("seed", [0, 2, 4])
def test_pieces_told_on_the_way_are_the_answer(seed):
    # some of these answers are bytes that make no character, or one only together
    with remembering(seed) as memory:
        pieces = []
        answer = memory.complete(LONG, max_new_tokens=30, on_token=pieces.append)
        assert "".join(pieces) == answer.text
        assert all(pieces)


def test_characters_of_several_tokens_are_told_whole(memory):
    from hierlandmark.memory.pieces import Pieces

    told = []
    pieces = Pieces(memory.model.decode, told.append)
    text = "naïve 🙂 日本 \ufffd x"
    for token in memory.model.tokenize(text):
        pieces.add(token)
    pieces.end()
    assert "".join(told) == text
    assert "🙂" in told
    assert "日" in told


def test_cost_counts_all_windows(memory, monkeypatch):
    short = memory.complete(LONG, max_new_tokens=2)
    monkeypatch.setattr(LandmarkModel, "stop_tokens", set())
    # greedy: the longer answer begins with the shorter one and does all its work
    capacity = memory.model.layout.segment_capacity
    long = remembering().complete(LONG, max_new_tokens=3 * capacity)
    brief = remembering().complete(LONG, max_new_tokens=3)
    assert long.tokens[:3] == brief.tokens
    assert len(long.tokens) == 3 * capacity
    assert long.cost.gate_keys > len(long.tokens) * brief.cost.gate_keys / 6
    assert short.cost.gate_keys > 0


def test_bytes_read_are_the_gates_and_landmarks_and_blocks_that_were_fetched():
    with remembering() as memory:
        store = memory._open_store()
        records, gates = store.index("default")
        landmarks = sum(array.nbytes for array in store.landmark_keys([record.id for record in records]))
        first, again = (memory.search("word7", 3, mode="flat").cost for _ in range(2))
        block = store.read_blocks(0, [records[0].id * store.spec.blocks_per_segment]).nbytes
        assert first.blocks_read > 0
        assert first.bytes_read == gates.nbytes + landmarks + first.blocks_read * block
        assert (again.bytes_read, again.blocks_read) == (0, first.blocks_read)
        asked = memory.complete("word7", max_new_tokens=4, mode="flat").cost
        assert 0 < asked.bytes_read <= store.stats("default").kv_bytes
        memory.add([Message(id="new", content="x")])
        changed = memory.complete("word7", max_new_tokens=1, mode="flat").cost
        stats = store.stats("default")
        assert stats.key_bytes < changed.bytes_read <= stats.key_bytes + stats.kv_bytes


def test_a_window_that_is_remembered_for_the_answer_only_is_not_fetched():
    with Memory.open(":memory:", model=tiny_model()) as memory:
        memory.add([Message(id=1, content="x")])
        stats = memory.stats()
        cost = memory.complete(LONG, max_new_tokens=1, mode="flat").cost
        assert cost.blocks_read > 2 * stats.blocks
        assert cost.bytes_read <= stats.key_bytes + stats.kv_bytes


def test_blocks_are_counted_at_each_step_that_reads_them():
    with remembering() as memory:
        few, many = (memory.complete("word7", max_new_tokens=n).cost.blocks_read for n in (1, 9))
        assert few < many
        assert memory.complete("word7", max_new_tokens=9).cost.blocks_read == many


def test_dropped_segments_are_encoded_once_for_a_question(monkeypatch):
    model = tiny_model(seed=1)
    made = []
    with Memory.open(":memory:", model=model) as memory:
        memory.add([Message(id=i, content=f"{i}: word{i} " * 4) for i in range(16)])
        store = memory._open_store()
        store.drop_kv("default", [record.id for record in store.segments("default")])
        plain = model._encode_again
        monkeypatch.setattr(model, "_encode_again", lambda record: made.append(record.id) or plain(record))
        # outgrows its window, so that the view of the store is made anew on the way
        assert len(memory.complete(LONG, max_new_tokens=20, mode="flat").tokens) > model.layout.segment_capacity // 2
        # more than any small number of segments kept would hold
        assert len(set(made)) > 12
        assert len(made) == len(set(made))


def test_a_trace_names_only_what_is_in_the_store(memory):
    with remembering(1) as other:
        for one in (memory, other):
            trace = one.complete(LONG, max_new_tokens=60).trace
            store = one._open_store()
            records = {record.id: record for record in store.segments("default")}
            assert trace.blocks
            assert {s.segment for s in trace.segments} <= set(records)
            for block in trace.blocks:
                b = block.block - block.segment * one.model.layout.blocks_per_segment
                record = records[block.segment]
                start = sum(record.block_content[:b])
                assert block.text == one.model.decode(record.tokens[start : start + record.block_content[b]].tolist())
                assert set(block.message_ids) <= {m.id for m in CHAT}
            assert sum(s.mass for s in trace.segments) <= 1 + 1e-5
            assert sum(b.mass for b in trace.blocks) <= 1 + 1e-5


def test_every_trace_mass_is_named_when_few_segments_hold_it_all():
    model = tiny_model()
    with Memory.open(":memory:", model=model) as memory:
        memory.add([Message(id=1, content="short and simple")])
        for mode in ("hierarchical", "flat"):
            for trace in (
                memory.ask("what?", max_new_tokens=3, mode=mode).trace,
                memory.search("what", mode=mode).trace,
            ):
                assert sum(s.mass for s in trace.segments) == pytest.approx(1, abs=1e-4)
                assert sum(b.mass for b in trace.blocks) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_the_masses_of_all_heads_are_the_mass(memory, monkeypatch, mode):
    monkeypatch.setattr("hierlandmark.memory.trace._HEADS", 99)
    weighted = (RetrievalHead(layer=0, head=1, weight=3.0), RetrievalHead(layer=1, head=2, weight=1.0))
    monkeypatch.setattr(memory.model, "retrieval", weighted)
    asked, found = memory.ask("word7?", max_new_tokens=3, mode=mode).trace, memory.search("word7", 3, mode=mode).trace
    for trace in (asked, found):
        for one in (*trace.segments, *trace.blocks):
            assert one.heads and sum(head.mass for head in one.heads) == pytest.approx(one.mass, rel=1e-4)
            assert [head.mass for head in one.heads] == sorted((head.mass for head in one.heads), reverse=True)
        assert sum(s.mass for s in trace.segments) <= 1 + 1e-5
        assert sum(b.mass for b in trace.blocks) <= 1 + 1e-5
    assert {(h.layer, h.head) for s in found.segments for h in s.heads} == {(0, 1), (1, 2)}


def test_a_huge_question_is_refused(memory):
    for call in (memory.ask, memory.complete, memory.search):
        with pytest.raises(InvalidMessage):
            call("x " * 5_000_000)


def test_streaming_encoding_cannot_be_asked_for_in_vain():
    with pytest.raises(ValueError, match="encode"):
        MemoryConfig(encode="stream")


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_any_length_of_prompt_gets_an_answer(memory, mode):
    capacity = memory.model.layout.segment_capacity
    for n in (1, 2, capacity - 1, capacity, capacity + 1, 3 * capacity + 2):
        assert memory.complete("x" * n, max_new_tokens=3, mode=mode).first_token_s > 0


@pytest.mark.parametrize("mode", ["hierarchical", "flat", None])
def test_among_the_best_messages_no_others_are_read(memory, mode):
    found = memory.search("word7", 2, mode="hybrid")
    ids = [hit.message_ids[0] for hit in found.hits]
    said = memory.ask("word7", max_new_tokens=9, mode=mode, among=2)
    assert said.among == ids and memory.ask("word7", max_new_tokens=1, among=0).among is None
    assert [(hit.message_ids, hit.text, hit.score) for hit in said.found] == [
        (hit.message_ids, hit.text, hit.score) for hit in found.hits
    ]
    holding = set(memory._store.holding("default", ids).tolist())
    assert {block.segment for block in said.trace.blocks} <= holding
    assert {one.segment for one in said.trace.segments} <= holding
    # of all segments it is the same as without
    everything = memory.ask("word7", max_new_tokens=9, mode=mode, among=999)
    assert everything.tokens == memory.ask("word7", max_new_tokens=9, mode=mode, among=0).tokens
    assert set(everything.among) == {message.id for message in CHAT}
    # and eight where none is said
    assert memory.ask("word7", max_new_tokens=1).among == memory.ask("word7", max_new_tokens=1, among=8).among
    assert len(memory.ask("word7", max_new_tokens=1).among) == 8
    assert asyncio.run(memory.aask("word7", max_new_tokens=1)).among == memory.ask("word7", max_new_tokens=1).among
    # what the search cost is in it
    assert said.cost.gate_keys >= found.cost.gate_keys and said.cost.landmark_keys >= found.cost.landmark_keys
    with pytest.raises(InvalidArgument, match="among"):
        memory.ask("word7", among=-1)


def test_the_first_token_waits_for_the_search(memory, monkeypatch):
    search = memory.search

    def slow(*args, **options):
        time.sleep(0.3)
        return search(*args, **options)

    monkeypatch.setattr(memory, "search", slow)
    said = memory.ask("word7", max_new_tokens=2)
    assert 0.3 < said.first_token_s < said.cost.ms / 1e3
    assert said.per_token_s < 0.3


def test_a_segment_rewritten_between_search_and_answer_is_looked_for_again(monkeypatch):
    with remembering() as memory:
        index, calls = memory._store.index, []

        def once_gone(namespace, ids=None):
            calls.append(ids)
            if ids is not None and len([call for call in calls if call is not None]) == 1:
                raise KeyError("rewritten")
            return index(namespace, ids)

        monkeypatch.setattr(memory._store, "index", once_gone)
        assert memory.ask("word7", max_new_tokens=3, among=1).tokens
        assert len([call for call in calls if call is not None]) == 2


def test_of_the_same_memory_from_another_thread(memory):
    said = asyncio.run(memory.aask("word7", max_new_tokens=5, among=3))
    assert said.tokens == memory.ask("word7", max_new_tokens=5, among=3).tokens and len(said.among) == 3


def test_among_messages_that_stand_in_all_segments_the_view_of_all_is_used(monkeypatch):
    with Memory.open(":memory:", model=tiny_model()) as memory:
        memory.add([{"id": 1, "content": "a document about word7 " * 40}])
        everything = memory.ask("word7", max_new_tokens=4, among=0)
        listed, index = [], memory._store.index
        monkeypatch.setattr(memory._store, "index", lambda *args: listed.append(args) or index(*args))
        said = memory.ask("word7", max_new_tokens=4)
        assert said.tokens == everything.tokens and said.among == [1]
        # nothing was listed anew
        assert listed == []
