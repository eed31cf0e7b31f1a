"""A model of which some layers look into a memory: only these are stored, and training form and answers agree."""

import json

import numpy as np
import pytest
import torch

from hierlandmark import Memory, RecallConfig
from hierlandmark.errors import InvalidArgument, ModelMismatch
from hierlandmark.layout import Kind, Layout
from hierlandmark.messages import Message
from hierlandmark.model.dense import DenseAttention
from hierlandmark.model.generate import push
from hierlandmark.ops import landmark_attention
from hierlandmark.ops.selected import Counts
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore, MessageRun, SQLiteStore
from hierlandmark.store.header import spec_text
from hierlandmark.store.protocol import KVSpec
from hierlandmark.testing import SMALL, tiny_model

CAPACITY = SMALL.segment_capacity
MODES = ["hierarchical", "flat"]
LENGTHS = [CAPACITY, 9, CAPACITY]
CHAT = [Message(id=i, content=f"number {i} is {i * i}") for i in range(20)]


def grid(lengths, reads=None):
    layout = Layout.of([lengths], SMALL, reads=reads)
    tokens = np.random.default_rng(0).integers(0, 256, sum(lengths))
    return layout, tokens, torch.from_numpy(layout.place([tokens]))


def stored(model, tokens, lengths=LENGTHS, store=None):
    store, start = store or InMemoryStore(model.kv_spec), 0
    for i, n in enumerate(lengths):
        piece = tokens[start : start + n].astype(np.int32)
        store.append("n", [Message(id=i, content="x")], model.encode(piece, [MessageRun(i, n)]))
        start += n
    return Source(store, *store.index("n"))


@pytest.mark.parametrize("layers", [(0,), (1,), (0, 1)])
@pytest.mark.parametrize("mode", MODES)
def test_a_window_over_a_store_is_the_training_form(mode, layers):
    model = tiny_model(memory_layers=layers)
    reads = np.zeros((4, 4), dtype=bool)
    reads[-1, :-1] = True
    layout, tokens, ids = grid([*LENGTHS, 15], reads)
    with torch.no_grad():
        hidden = model.core.hidden_dense(ids, layout, mode)[0, -1]
        wanted = model.core.logits(hidden[torch.from_numpy(layout.kinds[0, -1] == Kind.CONTENT)][-1])
    config = RecallConfig(mode=mode, segments=99, blocks=999, threshold=0.0)
    prompt = tokens[-15:].tolist()
    for stride in (1, 2):
        recall = model.recall([stored(model, tokens)], config.model_copy(update={"stride": stride}))
        assert [recall.holds(layer) for layer in (0, 1)] == [layer in layers for layer in (0, 1)]
        window = model.window(recall)
        with torch.inference_mode():
            # at once, and token by token; every block is read, so what was chosen before is what would be chosen
            found = push(model.core, window, prompt[:9])
            for token in prompt[9:]:
                found = push(model.core, window, [token])
        torch.testing.assert_close(found.view(-1), wanted, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("mode", MODES)
def test_a_layer_that_looks_at_none_attends_inside_each_segment(mode):
    """Layer by layer: alone it is attention over segments on their own, padded texts too."""
    layout = Layout.of([[CAPACITY, CAPACITY, 7], [5]], SMALL)
    generator = torch.Generator().manual_seed(0)
    T = layout.kinds[0].size
    q, k, v = (torch.randn(2, h, T, 8, generator=generator, requires_grad=True) for h in (4, 2, 2))
    model = tiny_model()
    dense = DenseAttention(layout, model.core.rope, mode, memory_layers=(1,))
    none = Layout(layout.config, layout.kinds, np.zeros_like(layout.reads))
    wanted = landmark_attention(q, k, v, none, mode=mode, scale=0.3, impl="reference")
    found = dense.attend(0, q, k, v, 0.3)
    there = torch.from_numpy(layout.kinds.reshape(2, -1) == Kind.CONTENT)[:, None, :, None]
    weight = torch.randn(wanted.shape, generator=generator) * there
    torch.testing.assert_close(found * there, wanted * there, rtol=1e-5, atol=1e-6)
    gradients = [torch.autograd.grad((out * weight).sum(), (q, k, v)) for out in (found, wanted)]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_encoded_without_gradient_is_read_alike(mode):
    model = tiny_model(memory_layers=(1,))
    layout, _, ids = grid([CAPACITY] * 4)
    with torch.no_grad():
        whole = model.core.hidden_dense(ids, layout, mode)
        behind = model.core.hidden_dense(ids, layout, mode, cached=2)
    torch.testing.assert_close(behind, whole[:, 2:], rtol=1e-4, atol=1e-5)


def test_only_these_layers_are_stored_and_their_keys_are_those_of_any_model():
    every, one = tiny_model(), tiny_model(memory_layers=(1,))
    tokens = np.random.default_rng(0).integers(0, 256, CAPACITY).astype(np.int32)
    (a,), (b,) = (list(model.encode(tokens, [MessageRun(0, CAPACITY)])) for model in (every, one))
    assert one.kv_spec.layers == 1 and one.kv_spec.kept == one.kv_spec.model_layers == (1,)
    assert b.kv_bytes * every.core.layers == a.kv_bytes
    np.testing.assert_array_equal(b.kv[:, 0], a.kv[:, 1])
    np.testing.assert_array_equal(b.gate_key[0], a.gate_key[1])
    np.testing.assert_array_equal(b.landmark_keys[:, 0], a.landmark_keys[:, 1])


def test_a_spec_of_all_layers_is_written_as_before_there_was_a_choice():
    assert "kept" not in json.loads(spec_text(tiny_model().kv_spec))
    spec = tiny_model(memory_layers=(1,)).kv_spec
    assert KVSpec(**json.loads(spec_text(spec))) == spec


def test_a_database_of_other_layers_is_refused_and_encoded_again(tmp_path):
    path, few = tmp_path / "m.db", tiny_model(memory_layers=(1,))
    with Memory.open(path, model=tiny_model()) as memory:
        memory.add(CHAT)
    with pytest.raises(ModelMismatch, match="kept"):
        SQLiteStore(path, few.kv_spec)
    with pytest.raises(ModelMismatch, match="kept"):
        Memory.open(path, model=few)
    Memory.reencode(path, model=few)
    with Memory.open(path, model=few) as memory:
        said = memory.ask("what is number 7?", max_new_tokens=6).tokens
    with Memory.open(":memory:", model=few) as memory:
        memory.add(CHAT)
        assert memory.ask("what is number 7?", max_new_tokens=6).tokens == said


@pytest.mark.parametrize("wrong", [(1, 0), (1, 1), (2,), (-1,)])
def test_layers_out_of_order_or_not_there_are_named(wrong):
    with pytest.raises(InvalidArgument, match="memory_layers from 0 to 1, each once and lowest first"):
        tiny_model(memory_layers=wrong)


def test_layers_that_look_take_turns_by_their_place_among_them(monkeypatch):
    """With a stride of 2 the first that looks, layer 1 here, chooses at tokens 0, 2, ...; by its number, at 1 too."""
    model, chosen = tiny_model(memory_layers=(1,)), []
    tokens = np.random.default_rng(0).integers(0, 256, sum(LENGTHS))
    recall = model.recall([stored(model, tokens)], RecallConfig(stride=2, threshold=0.0))
    choose = recall._choose_one
    monkeypatch.setattr(recall, "_choose_one", lambda *given: chosen.append(token) or choose(*given))
    window = model.window(recall)
    push(model.core, window, [1, 2])
    for token in range(4):
        push(model.core, window, [token])
    assert chosen == [0, 2]


@pytest.mark.parametrize("mode", MODES)
def test_what_selects_everything_is_every_block(mode):
    model = tiny_model(memory_layers=(1,))
    layout, _, ids = grid([CAPACITY] * 4)
    select, counts = RecallConfig(segments=99, blocks=999, threshold=0.0), Counts()
    with torch.no_grad():
        whole = model.core.hidden_dense(ids, layout, mode)
        picked = model.core.hidden_dense(ids, layout, mode, select=select, counts=counts)
        every = Counts()
        tiny_model().core.hidden_dense(ids, layout, mode, select=select, counts=every)
    torch.testing.assert_close(picked, whole, rtol=1e-4, atol=1e-5)
    # of two layers one looks
    assert counts.get()["queries"] and every.get() == {name: 2 * n for name, n in counts.get().items()}


@pytest.mark.parametrize("layers", [(0,), (1,)])
def test_a_memory_answers_the_same_after_reopening_and_names_the_layers_that_looked(tmp_path, layers):
    said = []
    for _ in range(2):
        with Memory.open(tmp_path / "m.db", model=tiny_model(memory_layers=layers)) as memory:
            if not said:
                memory.add(CHAT)
            answer = memory.ask("what is number 7?", max_new_tokens=6)
            said.append((answer.tokens, memory.search("number 7", k=5).hits))
            trace = answer.trace
            assert {head.layer for block in trace.blocks for head in block.heads} == set(layers)
    assert said[0] == said[1]


def test_dropped_keys_are_made_again(tmp_path):
    model = tiny_model(memory_layers=(1,))
    tokens = np.random.default_rng(0).integers(0, 256, sum(LENGTHS))
    found = []
    for budget in (None, 0):
        store = SQLiteStore(tmp_path / f"{budget}.db", model.kv_spec)
        source = stored(model, tokens, store=store)
        if budget == 0:
            store.drop_kv("n", [record.id for record in source.records])
            source = Source(store, *store.index("n"))
            assert not any(record.has_kv for record in source.records)
        window = model.window(model.recall([source], RecallConfig(threshold=0.0)))
        found.append(push(model.core, window, [1, 2, 3]))
        store.close()
    torch.testing.assert_close(*found, rtol=0, atol=0)
