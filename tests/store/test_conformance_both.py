"""Stores of a model whose search has keys of its own: they stand behind those that attention reads."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hierlandmark.errors import InvalidArgument, ModelMismatch
from hierlandmark.store import SQLiteStore
from hierlandmark.store.header import spec_text
from tests.store.builders import BOTH, SEARCH, SPEC, message, segment


@pytest.fixture
def both_store(make_store):
    with make_store(BOTH) as opened:
        yield opened


def test_both_parts_come_back(both_store):
    store, sent = both_store, segment("a", blocks=3, spec=BOTH)
    (segment_id,) = store.append("n", [message("a")], [sent])
    blocks = [segment_id * BOTH.blocks_per_segment + n for n in (2, 0)]
    for slot in range(5):
        found = store.read_blocks(slot, blocks)
        wanted = sent.kv[[2, 0], slot] if slot < 3 else sent.search_kv[[2, 0], slot - 3]
        np.testing.assert_array_equal(found, wanted)
        assert found.shape[1] == (2 if slot < 3 else 1)
    np.testing.assert_array_equal(store.landmark_keys([segment_id])[0], sent.landmark_keys)
    np.testing.assert_array_equal(store.gate_keys("n")[1], sent.gate_key[None])
    assert sent.gate_key.shape[0] == sent.landmark_keys.shape[1] == 5
    assert store.stats("n").kv_bytes == sent.kv.nbytes + sent.search_kv.nbytes == sent.kv_bytes
    with pytest.raises(InvalidArgument, match=r"0\.\.4"):
        store.read_blocks(5, blocks)


def test_neighbouring_segments_stay_apart(both_store):
    sent = [segment(name, seed=i, spec=BOTH, blocks=4) for i, name in enumerate("ab")]
    ids = both_store.append("n", [message("a"), message("b")], sent)
    both_store.drop_kv("n", ids[:1])
    assert [record.has_kv for record in both_store.segments("n")] == [False, True]
    for slot in range(5):
        with pytest.raises(KeyError):
            both_store.read_blocks(slot, [ids[0] * 4 + 3])
        np.testing.assert_array_equal(both_store.read_blocks(slot, [ids[1] * 4])[0], sent[1].row(0, slot))
    both_store.rewrite("n", ["a"], [(ids[0], None)])
    assert both_store.stats("n").kv_bytes == sent[1].kv_bytes


def test_a_budget_counts_both(both_store):
    sent = [segment(name, seed=i, spec=BOTH) for i, name in enumerate("ab")]
    both_store.append("n", [message("a"), message("b")], sent, kv_budget=sent[0].kv_bytes)
    assert [record.has_kv for record in both_store.segments("n")] == [False, True]
    both_store.append("n", [message("c")], [segment("c", seed=3, spec=BOTH)], kv_budget=2 * sent[0].kv_bytes - 1)
    assert [record.has_kv for record in both_store.segments("n")] == [False, False, True]


@pytest.mark.parametrize("change", [{"search_kv": None}, {"kv": None}])
def test_one_part_does_not_come_alone(both_store, change):
    with pytest.raises(InvalidArgument, match="search_kv must come with kv"):
        both_store.append("n", [message("a")], [replace(segment("a", spec=BOTH), **change)])
    wrong = segment("a", spec=BOTH).search_kv[:, :1]
    with pytest.raises(InvalidArgument, match="search_kv must be"):
        both_store.append("n", [message("a")], [replace(segment("a", spec=BOTH), search_kv=wrong)])
    assert both_store.namespaces() == []


def test_keys_of_search_do_not_fit_where_there_are_none(store):
    with pytest.raises(InvalidArgument, match="must"):
        store.append("n", [message("a")], [segment("a", spec=BOTH)])
    own = segment("a", spec=BOTH).search_kv
    with pytest.raises(InvalidArgument, match="search_kv must come with kv"):
        store.append("n", [message("a")], [replace(segment("a"), search_kv=own)])


def test_views_of_a_spec():
    assert BOTH.reading() == SPEC and SPEC.reading() is SPEC and SPEC.searching() is SPEC
    assert BOTH.searching() == SEARCH and SEARCH.searching() is SEARCH and SEARCH.reading() is SEARCH
    assert BOTH.search_slots() == {1: 3, 4: 4} and SEARCH.search_slots() == {1: 0, 4: 1}
    assert SPEC.search_slots() == {0: 0, 1: 1, 2: 2}


@pytest.mark.parametrize("search", [(4, 1), (1, 1)])
def test_a_spec_that_contradicts_itself(search):
    with pytest.raises(InvalidArgument, match="layers of search in order"):
        replace(SPEC, search=search)
    with pytest.raises(InvalidArgument, match="with keep 'all' only"):
        replace(SEARCH, search=(1, 4))


def test_a_file_says_so_and_one_without_is_as_before(path):
    assert "search" not in spec_text(SPEC) and "search" not in json.loads(spec_text(SEARCH))
    with SQLiteStore(path, BOTH) as store:
        store.append("n", [message("a")], [segment("a", spec=BOTH)])
    assert SQLiteStore.peek(path).spec == BOTH
    with pytest.raises(ModelMismatch, match=r"search \(1, 4\) is stored, \(\) came"):
        SQLiteStore(path, SPEC)
