"""The check of gradients tells a right attention from a wrong one."""

import numpy as np
import pytest
import torch

from hierlandmark.model import dense
from hierlandmark.train import gradients as module
from hierlandmark.train.episodes import Shape, build_batch
from hierlandmark.train.gradients import check_attention, compare, gradients
from hierlandmark.train.run import load_trainable
from tests.train.tale import LAYOUT


@pytest.fixture(scope="module")
def case(base_folder, corpus):
    torch.manual_seed(0)
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    return core, build_batch(corpus, LAYOUT, Shape(1, 4, 2), np.random.default_rng(1))


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_blockwise_agrees_with_the_reference_in_every_layer(case, mode):
    core, batch = case
    rows = list(check_attention(core, batch, mode, ["blockwise"]))
    assert [row["layer"] for row in rows] == list(range(core.layers))
    assert max(value for row in rows for value in row["rms"].values()) < 1e-5
    assert "hidden" not in vars(core)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_older_segments_are_checked_where_a_text_knows_recency(case, corpus, mode):
    core, _ = case
    batch = build_batch(corpus, LAYOUT, Shape(1, 4, 0), np.random.default_rng(1), recency=2)
    rows = list(check_attention(core, batch, mode, ["blockwise"]))
    assert all(row["rms"].keys() == {"out", "dq", "dq_far", "dk", "dv"} for row in rows)
    assert max(value for row in rows for value in row["rms"].values()) < 1e-5


def test_a_wrong_backward_shows(case, monkeypatch):
    core, batch = case
    exact = gradients(core, batch, "hierarchical")
    assert compare(gradients(core, batch, "hierarchical"), exact)["cosine_worst"] == 1.0
    right = module.landmark_attention

    def without_values(q, k, v, layout, **given):
        return right(q, k, v.detach(), layout, **given)

    monkeypatch.setattr(dense, "landmark_attention", without_values)
    assert compare(gradients(core, batch, "hierarchical"), exact)["cosine_worst"] < 0.99
