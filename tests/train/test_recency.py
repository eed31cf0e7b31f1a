"""Texts read in order in which the segment right before stands at its true distance."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hierlandmark import LandmarkModel, LayoutConfig
from hierlandmark.cli import app
from hierlandmark.errors import AdapterInvalid, InvalidArgument
from hierlandmark.layout import Layout
from hierlandmark.model.adapter import Adapter
from hierlandmark.testing import SMALL, tiny_model
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.merge import merge_adapters, with_search
from hierlandmark.train.run import train_adapter

CAPACITY = SMALL.segment_capacity


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("near", [1, 2])
def test_only_what_stands_further_behind_changes(mode, near):
    core = tiny_model().core
    layout = Layout.of([[CAPACITY] * 5], SMALL)
    ids = torch.from_numpy(layout.place([np.random.default_rng(0).integers(0, 256, 5 * CAPACITY)]))
    with torch.no_grad():
        fewer, told = (core.hidden_dense(ids, layout, mode, recency=recency) for recency in (near - 1, near))
    same = near + 1
    torch.testing.assert_close(told[:, :same], fewer[:, :same])
    assert not torch.allclose(told[:, same:], fewer[:, same:], atol=1e-3)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("near", [1, 2])
def test_the_nearest_segments_are_told_from_the_others(mode, near):
    """The last of some segments reads others of which two change places: `near` of them it knows by their distance."""
    core, rng = tiny_model().core, np.random.default_rng(0)
    S = near + 3
    texts = [rng.integers(0, 256, CAPACITY) for _ in range(S)]
    reads = np.zeros((S, S), dtype=bool)
    reads[-1, :-1] = True
    layout = Layout.of([[CAPACITY] * S], SMALL, reads=reads)

    def last(order, recency):
        ids = torch.from_numpy(layout.place([np.concatenate([texts[i] for i in (*order, S - 1)])]))
        with torch.no_grad():
            return core.hidden_dense(ids, layout, mode, recency=recency)[:, -1]

    def swapped(i, recency):
        order = list(range(S - 1))
        order[i], order[i + 1] = order[i + 1], order[i]
        return last(range(S - 1), recency), last(order, recency)

    # the two oldest ones
    torch.testing.assert_close(*swapped(0, near), rtol=1e-4, atol=1e-5)
    # the furthest of the near ones, and the one right behind it
    torch.testing.assert_close(*swapped(1, near - 1), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(*swapped(1, near), atol=1e-3)


def test_a_run_is_told_and_its_adapter_says_so(base_folder, texts, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--out", out, "--text", texts[0], "--model", base_folder, "--steps", 3, "--rank", 2]
    words += ["--tokens", 512, "--device", "cpu", "--length", "256", "--stream-share", 0.5, "--recency", 1]
    words += ["--block-size", 16, "--blocks-per-segment", 4, "--local-window", "segment", "--select-share", 0.5]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    meta = Adapter.load(out / "adapter").meta
    assert meta.recency == 1 and meta.layout.local_window == "segment"
    model = LandmarkModel.from_pretrained(base_folder, adapter=out / "adapter")
    tokens = list(range(200))
    told = model.nll(tokens, mode="hierarchical")
    path = out / "adapter" / "hierlandmark.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "recency": False}))
    without = LandmarkModel.from_pretrained(base_folder, adapter=out / "adapter").nll(tokens, mode="hierarchical")
    capacity = meta.layout.segment_capacity
    assert told[: 2 * capacity - 1] == pytest.approx(without[: 2 * capacity - 1], abs=1e-4)
    assert told[2 * capacity :] != pytest.approx(without[2 * capacity :], abs=1e-4)


def test_a_run_from_it_keeps_the_distances_and_merges_know_them(base_folder, texts, tmp_path):
    config = TrainConfig(steps=1, tokens=512, lengths=(256,), rank=2, stream_share=0.5, recency=1, votes=0.3)
    layout = LayoutConfig(block_size=16, blocks_per_segment=4, local_window="segment")

    def trained(name, config, init=None):
        return train_adapter(
            str(base_folder), texts=[texts[0]], chats=[], folder=tmp_path / name, config=config, device="cpu",
            layout=None if init else layout, init=init,
        )  # fmt: skip

    first = trained("first", config)
    # nothing said of it, and no text in order to learn it from
    second = trained("second", replace(config, recency=None, stream_share=0.0), init=first)
    assert Adapter.load(second).meta.recency == 1 and Adapter.load(second).meta.layout == layout
    third = trained("without again", replace(config, recency=0), init=first)
    assert Adapter.load(third).meta.recency == 0
    with pytest.raises(InvalidArgument, match="stream_share"):
        trained("third", replace(config, stream_share=0.0))
    without = trained("without", replace(config, recency=0))
    with pytest.raises(AdapterInvalid, match="recency"):
        merge_adapters(first, without, tmp_path / "merged", above=0.5, layer=1)
    # what only searches reads nothing in order
    assert Adapter.load(with_search(first, without, tmp_path / "both")).meta.recency


def test_configurations_of_before_said_yes_or_no():
    assert [TrainConfig(recency=said).recency for said in (False, True)] == [0, 1]


def test_it_needs_landmarks():
    with pytest.raises(InvalidArgument, match="recency"):
        replace(TrainConfig(), attention="full", recency=1)


def test_a_file_is_no_folder_to_train_in(texts, tmp_path):
    (tmp_path / "notes.md").write_text("a text\n")
    line = ["train", "--out", str(tmp_path / "notes.md"), "--text", str(texts[0]), "--steps", "1"]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 2 or "InvalidArgument" in str(done.exception or done.output)
    assert "is a file" in done.output + str(done.exception)
