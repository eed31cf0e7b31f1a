"""Opening: what makes a file, what may not be written, what loads the model, and who waits for whom."""

import re
import shutil
import tempfile
import threading
from pathlib import Path

import pytest

from hierlandmark import LandmarkModel, Memory, MemoryConfig, Message, NamespaceNotFound, StoreNotWritable
from hierlandmark.errors import InvalidArgument
from hierlandmark.testing import tiny_model
from tests.store.test_sqlite_damage import unprivileged

CHAT = [Message(id=i, content=f"{i} says word") for i in range(6)]


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture
def path():
    """A database in a folder and of a mode that may not be written."""
    folder = Path(tempfile.mkdtemp())
    yield folder / "m.db"
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_file_is_made_by_the_first_add(model, tmp_path):
    path = tmp_path / "m.db"
    with Memory.open(path, model=model) as memory:
        assert memory.namespaces() == []
        for call in (memory.stats, memory.messages, lambda: memory.search("x"), lambda: memory.forget([1])):
            with pytest.raises(NamespaceNotFound, match=f"no database at {re.escape(repr(str(path)))}"):
                call()
        assert not path.exists()
        memory.add(CHAT)
        assert path.exists() and len(memory.search("word", 9).hits) == 6


def test_read_only_reads_all_and_writes_nothing(model, path):
    with Memory.open(path, model=model, config=MemoryConfig(kv_budget_bytes=5_000)) as memory:
        memory.add(CHAT)
        wanted = memory.ask("who?", max_new_tokens=3).tokens
    path.chmod(0o444)
    path.parent.chmod(0o555)
    with unprivileged():
        for given in (model, None):
            with pytest.raises(StoreNotWritable, match=r"its folder is read-only; open it with read_only=True"):
                Memory.open(path, model=given)
        before = path.read_bytes()
        for given in (model, None):
            with Memory.open(path, model=given, read_only=True) as memory:
                assert memory.stats().messages == len(memory.messages()) == 6
                memory._model = model
                assert len(memory.search("word", 9).hits) == 6
                assert memory.ask("who?", max_new_tokens=3).tokens == wanted
                for call in (lambda: memory.add([Message(id="x", content="x")]), lambda: memory.forget([1])):
                    with pytest.raises(StoreNotWritable, match="opened to be read only"):
                        call()
        assert path.read_bytes() == before
        assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_read_only_needs_a_file(model, tmp_path):
    with pytest.raises(InvalidArgument, match="no database"):
        Memory.open(tmp_path / "m.db", model=model, read_only=True)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(InvalidArgument, match="read_only"):
        Memory.open(":memory:", model=model, read_only=True)


def test_a_folder_is_named_as_one(model, tmp_path):
    folder = tmp_path / "m.db"
    folder.mkdir()
    said = re.escape(f"path must name a file, came the folder {str(folder)!r}; name a file in it, such as")
    for given in (model, None):
        for read_only in (False, True):
            with pytest.raises(InvalidArgument, match=said):
                Memory.open(folder, model=given, read_only=read_only)
    with pytest.raises(InvalidArgument, match=said):
        Memory.reencode(folder, model=model)
    assert list(folder.iterdir()) == []


def test_no_model_is_loaded_for_what_cannot_be_answered(model, tmp_path, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr(LandmarkModel, "from_pretrained", never)
    with Memory.open(tmp_path / "m.db", model=model) as memory:
        memory.add(CHAT)
    for memory in (Memory.open(tmp_path / "none.db"), Memory.open(tmp_path / "m.db", "other")):
        for call in (memory.ask, memory.complete, memory.search):
            with pytest.raises(NamespaceNotFound):
                call("who?")
    with Memory.open(tmp_path / "m.db") as memory:
        for call in (memory.ask, memory.complete):
            with pytest.raises(InvalidArgument):
                call("who?", max_new_tokens=0)


def test_counts_and_messages_do_not_wait_for_an_add(model, tmp_path, monkeypatch):
    begun, go_on = threading.Event(), threading.Event()
    plain = model.encode

    def slow(*args):
        begun.set()
        go_on.wait(60)
        return plain(*args)

    with Memory.open(tmp_path / "m.db", model=model) as memory:
        memory.add(CHAT)
        monkeypatch.setattr(model, "encode", slow)
        adding = threading.Thread(target=memory.add, args=([Message(id="late", content="x")],))
        adding.start()
        assert begun.wait(60)
        seen = []
        reading = threading.Thread(
            target=lambda: seen.append((memory.stats().messages, len(memory.messages()), memory.namespaces()))
        )
        reading.start()
        reading.join(20)
        go_on.set()
        adding.join()
        assert seen == [(6, 6, ["default"])]
        assert memory.stats().messages == 7


def test_a_hit_that_is_forgotten_meanwhile_is_left_out_for_the_next(model, tmp_path, monkeypatch):
    from hierlandmark.memory import search as module

    with Memory.open(tmp_path / "m.db", model=model) as one, Memory.open(tmp_path / "m.db", model=model) as other:
        one.add([Message(id=i, content=f"{i} says word " * 3) for i in range(12)])
        order = [hit.message_ids[0] for hit in one.search("word", 12).hits]
        plain = module.rank_messages

        def late(shares):
            monkeypatch.setattr(module, "rank_messages", plain)
            other.forget(order[:2])
            return plain(shares)

        for k in (3, 12):
            monkeypatch.setattr(module, "rank_messages", late)
            found = [hit.message_ids[0] for hit in one.search("word", k).hits]
            assert found == order[2 : 2 + k]
            other.add([Message(id=i, content=f"{i} says word " * 3) for i in order[:2]])
            order = [hit.message_ids[0] for hit in one.search("word", 12).hits]
