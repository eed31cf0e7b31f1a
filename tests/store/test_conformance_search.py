"""How every `BlockStore` searches its text."""

import numpy as np
import pytest

from hierlandmark.errors import InvalidArgument
from hierlandmark.store import InMemoryStore, SQLiteStore
from tests.store.builders import SPEC, message


def test_search_text_ranks(store):
    texts = {
        1: "the cat sat on the mat",
        "1": "a dog and a cat and a cat",
        2: "nothing of the kind, a long text without the animal",
        3: "Ωmega 漢字 naïve",
    }
    store.append("n", [message(i, text) for i, text in texts.items()], [])
    hits = store.search_text("n", "CAT", 10)
    assert [(type(i), i) for i, _ in hits] == [(str, "1"), (int, 1)]
    assert hits[0][1] > hits[1][1] > 0
    assert len(store.search_text("n", "cat", 1)) == 1
    assert store.search_text("n", "absent", 5) == []
    assert [i for i, _ in store.search_text("n", "ωMEGA", 5)] == [3]
    assert [i for i, _ in store.search_text("n", "naïve", 5)] == [3]
    assert store.search_text("n", "cat", 2**80)


def test_the_two_stores_score_alike(tmp_path):
    texts = ["red fox", "red red wolf", "blue bird and a red kite", "grey owl", "blue sea", "an old oak", "ink"]
    with InMemoryStore(SPEC) as one, SQLiteStore(tmp_path / "memory.db", SPEC) as other:
        for store in (one, other):
            store.append("n", [message(i, text) for i, text in enumerate(texts)], [])
        expected, found = one.search_text("n", "blue red", 9), other.search_text("n", "blue red", 9)
    assert [i for i, _ in found] == [i for i, _ in expected]
    # the namespace column adds its one token to every length: the mean moves, the order does not
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=0.1)


@pytest.mark.parametrize(
    "query",
    ["", " ", "\0", '"', "'", '"unclosed', "AND", "OR", "NOT", "NEAR(", "cat AND", "content:cat", "namespace_id:1",
     "cat*", "^cat", "-cat", "(", ")", "{a b}:", "+", "cat\0dog", "\ud800", "cat \udfff", "%", "_", "e\u0302", "\u0301",
     "\U0001f98a", "a" * 100_000, " ".join(map(str, range(3_000)))],
    ids=lambda query: ascii(query[:16]),
)  # fmt: skip
def test_any_query_is_legal(store, query):
    store.append("n", [message(1, "cat")], [])
    store.append("other", [message(1, "cat and")], [])
    for found, score in store.search_text("n", query, 5):
        assert found == 1
        assert score > 0
    if "cat" in query:
        assert store.search_text("n", query, 5)


@pytest.mark.parametrize("k", [0, -1])
def test_k(store, k):
    with pytest.raises(InvalidArgument, match="k must"):
        store.search_text("n", "cat", k)
