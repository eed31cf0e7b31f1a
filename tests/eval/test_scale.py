"""Cost against size, at sizes of a moment."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hierlandmark.errors import InvalidArgument
from hierlandmark.eval.peers.faiss import Faiss
from hierlandmark.eval.scale import make, measure_scale, scale_cells

FIELDS = {
    "blocks", "row", "p50_ms", "p95_ms", "keys_scored", "resident_bytes", "index_bytes", "build_s", "agreement@10",
    "best@10",
}  # fmt: skip


def test_one_record_a_size_and_row() -> None:
    found = list(measure_scale([300, 2000], ["index", "numpy"], width=16))
    assert [(one["blocks"], one["row"]) for one in found] == [
        (304, "index"), (304, "numpy"), (2000, "index"), (2000, "numpy"),
    ]  # fmt: skip
    assert all(set(one) == FIELDS for one in found)
    flat, index = found[3], found[2]
    assert flat["agreement@10"] == 1 and flat["keys_scored"] == 2000
    # 64 of 250 segments, and the gates of 12 of 16 cells
    assert index["keys_scored"] < 0.45 * flat["keys_scored"]
    assert index["resident_bytes"] < 0.3 * flat["resident_bytes"]
    assert scale_cells(found)[1][:2] == ["index", "304"]


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_faiss_over_the_same_vectors(kind: str) -> None:
    pytest.importorskip("faiss")
    (found,) = measure_scale([400], [f"faiss-{kind}"], width=8)
    assert found["agreement@10"] == 1 if kind == "flat" else found["agreement@10"] > 0.5
    assert found["resident_bytes"] >= 400 * 8 * 4


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_faiss_bytes_are_those_that_it_writes(kind: str) -> None:
    faiss = pytest.importorskip("faiss")
    peer = Faiss(np.random.default_rng(0).normal(size=(400, 8)).astype(np.float32), kind)  # type: ignore[arg-type]
    assert peer.index_bytes == len(faiss.serialize_index(peer._index))


def test_a_memory_s_segments_are_repeated_whole(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    source = SimpleNamespace(
        blocks=rng.normal(size=(13, 6)).astype(np.float32),
        gates=rng.normal(size=(2, 6)).astype(np.float32),
        starts=np.array([0, 8, 13]),
    )
    made = make(100, tmp_path, source)  # type: ignore[arg-type]
    assert made.blocks.shape == (104, 6) and made.gates.shape == (13, 6)
    near = ((made.blocks[:, None] - source.blocks) ** 2).sum(-1).argmin(1).reshape(13, 8)
    # mostly: noise may bring a block nearer to another
    whole = [row.tolist() in ([*range(8)], [8, 9, 10, 11, 12, 8, 9, 10]) for row in near]
    assert sum(whole) >= 4
    again = make(100, tmp_path, source)  # type: ignore[arg-type]
    np.testing.assert_array_equal(made.queries, again.queries)


def test_arguments() -> None:
    with pytest.raises(InvalidArgument, match="at least 100 blocks, got 10"):
        next(measure_scale([10]))
    with pytest.raises(InvalidArgument, match=r"expected rows among index, numpy, .* for a scale, got bm25"):
        next(measure_scale([100], ["bm25"]))
