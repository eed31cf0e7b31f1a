"""Selecting in the loop, and peers under plain attention: same data, same loop, adapters that say what they are."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from hierlandmark import LandmarkModel
from hierlandmark.config import RecallConfig
from hierlandmark.errors import AdapterInvalid, InvalidArgument
from hierlandmark.layout import Kind
from hierlandmark.model.dense import PlainAttention
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.episodes import NO_LABEL, Shape, build_batch
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.run import load_trainable, train_adapter
from hierlandmark.train.variants import selection_at, without_landmarks
from tests.train.tale import LAYOUT

CONFIG = TrainConfig(steps=3, tokens=512, rank=4, warmup=4, learning_rate=4e-3, longest=7, retrieval_layers=2)


@pytest.fixture(scope="module", params=[Shape(2, 6, 2), Shape(2, 4, 0)], ids=["readers", "stream"])
def batch(request, corpus):
    return build_batch(corpus, LAYOUT, request.param, np.random.default_rng(1))


def test_without_landmarks_text_and_labels_are_the_same(batch):
    plain = without_landmarks(batch)
    assert plain.ids.shape == plain.labels.shape == plain.weights.shape == plain.layout.kinds.shape
    for b in range(len(batch.ids)):
        was, now = batch.layout.kinds[b] == Kind.CONTENT, plain.layout.kinds[b] == Kind.CONTENT
        for before, after in ((batch.ids, plain.ids), (batch.labels, plain.labels), (batch.weights, plain.weights)):
            np.testing.assert_array_equal(before[b][was], after[b][now])
        assert (plain.labels[b][~now] == NO_LABEL).all()
    # nearly every label is the token behind it
    ids, labels = plain.ids[0, 0], plain.labels[0, 0]
    known = np.flatnonzero(labels[:-1] != NO_LABEL)
    assert (labels[known] == ids[known + 1]).mean() > 0.98
    assert not len(plain.asked)


@pytest.mark.parametrize("window", [None, 9])
def test_a_peer_learns_by_its_own_attention(base_folder, batch, window):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    plain = without_landmarks(batch)
    loss, parts = batch_loss(core, plain, "hierarchical", None, 0.3, plain=PlainAttention(window))
    loss.backward()
    assert all(p.grad.abs().sum() > 0 for name, p in core.named_parameters() if "lora_B" in name)
    with torch.no_grad():
        logits = core.logits(core.hidden_plain(torch.from_numpy(plain.ids[:, 0]), window))
    each = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), torch.from_numpy(plain.labels).flatten().clamp_min(0), reduction="none"
    )
    weights = torch.from_numpy(plain.weights).flatten()
    torch.testing.assert_close(loss.detach(), (each * weights).sum() / weights.sum())
    assert "votes" not in parts


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_selecting_everything_trains_as_the_dense_form(base_folder, batch, mode):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    grads, losses = {}, {}
    selections = {
        "dense": None,
        "all": RecallConfig(segments=99, blocks=999, threshold=0.0),
        "one": RecallConfig(segments=1, blocks=1, threshold=0.0),
    }
    for name, select in selections.items():
        core.zero_grad()
        losses[name], _ = batch_loss(core, batch, mode, {1: [1, 3]}, 0.3, select=select)
        losses[name].backward()
        losses[name] = losses[name].detach()
        grads[name] = core.rows.grad.clone()
    torch.testing.assert_close(losses["all"], losses["dense"])
    torch.testing.assert_close(grads["all"], grads["dense"], rtol=1e-3, atol=1e-4 * float(grads["dense"].abs().max()))
    assert abs(float(losses["one"] - losses["dense"])) > 1e-5 and grads["one"].isfinite().all()


def test_landmarks_alone_weigh_what_gates_opened_as_in_flat_mode(base_folder, batch):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    everything = RecallConfig(segments=99, blocks=999, threshold=0.0, weigh_by="landmarks")
    losses, grads = [], []
    for mode, select in (("flat", None), ("hierarchical", everything), ("hierarchical", None)):
        core.zero_grad()
        loss, _ = batch_loss(core, batch, mode, None, 0.0, select=select)
        loss.backward()
        losses.append(loss.detach())
        grads.append(core.rows.grad.clone())
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4 * float(grads[0].abs().max()))
    assert abs(float(losses[2] - losses[0])) > 1e-6


def test_kept_memory_is_selected_from_too(base_folder, batch):
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    few = RecallConfig(segments=1, blocks=2, threshold=0.0)
    kept = replace(batch, cached=6 if len(batch.asked) else 2)
    # a memory's own segments read nothing, so that without gradients nothing changes; a stream's labels are fewer
    labels = batch.labels.copy()
    labels[:, : kept.cached] = NO_LABEL
    with torch.no_grad():
        whole, _ = batch_loss(core, replace(batch, labels=labels), "flat", None, 0.0, select=few)
        part, _ = batch_loss(core, kept, "flat", None, 0.0, select=few)
    if len(batch.asked):
        torch.testing.assert_close(part, whole)
    assert part.isfinite()


def test_a_share_of_steps_selects():
    config = replace(CONFIG, steps=400, select_share=0.25, select_blocks=3, select_segments=2, select_threshold=0.1)
    config = replace(config, select_weigh_by="landmarks")
    chosen = [selection_at(config, step) for step in range(400)]
    assert 60 < sum(one is not None for one in chosen) < 140
    assert {one for one in chosen if one} == {RecallConfig(blocks=3, segments=2, threshold=0.1, weigh_by="landmarks")}
    assert chosen == [selection_at(config, step) for step in range(400)]
    assert not any(selection_at(CONFIG, step) for step in range(50))
    assert all(selection_at(replace(CONFIG, select_share=1.0), step) for step in range(50))


@pytest.mark.parametrize(
    "wrong",
    [{"window": 5}, {"attention": "window"}, {"attention": "window", "window": 0}, {"select_share": 1.5},
     {"select_blocks": 0}, {"select_threshold": 1.0}, {"attention": "full", "jump": 3},
     {"attention": "full", "select_share": 0.1}, {"select_weigh_by": "votes"}, {"select_weigh_by": ["gates"]}],
)  # fmt: skip
def test_options_that_do_not_fit(wrong):
    with pytest.raises(InvalidArgument, match="expected"):
        replace(CONFIG, **wrong)


@pytest.mark.parametrize(("attention", "window"), [("window", 24), ("full", None), ("landmark", None)])
def test_an_adapter_says_what_it_was_trained_under(base_folder, texts, tmp_path, attention, window):
    config = replace(CONFIG, attention=attention, window=window, select_share=1.0 if attention == "landmark" else 0.0)
    adapter = train_adapter(
        str(base_folder), texts=[texts[0]], chats=[texts[1]], folder=tmp_path, config=config, layout=LAYOUT,
        device="cpu",
    )  # fmt: skip
    told = json.loads((adapter / "hierlandmark.json").read_text())
    assert (told["attention"], told["window"]) == (attention, window)
    rows = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert all(row["selects"] == (attention == "landmark") and row["tokens_per_s"] > 0 for row in rows)
    tokens = list(range(60))
    if attention == "landmark":
        model = LandmarkModel.from_pretrained(base_folder, adapter=adapter)
        assert len(model.nll(tokens, mode="hierarchical")) == 59
        return
    mode = "xl" if window else "full"
    with pytest.raises(
        AdapterInvalid, match=rf"under '{attention}' attention, .*; load it with peer=True, .* '{mode}'"
    ) as told:
        LandmarkModel.from_pretrained(base_folder, adapter=adapter)
    assert f"`hierlandmark eval perplexity --mode {mode}`" in told.value.on_command_line
    model = LandmarkModel.from_pretrained(base_folder, adapter=adapter, peer=True)
    base = LandmarkModel.from_pretrained(base_folder, adapter=None, peer=True)
    tuned, untuned = (one.nll(tokens, mode=mode, window=window) for one in (model, base))
    assert max(abs(a - b) for a, b in zip(tuned, untuned, strict=True)) > 1e-4
    with pytest.raises(InvalidArgument, match=r"trained under .* with attention='landmark', or adapter=None") as told:
        model.nll(tokens, mode="flat")
    assert "with --attention landmark, or --adapter none" in told.value.on_command_line
