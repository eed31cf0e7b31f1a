"""Stores made for search: keys of some layers, no values."""

import json
import sqlite3
from dataclasses import replace

import numpy as np
import pytest

from hierlandmark.errors import InvalidArgument, KeepMismatch, ModelMismatch, StoreCorrupt
from hierlandmark.store import SQLiteStore
from hierlandmark.store.header import spec_text
from tests.store.builders import SEARCH, SPEC, message, segment


@pytest.fixture
def search_store(make_store):
    with make_store(SEARCH) as opened:
        yield opened


def test_keys_come_back_and_no_values(search_store):
    store, sent = search_store, segment("a", blocks=3, spec=SEARCH)
    assert sent.kv.shape[1:3] == (2, 1)
    (segment_id,) = store.append("n", [message("a")], [sent])
    blocks = [segment_id * SEARCH.blocks_per_segment + n for n in range(3)]
    for layer in range(2):
        np.testing.assert_array_equal(store.read_blocks(layer, blocks), sent.kv[:, layer])
    np.testing.assert_array_equal(store.landmark_keys([segment_id])[0], sent.landmark_keys)
    np.testing.assert_array_equal(store.gate_keys("n")[1], sent.gate_key[None])
    assert store.stats("n").kv_bytes == sent.kv.nbytes
    with pytest.raises(InvalidArgument, match=r"0\.\.1"):
        store.read_blocks(2, blocks)


def test_values_do_not_fit(search_store):
    with pytest.raises(InvalidArgument, match="must be"):
        search_store.append("n", [message("a")], [segment("a", spec=SPEC)])
    kv = segment("a", spec=replace(SPEC, layers=2)).kv
    with pytest.raises(InvalidArgument, match="kv must be"):
        search_store.append("n", [message("a")], [replace(segment("a", spec=SEARCH), kv=kv)])
    assert search_store.namespaces() == []


def test_forgetting_and_budgets_work_as_ever(search_store):
    store = search_store
    sent = [segment("a", seed=1, spec=SEARCH), segment("b", seed=2, spec=SEARCH)]
    first, second = store.append("n", [message("a"), message("b")], sent, kv_budget=sent[0].kv.nbytes)
    assert [record.has_kv for record in store.segments("n")] == [False, True]
    store.rewrite("n", ["a"], [(first, None)])
    assert [record.id for record in store.segments("n")] == [second]
    store.drop_kv("n", [second])
    assert store.stats("n").kv_bytes == 0
    np.testing.assert_array_equal(store.landmark_keys([second])[0], sent[1].landmark_keys)


@pytest.mark.parametrize(
    "fields",
    [
        {"keep": "search"}, {"kept": (0, 2)}, {"keep": "search", "kept": (1, 4)}, {"keep": "some"},
        {"keep": "search", "kept": (0, 2, 1)}, {"keep": "search", "kept": (0, 1, 1)},
    ],
)  # fmt: skip
def test_a_spec_that_contradicts_itself(fields):
    with pytest.raises(InvalidArgument, match="layers"):
        replace(SPEC, **fields)


def test_a_file_says_what_it_keeps(path):
    sent = segment("a", spec=SEARCH)
    with SQLiteStore(path, SEARCH) as store:
        store.append("n", [message("a")], [sent])
    assert SQLiteStore.peek(path).spec == SEARCH
    with pytest.raises(KeepMismatch, match=r"keep='search', 'all' came.*Memory\.reencode") as told:
        SQLiteStore(path, SPEC)
    assert f"`hierlandmark reencode --db {path} --keep all`" in told.value.on_command_line
    with pytest.raises(ModelMismatch, match=r"kept"):
        SQLiteStore(path, replace(SEARCH, kept=(1, 5)))
    with SQLiteStore(path, SEARCH, read_only=True) as store:
        np.testing.assert_array_equal(store.landmark_keys([1])[0], sent.landmark_keys)


def test_a_file_is_taken_from_one_to_the_other(path):
    with SQLiteStore(path, SEARCH) as open_still:
        open_still.append("n", [message("a")], [segment("a", spec=SEARCH)])
        SQLiteStore.reset_keys(path, SPEC)
        with pytest.raises(KeepMismatch, match="keep='all', 'search' came"):
            open_still.segments("n")
    with SQLiteStore(path, SPEC) as store:
        assert (store.unencoded("n"), store.segments("n")) == (["a"], [])
        store.append("n", [], [segment("a")])
    SQLiteStore.reset_keys(path, SEARCH)
    assert SQLiteStore.peek(path).spec == SEARCH


def test_rows_that_another_keep_put_in_their_place_are_not_taken_for_damage(path):
    names = list("abcde")
    with SQLiteStore(path, SPEC) as open_still:
        ids = open_still.append("n", [message(name) for name in names], [segment(name) for name in names])
        wanted = 0, [ids[3] * SPEC.blocks_per_segment], [open_still.segments("n")[3].version]
        open_still.read_blocks(*wanted)
        SQLiteStore.reset_keys(path, SEARCH)
        with SQLiteStore(path, SEARCH) as other:
            later = other.append("n", [], [segment(name, spec=SEARCH) for name in names])
        # the number of a row is that of its block times the slots of one, and there are fewer now
        assert ids[3] * SPEC.slots in [some * SEARCH.slots for some in later]
        with pytest.raises(KeepMismatch, match="keep='search', 'all' came"):
            open_still.read_blocks(*wanted)


def test_a_header_that_keeps_all_is_as_it_was_before_there_was_a_choice(path):
    assert "kee" not in spec_text(SPEC) and "kept" not in spec_text(SPEC)
    assert json.loads(spec_text(SEARCH))["kept"] == [1, 4]
    SQLiteStore(path, SEARCH).close()
    with sqlite3.connect(path) as db:
        damaged = json.dumps({**json.loads(spec_text(SEARCH)), "kept": [1]})
        db.execute("UPDATE meta SET value = ? WHERE key = 'spec'", (damaged,))
    db.close()
    with pytest.raises(StoreCorrupt, match="where its spec should be"):
        SQLiteStore.peek(path)
