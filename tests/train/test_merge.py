"""Adapters made of two."""

import pytest
import torch

from hierlandmark.config import LayoutConfig
from hierlandmark.errors import AdapterInvalid, InvalidArgument
from hierlandmark.model.adapter import Adapter, AdapterMeta, RetrievalHead, save_adapter
from hierlandmark.train.merge import main, merge_adapters

NAME = "base_model.model.model.layers.{}.mlp.up_proj.lora_{}.weight"


def saved(folder, value, *, rank=2, layout=None, heads=()):
    tensors = {NAME.format(layer, side): torch.full((rank, 4), value) for layer in (0, 11) for side in "AB"}
    tensors["landmark_rows"] = torch.full((2, 4), value)
    meta = AdapterMeta(layout=layout or LayoutConfig(), base="b", retrieval=heads, training={"seed": int(value)})
    save_adapter(folder, tensors, meta, base_name="base", rank=rank, alpha=2 * rank)
    return folder


def test_each_depth_has_its_share_and_the_second_searches(tmp_path, capsys):
    heads = (RetrievalHead(layer=0, head=1),)
    first, second = saved(tmp_path / "one", 1.0), saved(tmp_path / "two", 3.0, heads=heads)
    main([str(first), str(second), "--out", str(tmp_path / "out"), "--layer", "1", "--above", "0.25"])
    assert capsys.readouterr().out.strip() == str(tmp_path / "out")
    made = Adapter.load(tmp_path / "out")
    assert {float(x) for x in made.weights.lora[NAME.format(0, "A")].flatten()} == {3.0}
    assert {float(x) for x in made.weights.lora[NAME.format(11, "B")].flatten()} == {1.5}
    assert (made.weights.rows == 3.0).all() and made.meta.retrieval == heads and made.weights.scale == 2.0
    wanted = {"first": Adapter.load(first).digest, "second": Adapter.load(second).digest}
    assert made.meta.training["merged"] == {**wanted, "below": 1.0, "above": 0.25, "layer": 1}
    assert made.meta.training["seed"] == 3


def test_what_does_not_fit_is_refused(tmp_path):
    first = saved(tmp_path / "one", 1.0)
    for other in (
        saved(tmp_path / "wide", 3.0, rank=4),
        saved(tmp_path / "short", 3.0, layout=LayoutConfig(block_size=32)),
        tmp_path / "nothing",
    ):
        with pytest.raises(AdapterInvalid):
            merge_adapters(first, other, tmp_path / "out", above=0.5, layer=1)
    with pytest.raises(InvalidArgument, match="0 to 1"):
        merge_adapters(first, first, tmp_path / "out", above=1.5, layer=1)
    assert not (tmp_path / "out").exists()
