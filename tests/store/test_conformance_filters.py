"""How every `BlockStore` narrows its messages, and finds those beside one."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hierlandmark.errors import MessageNotFound, NamespaceNotFound
from hierlandmark.filters import Filter, matches
from hierlandmark.store import InMemoryStore, SQLiteStore
from tests.store.builders import SPEC, message

CHAT = [
    message(1, "a red fox", role="user", time="2024-03-01T09:00:00", metadata={"topic": "fox", "n": 1}),
    message("1", "red red", role="assistant", time="2024-03-01T09:00:00+02:00", metadata={"topic": "red", "n": 1.0}),
    message(2, "the fox and the red kite", role="user", time="2024-03-02", metadata={"tags": ["a", 2, True]}),
    message(3, "no time, red", role="system", metadata={"n": True, "topic": None}),
    message(4, "red at some time", role="user", time="noon", metadata={'quo"te': "naïve", "big": 2**70}),
]
CASES = [
    ({}, [1, "1", 2, 3, 4]),
    ({"roles": ["user"]}, [1, 2, 4]),
    ({"roles": ["system", "assistant"]}, ["1", 3]),
    ({"roles": ["\ud800"]}, []),
    ({"since": "2024-03-01T09:00:00"}, [1, 2]),
    ({"since": "2024-03-01T09:00:00+02:00"}, [1, "1", 2]),
    ({"until": "2024-03-01T09:00:00"}, ["1"]),
    ({"until": "2024-03-01"}, [1, "1"]),
    ({"since": "2024-03-02", "until": "2024-03-02"}, [2]),
    ({"metadata": {"topic": "fox"}}, [1]),
    ({"metadata": {"n": 1}}, [1, "1"]),
    ({"metadata": {"n": True}}, [3]),
    ({"metadata": {"topic": None}}, [3]),
    ({"metadata": {"tags": "a"}}, [2]),
    ({"metadata": {"tags": 2.0}}, [2]),
    ({"metadata": {"tags": 1}}, []),
    ({"metadata": {'quo"te': "naïve", "big": 2**70}}, [4]),
    ({"metadata": {"big": 2.0**70}}, [4]),
    ({"metadata": {"big": 2**70 + 1}}, []),
    ({"metadata": {"absent": None}}, []),
    ({"roles": ["user"], "until": "2024-03-01", "metadata": {"n": 1}}, [1]),
]


def same(found, expected):
    assert [(type(one), one) for one in found] == [(type(one), one) for one in expected]


@pytest.mark.parametrize(("where", "expected"), CASES)
def test_matching(store, where, expected):
    store.append("n", CHAT, [])
    store.append("other", [message(9, role="user")], [])
    same(store.matching("n", Filter(**where)), expected)
    words = [one for one, _ in store.search_text("n", "red", 99)]
    same(
        [one for one, _ in store.search_text("n", "red", 99, Filter(**where))],
        [one for one in words if any(type(one) is type(each) and one == each for each in expected)],
    )


def test_a_filter_comes_before_the_cut(store):
    store.append("n", [message(i, "red " * (9 - i), role="user" if i > 6 else "system") for i in range(9)], [])
    assert {one for one, _ in store.search_text("n", "red", 2)} <= set(range(7))
    same({one for one, _ in store.search_text("n", "red", 2, Filter(roles=["user"]))}, {7, 8})
    same({one for one, _ in store.search_text("n", "red", 2**80, Filter(roles=["user"]))}, {7, 8})


def test_equal_scores_keep_the_order_of_the_messages(store):
    store.append("n", [message(i, "red fox in snow") for i in (5, 3, 9, 1)], [])
    same([one for one, _ in store.search_text("n", "snow fox red", 9)], [5, 3, 9, 1])
    same([one for one, _ in store.search_text("n", "snow fox red", 2, Filter(roles=["user"]))], [5, 3])


def test_around(store):
    store.append("n", CHAT[:2], [])
    # another's messages stand between in the file
    store.append("other", [message(1)], [])
    store.append("n", CHAT[2:], [])
    assert store.around("n", 2, 1) == ([CHAT[1]], [CHAT[3]])
    assert store.around("n", 2, 99) == (CHAT[:2], CHAT[3:])
    assert store.around("n", 1, 2) == ([], CHAT[1:3])
    assert store.around("n", 4, 2) == (CHAT[2:4], [])
    assert store.around("n", 2, 0) == ([], [])
    assert store.around("n", 2, 2**80) == (CHAT[:2], CHAT[3:])
    with pytest.raises(MessageNotFound):
        store.around("n", "2", 1)


def test_what_is_forgotten_matches_nothing_and_is_beside_nothing(store):
    store.append("n", CHAT, [])
    store.rewrite("n", [2], [])
    same(store.matching("n", Filter(since="2024-03-01")), [1, "1"])
    assert store.around("n", 3, 1) == ([CHAT[1]], [CHAT[4]])


def test_an_unknown_namespace(store):
    for call in (lambda: store.matching("x", Filter()), lambda: store.around("x", 1, 1)):
        with pytest.raises(NamespaceNotFound):
            call()


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=3)
)
METADATA = st.dictionaries(st.text(max_size=2), st.one_of(SCALARS, st.lists(SCALARS, max_size=3)), max_size=3)
FEW = st.sampled_from([None, True, False, 0, 1, 1.0, -1, 0.1, "", "1", "a", 2**53, 2**53 + 1])
FEW_METADATA = st.dictionaries(st.sampled_from("ab"), st.one_of(FEW, st.lists(FEW, max_size=2)), max_size=2)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_sql_says_what_python_says(tmp_path_factory, data):
    held = data.draw(st.lists(st.one_of(METADATA, FEW_METADATA), min_size=1, max_size=6))
    messages = [message(i, metadata=one) for i, one in enumerate(held)]
    pairs = [
        (key, one)
        for metadata in held
        for key, value in metadata.items()
        for one in (value if isinstance(value, list) else [value])
    ]
    known = st.sampled_from(pairs) if pairs else st.nothing()
    wanted = dict(data.draw(st.lists(known | st.tuples(st.sampled_from("ab"), FEW), min_size=1, max_size=2)))
    where = Filter(metadata=wanted)
    with SQLiteStore(tmp_path_factory.mktemp("f") / "m.db", SPEC) as sqlite, InMemoryStore(SPEC) as plain:
        for store in (sqlite, plain):
            store.append("n", messages, [])
            assert store.matching("n", where) == [one.id for one in messages if matches(where, one)]
