"""A model whose search has weights of its own: it answers as one model does, and searches as another."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from hierlandmark import Memory
from hierlandmark.bench.footprint import fill
from hierlandmark.config import MemoryConfig, RecallConfig
from hierlandmark.errors import InvalidArgument, ModelMismatch
from hierlandmark.memory.vectors import LandmarkVectors
from hierlandmark.messages import Message
from hierlandmark.model import LandmarkModel, RetrievalHead
from hierlandmark.model.binding import decoder_of
from hierlandmark.model.core import LandmarkCore
from hierlandmark.model.encode import encode_segments
from hierlandmark.model.lower import lower_layers
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore
from hierlandmark.store.protocol import MessageRun
from hierlandmark.testing import tiny_base, tiny_model

HEADS = {
    "low": (RetrievalHead(layer=0, head=1), RetrievalHead(layer=0, head=3)),
    "both": (RetrievalHead(layer=0, head=3), RetrievalHead(layer=1, head=1, weight=0.5)),
}
CONFIG = MemoryConfig(recall=RecallConfig(search_mode="hierarchical", search_segments=3, segments=2, blocks=3))
SEARCH = CONFIG.model_copy(update={"keep": "search"})
CHAT = [Message(id=i, content=f"{i} says word{i * 7 % 11} and {'more ' * (i % 4)}") for i in range(14)]
modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])


def plain(heads: str = "low", seed: int = 0, ranking="votes") -> LandmarkModel:
    found = tiny_model(seed=seed)
    return LandmarkModel(
        found.core, found.tokenizer, f"{heads}{seed}", kv_dtype=torch.float32, retrieval=HEADS[heads], ranking=ranking
    )


def two_part(heads: str = "low", ranking="votes") -> LandmarkModel:
    """Reads as `plain(seed=0)`, searches as `plain(seed=1)`."""
    reader, other = tiny_model(seed=0), tiny_model(seed=1)
    count = 1 + max(head.layer for head in HEADS[heads])
    searcher = LandmarkCore(lower_layers(tiny_base(seed=1), count), other.layout, other.core.sink_id)
    with torch.no_grad():
        searcher.rows.copy_(other.core.rows)
    return LandmarkModel(
        reader.core, reader.tokenizer, f"two {heads}", kv_dtype=torch.float32, retrieval=HEADS[heads],
        ranking=ranking, searcher=searcher,
    )  # fmt: skip


def found(memory: Memory, query: str = "word7", **options):
    result = memory.search(query, 14, **options)
    return [(hit.message_ids, pytest.approx(hit.score, rel=1e-5), hit.block) for hit in result.hits]


@modes
@pytest.mark.parametrize("ranking", ["votes", "sum"])
@pytest.mark.parametrize("heads", HEADS)
def test_searches_as_one_and_answers_as_the_other(heads, ranking, mode, tmp_path):
    searches, reads = plain(heads, seed=1, ranking=ranking), plain(heads, seed=0)
    with (
        Memory.open(tmp_path / "m.db", model=two_part(heads, ranking), config=CONFIG) as memory,
        Memory.open(":memory:", model=searches, config=CONFIG) as other,
        Memory.open(":memory:", model=reads, config=CONFIG) as reader,
    ):
        for one in (memory, other, reader):
            one.add(CHAT[:5])
            one.add(CHAT[5:])
        for query in ("word7", "13 says more"):
            assert found(memory, query, mode=mode) == found(other, query, mode=mode)
            assert found(memory, query, mode=mode) != found(reader, query, mode=mode)
            answers = [one.ask(query, mode=mode, among=0, max_new_tokens=40) for one in (memory, reader)]
            assert answers[0].tokens == answers[1].tokens
            assert answers[0].cost.blocks_read == answers[1].cost.blocks_read > 0
        memory.forget([3])
        other.forget([3])
        assert found(memory, mode=mode) == found(other, mode=mode)


def test_made_for_search_it_keeps_what_the_other_keeps(tmp_path):
    with (
        Memory.open(tmp_path / "m.db", model=two_part("both", "sum"), config=SEARCH) as memory,
        Memory.open(tmp_path / "all.db", model=two_part("both", "sum"), config=CONFIG) as whole,
        Memory.open(":memory:", model=plain("both", 1, "sum"), config=SEARCH) as other,
    ):
        for one in (memory, whole, other):
            one.add(CHAT)
        assert found(memory) == found(whole) == found(other)
        kept, all_of_it = memory.stats(), whole.stats()
        assert kept.kv_bytes == other.stats().kv_bytes
        # keys and values of two layers, and keys of two of search
        assert all_of_it.kv_bytes == 3 * kept.kv_bytes and all_of_it.key_bytes == 2 * kept.key_bytes


def test_an_index_and_vectors_hold_the_keys_of_search(tmp_path):
    with (
        Memory.open(tmp_path / "m.db", model=two_part("both", "sum"), config=CONFIG) as memory,
        Memory.open(":memory:", model=plain("both", 1, "sum"), config=CONFIG) as other,
    ):
        for one in (memory, other):
            one.add(CHAT[:9])
            one.build_index()
            one.add(CHAT[9:])
        assert found(memory, mode="index") == found(other, mode="index")
        own, wanted = (LandmarkVectors(one) for one in (memory, other))
        torch.testing.assert_close(torch.from_numpy(own.blocks), torch.from_numpy(wanted.blocks))
        torch.testing.assert_close(torch.from_numpy(own.gates), torch.from_numpy(wanted.gates))
        query = own.query("word7")
        scores = (own.blocks @ query.vector).tolist()
        ids, cost = own.messages(query, range(len(scores)), scores)
        assert ids[:3] == [hit.message_ids[0] for hit in memory.search("word7", 3, mode="flat").hits]
        assert cost.blocks_read


def test_keys_that_were_dropped_are_made_again_by_the_weights_they_came_from(tmp_path):
    with (
        Memory.open(tmp_path / "m.db", model=two_part("both"), config=CONFIG) as memory,
        Memory.open(":memory:", model=plain("both", 1), config=CONFIG) as other,
    ):
        memory.add(CHAT)
        other.add(CHAT)
        said = memory.ask("word7?", among=0, max_new_tokens=12).tokens
        for one in (memory, other):
            one._store.drop_kv("default", [record.id for record in one._store.segments("default")])
            assert one.stats().kv_bytes == 0
        # whose messages share a block is not looked up where its keys are gone
        assert found(memory) == found(other)
        assert memory.ask("word7?", among=0, max_new_tokens=12).tokens == said
        recall = memory._recall(memory.model, memory._store, "flat", "search")
        again = recall._encoded_again(0)
        assert again.kv.shape[1:3] == (2, 1) and again.search_kv is None
        kept = other._store.landmark_keys([other._store.segments("default")[0].id])[0]
        torch.testing.assert_close(torch.from_numpy(again.landmark_keys), torch.from_numpy(kept))


def test_a_search_and_an_answer_in_turn_list_segments_once(monkeypatch):
    with Memory.open(":memory:", model=two_part("both"), config=CONFIG) as memory:
        memory.add(CHAT)
        listed = []
        index = memory._store.index
        monkeypatch.setattr(memory._store, "index", lambda *args: listed.append(args) or index(*args))
        costs = []
        for _ in range(3):
            memory.search("word7")
            costs.append(memory.search("word7").cost.bytes_read)
            costs.append(memory.ask("word7?", among=0, max_new_tokens=2).cost.blocks_read > 0)
        # once for each part
        assert len(listed) == 2 and costs == [0, True] * 3


def test_a_store_without_keys_of_search_is_not_searched():
    model = two_part("both")
    store = InMemoryStore(model.kv_spec)
    store.append("n", CHAT[:1], model.encode(np.arange(6, dtype=np.int32), [MessageRun(0, 6)]))
    source = Source(store, *store.index("n"))
    assert model.recall([source], CONFIG.recall).n_segments == 1
    with pytest.raises(InvalidArgument, match="keys of search"):
        model.recall([source], CONFIG.recall, "search")


def test_a_model_that_searches_elsewhere_is_another(tmp_path):
    with Memory.open(tmp_path / "m.db", model=two_part("both"), config=CONFIG) as memory:
        memory.add(CHAT)
    low = two_part("low")
    low._digest = "two both"
    with pytest.raises(ModelMismatch, match=r"search"):
        Memory.open(tmp_path / "m.db", model=low, config=CONFIG).search("word7")
    Memory.reencode(tmp_path / "m.db", model=low)
    with Memory.open(tmp_path / "m.db", model=low, config=CONFIG) as memory:
        hits = [hit[:2] for hit in found(memory)]
        assert memory.messages() == CHAT
    Memory.reencode(tmp_path / "m.db", model=plain("low", 1))
    with Memory.open(tmp_path / "m.db", model=plain("low", 1), config=CONFIG) as memory:
        assert [hit[:2] for hit in found(memory)] == hits


@pytest.mark.parametrize("family", ["mistral", "qwen2", "qwen3", "gemma3_text"])
def test_the_lower_layers_of_other_families_give_the_same_keys(family):
    whole = tiny_model(family)
    lower = LandmarkCore(lower_layers(tiny_base(family), 1), whole.layout, whole.core.sink_id)
    with torch.no_grad():
        lower.rows.copy_(whole.core.rows)
    spec = replace(whole.kv_spec, layers=1, keep="search", kept=(0,))
    text = [np.arange(25, dtype=np.int32)]
    (one,), (other,) = encode_segments(whole.core, text, spec), encode_segments(lower, text, spec)
    for a, b in zip(one[:3], other[:3], strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_long_prompt_is_remembered_for_the_answer_alone():
    model, reads = two_part("both"), plain("both")
    with Memory.open(":memory:", model=model) as memory, Memory.open(":memory:", model=reads) as reader:
        for one in (memory, reader):
            one.add(CHAT)
        prompt = "a long prompt " * (3 * model.layout.segment_capacity // 14)
        assert memory.complete(prompt, max_new_tokens=6).tokens == reader.complete(prompt, max_new_tokens=6).tokens


REOPEN = """
import sys
from hierlandmark import Memory
from tests.memory.test_search_weights import CONFIG, two_part
with Memory.open(sys.argv[1], model=two_part("both"), config=CONFIG) as memory:
    print([hit.message_ids[0] for hit in memory.search("word7", 14).hits], memory.ask("who?", max_new_tokens=5).tokens)
"""


def test_another_process_finds_both_parts(tmp_path):
    with Memory.open(tmp_path / "m.db", model=two_part("both"), config=CONFIG) as memory:
        memory.add(CHAT)
        ids = [hit.message_ids[0] for hit in memory.search("word7", 14).hits]
        wanted = f"{ids} {memory.ask('who?', max_new_tokens=5).tokens}"
    run = subprocess.run(
        [sys.executable, "-c", REOPEN, str(tmp_path / "m.db")], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == wanted


def test_a_search_runs_no_more_than_its_layers():
    model, ran = two_part("low"), []
    for layer in decoder_of(model.core.base).layers:
        layer.mlp.register_forward_hook(lambda *_: ran.append("read"))
    assert len(decoder_of(model.searcher.base).layers) == 1
    with Memory.open(":memory:", model=model) as memory:
        memory.add(CHAT)
        assert ran
        ran.clear()
        memory.search("word7")
        assert not ran


def test_a_database_made_to_measure_peak_memory_is_one_of_the_model(tmp_path):
    model = two_part("both")
    fill(tmp_path / "m.db", model, 10)
    with Memory.open(tmp_path / "m.db", model=model) as memory:
        assert len(memory.search("word", 3).hits) == 3 and memory.ask("who?", max_new_tokens=2).cost.blocks_read


def test_what_is_above_or_beside_the_lower_layers_is_shared():
    base = tiny_base(seed=0)
    lower = lower_layers(base, 1)
    mine, theirs = dict(base.named_parameters()), dict(lower.named_parameters())
    assert {name for name in mine if ".layers.1." in name}.isdisjoint(theirs)
    for name, parameter in theirs.items():
        assert (parameter is mine[name]) == (".layers.0." not in name), name
        torch.testing.assert_close(parameter, mine[name])
    assert (base.config.num_hidden_layers, lower.config.num_hidden_layers) == (2, 1)
    assert copy.deepcopy(lower) is not lower
