"""The guard against spikes: one is skipped, a series ends the run and keeps the last checkpoint."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hierlandmark.config import LayoutConfig
from hierlandmark.train import loop
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.loop import BatchSource, TrainingDiverged, train

LAYOUT = LayoutConfig(block_size=8, blocks_per_segment=2)


class Rows(nn.Module):
    """What the loop needs of a core: two rows to train."""

    layers, heads, kv_heads, memory_layers = 2, 2, 1, (0, 1)

    def __init__(self):
        super().__init__()
        self.rows = nn.Parameter(torch.zeros(2, 3))


class Nothing(BatchSource):
    """Batches without content: the loss is made up."""

    # segments of a text
    segments = (1,)

    def __getitem__(self, step):
        return SimpleNamespace(ids=torch.zeros(1, self.segments[step % len(self.segments)], 4).numpy()), "flat"


@pytest.fixture
def go(tmp_path, monkeypatch):
    """A run whose gradient norm at each step is given; returns its core and log."""

    def run(norms, **options):
        steps = iter(norms)

        def loss(core, batch, mode, heads, votes, **more):
            return core.rows.sum() / 6**0.5 * next(steps), {}

        monkeypatch.setattr(loop, "batch_loss", loss)
        monkeypatch.setattr(loop, "hidden_norms", lambda core, batch, mode: {})
        core = Rows()
        config = TrainConfig(steps=len(norms), warmup=1, checkpoint_every=10)
        train(core, Nothing(None, config, LAYOUT), tmp_path, on_step=options.get("on_step"))
        return core

    return run


def log(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("spike", [100.0, float("nan"), float("inf")])
def test_a_spike_is_not_taken(go, tmp_path, spike):
    seen = []
    norms = [1.0] * 25 + [spike] + [1.0] * 4

    def watch(row):
        seen.append(row["spiked"])

    core = go(norms, on_step=watch)
    assert seen == [i == 25 for i in range(30)]
    assert torch.isfinite(core.rows).all() and "layers" in log(tmp_path)[25]
    assert json.loads((tmp_path / "state.json").read_text())["updates"] == 29


def test_norms_of_long_texts_are_compared_with_those_of_long_texts(go, tmp_path, monkeypatch):
    monkeypatch.setattr(Nothing, "segments", (8, 64))
    go([1.0, 30.0] * 25 + [1.0, 400.0, 30.0, 1.0])
    assert [row["step"] for row in log(tmp_path) if row["spiked"]] == [51, 52]


def test_early_norms_may_be_large(go, tmp_path):
    go([1.0] * 5 + [50.0] + [1.0] * 5)
    assert not any(row["spiked"] for row in log(tmp_path))


def test_a_series_of_spikes_ends_the_run(go, tmp_path):
    with pytest.raises(TrainingDiverged, match="eighth spike"):
        go([1.0] * 25 + [100.0] * 20)
    assert len(log(tmp_path)) == 33
    # the last good checkpoint is kept
    assert json.loads((tmp_path / "state.json").read_text())["step"] == 30


def test_spikes_far_apart_do_not(go, tmp_path):
    go(([1.0] * 20 + [100.0]) * 9)
    assert sum(row["spiked"] for row in log(tmp_path)) == 9
