"""The check of gradients tells a right attention from a wrong one."""

import numpy as np
import pytest
import torch

from hierlandmark.config import LayoutConfig
from hierlandmark.model import dense
from hierlandmark.testing import ByteTokenizer
from hierlandmark.train import gradients as module
from hierlandmark.train.corpus import build_corpus
from hierlandmark.train.episodes import Shape, build_batch
from hierlandmark.train.gradients import check_attention, compare, gradients
from hierlandmark.train.run import load_trainable

LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)


@pytest.fixture(scope="module")
def case(base_folder):
    torch.manual_seed(0)
    tokenizer = ByteTokenizer()
    text = np.frombuffer(b"Some words of a long and winding tale about ships. " * 200, dtype=np.uint8)
    corpus = build_corpus({"tale": text}, tokenizer, lambda q: tokenizer(f"Q: {q} A:")["input_ids"])
    core, _, _ = load_trainable(str(base_folder), LAYOUT, 4, "cpu")
    return core, build_batch(corpus, LAYOUT, Shape(1, 4, 2), np.random.default_rng(1))


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_blockwise_agrees_with_the_reference_in_every_layer(case, mode):
    core, batch = case
    rows = list(check_attention(core, batch, mode, ["blockwise"]))
    assert [row["layer"] for row in rows] == list(range(core.layers))
    assert max(value for row in rows for value in row["rms"].values()) < 1e-5
    assert "hidden" not in vars(core)


def test_a_wrong_backward_shows(case, monkeypatch):
    core, batch = case
    exact = gradients(core, batch, "hierarchical")
    assert compare(gradients(core, batch, "hierarchical"), exact)["cosine_worst"] == 1.0
    right = module.landmark_attention

    def without_values(q, k, v, layout, **given):
        return right(q, k, v.detach(), layout, **given)

    monkeypatch.setattr(dense, "landmark_attention", without_values)
    assert compare(gradients(core, batch, "hierarchical"), exact)["cosine_worst"] < 0.99
