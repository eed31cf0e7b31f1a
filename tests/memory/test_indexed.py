"""A memory searched through its index: the same hits, whatever was added, forgotten, damaged or built meanwhile."""

import asyncio
import gc
import json
import os
import subprocess
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch

from hierlandmark import Memory, MemoryConfig
from hierlandmark.config import RecallConfig
from hierlandmark.errors import (
    IndexNotFound,
    InvalidArgument,
    ModelMismatch,
    NamespaceNotFound,
    StoreCorrupt,
    StoreNotWritable,
)
from hierlandmark.memory.index_build import current_build, index_folder
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.testing import tiny_model

N = 40
CHAT = [
    {
        "id": i,
        "role": "user" if i % 2 else "assistant",
        "content": f"message {i} says word{i * 37 % 101} of {i * 7}",
        "time": f"2026-03-{i % 28 + 1:02}",
        "metadata": {"even": i % 2 == 0},
    }
    for i in range(N)
]
QUERIES = ("word37", "message 12", "of 70")


def few(cells: int, segments: int = 20) -> MemoryConfig:
    return MemoryConfig(recall=RecallConfig(index_cells=cells, search_segments=segments))


@pytest.fixture(scope="module")
def model() -> LandmarkModel:
    found = tiny_model()
    heads = (RetrievalHead(layer=0, head=3), RetrievalHead(layer=1, head=1, weight=0.5))
    return LandmarkModel(found.core, found.tokenizer, "indexed", kv_dtype=torch.float32, retrieval=heads)


@pytest.fixture(params=["file", ":memory:"])
def memory(request: pytest.FixtureRequest, model: LandmarkModel, tmp_path: Path):
    path = tmp_path / "m.db" if request.param == "file" else request.param
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        yield memory


def hits(memory: Memory, query: str, k: int = 5, mode: str = "index", **options: object) -> list[tuple]:
    found = memory.search(query, k, mode=mode, **options).hits
    return [(hit.message_ids[0], round(hit.score, 5), hit.block, hit.segment) for hit in found]


def same(memory: Memory, **options: object) -> None:
    """Through the index and without it, hits and scores are the same: all is opened, or all gates are scored."""
    for query in QUERIES:
        for k in (1, 5, 2 * N):
            found = hits(memory, query, k, **options)
            assert found == hits(memory, query, k, "hierarchical", **options)
            assert len(found) <= k and len({one[0] for one in found}) == len(found)


def folder_of(memory: Memory) -> Path:
    folder = index_folder(memory.path, memory.namespace)
    return folder / str(current_build(folder))


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
    (segment,) = {hit.segment for hit in memory.search("message 12", N, mode="index").hits if hit.message_ids == [12]}
    index = memory._index
    assert index is not None
    (place,) = np.flatnonzero(index.built.ids == segment)
    (keys,) = index.built.vectors.landmarks([place])
    assert keys is not None and keys.any()
    keys, gone = keys.copy(), index.built.vectors._gates[index.built.vectors._order == place].copy()
    memory.forget([12])
    same(memory)
    assert 12 not in [one[0] for one in hits(memory, "message 12", N)]
    assert len(hits(memory, "message 12", N)) == N - 1
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


def test_the_index_is_that_of_the_file_whatever_it_is_called(
    model: LandmarkModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "link.db").symlink_to(tmp_path / "a" / "m.db")
    monkeypatch.chdir(tmp_path / "a")
    with Memory.open("m.db", model=model) as memory:
        memory.add(CHAT[:6])
        memory.build_index()
        monkeypatch.chdir(tmp_path)
        assert memory.stats().file_bytes > 0
        assert memory.stats().index is not None
    folder = index_folder(tmp_path / "a" / "m.db", "default")
    assert folder.exists()
    with Memory.open(tmp_path / "link.db", model=model) as memory:
        memory.forget(range(6))
    assert not folder.exists()


def test_an_index_stays_while_anything_is_remembered(memory: Memory) -> None:
    memory.forget(range(5, N))
    memory.build_index()
    # every segment that it holds loses something
    memory.forget([0, 2, 4])
    assert memory.stats().index is not None
    same(memory)
    assert {one[0] for one in hits(memory, "message 1", N)} == {1, 3}


def test_a_closed_memory_keeps_its_index(model: LandmarkModel, tmp_path: Path) -> None:
    with Memory.open(tmp_path / "m.db", model=model) as memory:
        memory.add(CHAT[:6])
        memory.build_index()
    with pytest.raises(InvalidArgument, match="closed"):
        memory.drop_index()
    assert folder_of(memory).exists()


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


def test_it_outlives_a_restart_and_holds_no_landmarks(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, "a/b ü", model=model) as memory:
        memory.add(CHAT)
        memory.build_index()
        before = hits(memory, "word37")
    with Memory.open(path, "a/b ü", model=model, read_only=True) as memory:
        assert hits(memory, "word37") == before
        vectors = memory._index.built.vectors
        assert vectors.resident_bytes < vectors.index_bytes and isinstance(vectors._blocks, np.memmap)
        with pytest.raises(StoreNotWritable):
            memory.build_index()
        with pytest.raises(StoreNotWritable):
            memory.drop_index()
    # another namespace has none
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT[:3])
        with pytest.raises(IndexNotFound, match=r"hierarchical|hierlandmark index --db"):
            memory.search("word37", mode="index")


def test_damage_never_changes_a_hit(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        memory.build_index()
        folder, exact = folder_of(memory), hits(memory, "word37", 9)
    outcomes = set()
    for file in (*sorted(folder.iterdir()), folder.parent / "current"):
        whole = file.read_bytes()
        places = {*range(0, len(whole), max(1, len(whole) // 25)), len(whole) - 1}
        for data in [*(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :] for at in places), whole[:40], b""]:
            file.write_bytes(data)
            with Memory.open(path, model=model) as memory:
                try:
                    assert hits(memory, "word37", 9) == exact
                    outcomes.add(file.name)
                except StoreCorrupt:
                    # vectors are not read to count what is there
                    assert memory.stats().index.problem is not None or file.suffix == ".npy"
                    outcomes.add("named")
        file.write_bytes(whole)
    # a damaged landmark is read from the database instead
    assert outcomes >= {"named", "landmarks.npy"}
    # building it anew and forgetting both mend what is damaged
    (folder / "tables.npz").write_bytes(b"x")
    with Memory.open(path, model=model) as memory:
        assert memory.stats().index.problem is not None and memory.stats().index.behind == memory.stats().segments
        memory.build_index()
        same(memory)
        (folder_of(memory) / "tables.npz").write_bytes(b"x")
    with Memory.open(path, model=model) as memory:
        memory.forget([1])
        assert memory.stats().index is None and not Path(f"{path}.index").exists()


def test_another_models_index_is_refused(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        memory.build_index()
    # the same weights, other heads
    other = LandmarkModel(
        model.core, model.tokenizer, "indexed", kv_dtype=torch.float32, retrieval=(RetrievalHead(layer=0, head=0),)
    )
    with Memory.open(path, model=other) as memory:
        with pytest.raises(ModelMismatch, match="build it anew"):
            memory.search("word37", mode="index")
        found = memory.stats().index
        assert found.problem == "it was built for other heads that search"
        assert (found.current, found.behind) == (0, memory.stats().segments)
        # which heads search is known with a model only
        with Memory.open(path) as without:
            assert without.stats().index.problem is None and without._model is None
        memory.build_index()
        assert memory.stats().index.problem is None
        same(memory)
    foreign = tmp_path / "foreign.db"
    with Memory.open(foreign, model=tiny_model(seed=1)) as memory:
        memory.add(CHAT)
        folder_of_other = index_folder(path, "default")
        Path(f"{foreign}.index").mkdir()
        folder_of_other.rename(index_folder(foreign, "default"))
        with pytest.raises(ModelMismatch):
            memory.search("word37", mode="index")
        assert "another model" in memory.stats().index.problem


def test_another_databases_index_is_of_no_harm(tmp_path: Path, model: LandmarkModel) -> None:
    for name, chat in (("a", CHAT), ("b", [{**one, "content": f"other {one['content']}"} for one in CHAT])):
        with Memory.open(tmp_path / f"{name}.db", model=model) as memory:
            memory.add(chat)
            memory.build_index()
    Path(tmp_path / "a.db.index").rename(tmp_path / "gone")
    Path(tmp_path / "b.db.index").rename(tmp_path / "a.db.index")
    with Memory.open(tmp_path / "a.db", model=model) as memory:
        same(memory)
        assert memory.stats().index.current == 0


def test_reencoding_removes_it(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=tiny_model()) as memory:
        memory.add(CHAT)
        memory.build_index()
    Memory.reencode(path, model=tiny_model(seed=1))
    with Memory.open(path, model=tiny_model(seed=1)) as memory:
        assert memory.stats().index is None
        memory.build_index()
        same(memory)


@pytest.mark.parametrize("keep", ["search", "all"])
def test_memories_for_search_only_and_with_a_budget(tmp_path: Path, model: LandmarkModel, keep: str) -> None:
    config = MemoryConfig(keep=keep, kv_budget_bytes=0)
    with Memory.open(tmp_path / "m.db", model=model, config=config) as memory:
        memory.add(CHAT)
        memory.build_index()
        memory.add([{"id": "late", "role": "user", "content": "later"}])
        same(memory)


def test_a_segment_that_changes_under_a_search_is_looked_at_again(
    tmp_path: Path, model: LandmarkModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as memory, Memory.open(path, model=model) as other:
        memory.add(CHAT)
        memory.build_index()
        listed = memory._index._open

        def and_then_another_writes(*args: object) -> object:
            monkeypatch.undo()
            other.forget([12])
            other.add([{"id": "late", "role": "user", "content": "later word37"}])
            return listed(*args)

        memory.search("word37", mode="index")
        monkeypatch.setattr(memory._index, "_open", and_then_another_writes)
        found = hits(memory, "word37", 2 * N)
        assert {one[0] for one in found} == {*range(N), "late"} - {12}
        same(memory)


def test_a_long_build_is_not_taken_for_one_that_broke_off(tmp_path: Path, model: LandmarkModel) -> None:
    with Memory.open(tmp_path / "m.db", model=model) as memory, Memory.open(tmp_path / "m.db", model=model) as other:
        memory.add(CHAT)
        memory.build_index()
        folder = index_folder(memory.path, memory.namespace)

        def slow(done: int, of: int) -> None:
            for one in folder.iterdir():
                # as if the build had been at it for long, but for what it did just now
                if one.is_dir() and one.name != current_build(folder):
                    assert time.time() - one.stat().st_mtime < 60
                    os.utime(one, (0, 0))
            if done == of:
                return
            other.forget([done % N])

        memory.build_index(progress=slow)
        same(memory)


def test_forgotten_while_it_is_built(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as memory, Memory.open(path, model=model) as other:
        memory.add(CHAT)
        memory.build_index(progress=lambda done, total: other.forget([12]) if done == total else None)
        assert memory._index.built.vectors.tables["gone"].sum() >= 1
        same(memory)
        assert len(hits(memory, "word37", 2 * N)) == N - 1


def test_a_reader_goes_on_and_takes_up_a_new_one(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as memory, Memory.open(path, model=model) as reader:
        memory.add(CHAT)
        memory.build_index()
        before = hits(reader, "word37")
        first = reader._index
        memory.drop_index()
        assert memory.stats().index is None
        assert hits(reader, "word37") == before and reader._index is first
        memory.add([{"id": "late", "role": "user", "content": "later"}])
        same(reader)
        memory.build_index()
        same(reader)
        assert reader._index is not first
        assert len(list(folder_of(memory).parent.iterdir())) == 2
        # in its place stands one that cannot be read
        (folder_of(memory).parent / "current").write_text("f" * 32)
        same(reader)


@pytest.mark.parametrize("other_heads", [False, True])
def test_no_file_stays_open(tmp_path: Path, model: LandmarkModel, other_heads: bool) -> None:
    path = tmp_path / "m.db"
    heads = (RetrievalHead(layer=0, head=0),) if other_heads else model.retrieval
    other = LandmarkModel(model.core, model.tokenizer, "indexed", kv_dtype=torch.float32, retrieval=heads)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with Memory.open(path, model=model) as memory:
            memory.add(CHAT)
            memory.build_index()
            memory.build_index()
            hits(memory, "word37")
        # not opened by a search before
        with Memory.open(path, model=other) as memory:
            memory.forget([3])
            with pytest.raises(ModelMismatch) if other_heads else nullcontext():
                hits(memory, "word37")
            with Memory.open(path, model=model) as builder:
                builder.build_index()
            with pytest.raises(ModelMismatch) if other_heads else nullcontext():
                hits(memory, "word37")
            memory.drop_index()
        with Memory.open(path, model=model) as memory:

            def in_the_way(done: int, total: int) -> None:
                if done == total:
                    (index_folder(path, "default") / "current").mkdir()

            with pytest.raises(StoreNotWritable):
                memory.build_index(progress=in_the_way)
        del memory, builder
        gc.collect()
    assert [str(one.message) for one in seen if "landmarks.npy" in str(one.message)] == []


PROCESS = """
import json, sys
from hierlandmark import Memory
from hierlandmark.testing import tiny_model

path, = sys.argv[1:]
with Memory.open(path, model=tiny_model()) as memory:
    def ask():
        hits = memory.search("word37", 99, mode="index").hits
        print(json.dumps([hit.message_ids[0] for hit in hits]), flush=True)
    ask()
    for line in sys.stdin:
        ask()
"""


def test_a_reader_in_another_process(tmp_path: Path) -> None:
    path = tmp_path / "m.db"
    with Memory.open(path, model=tiny_model()) as memory:
        memory.add(CHAT)
        memory.build_index()
        command = [sys.executable, "-c", PROCESS, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdin and other.stdout

            def ask() -> list:
                other.stdin.write("\n")
                other.stdin.flush()
                return json.loads(other.stdout.readline())

            def here() -> list:
                return [one[0] for one in hits(memory, "word37", 99)]

            assert json.loads(other.stdout.readline()) == here()
            memory.forget([12, 30])
            assert ask() == here() and len(here()) == N - 2
            memory.add([{"id": "late", "role": "user", "content": "later word37"}])
            assert ask() == here() and "late" in here()
            memory.build_index()
            assert ask() == here()
            memory.drop_index()
            memory.forget([13])
            assert 13 not in ask()
            other.stdin.close()
            assert other.wait(30) == 0


def test_async_twins(model: LandmarkModel) -> None:
    async def run() -> None:
        async with Memory.open(":memory:", model=model) as memory:
            await memory.aadd(CHAT)
            assert (await memory.abuild_index()).segments > 1
            assert (await memory.asearch("word37", 3, mode="index")).hits
            await memory.adrop_index()
            assert (await memory.astats()).index is None

    asyncio.run(run())


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    Path(f"{path}.index").write_text("a file stands there")
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        with pytest.raises(StoreNotWritable, match="cannot be written"):
            memory.build_index()
        memory.forget([1])
        assert len(memory.messages()) == N - 1
