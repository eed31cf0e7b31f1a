"""A memory searched through its index: the same hits, whatever was added, forgotten or filtered."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch

from hierlandmark import Memory, MemoryConfig
from hierlandmark.config import RecallConfig
from hierlandmark.errors import IndexNotFound, NamespaceNotFound
from hierlandmark.model import LandmarkModel
from tests.memory.indexed import CHAT, N, few, folder_of, hits, same, voting_model


@pytest.fixture(scope="module")
def model() -> LandmarkModel:
    return voting_model()


@pytest.fixture(params=["file", ":memory:"])
def memory(request: pytest.FixtureRequest, model: LandmarkModel, tmp_path: Path):
    path = tmp_path / "m.db" if request.param == "file" else request.param
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        yield memory


def test_without_an_index_it_says_how_to_make_one(memory: Memory) -> None:
    with pytest.raises(IndexNotFound, match=r"Memory\.build_index"):
        memory.search("word37", mode="index")
    assert memory.stats().index is None
    memory.drop_index()


def test_hits_and_scores_are_those_of_hierarchical(memory: Memory) -> None:
    seen: list[tuple[int, int]] = []
    report = memory.build_index(progress=lambda *done: seen.append(done))
    stats = memory.stats()
    assert (report.segments, report.blocks) == (stats.segments, stats.blocks)
    assert seen[-1] == (stats.segments, stats.segments)
    same(memory)
    assert stats.index is not None and stats.index.bytes == report.bytes > 0
    if memory._is_file:
        assert report.bytes == sum(file.stat().st_size for file in folder_of(memory).iterdir())
    assert (stats.index.segments, stats.index.current, stats.index.behind) == (stats.segments, stats.segments, 0)


def test_a_message_is_damped_by_all_of_its_blocks(model: LandmarkModel) -> None:
    """Also by those in segments that were not opened, as without an index."""
    summed = LandmarkModel(
        model.core, model.tokenizer, "summed", kv_dtype=torch.float32, retrieval=model.retrieval, ranking="sum"
    )
    config = MemoryConfig(recall=RecallConfig(index_cells=99, search_segments=20))
    long = [{"id": i, "role": "user", "content": f"word{i} " * (3 + 97 * (i % 3))} for i in range(9)]
    with Memory.open(":memory:", model=summed, config=config) as memory:
        memory.add(long)
        memory.build_index()
        for query in ("word4", "word8 of", "word1"):
            assert hits(memory, query, 1) == hits(memory, query, 1, "hierarchical")
        # what came later stands in no index
        memory.add([{"id": 9, "role": "user", "content": "word9 " * 150}])
        for query in ("word9", "word4", "word8 of"):
            assert hits(memory, query, 1) == hits(memory, query, 1, "hierarchical")


def test_few_cells_score_fewer_gates_and_still_find_k(memory: Memory) -> None:
    memory.build_index()
    memory.config = few(1, 2)
    some, exact = (memory.search("word37", 1, mode=mode) for mode in ("index", "hierarchical"))
    voting = 2
    assert some.cost.gate_keys < memory.stats().segments * voting
    assert some.cost.landmark_keys <= 2 * voting * memory.model.layout.blocks_per_segment
    assert exact.cost.gate_keys > some.cost.gate_keys
    # scores are shares of the votes on what was opened
    assert 0 < some.hits[0].score <= 1
    assert len(hits(memory, "word37", N)) == N
    assert hits(memory, "word37", 3) == hits(memory, "word37", 3)


def test_what_came_later_is_searched_beside_it(memory: Memory) -> None:
    memory.add([{"id": f"late {i}", "role": "user", "content": f"later word{i}"} for i in range(3)])
    # the last segment so far is full, and closed
    memory.add([{"id": 899, "role": "user", "content": "a tail"}])
    memory.build_index()
    before = memory.stats().segments
    memory.add([{"id": 900 + i, "role": "user", "content": f"added {i} word{i * 37 % 101}"} for i in range(12)])
    same(memory)
    assert 905 in [one[0] for one in hits(memory, "added 5", 2 * N)]
    found = memory.stats()
    assert found.index is not None
    # the open tail was written anew
    assert (found.index.segments, found.index.current) == (before, before - 1)
    assert found.index.behind == found.segments - (before - 1)
    # with one cell open, those beside are all looked at
    memory.config = few(1, 1)
    cost = memory.search("word37", 1, mode="index").cost
    assert cost.gate_keys >= 2 * found.index.behind
    memory.build_index()
    assert memory.stats().index.behind == 0


def test_what_was_forgotten_is_not_found_and_leaves_no_trace(memory: Memory) -> None:
    memory.build_index()
    (segment,) = {hit.segment for hit in memory.search("message 16", N, mode="index").hits if hit.message_ids == [16]}
    index = memory._index
    assert index is not None
    (place,) = np.flatnonzero(index.built.ids == segment)
    (keys,) = index.built.vectors.landmarks([place])
    assert keys is not None and keys.any()
    keys, gone = keys.copy(), index.built.vectors._gates[index.built.vectors._order == place].copy()
    memory.forget([16])
    same(memory)
    assert 16 not in [one[0] for one in hits(memory, "message 16", N)]
    assert len(hits(memory, "message 16", N)) == N - 1
    if memory.path != ":memory:":
        for file in folder_of(memory).iterdir():
            for row in (*keys, *gone):
                assert row.tobytes() not in file.read_bytes()
        with Memory.open(memory.path, model=memory.model) as again:
            same(again)
    else:
        assert not index.built.vectors._blocks[index.built.vectors._starts[place]].any()


def test_what_the_index_held_of_an_open_segment_goes_too(memory: Memory) -> None:
    memory.build_index()
    index = memory._index
    assert index is not None
    place = int(index.built.ids.argmax())
    (keys,) = index.built.vectors.landmarks([place])
    assert keys is not None and keys.any()
    keys = keys.copy()
    if memory.path != ":memory:":
        held = (folder_of(memory) / "landmarks.npy").read_bytes()
        # short blocks of other segments may say the same
        keys = np.stack([row for row in keys if held.count(row.tobytes()) == 1])
        assert len(keys)
    # the open segment is written anew: the index holds one that stands no more
    memory.add([{"id": "later", "role": "user", "content": "one more"}])
    memory.forget([N - 1])
    if memory.path != ":memory:":
        for file in folder_of(memory).iterdir():
            for row in keys:
                assert row.tobytes() not in file.read_bytes()
    else:
        assert not index.built.vectors._blocks[index.built.vectors._starts[place]].any()
    memory.forget([*range(N - 1), "later"])
    assert memory._index is None
    if memory.path != ":memory:":
        assert not folder_of(memory).exists()


def test_an_index_stays_while_anything_is_remembered(memory: Memory) -> None:
    memory.forget(range(5, N))
    memory.build_index()
    # every segment that it holds loses something
    memory.forget([0, 2, 4])
    assert memory.stats().index is not None
    same(memory)
    assert {one[0] for one in hits(memory, "message 1", N)} == {1, 3}


def test_an_index_of_nothing_is_removed(memory: Memory) -> None:
    memory.build_index()
    memory.forget(range(N))
    with pytest.raises(NamespaceNotFound):
        memory.search("word37", mode="index")
    memory.add(CHAT[:5])
    with pytest.raises(IndexNotFound):
        memory.search("word37", mode="index")
    assert not Path(f"{memory.path}.index").exists()


@pytest.mark.parametrize(
    "where",
    [
        {"roles": ["user"]},
        {"since": "2026-03-05", "until": "2026-03-09"},
        {"metadata": {"even": True}},
        {"roles": ["nobody"]},
    ],
)
def test_filters(memory: Memory, where: dict) -> None:
    memory.build_index()
    memory.add([{**one, "id": f"late {one['id']}"} for one in CHAT[:9]])
    memory.forget([3, 4])
    same(memory, where=where)
    memory.config = few(1, 1)
    matching = {one[0] for one in hits(memory, "word37", 3 * N, "hierarchical", where=where)}
    assert {one[0] for one in hits(memory, "word37", 3 * N, where=where)} == matching
    found = hits(memory, "word37", 2, where=where)
    assert len(found) == min(2, len(matching)) and {one[0] for one in found} <= matching


def test_neighbours_and_trace_come_too(memory: Memory) -> None:
    memory.build_index()
    found, exact = (memory.search("word37", 3, mode=mode, neighbours=1) for mode in ("index", "hierarchical"))
    assert [hit.before for hit in found.hits] == [hit.before for hit in exact.hits]
    assert [(one.block, round(one.mass, 5)) for one in found.trace.blocks] == [
        (one.block, round(one.mass, 5)) for one in exact.trace.blocks
    ]
    assert sum(one.mass for one in found.trace.segments) <= 1 + 1e-5


def test_equal_messages_keep_their_order(model: LandmarkModel) -> None:
    capacity = model.layout.segment_capacity
    with Memory.open(":memory:", model=model) as memory:
        probe = Memory.open(":memory:", model=model)
        probe.add([{"id": 0, "role": "user", "content": "x"}])
        around = probe.stats().tokens - 1
        probe.close()
        memory.add([{"id": i, "role": "user", "content": "a" * (capacity - around)} for i in range(30)])
        assert memory.stats().segments == 30
        memory.build_index()
        for cells in (1, 12):
            memory.config = few(cells)
            assert [one[0] for one in hits(memory, "a", 30)] == list(range(30))


@pytest.mark.parametrize("keep", ["search", "all"])
def test_memories_for_search_only_and_with_a_budget(tmp_path: Path, model: LandmarkModel, keep: str) -> None:
    config = MemoryConfig(keep=keep, kv_budget_bytes=0)
    with Memory.open(tmp_path / "m.db", model=model, config=config) as memory:
        memory.add(CHAT)
        memory.build_index()
        memory.add([{"id": "late", "role": "user", "content": "later"}])
        same(memory)


def test_async_twins(model: LandmarkModel) -> None:
    async def run() -> None:
        async with Memory.open(":memory:", model=model) as memory:
            await memory.aadd(CHAT)
            assert (await memory.abuild_index()).segments > 1
            assert (await memory.asearch("word37", 3, mode="index")).hits
            await memory.adrop_index()
            assert (await memory.astats()).index is None

    asyncio.run(run())
