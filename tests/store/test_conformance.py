"""What every `BlockStore` does."""

import threading
from dataclasses import replace

import numpy as np
import pytest

from hierlandmark.errors import (
    DuplicateMessageId,
    InvalidArgument,
    InvalidMessage,
    MessageNotFound,
    NamespaceNotFound,
)
from hierlandmark.messages import Message
from hierlandmark.store import BlockStore, MessageRun, StoreStats
from tests.store.builders import OTHER, SPEC, message, segment


def block(segment_id, n):
    return segment_id * SPEC.blocks_per_segment + n


def assert_segment(store, namespace, segment_id, expected):
    """Everything that was put in comes out bit for bit."""
    (record,) = store.segments(namespace, [segment_id])
    assert record.id == segment_id
    np.testing.assert_array_equal(record.tokens, expected.tokens)
    assert record.tokens.dtype == np.int32
    assert record.runs == expected.runs
    assert record.block_content == expected.block_content
    assert record.closed == expected.closed
    assert record.has_kv == (expected.kv is not None)
    ids, gates = store.gate_keys(namespace)
    np.testing.assert_array_equal(gates[list(ids).index(segment_id)], expected.gate_key)
    np.testing.assert_array_equal(store.landmark_keys([segment_id])[0], expected.landmark_keys)
    blocks = [block(segment_id, n) for n in range(len(expected.block_content))]
    for layer in range(SPEC.layers) if expected.kv is not None else ():
        np.testing.assert_array_equal(store.read_blocks(layer, blocks), expected.kv[:, layer])


def test_is_a_block_store(store):
    assert isinstance(store, BlockStore)
    assert store.spec == SPEC


def test_append_reads_back(store):
    first, second = segment("a", "b", seed=1), segment("b", seed=2, blocks=3, closed=False)
    sent = [message("a", time="2024-05-01T10:00", metadata={"n": [1, None, "é"]}), message("b", "x\0y 漢", role="tool")]
    ids = store.append("n", sent, [first, second])
    assert len(ids) == 2
    assert ids == sorted(ids)
    assert store.messages("n") == sent
    assert store.messages("n", ["b", "a", "b"]) == [sent[1], sent[0], sent[1]]
    assert [record.id for record in store.segments("n")] == ids
    assert [record.id for record in store.segments("n", ids[::-1])] == ids[::-1]
    assert_segment(store, "n", ids[0], first)
    assert_segment(store, "n", ids[1], second)
    assert store.tail("n").id == ids[1]
    assert store.namespaces() == ["n"]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_element_types(make_store, dtype):
    spec = replace(SPEC, dtype=dtype)
    sent = segment("a", spec=spec)
    with make_store(spec) as store:
        (segment_id,) = store.append("n", [message("a")], [sent])
        read = store.read_blocks(1, [block(segment_id, 1)])
        assert read.dtype == spec.numpy_dtype
        np.testing.assert_array_equal(read[0], sent.kv[1, 1])


def test_read_blocks_in_the_order_asked_and_writable(store):
    sent = segment("a", blocks=3)
    (segment_id,) = store.append("n", [message("a")], [sent])
    order = [2, 0, 2]
    read = store.read_blocks(1, np.array([block(segment_id, n) for n in order]))
    np.testing.assert_array_equal(read, sent.kv[order, 1])
    read[:] = 0
    np.testing.assert_array_equal(store.read_blocks(1, [block(segment_id, 0)])[0], sent.kv[0, 1])
    assert store.read_blocks(0, []).shape == (0, 2, SPEC.kv_heads, SPEC.block_size, SPEC.head_dim)


def test_read_blocks_of_one_group_of_heads_each(store):
    sent = segment("a", blocks=3)
    (segment_id,) = store.append("n", [message("a")], [sent])
    order, groups = [2, 0, 2, 2], [1, 0, 0, 1]
    read = store.read_blocks(1, [block(segment_id, n) for n in order], groups=groups)
    np.testing.assert_array_equal(read, sent.kv[order, 1, :, groups])
    assert store.read_blocks(0, [], groups=[]).shape == (0, 2, SPEC.block_size, SPEC.head_dim)


def test_what_a_caller_does_to_its_arrays_later_changes_nothing(store):
    sent = segment("a")
    kept = sent.kv.copy()
    (segment_id,) = store.append("n", [message("a")], [sent])
    sent.kv[:] = 0
    store.landmark_keys([segment_id])[0][:] = 0
    np.testing.assert_array_equal(store.read_blocks(0, [block(segment_id, 0)])[0], kept[0, 0])
    assert store.landmark_keys([segment_id])[0].any()


@pytest.mark.parametrize("block_id", [0, 7, -1, 2**62, 2**70])
def test_unknown_block(store, block_id):
    store.append("n", [message("a")], [segment("a", blocks=2)])
    with pytest.raises(KeyError, match=f"{block_id}|{block_id // 4}"):
        store.read_blocks(0, [block_id])


@pytest.mark.parametrize("layer", [-1, SPEC.layers])
def test_unknown_layer(store, layer):
    with pytest.raises(InvalidArgument, match="layer"):
        store.read_blocks(layer, [])


@pytest.mark.parametrize("segment_id", [0, 99, -1, 2**70])
def test_unknown_segment(store, segment_id):
    store.append("n", [message("a")], [segment("a")])
    store.append("other", [message("a")], [])
    for call in (
        lambda: store.segments("n", [segment_id]),
        lambda: store.landmark_keys([segment_id]),
        lambda: store.drop_kv("n", [segment_id]),
        lambda: store.rewrite("n", [], [(segment_id, segment("a"))]),
    ):
        with pytest.raises(KeyError):
            call()


def test_segments_of_another_namespace_are_unknown(store):
    (segment_id,) = store.append("n", [message("a")], [segment("a")])
    store.append("other", [message("a")], [])
    for call in (
        lambda: store.segments("other", [segment_id]),
        lambda: store.drop_kv("other", [segment_id]),
        lambda: store.rewrite("other", [], [(segment_id, None)]),
    ):
        with pytest.raises(KeyError):
            call()
    assert store.stats("n").kv_bytes


def test_unknown_namespace(store):
    for name in ("n", "\ud800", ""):
        for call in (
            lambda: store.messages(name),  # noqa: B023
            lambda: store.segments(name),  # noqa: B023
            lambda: store.gate_keys(name),  # noqa: B023
            lambda: store.index(name),  # noqa: B023
            lambda: store.search_text(name, "x", 1),  # noqa: B023
            lambda: store.stats(name),  # noqa: B023
            lambda: store.drop_kv(name, []),  # noqa: B023
            lambda: store.rewrite(name, [], []),  # noqa: B023
        ):
            with pytest.raises(NamespaceNotFound):
                call()
        assert store.tail(name) is None
        assert not store.has_message(name, "a")
    with pytest.raises(NamespaceNotFound):
        store.append("n", [], [])
    assert store.namespaces() == []


@pytest.mark.parametrize("name", ["", "\ud800", None])
def test_namespace_that_cannot_be_written(store, name):
    with pytest.raises(InvalidArgument, match="namespace"):
        store.append(name, [message("a")], [])


def test_namespaces_are_apart_and_in_order(store):
    for name in ("b", "a", "ä", "a\0b", "'; --"):
        store.append(name, [message(name, name + " fox")], [segment(name)])
    assert store.namespaces() == sorted(["b", "a", "ä", "a\0b", "'; --"])
    assert [m.id for m in store.messages("b")] == ["b"]
    assert [found for found, _ in store.search_text("b", "fox", 9)] == ["b"]
    assert len(store.gate_keys("b")[0]) == 1


def test_ids_are_kept_as_they_came(store):
    ids = [1, "1", 2**80, -(2**80), str(2**80), 0, "", "a\0b", '"1"', "null"]
    store.append("n", [message(i, f"text {i!r}") for i in ids], [segment(*ids)])
    kept = [m.id for m in store.messages("n")]
    assert [(type(i), i) for i in kept] == [(type(i), i) for i in ids]
    assert [run.message_id for run in store.segments("n")[0].runs] == ids
    assert all(store.has_message("n", i) for i in ids)
    assert not store.has_message("n", 2)
    assert not store.has_message("n", "\ud800")
    store.rewrite("n", ["1"], [(store.segments("n")[0].id, None)])
    assert store.has_message("n", 1)
    assert not store.has_message("n", "1")


def test_duplicate_ids(store):
    def never():
        raise AssertionError("consumed")
        yield

    with pytest.raises(DuplicateMessageId, match="'a'"):
        store.append("n", [message("a"), message("a")], never())
    store.append("n", [message("a")], [])
    with pytest.raises(DuplicateMessageId, match="a"):
        store.append("n", [message("b"), message("a")], never())
    assert [m.id for m in store.messages("n")] == ["a"]
    store.append("other", [message("a")], [])


@pytest.mark.parametrize(
    "bad",
    [
        message("\ud800"),
        message("a", "\udcff"),
        message("a", role="\ud800"),
        message("a", time="\ud800"),
        message("a", metadata={"k": ["\ud800"]}),
        message("a", metadata={"\ud800": 1}),
        message("a", metadata={"k": {1, 2}}),
        message("a", metadata={"k": float("nan")}),
        Message.model_construct(id=b"a", role="user", content="x", time=None, metadata={}),
    ],
    ids=["id", "content", "role", "time", "metadata-value", "metadata-key", "set", "nan", "bytes-id"],
)
def test_messages_that_cannot_be_written(store, bad):
    with pytest.raises(InvalidMessage):
        store.append("n", [message("fine"), bad], [])
    assert store.namespaces() == []


def test_the_iterator_is_lazy_and_its_error_rolls_back(store):
    (tail,) = store.append("n", [message("a")], [segment("a", closed=False)])

    def some():
        yield segment("b", seed=5)
        # a reader sees the state before
        assert [m.id for m in store.messages("n")] == ["a"]
        assert store.tail("n").id == tail
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        store.append("n", [message("b", "zebra")], some(), replaces=tail)
    assert [m.id for m in store.messages("n")] == ["a"]
    assert store.search_text("n", "zebra", 5) == []
    assert_segment(store, "n", tail, segment("a", closed=False))
    assert len(store.segments("n")) == 1


def test_other_threads_read_while_an_append_consumes(store):
    store.append("n", [message("a")], [segment("a")])
    seen = []

    def some():
        thread = threading.Thread(target=lambda: seen.append([m.id for m in store.messages("n")]))
        thread.start()
        thread.join(timeout=20)
        yield segment("b")

    store.append("n", [message("b")], some())
    assert seen == [["a"]]
    assert len(store.messages("n")) == 2


def test_many_threads(store):
    errors = []

    def work(k):
        try:
            for i in range(5):
                (segment_id,) = store.append("n", [message(f"{k}-{i}")], [segment(f"{k}-{i}", seed=k * 10 + i)])
                read = store.read_blocks(0, [block(segment_id, 0)])
                np.testing.assert_array_equal(read[0], segment("x", seed=k * 10 + i).kv[0, 0])
                assert store.search_text("n", "fox", 1)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.stats("n").segments == 20


@pytest.mark.parametrize("call", ["append", "rewrite", "drop_kv", "close"])
def test_no_write_from_within_the_iterator(store, call):
    store.append("n", [message("a")], [segment("a")])
    calls = {
        "append": lambda: store.append("n", [message("c")], []),
        "rewrite": lambda: store.rewrite("n", ["a"], []),
        "drop_kv": lambda: store.drop_kv("n", []),
        "close": store.close,
    }

    def some():
        calls[call]()
        yield segment("b")

    with pytest.raises(InvalidArgument, match="may read the store"):
        store.append("n", [message("b")], some())
    assert [m.id for m in store.messages("n")] == ["a"]


def test_replaces_the_open_tail(store):
    closed, tail = store.append("n", [message("a")], [segment("a"), segment("a", closed=False)])
    (new,) = store.append("n", [message("b")], [segment("a", "b", seed=3)], replaces=tail)
    assert [record.id for record in store.segments("n")] == [closed, new]
    assert new not in (closed, tail)
    assert store.tail("n") is None
    with pytest.raises(KeyError):
        store.read_blocks(0, [block(tail, 0)])


def test_replaces_what_is_not_the_open_tail(store):
    first, tail = store.append("n", [message("a")], [segment("a"), segment("a", closed=False)])
    for wrong in (first, tail + 1, 2**70):
        with pytest.raises(InvalidArgument, match="replaces"):
            store.append("n", [message("b")], [], replaces=wrong)
    with pytest.raises(InvalidArgument, match="replaces"):
        store.append("other", [message("b")], [], replaces=tail)
    assert store.namespaces() == ["n"]
    assert not store.has_message("n", "b")


def test_append_segments_to_messages_that_are_there(store):
    store.append("n", [message("a")], [])
    assert store.tail("n") is None
    assert store.gate_keys("n")[1].shape == (0, SPEC.layers, SPEC.kv_heads, SPEC.head_dim)
    (segment_id,) = store.append("n", [], [segment("a")])
    assert_segment(store, "n", segment_id, segment("a"))


def test_unencoded_messages_are_those_without_a_run(store):
    store.append("n", [message(i) for i in ("b", 1, "1", "a")], [segment("1")])
    assert store.unencoded("n") == ["b", 1, "a"]
    (last,) = store.append("n", [], [segment("b", 1, "a", seed=1)])
    assert store.unencoded("n") == []
    store.rewrite("n", [], [(last, None)])
    assert store.unencoded("n") == ["b", 1, "a"]
    with pytest.raises(NamespaceNotFound):
        store.unencoded("other")


@pytest.mark.parametrize(
    "changes",
    [
        {"gate_key": np.zeros((1, 2, 8), np.uint16)},
        {"gate_key": np.zeros((3, 2, 8), np.float32)},
        {"landmark_keys": np.zeros((1, 3, 2, 8), np.uint16)},
        {"kv": np.zeros((2, 3, 2, 2, 5, 8), np.uint16)},
        {"tokens": np.zeros(2, np.int64)},
        {"tokens": np.zeros(3, np.int32)},
        {"block_content": (1, 2)},
        {"block_content": ()},
        {"runs": (MessageRun("a", 1),)},
        {"runs": (MessageRun("unknown", 2),)},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_segments_that_do_not_fit(store, changes):
    with pytest.raises(InvalidArgument):
        store.append("n", [message("a")], [segment("a"), replace(segment("a"), **changes)])
    assert store.namespaces() == []


def test_rewrite_puts_segments_in_place(store):
    ids = store.append("n", [message(i) for i in "abc"], [segment(i, seed=n) for n, i in enumerate("abc")])
    new = segment("c", "a", seed=9, blocks=1)
    store.rewrite("n", ["b"], ((i, s) for i, s in [(ids[1], new), (ids[2], None)]))
    assert [m.id for m in store.messages("n")] == ["a", "c"]
    assert [record.id for record in store.segments("n")] == ids[:2]
    assert_segment(store, "n", ids[0], segment("a", seed=0))
    assert_segment(store, "n", ids[1], new)
    with pytest.raises(KeyError):
        store.read_blocks(0, [block(ids[1], 1)])
    # ids of what is gone are never given again
    assert store.append("n", [message("d")], [segment("d")])[0] > ids[2]


def test_rewrite_of_nothing_but_segments(store):
    (segment_id,) = store.append("n", [message("a")], [segment("a", kv=False)])
    assert_segment(store, "n", segment_id, segment("a", kv=False))
    store.rewrite("n", [], [(segment_id, segment("a", seed=4))])
    assert_segment(store, "n", segment_id, segment("a", seed=4))


def test_rewrite_of_an_unknown_message_changes_nothing(store):
    (segment_id,) = store.append("n", [message("a")], [segment("a")])
    with pytest.raises(MessageNotFound, match="'b', 1"):
        store.rewrite("n", ["a", "b", 1], [(segment_id, None)])
    assert store.has_message("n", "a")
    assert_segment(store, "n", segment_id, segment("a"))
    with pytest.raises(MessageNotFound, match="'b'"):
        store.messages("n", ["a", "b"])


def test_rewrite_refuses_to_leave_tokens_of_what_it_removes(store):
    first, second = store.append("n", [message("a"), message("b")], [segment("a", "b"), segment("b")])
    with pytest.raises(InvalidArgument, match="'b'"):
        store.rewrite("n", ["b"], [(first, segment("a"))])
    assert store.has_message("n", "b")
    assert_segment(store, "n", first, segment("a", "b"))
    assert_segment(store, "n", second, segment("b"))


def test_rewrite_rolls_back_what_its_iterator_raises(store):
    ids = store.append("n", [message("a"), message("b")], [segment("a"), segment("b", seed=1)])

    def some():
        yield ids[0], None
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"):
        store.rewrite("n", ["a"], some())
    assert [m.id for m in store.messages("n")] == ["a", "b"]
    assert_segment(store, "n", ids[0], segment("a"))


def test_a_namespace_ends_with_its_last_message(store):
    (segment_id,) = store.append("n", [message("a")], [segment("a")])
    store.append("other", [message("a")], [segment("a")])
    store.rewrite("n", ["a"], [(segment_id, None)])
    assert store.namespaces() == ["other"]
    with pytest.raises(NamespaceNotFound):
        store.messages("n")
    store.append("n", [message("a")], [])
    assert store.segments("n") == []


def test_drop_kv(store):
    first, second = store.append("n", [message("a")], [segment("a"), segment("a", seed=1)])
    with pytest.raises(KeyError):
        store.drop_kv("n", [first, 99])
    assert store.segments("n")[0].has_kv
    store.drop_kv("n", [first])
    assert_segment(store, "n", first, replace(segment("a"), kv=None))
    assert_segment(store, "n", second, segment("a", seed=1))
    with pytest.raises(KeyError, match="dropped"):
        store.read_blocks(0, [block(first, 0)])
    store.drop_kv("n", [first])


def test_stats(store):
    one = segment("a", "é", blocks=3)
    (segment_id,) = store.append("n", [message("a", "four"), message("é", "é\0")], [one])
    key_bytes = one.gate_key.nbytes + one.landmark_keys.nbytes
    assert store.stats("n") == StoreStats(2, 1, 3, 6, one.kv.nbytes, key_bytes, 7)
    store.drop_kv("n", [segment_id])
    assert store.stats("n").kv_bytes == 0


def test_close(store):
    store.append("n", [message("a")], [])
    store.close()
    store.close()
    for call in (
        lambda: store.append("n", [message("b")], []),
        lambda: store.rewrite("n", [], []),
        lambda: store.messages("n"),
        lambda: store.has_message("n", "a"),
        lambda: store.segments("n"),
        lambda: store.unencoded("n"),
        lambda: store.tail("n"),
        lambda: store.gate_keys("n"),
        lambda: store.index("n"),
        lambda: store.landmark_keys([1]),
        lambda: store.read_blocks(0, [1]),
        lambda: store.drop_kv("n", []),
        lambda: store.search_text("n", "x", 1),
        store.namespaces,
        lambda: store.stats("n"),
    ):
        with pytest.raises(InvalidArgument, match="closed"):
            call()


def test_arrays_of_another_spec_are_refused(store):
    with pytest.raises(InvalidArgument, match="gate_key"):
        store.append("n", [message("a")], [segment("a", spec=OTHER)])
