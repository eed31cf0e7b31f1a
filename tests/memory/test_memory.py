"""The life of a message, on the tiny model: mechanics, not quality."""

import asyncio
import json
import subprocess
import sys
import threading

import numpy as np
import pytest

from hierlandmark import Memory, MemoryConfig, Message
from hierlandmark.errors import (
    DuplicateMessageId,
    InvalidArgument,
    InvalidMessage,
    MessageNotFound,
    ModelMismatch,
    NamespaceNotFound,
)
from hierlandmark.memory import search as search_module
from hierlandmark.memory.rank import message_shares
from hierlandmark.testing import tiny_model

# equal up to the order of fp32 sums
CLOSE = {"rel": 1e-4, "abs": 1e-6}
CHAT = [
    Message(id=i if i % 2 else str(i), role=("user", "assistant")[i % 2], content=f"{i}: word{i} " * (1 + i % 5))
    for i in range(24)
]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "m.db"


def facts(memory, mode=None):
    answer = memory.ask("what is word7?", max_new_tokens=6, mode=mode)
    found = memory.search("word7", 9, mode=mode)
    return answer.tokens, [(hit.message_ids, hit.score, hit.block) for hit in found.hits]


def assert_same_but_ids(one, other):
    """Same tokens, messages and scores; segments and their blocks may be numbered differently."""
    (tokens, hits), (wanted, wanted_hits) = facts(one), facts(other)
    assert tokens == wanted
    assert [ids for ids, _, _ in hits] == [ids for ids, _, _ in wanted_hits]
    assert [score for _, score, _ in hits] == pytest.approx([score for _, score, _ in wanted_hits], **CLOSE)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_reopened_in_a_new_process_nothing_has_changed(model, path, mode):
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        before = facts(memory, mode)
    with Memory.open(":memory:", model=model) as never_saved:
        never_saved.add(CHAT)
        assert facts(never_saved, mode) == before
    code = (
        "import json, sys; from hierlandmark import Memory; from hierlandmark.testing import tiny_model\n"
        "memory = Memory.open(sys.argv[1], model=tiny_model())\n"
        "answer = memory.ask('what is word7?', max_new_tokens=6, mode=sys.argv[2])\n"
        "found = memory.search('word7', 9, mode=sys.argv[2])\n"
        "print(json.dumps([answer.tokens, [(h.message_ids, h.score, h.block) for h in found.hits]]))"
    )
    run = [sys.executable, "-c", code, str(path), mode]
    after = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    assert after == json.loads(json.dumps(before))


def test_one_message_at_a_time_is_all_at_once(model, path):
    with Memory.open(path, model=model) as slow, Memory.open(":memory:", model=model) as fast:
        for message in CHAT:
            slow.add([message])
        fast.add(CHAT)
        assert_same_but_ids(slow, fast)
        assert slow.stats().tokens == fast.stats().tokens
        ids, gates = slow._open_store().gate_keys("default")
        _, wanted = fast._open_store().gate_keys("default")
        np.testing.assert_allclose(gates, wanted, atol=1e-5)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_exactly_k_where_k_exist(model, mode):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        for k in (1, 3, 23, 24, 100):
            hits = memory.search("word", k, mode=mode).hits
            ids = [(type(i), i) for hit in hits for i in hit.message_ids]
            assert len(hits) == min(k, 24) and len(set(ids)) == len(ids)
            assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)


def test_ids_come_back_as_they_were(model, path):
    with Memory.open(path, model=model) as memory:
        memory.add([{"id": 1, "role": "user", "content": "one"}, {"id": "1", "role": "user", "content": "eins"}])
        assert [m.id for m in memory.messages()] == [1, "1"]
        memory.forget(["1"])
        assert [m.content for m in memory.messages()] == ["one"]


def test_forgotten_text_is_nowhere(model, path):
    with Memory.open(path, model=model) as memory:
        memory.add([*CHAT[:9], Message(id="secret", content="the code is xyzzy-4711"), *CHAT[9:]])
        memory.forget(["secret"])
        with pytest.raises(MessageNotFound):
            memory.messages(["secret"])
        assert all("xyzzy" not in hit.text for hit in memory.search("xyzzy", 30).hits)
        store = memory._open_store()
        assert store.stats("default").tokens == sum(len(s.tokens) for s in store.segments("default"))
        # segments of the forgotten text are encoded from what is left
        for record in store.segments("default"):
            (again,) = model.encode(record.tokens, record.runs)
            (kept,) = store.landmark_keys([record.id])
            np.testing.assert_allclose(again.landmark_keys, kept, atol=1e-5)
    assert b"xyzzy" not in b"".join(file.read_bytes() for file in path.parent.iterdir())


def test_forgetting_everything_ends_the_namespace(model, path):
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT[:5])
        memory.forget([m.id for m in CHAT[:5]])
        assert memory.namespaces() == []
        memory.add(CHAT[:5])
        assert memory.stats().messages == 5


BAD = [
    ([{"id": 1, "role": "user", "content": ""}], InvalidMessage),
    ([{"id": 1, "role": "user", "content": " \n"}], InvalidMessage),
    ([{"id": 1, "role": "user", "content": "\ud800"}], InvalidMessage),
    ([{"id": 1, "role": "\ud800", "content": "x"}], InvalidMessage),
    ([{"id": 1.5, "role": "user", "content": "x"}], InvalidMessage),
    ([{"role": "user", "content": "x"}], InvalidMessage),
    ([{"id": 1, "content": "x", "tiem": "2026-03-01"}], InvalidMessage),
    (["text"], InvalidMessage),
    ([{"id": 1, "role": "user", "content": "x" * 10_000_000}], InvalidMessage),
    ([{"id": 7, "role": "u", "content": "x"}, {"id": 7, "role": "u", "content": "y"}], DuplicateMessageId),
    ([{"id": "0", "role": "u", "content": "x"}], DuplicateMessageId),
]


@pytest.mark.parametrize(("messages", "error"), BAD, ids=range(len(BAD)))
def test_bad_messages_get_a_named_error_and_lose_nothing(model, path, messages, error):
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT[:3])
        before = facts(memory)
        with pytest.raises(error):
            memory.add([{"id": "new", "role": "user", "content": "fine"}, *messages])
        assert [m.id for m in memory.messages()] == [m.id for m in CHAT[:3]]
        assert facts(memory) == before


def test_bad_questions_get_a_named_error(model, path):
    with Memory.open(path, model=model) as memory:
        for call in (
            lambda: memory.search("x"),
            lambda: memory.ask("x"),
            memory.messages,
            memory.stats,
            lambda: memory.forget([1]),
        ):
            with pytest.raises(NamespaceNotFound):
                call()
        memory.add(CHAT[:3])
        with pytest.raises(InvalidArgument):
            memory.search("x", 0)
        with pytest.raises(InvalidArgument):
            memory.ask("x", max_new_tokens=0)
        for text in ("", "\ud800"):
            with pytest.raises(InvalidMessage):
                memory.search(text)
        with pytest.raises(MessageNotFound):
            memory.forget(["0", "absent"])
        assert memory.stats().messages == 3
    with pytest.raises(InvalidArgument):
        memory.add(CHAT[3:])


def test_another_model_is_refused_and_the_text_can_move_to_it(model, path):
    other = tiny_model(seed=1)
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
    with Memory.open(path, "second", model=model) as memory:
        memory.add(CHAT[:2])
    with pytest.raises(ModelMismatch, match="reencode"):
        Memory.open(path, model=other)
    report = Memory.reencode(path, model=other)
    assert report.messages == 26
    with Memory.open(path, model=other) as moved, Memory.open(":memory:", model=other) as fresh:
        fresh.add(CHAT)
        assert_same_but_ids(moved, fresh)


def test_namespaces_do_not_see_each_other(model, path):
    with Memory.open(path, "a", model=model) as a, Memory.open(path, "b", model=model) as b:
        a.add(CHAT[:6])
        b.add(CHAT[6:12])
        assert {m.id for m in a.messages()}.isdisjoint(m.id for m in b.messages())
        assert all(hit.message_ids[0] in [m.id for m in CHAT[6:12]] for hit in b.search("word", 20).hits)
        # a second memory on the same namespace sees what the first adds
        with Memory.open(path, "a", model=model) as again:
            again.search("word")
            a.add(CHAT[12:14])
            assert len(again.search("word", 20).hits) == 8


def test_counts_need_no_model(model, path):
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
    with Memory.open(path) as memory:
        stats = memory.stats()
        assert (stats.messages, memory.namespaces(), len(memory.messages())) == (24, ["default"], 24)
        assert stats.file_bytes > stats.kv_bytes > 0
        assert memory._model is None


def test_long_prompts_and_answers_outgrow_the_window(model):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        answer = memory.complete("abc " * 40, max_new_tokens=70)
        assert len(answer.tokens) == 70 or answer.tokens
        assert answer.tokens == memory.complete("abc " * 40, max_new_tokens=70).tokens


def test_the_trace_says_where_the_mass_went(model):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        for trace in (memory.ask("word7?", max_new_tokens=3).trace, memory.search("word7", 3).trace):
            assert 0 < sum(block.mass for block in trace.blocks) <= 1.001
            assert [b.mass for b in trace.blocks] == sorted((b.mass for b in trace.blocks), reverse=True)
            assert trace.blocks[0].text and trace.blocks[0].message_ids


def test_hierarchical_scores_fewer_landmarks_than_flat(model):
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        costs = {mode: memory.search("word7", 1, mode=mode).cost for mode in ("hierarchical", "flat")}
        assert costs["hierarchical"].landmark_keys < costs["flat"].landmark_keys
        assert costs["hierarchical"].gate_keys > 0 == costs["flat"].gate_keys
        asked = memory.ask("word7", max_new_tokens=2).cost
        assert asked.blocks_read > 0 and asked.bytes_read > 0 and asked.ms > 0


def test_async_twins(model, path):
    async def life():
        async with Memory.open(path, model=model) as memory:
            await memory.aadd(CHAT)
            found, answer = await asyncio.gather(memory.asearch("word7", 3), memory.aask("word7", max_new_tokens=3))
            await memory.aforget([CHAT[1].id])
            return len(found.hits), answer.tokens, len(await memory.amessages()), (await memory.astats()).messages

    hits, tokens, messages, count = asyncio.run(life())
    assert (hits, messages, count) == (3, 23, 23) and tokens


def test_threads_share_a_memory(model, path):
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT[:4])
        errors = []

        def work(i):
            try:
                memory.add([Message(id=f"t{i}", content=f"thread {i}")])
                memory.search("thread", 2)
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
        [t.start() for t in threads]
        [t.join() for t in threads]
        assert not errors and memory.stats().messages == 10


def test_dropped_keys_and_values_come_back_from_the_text(model, path, monkeypatch):
    # what a search reads of blocks is not made again for it: see test_rank
    monkeypatch.setattr(search_module, "message_shares", lambda *arguments: message_shares(*arguments[:-1], 0))
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        # the tail is written anew once, and closed
        memory.add([Message(id="last", content="one more")])
        memory.forget(["last"])
        before = facts(memory)
        plenty = memory.stats().kv_bytes
    with Memory.open(path, model=model, config=MemoryConfig(kv_budget_bytes=0)) as memory:
        memory.add([Message(id="last", content="one more")])
        assert memory.stats().kv_bytes == 0 < plenty
        memory.forget(["last"])
        assert memory.stats().kv_bytes == 0
        assert facts(memory) == before
