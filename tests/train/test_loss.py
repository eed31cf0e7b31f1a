"""The loss: votes are those of a search, gradients reach all that is trained, shares are shares."""

import numpy as np
import pytest
import torch

from hierlandmark.config import RecallConfig
from hierlandmark.layout import Kind, Layout
from hierlandmark.memory.rank import rank_blocks
from hierlandmark.messages import Message
from hierlandmark.model import RetrievalHead
from hierlandmark.model.dense import Probe
from hierlandmark.model.generate import push
from hierlandmark.recall import Source
from hierlandmark.store import InMemoryStore, MessageRun
from hierlandmark.testing import SMALL, tiny_model
from hierlandmark.train.episodes import Shape, build_batch
from hierlandmark.train.loop import retrieval_heads
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.run import load_trainable
from tests.train.tale import LAYOUT


@pytest.fixture(scope="module")
def batch(corpus):
    return build_batch(corpus, LAYOUT, Shape(2, 6, 2), np.random.default_rng(1))


@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_a_probe_votes_as_a_search_does(family, mode):
    model = tiny_model(family)
    core, capacity = model.core, SMALL.segment_capacity
    rng = np.random.default_rng(0)
    # the last segment is short
    memory = rng.integers(0, 256, 3 * capacity + 9)
    prompt = rng.integers(0, 256, 15)
    lengths = [capacity] * 3 + [9]
    M, N = len(lengths), SMALL.blocks_per_segment
    heads = {0: [1, 2], 1: [0, 3]}

    # dense: memory segments on their own, the prompt reads them all
    reads = np.zeros((M + 1, M + 1), dtype=bool)
    reads[M, :M] = True
    layout = Layout.of([[*lengths, len(prompt)]], SMALL, reads=reads)
    ids = torch.from_numpy(layout.place([np.concatenate((memory, prompt))]))
    last = int(np.flatnonzero(layout.kinds.reshape(-1) == Kind.CONTENT)[-1])
    # a target apiece, so that the mass of every block shows
    n = M * N
    probe = Probe(heads, torch.zeros(n, dtype=torch.long), torch.full((n,), last), torch.eye(n, dtype=torch.bool))
    with torch.no_grad():
        core.hidden_dense(ids, layout, mode, probe=probe)
    by_gates, by_landmarks = (found.T.reshape(-1, M, N) for found in torch.cat(probe.found, dim=-1))

    # a search: the same memory out of a store, read by the prompt in full
    store = InMemoryStore(model.kv_spec)
    segments = list(model.encode(memory, [MessageRun(1, len(memory))], sizes=lengths))
    store.append("n", [Message(id=1, content="x")], segments)
    _, gates = store.gate_keys("n")
    config = RecallConfig(mode=mode, segments=M, blocks=n, threshold=0.0)
    recall = model.recall([Source(store, store.segments("n"), gates)], config)
    window = model.window(recall, collect=True)
    with torch.inference_mode():
        push(core, window, prompt.tolist())
    voters = [RetrievalHead(layer=layer, head=head) for layer in heads for head in heads[layer]]
    ranked = rank_blocks(recall, window.queries, voters, window.scale, mode, M)
    got = ranked.votes[:, np.argsort(ranked.segments)]
    torch.testing.assert_close(got, by_landmarks, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(got.sum((1, 2)), torch.ones(len(voters)))
    # what opens segments: gates, or in flat mode their landmarks
    segments = (by_gates if mode == "hierarchical" else by_landmarks).sum((0, 2))
    torch.testing.assert_close(ranked.segment_scores, segments, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_gradients_reach_rows_and_lora_and_nothing_else(base_folder, batch, mode):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    core.train()
    loss, parts = batch_loss(core, batch, mode, retrieval_heads(core, 2), 0.3)
    loss.backward()
    trained = {name: p for name, p in core.named_parameters() if p.requires_grad}
    assert {"rows"} < trained.keys() and all("lora_" in name for name in trained.keys() - {"rows"})
    # LoRA's A gets none while B is zero; the gate is unused in flat mode
    for name, parameter in trained.items():
        if "lora_A" not in name:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert trained["rows"].grad[0].abs().sum() > 0
    if mode == "hierarchical":
        assert trained["rows"].grad[1].abs().sum() > 0
    assert all(p.grad is None for name, p in core.named_parameters() if name not in trained)
    assert all(0 <= parts[name] <= 1 for name in ("right", "votes_gates", "votes_flat") if name in parts)


def test_the_loss_is_the_weighted_mean_over_labels(base_folder, batch):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    with torch.no_grad():
        got, _ = batch_loss(core, batch, "hierarchical", None, 0.0)
        logits = core.logits(core.hidden_dense(torch.from_numpy(batch.ids), batch.layout))
    weights = torch.from_numpy(batch.weights).double()
    labels = torch.from_numpy(batch.labels).clamp_min(0)
    each = -logits.double().log_softmax(-1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(got.double(), (each * weights).sum() / weights.sum(), rtol=1e-5, atol=1e-6)


def test_no_tensor_with_a_gradient_becomes_a_number(base_folder, batch, recwarn):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    batch_loss(core, batch, "hierarchical", retrieval_heads(core, 2), 0.3)
    assert not [w for w in recwarn if "requires_grad" in str(w.message)]


def test_hidden_states_between_layers_may_be_wider_than_the_weights(base_folder):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    ids, kinds = torch.zeros(1, 4, dtype=torch.long), torch.full((1, 4), int(Kind.CONTENT))
    assert core.embed(ids, kinds).dtype == torch.float32
    core.residual_dtype = torch.float64
    assert core.embed(ids, kinds).dtype == torch.float64
