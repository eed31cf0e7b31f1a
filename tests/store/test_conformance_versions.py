"""What tells a segment from an earlier one under its id, and reads that belong together."""

import numpy as np
import pytest

from tests.store.builders import SPEC, message, segment


def block(segment_id, n):
    return segment_id * SPEC.blocks_per_segment + n


def test_a_rewritten_segment_has_another_version(store):
    one, other = segment("a", "b", seed=1), segment("b", seed=2)
    kept, changed = store.append("n", [message("a"), message("b")], [segment("b", seed=3), one])
    before = [record.version for record in store.segments("n")]
    assert store.landmark_keys([changed, kept], before[::-1])
    # read once: what was known of versions before a write does not outlive it
    assert len(store.read_blocks(0, [block(kept, 0), block(changed, 1)], before)) == 2
    store.rewrite("n", ["a"], [(changed, other)])
    after = [record.version for record in store.segments("n")]
    assert after[0] == before[0] and after[1] != before[1]
    blocks = [block(kept, 0), block(changed, 1), block(changed, 0)]
    with pytest.raises(KeyError, match="rewritten"):
        store.landmark_keys([kept, changed], before)
    with pytest.raises(KeyError, match="rewritten"):
        store.read_blocks(0, blocks, [before[0], before[1], before[1]])
    np.testing.assert_array_equal(store.landmark_keys([changed], after[1:])[0], other.landmark_keys)
    read = store.read_blocks(0, blocks, [after[0], after[1], after[1]])
    np.testing.assert_array_equal(read[1:], other.kv[[1, 0], 0])
    for gone in (changed + 1, -1, 2**70):
        with pytest.raises(KeyError):
            store.read_blocks(0, [block(gone, 0)], [0])
    # the same text again is the same version: its keys are a function of it
    store.rewrite("n", [], [(changed, other)])
    assert [record.version for record in store.segments("n")] == after


def test_index_is_segments_and_gates(store):
    sent = [segment("a", seed=1), segment("a", seed=2, blocks=3, closed=False)]
    ids = store.append("n", [message("a")], sent)
    records, gates = store.index("n")
    assert [record.id for record in records] == ids
    assert [record.version for record in records] == [record.version for record in store.segments("n")]
    np.testing.assert_array_equal(gates, [one.gate_key for one in sent])
    store.append("other", [message("a")], [])
    records, gates = store.index("other")
    assert records == [] and gates.shape == (0, SPEC.layers, SPEC.kv_heads, SPEC.head_dim)
