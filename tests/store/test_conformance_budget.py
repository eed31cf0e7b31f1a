"""Bytes of keys and values that a namespace may hold: the oldest go first, in the transaction that brings new ones."""

import os

import pytest

from hierlandmark.store import SQLiteStore
from tests.store.builders import SPEC, message, segment

ONE = segment("a").kv.nbytes


def held(store, namespace="n"):
    return [record.has_kv for record in store.segments(namespace)]


def some(n, first=0, **options):
    return (segment("a", seed=first + i, **options) for i in range(n))


@pytest.mark.parametrize(
    ("budget", "kept"), [(0, 0), (ONE - 1, 0), (ONE, 1), (2 * ONE + 1, 2), (9 * ONE, 5), (None, 5)]
)
def test_append_keeps_the_newest(store, budget, kept):
    store.append("other", [message("a")], some(1))
    store.append("n", [message("a")], some(3), kv_budget=budget)
    ids = store.append("n", [], some(2, 3), kv_budget=budget)
    assert held(store) == [False] * (5 - kept) + [True] * kept
    assert store.stats("n").kv_bytes == kept * ONE
    assert held(store, "other") == [True]
    for i, segment_id in enumerate(ids):
        (keys,) = store.landmark_keys([segment_id])
        assert (keys == segment("a", seed=3 + i).landmark_keys).all()


def test_an_append_of_nothing_keeps_the_budget_too(store):
    store.append("n", [message("a")], some(3))
    store.append("n", [message("b")], [], kv_budget=ONE)
    assert held(store) == [False, False, True]


def test_a_longer_segment_takes_the_place_of_several(store):
    store.append("n", [message("a")], some(3))
    store.append("n", [], some(1, blocks=4), kv_budget=3 * ONE)
    assert held(store) == [False, False, True, True]


def test_rewrite_keeps_it(store):
    ids = store.append("n", [message("a"), message("b")], [*some(3), segment("b")], kv_budget=2 * ONE)
    assert held(store) == [False, False, True, True]
    # encoded again, an old one has keys and values: it goes first, as the budget holds at each step
    store.rewrite("n", ["b"], [(ids[0], segment("a")), (ids[1], segment("a")), (ids[3], None)], kv_budget=2 * ONE)
    assert held(store) == [False, False, True]
    store.rewrite("n", [], [], kv_budget=0)
    assert held(store) == [False] * 3


def test_what_fails_drops_nothing(store):
    store.append("n", [message("a")], some(2))

    def broken():
        yield from some(2, 2)
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        store.append("n", [], broken(), kv_budget=ONE)
    assert held(store) == [True, True]


def test_the_file_never_holds_much_more(path):
    with SQLiteStore(path, SPEC) as store:
        store.append("n", [message("a")], some(300, blocks=4), kv_budget=8 * ONE)
    with SQLiteStore(path.with_name("free.db"), SPEC) as store:
        store.append("n", [message("a")], some(300, blocks=4))
    # freed pages stay in the file: its size is the most it ever held
    grown, free = os.path.getsize(path), os.path.getsize(path.with_name("free.db"))
    assert grown < free / 4
