"""Runs that are told which layers look into a memory."""

import json

import pytest
from typer.testing import CliRunner

from hierlandmark import LandmarkModel
from hierlandmark.cli import app
from hierlandmark.errors import AdapterInvalid, InvalidArgument
from hierlandmark.model.adapter import META_FILE, Adapter
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.merge import merge_adapters
from hierlandmark.train.run import train_adapter

RUN = {"steps": 2, "tokens": 512, "rank": 2, "longest": 4, "votes": 0.3, "gates": 1.0}


def trained(base_folder, texts, folder, **options):
    init = options.pop("init", None)
    config = TrainConfig(**{**RUN, **options})
    return train_adapter(
        str(base_folder), texts=[texts[0]], chats=[], folder=folder, config=config, device="cpu", init=init
    )


def test_a_run_is_told_and_its_adapter_says_so(base_folder, texts, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--out", out, "--text", texts[0], "--model", base_folder, "--steps", 2, "--rank", 2]
    words += ["--tokens", 512, "--longest", 4, "--device", "cpu", "--memory-layers", "1"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    meta = Adapter.load(out / "adapter").meta
    assert meta.memory_layers == (1,) and meta.training["config"]["memory_layers"] == [1]
    # heads that search lie where keys are kept
    assert {head.layer for head in meta.retrieval} == {1}
    model = LandmarkModel.from_pretrained(base_folder, adapter=out / "adapter")
    assert model.kv_spec.kept == (1,)


def test_a_run_that_starts_from_an_adapter_keeps_its_layers_unless_told(base_folder, texts, tmp_path):
    first = trained(base_folder, texts, tmp_path / "a", memory_layers=(1,))
    kept = trained(base_folder, texts, tmp_path / "b", init=first)
    told = trained(base_folder, texts, tmp_path / "c", init=first, memory_layers=(0, 1))
    assert Adapter.load(kept).meta.memory_layers == (1,)
    # all of them are no choice
    assert Adapter.load(told).meta.memory_layers == ()
    with pytest.raises(AdapterInvalid, match="in layers of which"):
        merge_adapters(kept, told, tmp_path / "d", above=0.5, layer=0)
    # what looks in all may be averaged with what was trained on from it to look in some
    mean = Adapter.load(merge_adapters(told, kept, tmp_path / "e", below=0.5, above=0.5, layer=0))
    assert mean.meta.memory_layers == (1,)


def test_a_run_with_other_layers_is_another_run(base_folder, texts, tmp_path):
    losses = []
    for layers in ((), (1,)):
        trained(base_folder, texts, tmp_path / str(layers), memory_layers=layers)
        rows = [json.loads(line) for line in (tmp_path / str(layers) / "log.jsonl").read_text().splitlines()]
        losses.append([row["loss"] for row in rows])
    assert losses[0] != losses[1]


def test_layers_that_are_not_there_are_named(base_folder, texts, tmp_path):
    with pytest.raises(InvalidArgument, match=r"memory_layers from 0 to 1, each once and lowest first, got \(1, 7\)"):
        trained(base_folder, texts, tmp_path / "run", memory_layers=(1, 7))
    with pytest.raises(InvalidArgument, match="no memory_layers with attention 'full'"):
        TrainConfig(attention="full", memory_layers=(1,), gates=0.0)


def test_layers_that_search_and_keep_nothing_are_named(base_folder, texts, tmp_path):
    first = trained(base_folder, texts, tmp_path / "a", retrieval_depth=(0.0, 0.0))
    assert {head["layer"] for head in json.loads((first / META_FILE).read_text())["retrieval"]} == {0}
    with pytest.raises(InvalidArgument, match=r"name the layers that search, got \(1,\) and layer 0"):
        trained(base_folder, texts, tmp_path / "b", init=first, memory_layers=(1,), freeze_below=1, votes=0.0)


def test_a_resumed_run_keeps_its_layers(base_folder, texts, tmp_path):
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    trained(base_folder, texts, whole, memory_layers=(1,), steps=4)
    trained(base_folder, texts, halves, memory_layers=(1,), steps=2)
    line = ["train", "--out", halves, "--text", texts[0], "--model", base_folder, "--resume", "--steps", 4]
    line = [str(word) for word in [*line, "--device", "cpu"]]
    other = CliRunner().invoke(app, [*line, "--memory-layers", "0,1"])
    assert other.exit_code == 2 and "--memory-layers" in other.stderr
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    logs = [(out / "log.jsonl").read_text().splitlines() for out in (whole, halves)]
    losses = [[json.loads(row)["loss"] for row in rows] for rows in logs]
    assert losses[0][2:] == pytest.approx(losses[1][2:], rel=0.05) and len(losses[1]) == 4
    assert Adapter.load(halves / "adapter").meta.memory_layers == (1,)
