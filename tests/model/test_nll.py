"""Likelihood under each attention: what is selected beside a store, and plain attention beside the base model."""

import numpy as np
import pytest
import torch

from hierlandmark.config import LayoutConfig, RecallConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.layout import Kind, Layout
from hierlandmark.messages import Message
from hierlandmark.model.generate import push
from hierlandmark.ops.selected import Counts, selected_attention
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore, MessageRun
from hierlandmark.testing import SMALL, tiny_model

NEAR = {"rtol": 1e-4, "atol": 2e-5}
modes = pytest.mark.parametrize("mode", ["hierarchical", "flat"])
weighings = pytest.mark.parametrize("weigh_by", ["gates", "landmarks"])
granularities = pytest.mark.parametrize("granularity", ["head_token", "head", "token", "shared"])
CAPACITY = SMALL.segment_capacity
# four memory segments, one short, and a reader behind them
LENGTHS = [CAPACITY, 9, CAPACITY, CAPACITY]
# in layer 0 marks in the same place have the same key, and which of equals is chosen means nothing
UNLIKE = {"hierarchical": [CAPACITY, 9, 20, 15], "flat": [CAPACITY]}


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def tokens(n, seed=0):
    return np.random.default_rng(seed).integers(0, 256, n)


def stored(model, memory, lengths=LENGTHS):
    store, start = InMemoryStore(model.kv_spec), 0
    for i, n in enumerate(lengths):
        piece = memory[start : start + n].astype(np.int32)
        store.append("n", [Message(id=i, content="x")], model.encode(piece, [MessageRun(i, n)]))
        start += n
    return Source(store, store.segments("n"), store.gate_keys("n")[1])


def reader(n, lengths=LENGTHS):
    reads = np.zeros((len(lengths) + 1,) * 2, dtype=bool)
    reads[-1, :-1] = True
    return Layout.of([[*lengths, n]], SMALL, reads=reads)


@modes
@pytest.mark.parametrize("granularity", ["head_token", "token"])
@pytest.mark.parametrize("threshold", [0.0, 0.4])
@weighings
def test_a_reader_selects_as_a_window_over_a_store_recalls(model, mode, granularity, threshold, weigh_by):
    lengths = UNLIKE[mode]
    memory, prompt = tokens(sum(lengths)), tokens(15, 1)
    config = RecallConfig(
        mode=mode, segments=2, blocks=3, granularity=granularity, threshold=threshold, weigh_by=weigh_by
    )
    layout = reader(len(prompt), lengths)
    ids = torch.from_numpy(layout.place([np.concatenate((memory, prompt))]))
    with torch.no_grad():
        hidden = model.core.hidden_dense(ids, layout, mode, select=config)[0, -1]
        wanted = hidden[torch.from_numpy(layout.kinds[0, -1] == Kind.CONTENT)][-1]
    window = model.window(model.recall([stored(model, memory, lengths)], config))
    with torch.inference_mode():
        found = push(model.core, window, prompt.tolist())
    # the closing landmark and gate choose for themselves, so that content is what a window has
    torch.testing.assert_close(model.core.logits(wanted), found.view(-1), **NEAR)


@modes
@granularities
@pytest.mark.parametrize("threshold", [0.0, 0.3])
@weighings
def test_one_layer_reads_what_recall_reads(model, mode, granularity, threshold, weigh_by):
    """The same keys in a store and on the grid, the same queries: gates, landmarks and values of layer 1."""
    memory, n = tokens(sum(LENGTHS)), 17
    config = RecallConfig(
        mode=mode, segments=2, blocks=3, granularity=granularity, threshold=threshold, weigh_by=weigh_by
    )
    layout = reader(n)
    seen = Seen(layout, model.core)
    ids = torch.from_numpy(layout.place([np.concatenate((memory, tokens(n, 1)))]))
    with torch.no_grad():
        model.core.hidden(
            ids.view(1, -1), torch.from_numpy(layout.kinds).view(1, -1), torch.arange(32).repeat(1, 5), seen
        )
    q, k, v, scale = seen.of[1]
    generator = torch.Generator().manual_seed(3)
    q, q_far = (2 * torch.randn(q.shape, generator=generator) for _ in range(2))
    real = torch.from_numpy(layout.kinds[0, 4] != Kind.PAD)
    counts = Counts()
    out = selected_attention(q, k, v, layout, config, mode=mode, scale=scale, q_far=q_far, counts=counts)
    alone = Layout(SMALL, layout.kinds, np.zeros_like(layout.reads))
    near = selected_attention(q, k, v, alone, config, mode=mode, scale=scale)
    near, out = (x[0, :, 4 * 32 :][:, real] for x in (near, out))
    near_lse = near_lse_by_hand(q[0, :, 4 * 32 :], k[0, :, 4 * 32 :], layout.kinds[0, 4], scale)[:, real]
    recall = model.recall([stored(model, memory)], config)
    recall.begin()
    past, lse = recall.read(1, q_far[0, :, 4 * 32 :][:, real], near_lse, scale)
    share = (lse - torch.logaddexp(near_lse, lse)).exp().unsqueeze(-1)
    torch.testing.assert_close(out, near * (1 - share) + past * share, **NEAR)
    found, tally = counts.get(), recall.tally
    assert (found["gate_keys"], found["blocks_read"]) == (tally.gate_keys, tally.blocks_read)
    assert found["landmark_keys"] == tally.landmark_keys
    assert found["queries_skipped"] == int((lse == float("-inf")).sum())
    if threshold:
        assert 0 < found["queries_skipped"] < found["queries"]


class Seen:
    """Dense attention that keeps what each layer was given."""

    def __init__(self, layout, core):
        self.layout, self.of = layout, {}

    def attend(self, layer, q, k, v, scale):
        self.of[layer] = (q, k, v, scale)
        return selected_attention(q, k, v, self.layout, RecallConfig(), scale=scale)


def near_lse_by_hand(q, k, kinds, scale):
    """(H, P, D), (H_kv, P, D), (P,) -> (H, P)."""
    i, size = torch.arange(len(kinds)), SMALL.block_size
    kinds = torch.from_numpy(kinds)
    same, before = i[:, None] // size == i // size, i[:, None] >= i
    seen = (same & before & (kinds == Kind.CONTENT)) | (before & (kinds == Kind.SINK))
    seen |= (kinds == Kind.LANDMARK) & (i[:, None] // size > i // size)
    logits = q @ k.repeat_interleave(2, 0).transpose(1, 2) * scale
    return logits.masked_fill(~seen, float("-inf")).logsumexp(-1)


@modes
def test_selecting_everything_is_every_block(model, mode):
    text = tokens(5 * CAPACITY + 7).tolist()
    dense = model.nll(text, mode=mode)
    assert len(dense) == len(text) - 1
    whole = RecallConfig(segments=99, blocks=999, threshold=0.0)
    np.testing.assert_allclose(model.nll(text, mode=mode, recall=whole), dense, rtol=1e-4, atol=1e-5)
    few = model.nll(text, mode=mode, recall=RecallConfig(segments=1, blocks=1, threshold=0.0))
    assert max(abs(a - b) for a, b in zip(few, dense, strict=True)) > 0.01
    # the first segment has nothing to read
    np.testing.assert_allclose(few[: CAPACITY - 1], dense[: CAPACITY - 1], rtol=1e-4, atol=1e-5)


def test_another_layout_is_that_of_a_model_made_with_it(model):
    other = LayoutConfig(block_size=8, blocks_per_segment=2)
    text = tokens(60).tolist()
    wanted = tiny_model(layout=other).nll(text, mode="hierarchical")
    np.testing.assert_allclose(model.nll(text, mode="hierarchical", layout=other), wanted, rtol=1e-4, atol=1e-5)


def test_a_window_as_long_as_the_text_is_full_attention():
    model = tiny_model()
    text = tokens(50).tolist()
    full = model.nll(text, mode="full")
    model.attention = None
    for window in (50, 51, 1000):
        np.testing.assert_allclose(model.nll(text, mode="xl", window=window), full, rtol=1e-4, atol=1e-5)
    short = model.nll(text, mode="xl", window=7)
    # two layers of seven tokens: what stands thirteen back is not heard of
    np.testing.assert_allclose(short[:6], full[:6], rtol=1e-4, atol=1e-5)
    late = model.nll([0, *text[1:]], mode="xl", window=7)
    np.testing.assert_allclose(late[13:], short[13:], rtol=1e-5)
    assert abs(late[11] - short[11]) > 1e-6


@pytest.mark.parametrize(("attention", "mode"), [("landmark", "xl"), ("window", "flat"), ("full", "hierarchical")])
def test_an_adapter_of_another_attention_is_refused(attention, mode):
    model = tiny_model()
    model.attention = attention
    with pytest.raises(InvalidArgument, match=f"trained under '{attention}' attention"):
        model.nll([1, 2, 3], mode=mode, window=5)


def test_xl_needs_a_window():
    model = tiny_model()
    model.attention = "window"
    with pytest.raises(InvalidArgument, match="window of at least 1 token, got None"):
        model.nll([1, 2, 3], mode="xl")
    with pytest.raises(InvalidArgument, match="cache of 0 tokens or more, got -1"):
        model.nll([1, 2, 3], mode="xl", window=2, cache=-1)
