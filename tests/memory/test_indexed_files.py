"""The index beside a database: opened again, damaged, of others, and built while others read and write."""

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

from hierlandmark import Memory
from hierlandmark.errors import IndexNotFound, InvalidArgument, ModelMismatch, StoreCorrupt, StoreNotWritable
from hierlandmark.memory.index_build import current_build, index_folder
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.testing import tiny_model
from tests.memory.indexed import CHAT, N, folder_of, hits, same, voting_model


@pytest.fixture(scope="module")
def model() -> LandmarkModel:
    return voting_model()


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


def test_a_closed_memory_keeps_its_index(model: LandmarkModel, tmp_path: Path) -> None:
    with Memory.open(tmp_path / "m.db", model=model) as memory:
        memory.add(CHAT[:6])
        memory.build_index()
    with pytest.raises(InvalidArgument, match="closed"):
        memory.drop_index()
    assert folder_of(memory).exists()


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
        with pytest.raises(IndexNotFound, match=r"Memory\.build_index") as told:
            memory.search("word37", mode="index")
    assert f"`hierlandmark index --db {path} --namespace default`" in told.value.on_command_line


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
    # no segment of one is a segment of the other
    others = [{**one, "role": "other", "content": one["content"].upper()} for one in CHAT]
    for name, chat in (("a", CHAT), ("b", others)):
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
    # a seed of which no two scores are equal to the digits that are compared
    Memory.reencode(path, model=tiny_model(seed=2))
    with Memory.open(path, model=tiny_model(seed=2)) as memory:
        assert memory.stats().index is None
        memory.build_index()
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


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, model: LandmarkModel) -> None:
    path = tmp_path / "m.db"
    Path(f"{path}.index").write_text("a file stands there")
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        with pytest.raises(StoreNotWritable, match="cannot be written"):
            memory.build_index()
        memory.forget([1])
        assert len(memory.messages()) == N - 1
