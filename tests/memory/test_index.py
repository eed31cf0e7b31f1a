"""The vector index: limit cases equal brute force, landmarks of closed segments are never read."""

from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from hierlandmark.errors import InvalidArgument, StoreCorrupt
from hierlandmark.memory.index import VectorIndex


def made(G: int = 60, V: int = 12, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gates, blocks and starts of segments with 1 to 8 blocks; a gate is the mean of its blocks."""
    rng = np.random.default_rng(seed)
    starts = np.cumsum([0, *rng.integers(1, 9, size=G)])
    # of one length: an inner product prefers long vectors, whatever they are about
    topics = rng.normal(size=(G, V))
    topics = (topics / np.linalg.norm(topics, axis=1, keepdims=True)).repeat(np.diff(starts), axis=0)
    blocks = (topics + 0.05 * rng.normal(size=topics.shape)).astype(np.float32)
    gates = np.stack([blocks[a:b].mean(0) for a, b in pairwise(starts)])
    return gates, blocks, starts


def brute(blocks: np.ndarray, query: np.ndarray, k: int) -> list[int]:
    return np.argsort(-(blocks @ query), kind="stable")[:k].tolist()


@pytest.mark.parametrize("k", [1, 10, 1000])
def test_everything_open_is_brute_force(tmp_path: Path, k: int) -> None:
    gates, blocks, starts = made()
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    for query in np.random.default_rng(1).normal(size=(5, 12)).astype(np.float32):
        found = index.search(query, k, cells=index.n_cells, segments=index.n_segments)
        assert found.blocks.tolist() == brute(blocks, query, k)
        np.testing.assert_allclose(found.scores, np.sort(blocks @ query)[::-1][:k], rtol=1e-5)
        assert (found.gate_keys, found.landmark_keys) == (60, len(blocks))
        assert found.bytes_read == blocks.nbytes


def test_a_block_is_found_by_its_own_vector_with_a_part_of_the_keys(tmp_path: Path) -> None:
    gates, blocks, starts = made(G=600)
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    places = np.random.default_rng(2).integers(len(blocks), size=50)
    found = [index.search(blocks[at], 10, cells=8, segments=8) for at in places]
    assert sum(at in one.blocks for at, one in zip(places, found, strict=True)) >= 45
    assert max(one.gate_keys + one.landmark_keys for one in found) < 0.15 * len(blocks)


def test_only_opened_segments_are_read(tmp_path: Path) -> None:
    gates, blocks, starts = made()
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    query = blocks[7]
    found = index.search(query, 100, cells=3, segments=2)
    opened = {int(s) for s in np.searchsorted(starts, found.blocks, side="right") - 1}
    assert len(opened) == 2
    assert found.landmark_keys == len(found.blocks) == sum(starts[s + 1] - starts[s] for s in opened)
    # with other landmarks everywhere else the answer stays
    other = np.full_like(blocks, np.nan)
    for s in opened:
        other[starts[s] : starts[s + 1]] = blocks[starts[s] : starts[s + 1]]
    again = VectorIndex.build(tmp_path / "nan", gates, other, starts).search(query, 100, cells=3, segments=2)
    assert again.blocks.tolist() == found.blocks.tolist()


def test_reopened_is_the_same_and_holds_gates_only(tmp_path: Path) -> None:
    gates, blocks, starts = made()
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    again = VectorIndex.open(tmp_path)
    assert again.search(gates[3], 5).blocks.tolist() == index.search(gates[3], 5).blocks.tolist()
    assert gates.nbytes < again.resident_bytes < gates.nbytes + blocks.nbytes
    assert again.index_bytes >= gates.nbytes + blocks.nbytes
    assert isinstance(again._blocks, np.memmap)


def test_a_file_that_was_cut_is_named(tmp_path: Path) -> None:
    index = VectorIndex.build(tmp_path, *made())
    path = tmp_path / "landmarks.npy"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    with pytest.raises(StoreCorrupt, match="shorter than it was"):
        index.search(made()[0][0], cells=8, segments=60)


def test_arrays_in_memory_do_as_well_as_a_file(tmp_path: Path) -> None:
    gates, blocks, starts = made()
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    here = VectorIndex.hold([(gates, blocks)], starts, 12)
    assert here.search(blocks[5], 20).blocks.tolist() == index.search(blocks[5], 20).blocks.tolist()


def test_ties_keep_text_order(tmp_path: Path) -> None:
    ones = np.ones((9, 4), dtype=np.float32)
    index = VectorIndex.build(tmp_path, ones[:3], ones, np.array([0, 3, 6, 9]), cells=1)
    assert index.search(ones[0], 4).blocks.tolist() == [0, 1, 2, 3]


def test_arguments(tmp_path: Path) -> None:
    gates, blocks, starts = made()
    with pytest.raises(InvalidArgument, match="that rises from 0 to N"):
        VectorIndex.build(tmp_path, gates, blocks[1:], starts)
    with pytest.raises(InvalidArgument, match="1 to 60 cells, got 61"):
        VectorIndex.build(tmp_path, gates, blocks, starts, cells=61)
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    with pytest.raises(InvalidArgument, match="k of at least 1, got 0"):
        index.search(gates[0], 0)
    with pytest.raises(InvalidArgument, match=r"query of shape \(12,\), got \(3,\)"):
        index.search(np.ones(3))


@pytest.mark.parametrize("starts", [[1, 4, 9], [0, 12, 9], [0.0, 4.5, 9.0], [0, 0, 0], [0], [[0, 4, 9]]], ids=repr)
def test_pieces_with_starts_that_do_not_rise_leave_the_index_as_it_was(tmp_path: Path, starts: list) -> None:
    VectorIndex.build(tmp_path, *made()).close()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    pieces = [(np.ones((2, 12), np.float32), np.ones((9, 12), np.float32))]
    with pytest.raises(InvalidArgument, match="rise from 0"):
        VectorIndex.write(tmp_path, pieces, np.array(starts), 12)
    with pytest.raises(InvalidArgument, match="rise from 0"):
        VectorIndex.hold(pieces, np.array(starts), 12)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


FILES = ("landmarks.npy", "gates.npy", "tables.npz", "index.json")


def test_an_open_index_outlives_a_build_in_its_folder(tmp_path: Path) -> None:
    gates, blocks, starts = made()
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    before = index.search(blocks[7], 20)
    # of one size, so that nothing but the vectors tells the two apart
    VectorIndex.build(tmp_path, -gates, -blocks, starts)
    after = index.search(blocks[7], 20)
    assert after.blocks.tolist() == before.blocks.tolist() and after.scores.tolist() == before.scores.tolist()
    assert VectorIndex.open(tmp_path).search(-blocks[7], 20).blocks.tolist() == before.blocks.tolist()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_files_of_two_builds_do_not_fit(tmp_path: Path, name: str) -> None:
    for folder in ("a", "b"):
        VectorIndex.build(tmp_path / folder, *made())
    (tmp_path / "b" / name).replace(tmp_path / "a" / name)
    with pytest.raises(StoreCorrupt, match="do not fit"):
        VectorIndex.open(tmp_path / "a")


def test_a_build_that_fails_leaves_the_index_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gates, blocks, starts = made()
    VectorIndex.build(tmp_path, gates, blocks, starts)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        VectorIndex.build(tmp_path, -gates, -blocks, starts)
    assert VectorIndex.open(tmp_path).search(blocks[7], 1).scores[0] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


@pytest.mark.parametrize("name", FILES)
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreCorrupt, match="build it anew"):
        VectorIndex.open(tmp_path)
    VectorIndex.build(tmp_path, *made())
    path = tmp_path / name
    whole = path.read_bytes()
    cuts = {*range(0, 300, 7), *range(0, len(whole), 97), len(whole) - 2}
    damaged = [whole[:cut] for cut in sorted(cuts) if cut < len(whole) - 1]
    damaged += [b"[]", b"null", b"\xff\xfe", b'{"build": 1}', whole[::-1]]
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(StoreCorrupt, match="build it anew"):
            VectorIndex.open(tmp_path)
    # every byte is either named as damaged where it is used, or says nothing
    path.write_bytes(whole)
    query, everything = np.ones(12), {"k": 20, "cells": 60, "segments": 60}
    wanted = VectorIndex.open(tmp_path).search(query, **everything)
    for at in (
        *range(min(100, len(whole))),
        *range(100, len(whole), 101),
        *range(max(0, len(whole) - 300), len(whole)),
    ):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        with suppress(StoreCorrupt):
            found = VectorIndex.open(tmp_path).search(query, **everything)
            assert (found.blocks.tolist(), found.scores.tolist()) == (wanted.blocks.tolist(), wanted.scores.tolist())


def test_wiped_segments_leave_nothing(tmp_path: Path) -> None:
    gates, blocks, starts = made()
    index, held = VectorIndex.build(tmp_path, gates, blocks, starts), VectorIndex.hold([(gates, blocks)], starts, 12)
    reader = VectorIndex.open(tmp_path)
    for one in (index, held):
        one.wipe(np.array([3, 40]))
        one.wipe(np.array([7]))
    again = VectorIndex.open(tmp_path)
    gone = {int(b) for s in (3, 7, 40) for b in range(starts[s], starts[s + 1])}
    for one in (index, held, again):
        found = one.search(blocks[starts[40]], 10_000, cells=60, segments=60)
        assert {*found.blocks.tolist()} == {*range(len(blocks))} - gone
        assert one.tables["gone"].sum() == 3
    for path in tmp_path.iterdir():
        assert not any(row.tobytes() in path.read_bytes() for row in (*blocks[sorted(gone)], gates[40], gates[7]))
    # one that was open knows its landmarks by their checksum
    with pytest.raises(StoreCorrupt, match="damaged"):
        reader.search(blocks[starts[40]], 5, cells=60, segments=60)


@pytest.mark.parametrize("cells", [None, 3])
@pytest.mark.parametrize("sign", [1, -1])
def test_another_build_in_its_place_is_left_alone(tmp_path: Path, cells: int | None, sign: int) -> None:
    gates, blocks, starts = made()
    index = VectorIndex.build(tmp_path, gates, blocks, starts)
    VectorIndex.build(tmp_path, sign * gates, sign * blocks, starts, cells=cells)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreCorrupt, match="another build"):
        index.wipe(np.array([1]))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    "change",
    [
        {"starts": lambda a: a[::-1].copy()},
        {"starts": lambda a: a[:-1]},
        {"starts": lambda a: a.astype(np.float64)},
        {"order": lambda a: np.zeros_like(a)},
        {"order": lambda a: a[None]},
        {"cells": lambda a: a + 1},
        {"cells": lambda a: a[:0]},
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, change: dict) -> None:
    VectorIndex.build(tmp_path, *made())
    with np.load(tmp_path / "tables.npz") as held:
        tables = {name: held[name] for name in held.files}
    np.savez(tmp_path / "tables.npz", **{name: change.get(name, np.copy)(tables[name]) for name in tables})
    with pytest.raises(StoreCorrupt, match="build it anew"):
        VectorIndex.open(tmp_path)
