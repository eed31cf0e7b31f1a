"""What an index beside a store needs of it: short listings, segments by message, and whether anything changed."""

import numpy as np
import pytest

from hierlandmark.errors import NamespaceNotFound
from hierlandmark.store import SQLiteStore
from tests.store.builders import SPEC, message, segment


def test_a_listing_says_what_records_say(store):
    sent = [segment("a", seed=1), segment("a", seed=2, blocks=3, closed=False)]
    ids = store.append("n", [message("a")], sent)
    store.append("other", [message("a")], [segment("a", seed=3)])
    found, records = store.listing("n"), store.segments("n")
    assert found.ids.tolist() == ids == [one.id for one in records]
    assert found.versions.tolist() == [one.version for one in records]
    assert found.blocks.tolist() == [len(one.block_content) for one in records]
    assert {array.dtype for array in found} == {np.dtype(np.int64)}
    store.append("empty", [message("a")], [])
    assert [array.shape for array in store.listing("empty")] == [(0,)] * 3
    with pytest.raises(NamespaceNotFound):
        store.listing("nobody")


def test_an_index_of_some_segments(store):
    sent = [segment("a", seed=n) for n in range(4)]
    ids = store.append("n", [message("a")], sent)
    (other,) = store.append("other", [message("a")], [segment("a")])
    records, gates = store.index("n", [ids[2], ids[0]])
    assert [one.id for one in records] == [ids[2], ids[0]]
    np.testing.assert_array_equal(gates, [sent[2].gate_key, sent[0].gate_key])
    records, gates = store.index("n", [])
    assert records == [] and gates.shape == (0, SPEC.layers, SPEC.kv_heads, SPEC.head_dim)
    for absent in (other, 99, -1):
        with pytest.raises(KeyError):
            store.index("n", [ids[0], absent])


def test_segments_that_hold_messages(store):
    names = [1, "1", 'quo"te\\', "ünï\U0001f600", 2**70]
    ids = store.append("n", [message(name) for name in names], [segment(*names[:2]), *map(segment, names[2:])])
    store.append("other", [message(1)], [segment(1)])
    for place, name in enumerate(names):
        assert store.holding("n", [name]).tolist() == [ids[max(place - 1, 0)]]
    assert store.holding("n", reversed(names)).tolist() == ids
    assert store.holding("n", ["absent", 2]).tolist() == store.holding("n", []).tolist() == []
    assert store.holding("n", []).dtype == np.int64
    with pytest.raises(NamespaceNotFound):
        store.holding("nobody", [1])


def test_every_write_changes_the_number(store):
    seen = [store.changes()]
    (one,) = store.append("n", [message("a"), message("b")], [segment("a", "b")])
    seen.append(store.changes())
    assert store.changes() == seen[-1]
    store.messages("n")
    assert store.changes() == seen[-1]
    store.drop_kv("n", [one])
    seen.append(store.changes())
    store.rewrite("n", ["a"], [(one, segment("b"))])
    seen.append(store.changes())
    assert len(set(seen)) == len(seen)


def test_others_changes_are_seen(path):
    with SQLiteStore(path, SPEC) as store, SQLiteStore(path, SPEC) as other:
        before = store.changes()
        other.append("n", [message("a")], [segment("a")])
        assert store.changes() != before
