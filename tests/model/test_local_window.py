"""A local window of a whole segment: the layout says so, and encoding, training form and answers agree."""

import json

import numpy as np
import pytest
import torch

from hierlandmark import LayoutConfig, Memory, RecallConfig
from hierlandmark.errors import ModelMismatch
from hierlandmark.layout import Kind, Layout
from hierlandmark.messages import Message
from hierlandmark.model.generate import push
from hierlandmark.model.window import Window
from hierlandmark.ops import threads
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore, MessageRun
from hierlandmark.testing import SMALL, tiny_model

PLAIN = SMALL.model_copy(update={"local_window": "segment"})
CAPACITY = PLAIN.segment_capacity


@pytest.fixture(scope="module")
def model():
    return tiny_model(layout=PLAIN)


def test_the_default_is_written_as_before_there_was_a_choice():
    assert json.loads(LayoutConfig().model_dump_json()) == {"block_size": 64, "blocks_per_segment": 8, "sink": True}
    assert LayoutConfig.model_validate_json(PLAIN.model_dump_json()) == PLAIN != SMALL
    assert tiny_model(layout=PLAIN).kv_spec != tiny_model(layout=SMALL).kv_spec


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_a_window_over_a_store_is_the_training_form(model, mode):
    rng = np.random.default_rng(0)
    lengths = [CAPACITY, 9, CAPACITY]
    memory, prompt = rng.integers(0, 256, sum(lengths)), rng.integers(0, 256, 15)
    reads = np.zeros((4, 4), dtype=bool)
    reads[-1, :-1] = True
    layout = Layout.of([[*lengths, len(prompt)]], PLAIN, reads=reads)
    ids = torch.from_numpy(layout.place([np.concatenate((memory, prompt))]))
    with torch.no_grad():
        hidden = model.core.hidden_dense(ids, layout, mode)[0, -1]
        wanted = model.core.logits(hidden[torch.from_numpy(layout.kinds[0, -1] == Kind.CONTENT)][-1])
    store, start = InMemoryStore(model.kv_spec), 0
    for i, n in enumerate(lengths):
        piece = memory[start : start + n].astype(np.int32)
        store.append("n", [Message(id=i, content="x")], model.encode(piece, [MessageRun(i, n)]))
        start += n
    source = Source(store, store.segments("n"), store.gate_keys("n")[1])
    config = RecallConfig(mode=mode, segments=99, blocks=999, threshold=0.0)
    window = model.window(model.recall([source], config))
    with torch.inference_mode():
        # at once, and token by token
        found = push(model.core, window, prompt[:9].tolist())
        for token in prompt[9:].tolist():
            found = push(model.core, window, [token])
    torch.testing.assert_close(found.view(-1), wanted, rtol=1e-4, atol=2e-5)


def test_both_windows_read_the_first_block_alike_and_no_more(model):
    # landmarks aside: up to the first of them the two are the same
    first = PLAIN.block_size - 2
    tokens = list(range(first))
    other = tiny_model(layout=SMALL)
    assert model.nll(tokens, mode="hierarchical") == pytest.approx(other.nll(tokens, mode="hierarchical"))
    tokens = list(range(3 * first))
    assert model.nll(tokens, mode="hierarchical") != pytest.approx(other.nll(tokens, mode="hierarchical"))


def test_a_memory_is_bound_to_it(model, tmp_path):
    path = tmp_path / "memory.db"
    with Memory.open(path, model=model) as memory:
        memory.add([{"id": i, "content": f"message {i} of some"} for i in range(9)])
        assert memory.ask("which?", max_new_tokens=5).tokens
        hits = memory.search("message 3", 2).hits
    with Memory.open(path, model=tiny_model(layout=PLAIN)) as memory:
        assert memory.search("message 3", 2).hits == hits
    with pytest.raises(ModelMismatch):
        Memory.open(path, model=tiny_model(layout=SMALL))


@pytest.mark.parametrize(
    "options",
    [{"exclude_unset": True}, {"exclude_defaults": True}, {"include": {"sink"}}, {"exclude": {"local_window"}}],
    ids=str,
)
def test_a_layout_is_written_with_pydantic_s_own_options(options):
    assert "local_window" not in LayoutConfig(sink=False).model_dump(**options)
    assert LayoutConfig(sink=False).model_dump(**options)["sink"] is False


def test_a_token_by_itself_attends_on_one_thread(model, monkeypatch):
    found = []
    real = Window._attend

    def attend(window, layer, *tensors):
        found.append((window._new, torch.get_num_threads()))
        return real(window, layer, *tensors)

    monkeypatch.setattr(Window, "_attend", attend)
    if threads._setting() is None:
        pytest.skip("torch runs on another OpenMP, or on none")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        window = model.window(None)
        with torch.inference_mode():
            push(model.core, window, [1, 2, 3])
            push(model.core, window, [4])
    finally:
        torch.set_num_threads(before)
    assert {n for new, n in found if new > 1} == {2} and {n for new, n in found if new == 1} == {1}
