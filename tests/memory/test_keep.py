"""Memories made for search only: the same ranking from less work and fewer bytes."""

import subprocess
import sys

import pytest
import torch

from hierlandmark import Memory
from hierlandmark.config import MemoryConfig, RecallConfig
from hierlandmark.errors import KeepMismatch, ModelMismatch
from hierlandmark.memory.vectors import LandmarkVectors
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.model.binding import decoder_of
from hierlandmark.testing import tiny_model

HEADS = {
    "low": (RetrievalHead(layer=0, head=1), RetrievalHead(layer=0, head=3)),
    "high": (RetrievalHead(layer=1, head=0), RetrievalHead(layer=1, head=3, weight=0.5)),
    "both": (RetrievalHead(layer=0, head=3), RetrievalHead(layer=1, head=1)),
    "every": (),
}
SEARCH, ALL = MemoryConfig(keep="search"), MemoryConfig(keep="all")
CHAT = [Message(id=i, content=f"{i} says word{i * 7 % 11} and {'more ' * (i % 4)}") for i in range(14)]


def voting(heads: str = "both", family="llama", seed: int = 0) -> LandmarkModel:
    found = tiny_model(family, seed=seed)
    return LandmarkModel(found.core, found.tokenizer, f"{heads}{seed}", kv_dtype=torch.float32, retrieval=HEADS[heads])


def ranking(memory: Memory, query: str = "word7", k: int = 14, **options):
    """Messages, scores and places of hits, and the trace; ids of segments count from 1 in each."""
    found = memory.search(query, k, **options)
    return [(hit.message_ids, hit.score, hit.block) for hit in found.hits], found.trace


@pytest.mark.parametrize(
    ("heads", "family", "mode"),
    [
        *((heads, "llama", mode) for heads in HEADS for mode in ("hierarchical", "flat")),
        ("both", "llama", "hybrid"), ("both", "qwen3", "flat"), ("high", "gemma3_text", "hierarchical"),
    ],
)  # fmt: skip
def test_ranks_as_a_memory_of_everything_does(heads, family, mode, tmp_path):
    model = voting(heads, family)
    config = RecallConfig(search_segments=3)
    whole = Memory.open(":memory:", model=model, config=ALL.model_copy(update={"recall": config}))
    part = Memory.open(tmp_path / "m.db", model=model, config=SEARCH.model_copy(update={"recall": config}))
    with whole, part:
        whole.add(CHAT)
        part.add(CHAT[:5])
        part.add(CHAT[5:])
        if mode == "hybrid":
            # words are stemmed in SQLite only
            whole.close()
            whole = Memory.open(tmp_path / "all.db", model=model, config=ALL.model_copy(update={"recall": config}))
            whole.add(CHAT[:5])
            whole.add(CHAT[5:])
        for query in ("word7", "13 says more"):
            places = [[hit[:2] for hit in ranking(one, query, mode=mode)[0]] for one in (whole, part)]
            assert places[0] == places[1]
            assert len(places[0]) == 14
        stats = [one.stats() for one in (whole, part)]
        assert [one.keep for one in stats] == ["all", "search"]
        share = len(model.search_layers) / model.core.layers
        assert stats[1].kv_bytes == stats[0].kv_bytes * share / 2
        assert stats[1].key_bytes == stats[0].key_bytes * share
        whole.close()


def test_layers_above_the_highest_that_votes_are_not_run():
    for heads, highest in (("low", 0), ("high", 1)):
        model, ran = voting(heads), []
        for i, layer in enumerate(decoder_of(model.core.base).layers):
            layer.mlp.register_forward_hook(lambda *_, i=i, ran=ran: ran.append(i))
        with Memory.open(":memory:", model=model, config=SEARCH) as memory:
            memory.add(CHAT)
            memory.search("word7")
            assert set(ran) == set(range(highest))
        # and a whole forward pass is whole again
        with Memory.open(":memory:", model=model) as memory:
            memory.add(CHAT)
            # what stands behind the last keys and values is not run for them either
            assert set(ran) == {0}
            memory.ask("who?", max_new_tokens=1)
            assert set(ran) == {0, 1}


def test_it_does_not_answer_and_says_what_to_do(tmp_path, monkeypatch):
    path, model = tmp_path / "m.db", voting()
    with Memory.open(path, model=model, config=SEARCH) as memory:
        memory.add(CHAT)
        for call in (memory.ask, memory.complete):
            with pytest.raises(KeepMismatch, match=r"keep='search'.*Memory\.reencode") as told:
                call("who?")
            assert f"`hierlandmark reencode --db {path} --keep all`" in told.value.on_command_line
    # nor is a model loaded to find out
    monkeypatch.setattr(LandmarkModel, "from_pretrained", lambda: pytest.fail("a model was loaded"))
    with Memory.open(path) as memory, pytest.raises(KeepMismatch):
        memory.ask("who?")


def test_another_setting_is_refused_and_none_takes_what_is_there(tmp_path):
    model = voting()
    for keep, other in (("search", ALL), ("all", SEARCH)):
        path = tmp_path / f"{keep}.db"
        with Memory.open(path, model=model, config=MemoryConfig(keep=keep)) as memory:
            memory.add(CHAT)
            found = ranking(memory)
        with pytest.raises(KeepMismatch, match=rf"keep='{keep}', '{other.keep}' came.*keep='{other.keep}'"):
            Memory.open(path, model=model, config=other)
        with Memory.open(path, model=model) as memory:
            assert memory.stats().keep == keep
            assert ranking(memory) == found
    with Memory.open(tmp_path / "new.db", model=model) as memory:
        memory.add(CHAT[:1])
        assert memory.stats().keep == "all"


def test_another_model_is_another_matter(tmp_path):
    with Memory.open(tmp_path / "m.db", model=voting(), config=SEARCH) as memory:
        memory.add(CHAT)
    with pytest.raises(ModelMismatch):
        Memory.open(tmp_path / "m.db", model=voting(seed=1))


def test_reencode_takes_the_text_from_one_to_the_other(tmp_path):
    path, model = tmp_path / "m.db", voting()
    with Memory.open(path, model=model) as memory:
        memory.add(CHAT)
        wanted = [hit[:2] for hit in ranking(memory)[0]]
    for config, keep in ((SEARCH, "search"), (None, "search"), (ALL, "all")):
        assert Memory.reencode(path, model=model, config=config).messages == len(CHAT)
        with Memory.open(path, model=model) as memory:
            assert memory.stats().keep == keep
            assert [hit[:2] for hit in ranking(memory)[0]] == wanted
            assert memory.messages() == CHAT
    with Memory.open(path, model=model) as memory:
        assert memory.ask("who?", max_new_tokens=2).cost.blocks_read


REOPEN = """
import sys
from hierlandmark import Memory
from tests.memory.test_keep import ranking, voting
with Memory.open(sys.argv[1], model=voting()) as memory:
    print(repr(ranking(memory)))
"""


def test_reopened_and_forgotten(tmp_path):
    path, model = tmp_path / "m.db", voting()
    with Memory.open(path, model=model, config=SEARCH) as memory:
        memory.add(CHAT)
        before = repr(ranking(memory))
    done = subprocess.run([sys.executable, "-c", REOPEN, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == before
    with Memory.open(path, model=model) as memory, Memory.open(":memory:", model=model) as other:
        other.add(CHAT)
        for one in (memory, other):
            one.forget([3, 4, 9])
        # without words, which the two stores count differently
        by_file, in_memory = (ranking(one, mode="hierarchical")[0] for one in (memory, other))
        assert [hit[:2] for hit in by_file] == [hit[:2] for hit in in_memory]
        assert len(memory.search("word7", 14).hits) == 11
    assert b"2 says word3" in path.read_bytes()
    assert b"3 says word10" not in path.read_bytes()


def test_without_keys_of_content_a_share_is_that_of_tokens(tmp_path):
    """A budget of 0 leaves gates and landmarks only: blocks rank the same, as where all keys were dropped."""
    model = voting()
    found = []
    for i, config in enumerate((SEARCH, ALL)):
        config = config.model_copy(update={"kv_budget_bytes": 0})
        with Memory.open(tmp_path / f"{i}.db", model=model, config=config) as memory:
            memory.add(CHAT)
            assert memory.stats().kv_bytes == 0
            found.append(ranking(memory))
    assert found[0] == found[1]


def test_a_segment_rewritten_meanwhile_is_encoded_again_for_search(tmp_path, monkeypatch):
    path, model = tmp_path / "m.db", voting()
    with Memory.open(path, model=model, config=SEARCH) as one, Memory.open(path, model=model) as other:
        one.add(CHAT)
        store = one._open_store()
        recall = one._recall(model, store, "flat")
        wanted = [store.landmark_keys([record.id])[0] for record in store.segments("default")]
        other.forget([0])
        recall._load_landmarks([0])
        again = recall._encoded_again(0)
        assert (again.landmark_keys == wanted[0]).all()
        assert again.kv.shape[2] == 1


def test_vectors_are_those_of_a_memory_of_everything():
    model = voting("high")
    made = []
    for config in (SEARCH, ALL):
        with Memory.open(":memory:", model=model, config=config) as memory:
            memory.add(CHAT)
            vectors = LandmarkVectors(memory)
            query = vectors.query("word7")
            ids, _ = vectors.messages(query, range(len(vectors.blocks)), vectors.blocks @ query.vector)
            made.append((vectors.blocks.tolist(), vectors.gates.tolist(), query.vector.tolist(), ids))
    assert made[0] == made[1]
