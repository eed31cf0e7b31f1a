"""Several memories on one file, one model in several threads: nothing is lost, nothing breaks."""

import threading

import numpy as np
import pytest

from hierlandmark import Memory, MemoryConfig, Message
from hierlandmark.errors import NamespaceNotFound
from hierlandmark.memory.text import to_tokens
from hierlandmark.store import SQLiteStore
from hierlandmark.testing import tiny_model


def chat(*names, words=3):
    return [Message(id=name, content=f"{name} says word " * words) for name in names]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def two(model, tmp_path):
    """Two memories on one namespace of one file."""
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as one, Memory.open(path, model=model) as other:
        yield one, other


def held(memory):
    """Message ids in the order their tokens stand in the segments, and those tokens as text."""
    store = memory._open_store()
    records = store.segments(memory.namespace)
    ids = list(dict.fromkeys(run.message_id for record in records for run in record.runs))
    return ids, memory.model.decode(np.concatenate([record.tokens for record in records]).tolist())


def whole(memory, names):
    """Whether every message stands in the segments once, and all keys belong to their text."""
    ids, text = held(memory)
    assert ids == [m.id for m in memory.messages()]
    assert sorted(ids) == sorted(names)
    assert all(text.count(f"user: {m.content}") == 1 for m in memory.messages())
    store = memory._open_store()
    for record in store.segments(memory.namespace):
        (again,) = memory.model.encode(record.tokens, record.runs)
        np.testing.assert_allclose(store.landmark_keys([record.id])[0], again.landmark_keys, atol=1e-5)


def meanwhile(monkeypatch, store, verb, act):
    """Have `act` done by somebody else right before `store` begins to write."""
    plain = getattr(store, verb)

    def late(*args, **kwargs):
        monkeypatch.setattr(store, verb, plain)
        act()
        return plain(*args, **kwargs)

    monkeypatch.setattr(store, verb, late)


def test_an_add_between_reading_the_tail_and_writing_is_kept(two, monkeypatch):
    one, other = two
    one.add(chat("a"))
    meanwhile(monkeypatch, one._open_store(), "append", lambda: other.add(chat("b")))
    one.add(chat("c"))
    whole(one, "abc")


def test_a_first_add_by_somebody_else_is_kept(two, monkeypatch):
    one, other = two
    meanwhile(monkeypatch, one._open_store(), "append", lambda: other.add(chat("b")))
    one.add(chat("c"))
    whole(one, "bc")
    assert sum(not record.closed for record in one._open_store().segments("default")) == 1


def test_what_is_forgotten_meanwhile_does_not_come_back(two, monkeypatch):
    one, other = two
    one.add(chat("a", "b"))
    meanwhile(monkeypatch, one._open_store(), "append", lambda: other.forget(["b"]))
    one.add(chat("c"))
    whole(one, "ac")


def test_an_add_while_forgetting_is_kept(two, monkeypatch):
    one, other = two
    one.add(chat("a", "b"))
    meanwhile(monkeypatch, one._open_store(), "rewrite", lambda: other.add(chat("c")))
    one.forget(["a"])
    whole(one, "bc")


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_a_question_goes_on_while_others_write(two, monkeypatch, mode):
    one, other = two
    one.add(chat(*"abcdefgh"))
    wanted = one.ask("who?", max_new_tokens=4, mode=mode).tokens
    acts = [lambda: other.forget(["c", "d"]), lambda: other.add(chat("x")), lambda: other.forget(["a", "b", "h"])]

    def act(piece):
        if acts:
            acts.pop(0)()

    again = one._recalls.clear
    again()
    while acts:
        # an answer may end before it has told three pieces
        left = len(acts)
        assert one.ask("who?", max_new_tokens=8, mode=mode, on_token=act).tokens and len(acts) < left
    assert wanted
    whole(one, "efgx")


def test_dropped_by_somebody_else_is_encoded_again(two, model):
    one, other = two
    one.add(chat(*"abcdefgh"))
    wanted = one.ask("who?", max_new_tokens=4)
    store = one._open_store()
    other._open_store().drop_kv("default", [record.id for record in store.segments("default")])
    # the view that is kept between questions does not know it
    one._recalls["read"][-1]._caches = [type(c)() for c in one._recalls["read"][-1]._caches]
    assert one.ask("who?", max_new_tokens=4).tokens == wanted.tokens


def test_one_model_in_several_threads(model, tmp_path):
    memories = [Memory.open(tmp_path / f"{i}.db", model=model) for i in range(3)]
    errors = []

    def live(memory):
        try:
            for i in range(4):
                memory.add(chat(f"m{i}"))
                memory.search("word", 2)
                memory.ask("who?", max_new_tokens=2)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=live, args=(memory,)) for memory in memories]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for memory in memories:
        whole(memory, [f"m{i}" for i in range(4)])
        memory.close()


def test_two_who_take_over_a_reset_file_encode_it_once(model, tmp_path, monkeypatch):
    path, later = tmp_path / "m.db", tiny_model(seed=3)
    with Memory.open(path, model=model) as memory:
        memory.add(chat("a", "b"))
    # a process killed in the middle of `reencode` leaves text and no keys
    SQLiteStore.reset_keys(path, later.kv_spec)
    with Memory.open(path, model=later) as one, Memory.open(path, model=later) as other:
        meanwhile(monkeypatch, one._open_store(), "append", lambda: other.search("word"))
        assert len(one.search("word").hits) == 2
        whole(one, "ab")


def test_an_add_while_the_keys_are_reset_loses_no_older_text(two, model, monkeypatch):
    one, _ = two
    one.add(chat("a", "b"))
    # a `reencode` with the same model, between reading the tail and writing
    meanwhile(monkeypatch, one._open_store(), "append", lambda: SQLiteStore.reset_keys(one.path, model.kv_spec))
    one.add(chat("c"))
    whole(one, "abc")


def test_text_that_has_no_segment_is_encoded_in_its_place(two, model):
    one, _ = two
    one.add(chat("a", "b", "c"))
    store = one._open_store()
    store.rewrite("default", [], [(record.id, None) for record in store.segments("default")])
    only = chat("c")
    store.append("default", [], model.encode(*to_tokens(model, only)))
    assert store.unencoded("default") == ["a", "b"]
    assert {hit.message_ids[0] for hit in one.search("word", 9).hits} == set("abc")
    whole(one, "abc")


def test_a_budget_holds_after_every_add(model, tmp_path):
    budget = 20_000
    with Memory.open(tmp_path / "m.db", model=model, config=MemoryConfig(kv_budget_bytes=budget)) as memory:
        free = Memory.open(":memory:", model=model)
        for name in "abcdef":
            memory.add(chat(name, words=4))
            free.add(chat(name, words=4))
            assert memory.stats().kv_bytes <= budget
        assert free.stats().kv_bytes > budget
        for mode in ("hierarchical", "flat"):
            asked, wanted = (m.ask("who?", max_new_tokens=4, mode=mode) for m in (memory, free))
            assert asked.tokens == wanted.tokens
            found, best = (m.search("who", 8, mode=mode).hits for m in (memory, free))
            assert [(h.message_ids, h.score) for h in found] == [(h.message_ids, h.score) for h in best]
        memory.forget(["a"])
        free.forget(["a"])
        assert memory.stats().kv_bytes <= budget
        assert memory.ask("who?", max_new_tokens=4).tokens == free.ask("who?", max_new_tokens=4).tokens
        whole(memory, "bcdef")


def test_a_budget_holds_after_forgetting_from_many_segments_and_after_reencoding(model, tmp_path):
    path, budget = tmp_path / "m.db", 20_000
    config = MemoryConfig(kv_budget_bytes=budget)
    with Memory.open(path, model=model, config=config) as memory:
        memory.add(chat(*"abcdefgh"))
        memory.forget(["a", "c", "e"])
        assert 0 < memory.stats().kv_bytes <= budget
    Memory.reencode(path, model=model, config=config)
    with Memory.open(path, model=model, config=config) as memory:
        assert 0 < memory.stats().kv_bytes <= budget
        whole(memory, "bdfgh")
    SQLiteStore.reset_keys(path, model.kv_spec)
    with Memory.open(path, model=model, config=config) as memory:
        memory.search("word")
        assert 0 < memory.stats().kv_bytes <= budget


def test_forgetting_the_last_message_leaves_no_trace_of_it_in_any_key(model, tmp_path):
    with Memory.open(tmp_path / "m.db", model=model) as memory, Memory.open(":memory:", model=model) as never:
        memory.add([*chat(*"abcde"), *chat("secret", words=9)])
        memory.forget(["secret"])
        never.add(chat(*"abcde"))
        mine, other = memory._open_store(), never._open_store()
        for one, two in zip(mine.segments("default"), other.segments("default"), strict=True):
            assert one.tokens.tolist() == two.tokens.tolist()
            assert one.runs == two.runs
            (a,), (b,) = mine.landmark_keys([one.id]), other.landmark_keys([two.id])
            np.testing.assert_allclose(a, b, atol=1e-5)
        np.testing.assert_allclose(mine.gate_keys("default")[1], other.gate_keys("default")[1], atol=1e-5)
        assert memory.ask("who?", max_new_tokens=4).tokens == never.ask("who?", max_new_tokens=4).tokens


def test_everything_forgotten_is_an_unknown_namespace(two):
    one, other = two
    one.add(chat("a"))
    other.forget(["a"])
    for call in (one.stats, one.messages, lambda: one.search("x"), lambda: one.ask("x"), lambda: one.forget(["a"])):
        with pytest.raises(NamespaceNotFound):
            call()
