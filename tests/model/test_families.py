"""Every family of base models keeps the invariants of docs/design.md, section 3, through transformers' registries."""

import numpy as np
import pytest
import torch

from hierlandmark.config import RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.messages import Message
from hierlandmark.model.generate import push
from hierlandmark.recall import Recall, Source
from hierlandmark.store import InMemoryStore
from hierlandmark.store.protocol import MessageRun
from hierlandmark.testing import Family, tiny_base, tiny_model

FAMILIES: tuple[Family, ...] = ("llama", "mistral", "qwen2", "qwen3", "gemma3_text")
MODES = ("hierarchical", "flat")
# fp32 sums in another order, on logits of size 5
TOLERANCE = {"rtol": 1e-4, "atol": 1e-4}

families = pytest.mark.parametrize("family", FAMILIES)
modes = pytest.mark.parametrize("mode", MODES)


def texts(model, lengths, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, n).astype(np.int32) for n in lengths]


def remembered(model, pieces, **options) -> tuple[Recall, InMemoryStore]:
    """A recall over segments that stood in a store."""
    store = InMemoryStore(model.kv_spec)
    for i, tokens in enumerate(pieces):
        encoded = list(model.encode(tokens, [MessageRun(i, len(tokens))]))
        store.append("n", [Message(id=i, content="x")], encoded)
    _, gates = store.gate_keys("n")
    config = RecallConfig(**{"segments": 999, "blocks": 999, "threshold": 0.0, **options})
    return model.recall([Source(store, store.segments("n"), gates)], config), store


def dense_reader(model, segments, reader, mode):
    """Logits of every content token of a reader that looks into isolated segments, in the dense training form."""
    S = len(segments)
    reads = np.zeros((S + 1, S + 1), dtype=bool)
    reads[S, :S] = True
    layout = Layout.of([[*map(len, segments), len(reader)]], model.layout, reads=reads)
    ids = torch.from_numpy(layout.place([np.concatenate([*segments, reader])]))
    with torch.inference_mode():
        hidden = model.core.hidden_dense(ids, layout, mode)[0, S]
        return model.core.logits(hidden[torch.from_numpy(layout.kinds[0, S] == Kind.CONTENT)])


@families
@modes
def test_every_block_recalled_from_a_store_is_the_dense_training_form(family, mode):
    model = tiny_model(family)
    capacity = model.layout.segment_capacity
    segments = texts(model, [capacity, 5, capacity, 11])
    (reader,) = texts(model, [17], seed=1)
    recall, _ = remembered(model, segments, mode=mode)
    window = model.window(recall)
    at, out = 0, []
    for count in (9, 1, 1, 6):
        out.append(push(model.core, window, reader[at : at + count].tolist()))
        at += count
    wanted = dense_reader(model, segments, reader, mode)[[8, 9, 10, 16]]
    torch.testing.assert_close(torch.stack(out), wanted, **TOLERANCE)


@families
def test_prefill_in_chunks_is_prefill_at_once_is_the_dense_form(family):
    model = tiny_model(family)
    (text,) = texts(model, [model.layout.segment_capacity])
    wanted = dense_reader(model, [], text, "hierarchical")[-1]
    for sizes in ([len(text)], [1] * len(text), [7, 8, len(text) - 15]):
        window, at = model.window(None), 0
        for size in sizes:
            last = push(model.core, window, text[at : at + size].tolist())
            at += size
        torch.testing.assert_close(last, wanted, **TOLERANCE)


@families
def test_one_block_is_the_base_models_own_attention(family):
    model, base = tiny_model(family), tiny_base(family)
    (text,) = texts(model, [model.layout.block_size - 2])
    with torch.inference_mode():
        ids = torch.tensor([[model.core.sink_id, *text.tolist()]])
        wanted = base(ids, use_cache=False).logits[0, -1].float()
    torch.testing.assert_close(push(model.core, model.window(None), text.tolist()), wanted, **TOLERANCE)


@families
@modes
def test_nothing_leaks_from_the_future(family, mode):
    model = tiny_model(family)
    capacity = model.layout.segment_capacity
    (text,) = texts(model, [2 * capacity + 7])
    changed = text.copy()
    changed[capacity + 9 :] = (changed[capacity + 9 :] + 1) % 256
    before = model.nll(text.tolist(), mode=mode)
    after = model.nll(changed.tolist(), mode=mode)
    # entry i is the prediction of token i + 1
    assert before[: capacity + 8] == pytest.approx(after[: capacity + 8], abs=1e-5)
    assert before[capacity + 8 :] != pytest.approx(after[capacity + 8 :], abs=1e-5)


@families
def test_one_segment_is_the_same_in_both_modes(family):
    model = tiny_model(family)
    (text,) = texts(model, [model.layout.segment_capacity])
    hierarchical, flat = (model.nll(text.tolist(), mode=mode) for mode in MODES)
    assert hierarchical == pytest.approx(flat, abs=1e-5)


@families
def test_segments_encoded_together_are_segments_encoded_alone(family):
    model = tiny_model(family)
    capacity = model.layout.segment_capacity
    text = np.concatenate(texts(model, [capacity, capacity, 9]))
    together = list(model.encode(text, [MessageRun(0, len(text))], sizes=[capacity, capacity, 9]))
    assert [one.closed for one in together] == [True, True, False]
    for one, start in zip(together, range(0, len(text), capacity), strict=True):
        part = text[start : start + capacity]
        (alone,) = model.encode(part, [MessageRun(0, len(part))])
        for name in ("gate_key", "landmark_keys", "kv"):
            np.testing.assert_allclose(getattr(one, name), getattr(alone, name), atol=1e-5)


@modes
def test_the_cache_of_blocks_changes_nothing(mode):
    model = tiny_model()
    segments = texts(model, [model.layout.segment_capacity] * 3)
    outs = []
    for cached in (1, 3, 1000):
        recall, _ = remembered(model, segments, mode=mode, cached_blocks=cached)
        window = model.window(recall)
        outs.append(torch.stack([push(model.core, window, [token]) for token in (5, 6, 7, 8)]))
    torch.testing.assert_close(outs[0], outs[2])
    torch.testing.assert_close(outs[1], outs[2])


@pytest.mark.parametrize("granularity", ["head_token", "head", "token"])
@modes
def test_few_blocks_are_read_and_their_masses_sum_to_one(granularity, mode):
    model = tiny_model()
    segments = texts(model, [model.layout.segment_capacity] * 4)
    recall, _ = remembered(model, segments, mode=mode, segments=2, blocks=1, granularity=granularity)
    q, near = torch.randn(4, 3, 8), torch.randn(4, 3)
    watched = recall.watch(4)
    out, lse = recall.read(0, q, near, 8**-0.5)
    assert out.shape == q.shape and torch.isfinite(out).all() and torch.isfinite(lse).all()
    most = {"head_token": 12, "head": 4, "token": 3}[granularity]
    assert 1 <= recall.tally.blocks_read <= most
    share = (lse - torch.logaddexp(lse, near)).exp()
    torch.testing.assert_close(watched.blocks[0].sum((1, 2)), share.sum(1))


def test_under_the_threshold_nothing_is_read():
    model = tiny_model()
    recall, _ = remembered(model, texts(model, [30]), threshold=0.5)
    q = torch.randn(4, 2, 8)
    assert recall.read(0, q, torch.full((4, 2), 50.0), 8**-0.5) is None
    assert recall.tally.blocks_read == 0


def test_keys_on_disk_are_not_rotated():
    model = tiny_model()
    # the same token twice: in the first layer its unrotated key is the same wherever it stands
    (segment,) = model.encode(np.full(6, 65, dtype=np.int32), [MessageRun(0, 6)])
    keys = segment.kv[0, 0, 0]  # (H_kv, P, D)
    np.testing.assert_allclose(keys[:, 1], keys[:, 5], atol=1e-6)
