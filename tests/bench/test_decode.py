"""What the decoding benchmark measures over: memories of the right size, copies that read alike, text used again."""

import numpy as np
import pytest

from hierlandmark.bench.decode import bench_decode, fill
from hierlandmark.store import SQLiteStore
from hierlandmark.testing import tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def test_copies_hold_the_same_blocks_under_other_gates(model, tmp_path):
    with SQLiteStore(tmp_path / "d.db", model.kv_spec) as store:
        fill(store, "n", model, 9, 4, None)
        records, gates = store.index("n")
        assert len(records) == 9 and len({gate.tobytes() for gate in gates}) == 9
        for first, copy in ((0, 4), (0, 8), (3, 7)):
            assert (records[first].tokens == records[copy].tokens).all()
            assert 0 < np.abs(gates[first] - gates[copy]).max() < 0.5 * gates[first].std()
            blocks = [records[i].id * model.layout.blocks_per_segment for i in (first, copy)]
            assert (np.diff(store.read_blocks(1, blocks), axis=0) == 0).all()


def test_a_database_is_used_again_and_grows(model, tmp_path):
    with SQLiteStore(tmp_path / "d.db", model.kv_spec) as store:
        fill(store, "n", model, 3, 4, None)
        fill(store, "n", model, 6, 4, None)
        grown, gates = store.index("n")
    with SQLiteStore(tmp_path / "e.db", model.kv_spec) as store:
        fill(store, "n", model, 6, 4, None)
        once, wanted = store.index("n")
    assert [list(record.tokens) for record in grown] == [list(record.tokens) for record in once]
    np.testing.assert_allclose(gates, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("encode_all", [False, True])
def test_each_size_is_measured_beside_nothing(model, tmp_path, encode_all):
    options = {"lengths": (0, 96, 320), "encoded": 2, "repeats": 2, "new_tokens": 3, "encode_all": encode_all}
    rows = list(bench_decode(model, db=tmp_path / "d.db", **options))
    assert [(row["mode"], row["segments"]) for row in rows] == [
        (mode, segments) for mode in ("hierarchical", "flat") for segments in (0, 3, 10)
    ]
    assert {row["filled"] for row in rows} == {"encoded" if encode_all else "copies"}
    assert all(len(row["tokens_per_s"]) == len(row["empty_tokens_per_s"]) == 2 for row in rows)
    nothing, few, many = rows[3:]
    assert nothing["keys_a_token"] == nothing["blocks_a_token"] == 0 < few["blocks_a_token"]
    assert {row["stride"] for row in rows} == {1}
    # a pass of flat scores every landmark of 3 and of 10 segments, whose blocks are all full
    a_segment = model.core.layers * model.core.kv_heads * model.layout.blocks_per_segment
    assert (few["keys_a_token"], many["keys_a_token"]) == (3 * a_segment, 10 * a_segment)
