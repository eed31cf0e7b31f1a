"""A whole training run on a tiny model: loss falls, checkpoints resume, the adapter loads."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from hierlandmark import LandmarkModel, LayoutConfig, Memory, Message
from hierlandmark.errors import InvalidArgument, ModelMismatch
from hierlandmark.train.loop import TrainConfig
from hierlandmark.train.run import train_adapter

LAYOUT = LayoutConfig(block_size=16, blocks_per_segment=4)
CONFIG = TrainConfig(steps=24, tokens=512, rank=4, warmup=4, learning_rate=4e-3, longest=7, retrieval_layers=2)


def run(base_folder, texts, folder, config=CONFIG, **options):
    return train_adapter(
        str(base_folder), texts=[texts[0]], chats=[texts[1]], folder=folder, config=config, layout=LAYOUT,
        device="cpu", **options,
    )  # fmt: skip


def rows(folder):
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def test_loss_falls_and_the_adapter_loads(base_folder, texts, tmp_path):
    adapter = run(base_folder, texts, tmp_path / "run")
    log = rows(tmp_path / "run")
    assert len(log) == 24 and all(row["norm"] == row["norm"] for row in log)
    first, last = ([row["loss"] for row in part] for part in (log[:6], log[-6:]))
    assert sum(last) < sum(first)
    model = LandmarkModel.from_pretrained(base_folder, adapter=adapter)
    assert model.layout == LAYOUT and len(model.retrieval) == 4
    with Memory.open(":memory:", model=model) as memory:
        memory.add([Message(id=1, content="The code is 4711.")])
        assert memory.search("code", 1).hits[0].message_ids == [1]
        assert memory.ask("What is the code?", max_new_tokens=2).tokens is not None


def test_a_resumed_run_is_the_run_never_cut(base_folder, texts, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = replace(CONFIG, steps=8, checkpoint_every=4)
    run(base_folder, texts, whole, config)

    class Cut(Exception):
        pass

    def stop(row):
        if row["step"] == 5:
            raise Cut

    with pytest.raises(Cut):
        run(base_folder, texts, cut, config, on_step=stop)
    assert json.loads((cut / "state.json").read_text())["step"] == 4
    run(base_folder, texts, cut, config, resume=True)
    wanted, got = (load_file(folder / "weights.safetensors") for folder in (whole, cut))
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-4, atol=1e-6)


def test_folders_are_not_mixed_up(base_folder, texts, tmp_path):
    config = replace(CONFIG, steps=1)
    with pytest.raises(InvalidArgument, match="nothing to resume"):
        run(base_folder, texts, tmp_path / "run", config, resume=True)
    run(base_folder, texts, tmp_path / "run", config)
    with pytest.raises(InvalidArgument, match="--resume"):
        run(base_folder, texts, tmp_path / "run", config)
    with pytest.raises(InvalidArgument, match="rank"):
        run(base_folder, texts, tmp_path / "run", replace(config, rank=2), resume=True)


def test_an_adapter_of_another_base_is_refused(base_folder, texts, tmp_path):
    from hierlandmark.testing import tiny_base

    adapter = run(base_folder, texts, tmp_path / "run", replace(CONFIG, steps=1))
    other = tmp_path / "other"
    import shutil

    shutil.copytree(base_folder, other)
    tiny_base(seed=3).save_pretrained(other)
    with pytest.raises(ModelMismatch):
        LandmarkModel.from_pretrained(other, adapter=adapter)
    with pytest.warns(UserWarning, match="untrained"):
        LandmarkModel.from_pretrained(base_folder, adapter=None)
