"""A whole training run on a tiny model: loss falls, checkpoints resume, the adapter loads."""

import json
import shutil
import signal
import sys
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from hierlandmark import LandmarkModel, LayoutConfig, Memory, Message
from hierlandmark.cli import app
from hierlandmark.errors import InvalidArgument, MissingExtra, ModelMismatch, ModelUnavailable
from hierlandmark.model.adapter import Adapter
from hierlandmark.model.landmark_model import SHIPPED
from hierlandmark.testing import tiny_base
from hierlandmark.train.config import TrainConfig, run_config
from hierlandmark.train.run import train_adapter
from tests.model.hub import as_hub_id

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
    # of the same kind of tokens: facts and passages come and go
    text = [row["text"] for row in log if "text" in row]
    assert len(text) > 12 and sum(text[-6:]) < sum(text[:6])
    model = LandmarkModel.from_pretrained(base_folder, adapter=adapter)
    assert model.layout == LAYOUT and len(model.retrieval) == 4
    told = json.loads((adapter / "hierlandmark.json").read_text())["training"]
    assert told["steps"] == 24 and told["seed"] == 0 and told["config"]["rank"] == 4
    assert [file["name"] for file in told["files"]] == ["book.txt", "chats.jsonl"]
    assert told["files"][0]["bytes"] == texts[0].stat().st_size and told["tokens"].keys() == {"texts", "chats"}
    assert told["positions"] == sum(b * s * p for b, s, p in (row["shape"] for row in log))
    assert told["losses"]["loss"] == pytest.approx(sum(row["loss"] for row in log) / 24, abs=1e-3)
    # no path of this machine goes along
    assert json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"] == base_folder.name
    with Memory.open(":memory:", model=model) as memory:
        memory.add([Message(id=1, content="The code is 4711.")])
        assert memory.search("code", 1).hits[0].message_ids == [1]
        assert memory.ask("What is the code?", max_new_tokens=2).tokens is not None


def weights(folder):
    (where,) = folder.glob("step-*")
    return load_file(where / "weights.safetensors")


class Cut(Exception):
    """The run was stopped from outside."""


def cut_at(step):
    def stop(row):
        if row["step"] == step:
            raise Cut

    return stop


def test_a_resumed_run_is_the_run_never_cut(base_folder, texts, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    config = replace(CONFIG, steps=8, checkpoint_every=4)
    first = run(base_folder, texts, whole, config)
    with pytest.raises(Cut):
        run(base_folder, texts, cut, config, on_step=cut_at(5))
    assert json.loads((cut / "state.json").read_text())["step"] == 4
    # the row of a step whose writing was cut
    with (cut / "log.jsonl").open("a") as log:
        log.write('{"step": 6, "lo')
    second = run(base_folder, texts, cut, config, resume=True)
    wanted, got = weights(whole), weights(cut)
    assert wanted.keys() == got.keys()
    for name in wanted:
        torch.testing.assert_close(got[name], wanted[name], rtol=1e-5, atol=1e-7)
    assert [row["step"] for row in rows(cut)] == list(range(8))
    same = ("shape", "mode", "lr")
    assert [[row[k] for k in same] for row in rows(cut)] == [[row[k] for k in same] for row in rows(whole)]
    told, again = (json.loads((one / "hierlandmark.json").read_text()) for one in (first, second))
    assert again["training"]["positions"] == told["training"]["positions"]
    # nothing is left to do: the adapter is written again
    run(base_folder, texts, cut, config, resume=True)
    assert weights(cut).keys() == got.keys() and len(rows(cut)) == 8


def test_a_budget_of_seconds_goes_on_where_it_stopped(base_folder, texts, tmp_path):
    folder = tmp_path / "run"
    config = replace(CONFIG, steps=50, seconds=1e6, checkpoint_every=1)
    with pytest.raises(Cut):
        run(base_folder, texts, folder, config, on_step=cut_at(2))
    spent = rows(folder)[1]["seconds"]
    # time that the checkpoint accounts for is used up, so nothing is left of the budget
    run(base_folder, texts, folder, replace(config, seconds=spent / 2), resume=True)
    assert len(rows(folder)) == 2


def test_damaged_checkpoints_are_named(base_folder, texts, tmp_path):
    folder = tmp_path / "run"
    config = replace(CONFIG, steps=1)
    run(base_folder, texts, folder, config)
    (where,) = folder.glob("step-*")
    (where / "exp_avg.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InvalidArgument, match="cannot be taken up"):
        run(base_folder, texts, folder, config, resume=True)
    (folder / "state.json").write_text("{")
    with pytest.raises(InvalidArgument, match="cannot be read"):
        run(base_folder, texts, folder, config, resume=True)


def another_base(base_folder, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(base_folder, other)
    tiny_base(seed=3).save_pretrained(other)
    return other


@contextmanager
def refused(what: str, python: str, command: str):
    """What is wrong and what to do: in arguments to who calls the library, in options on the command line."""
    with pytest.raises(InvalidArgument) as error:
        yield
    assert str(error.value).endswith(f"{what}; {python}") and "--" not in str(error.value)
    assert error.value.on_command_line.endswith(f"{what}; {command}")


def test_folders_are_not_mixed_up(base_folder, texts, tmp_path):
    config = replace(CONFIG, steps=1)
    out = tmp_path / "run"
    with refused(f"nothing to resume in '{out}': no state.json", "leave resume out", "leave --resume out"):
        run(base_folder, texts, out, config, resume=True)
    run(base_folder, texts, out, config)
    holds = (f"'{out}' holds a run at step 1", "give resume=True, or another folder")
    with refused(*holds, "give --resume, or another --out"):
        run(base_folder, texts, out, config)
    other_rank = ("of rank 4, not 2", "resume it with its own rank, or give another folder")
    with refused(*other_rank, "resume it with its own --rank, or give another --out"):
        run(base_folder, texts, out, replace(config, rank=2), resume=True)
    own = f"give texts=['{texts[0].name}'] and chats=['{texts[1].name}']"
    with refused("a checkpoint does not hold them", own, f"give --text {texts[0].name} --chats {texts[1].name}"):
        train_adapter(str(base_folder), texts=[], chats=[], folder=out, config=config, resume=True)
    none = ("expected at least one file to train on", "give it in texts or chats")
    with refused(*none, "give it by --text or --chats"):
        train_adapter(str(base_folder), texts=[], chats=[], folder=tmp_path / "other", config=config)
    other = another_base(base_folder, tmp_path)
    with pytest.raises(InvalidArgument, match="of base"):
        run(other, texts, tmp_path / "run", config, resume=True)


def test_an_adapter_of_another_base_is_refused(base_folder, texts, tmp_path):
    adapter = run(base_folder, texts, tmp_path / "run", replace(CONFIG, steps=1))
    other = another_base(base_folder, tmp_path)
    with pytest.raises(ModelMismatch):
        LandmarkModel.from_pretrained(other, adapter=adapter)
    with pytest.warns(UserWarning, match="untrained"):
        LandmarkModel.from_pretrained(base_folder, adapter=None)


def test_an_adapter_trained_from_a_hub_id_is_bound_to_its_weights(base_folder, texts, tmp_path, monkeypatch):
    adapter = run(as_hub_id(base_folder, tmp_path, monkeypatch), texts, tmp_path / "run", replace(CONFIG, steps=1))
    assert LandmarkModel.from_pretrained(base_folder, adapter=adapter).layout == LAYOUT
    with pytest.raises(ModelMismatch):
        LandmarkModel.from_pretrained(another_base(base_folder, tmp_path), adapter=adapter)


def test_what_is_missing_is_named(base_folder, texts, tmp_path, monkeypatch):
    with pytest.raises(ModelUnavailable, match="no base model"):
        run(tmp_path / "nowhere", texts, tmp_path / "run")
    empty = tmp_path / "empty.txt"
    empty.write_text("")
    with pytest.raises(InvalidArgument, match="some text"):
        train_adapter(str(base_folder), texts=[empty], chats=[], folder=tmp_path / "run", config=CONFIG, device="cpu")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"hierlandmark\[train\]"):
        run(base_folder, texts, tmp_path / "run")


def test_the_command_trains_an_adapter_that_loads(base_folder, texts, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--out", out, "--text", texts[0], "--chats", texts[1], "--model", base_folder, "--steps", 2]
    words += ["--tokens", 1024, "--rank", 2, "--device", "cpu"]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"adapter in {out / 'adapter'}; use it with --adapter {out / 'adapter'}"
    assert LandmarkModel.from_pretrained(base_folder, adapter=out / "adapter").layout == LayoutConfig()
    again = CliRunner().invoke(app, [str(word) for word in words])
    assert again.exit_code == 2 and "--resume" in again.stderr
    told = CliRunner().invoke(app, ["train", "--out", str(out), "--resume"])
    assert (told.exit_code, told.stdout) == (2, "")
    assert told.stderr == (
        f"hierlandmark: InvalidArgument: the run in '{out}' needs the files that it was trained on again, a checkpoint "
        "does not hold them; give --text book.txt --chats chats.jsonl\n"
    )
    bare = ["train", "--out", out, "--text", texts[0], "--model", base_folder, "--device", "cpu", "--resume"]
    fewer = CliRunner().invoke(app, [*(str(word) for word in bare), "--steps", "3"])
    assert fewer.exit_code == 2 and fewer.stderr == told.stderr
    bare += ["--chats", texts[1]]
    more = CliRunner().invoke(app, [*(str(word) for word in bare), "--steps", "3"])
    assert more.exit_code == 0, more.output
    assert [row["step"] for row in rows(out)] == [0, 1, 2]
    told = json.loads((out / "adapter" / "hierlandmark.json").read_text())["training"]["config"]
    assert (told["steps"], told["tokens"], told["rank"]) == (3, 1024, 2)


def test_an_interrupted_run_keeps_its_last_step(base_folder, texts, tmp_path):
    config = replace(CONFIG, steps=6, checkpoint_every=100)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(base_folder, texts, whole, config)

    def interrupt(row):
        if row["step"] == 2:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run(base_folder, texts, cut, config, on_step=interrupt)
    assert signal.getsignal(signal.SIGINT) == before
    assert json.loads((cut / "state.json").read_text())["step"] == 3
    run(base_folder, texts, cut, config, resume=True)
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(cut)[name])


def test_a_run_starts_from_an_adapter(base_folder, texts, tmp_path):
    config = replace(CONFIG, steps=2)
    first = run(base_folder, texts, tmp_path / "first", config)
    # a rate of zero leaves the start as it is
    still = replace(config, learning_rate=0.0, seed=5)
    second = run(base_folder, texts, tmp_path / "second", still, init=first)
    for file in ("adapter_model.safetensors", "landmarks.safetensors"):
        before, after = load_file(first / file), load_file(second / file)
        assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    told = json.loads((second / "hierlandmark.json").read_text())["training"]["init"]
    assert told["training"]["steps"] == 2 and len(told["adapter"]) == 64
    with pytest.raises(InvalidArgument, match="rank"):
        run(base_folder, texts, tmp_path / "third", replace(config, rank=2), init=first)
    # a resumed run still tells where it came from, and is of the same layout
    longer = run_config(tmp_path / "second", {"steps": 3}, resume=True)
    assert longer == replace(still, steps=3)
    words = {"texts": [texts[0]], "chats": [texts[1]], "folder": tmp_path / "second", "config": longer, "device": "cpu"}
    again = train_adapter(str(base_folder), resume=True, **words)
    assert json.loads((again / "hierlandmark.json").read_text())["training"]["init"] == told
    other = tmp_path / "other"
    shutil.copytree(first, other)
    save_file({"landmark_rows": torch.ones(2, 32)}, other / "landmarks.safetensors")
    with pytest.raises(InvalidArgument, match="did not start from"):
        train_adapter(str(base_folder), resume=True, init=other, **words)


def test_lower_layers_stay_and_search_as_they_did(base_folder, texts, tmp_path):
    first = run(base_folder, texts, tmp_path / "first", replace(CONFIG, steps=2, retrieval_depth=(0.0, 0.0)))
    meta = json.loads((first / "hierlandmark.json").read_text())
    meta |= {"ranking": "sum", "retrieval": [{**head, "weight": 0.5} for head in meta["retrieval"]]}
    (first / "hierlandmark.json").write_text(json.dumps(meta))
    config = replace(CONFIG, steps=2, freeze_below=1, votes=0.0, seed=5)
    for steps, words in ((2, {"init": first}), (3, {"resume": True})):
        after = run(base_folder, texts, tmp_path / "second", replace(config, steps=steps), **words)
        was, now = Adapter.load(first), Adapter.load(after)
        assert json.loads((after / "hierlandmark.json").read_text())["training"]["steps"] == steps
        assert was.weights.lora.keys() == now.weights.lora.keys() and torch.equal(was.weights.rows, now.weights.rows)
        same = {name for name in was.weights.lora if torch.equal(was.weights.lora[name], now.weights.lora[name])}
        assert same == {name for name in was.weights.lora if ".layers.0." in name}
        assert now.meta.retrieval == was.meta.retrieval and now.meta.ranking == "sum"
    log = (tmp_path / "second" / "log.jsonl").read_text().splitlines()
    assert json.loads(log[0])["layers"].keys() == {"1"}
    with pytest.raises(InvalidArgument, match="is of freeze_below 1, not 0"):
        run(base_folder, texts, tmp_path / "second", replace(config, freeze_below=0), resume=True)


def test_an_adapter_all_of_whose_heads_search_has_none_that_stay(base_folder, texts, tmp_path):
    first = run(base_folder, texts, tmp_path / "first", replace(CONFIG, steps=1))
    meta = json.loads((first / "hierlandmark.json").read_text())
    (first / "hierlandmark.json").write_text(json.dumps(meta | {"retrieval": []}))
    with pytest.raises(InvalidArgument, match="names the heads that search"):
        run(base_folder, texts, tmp_path / "second", replace(CONFIG, steps=1, freeze_below=1, votes=0.0), init=first)


@pytest.mark.parametrize(
    ("changed", "started", "said"),
    [
        ({"freeze_below": 1}, True, "neither a search_share nor votes with freeze_below, got 0.0 and 0.3"),
        ({"freeze_below": 1, "votes": 0.0}, False, "an adapter to start from with freeze_below"),
        ({"freeze_below": 1, "votes": 0.0}, True, "over the layers that search, got 1 and layer 1"),
        ({"freeze_below": 2, "votes": 0.0}, True, "freeze_below under 2, got 2"),
    ],
)
def test_what_cannot_stay_is_refused(base_folder, texts, tmp_path, changed, started, said):
    init = run(base_folder, texts, tmp_path / "first", replace(CONFIG, steps=1)) if started else None
    with pytest.raises(InvalidArgument, match=said):
        run(base_folder, texts, tmp_path / "second", replace(CONFIG, steps=1, **changed), init=init)


def test_the_shipped_adapters_runs_can_be_configured_again():
    training = Adapter.load(SHIPPED).meta.training
    for one in (training, training["init"]["training"]):
        # a weight that stood fixed in the first run is an option since
        again = json.loads(json.dumps(asdict(TrainConfig(**one["config"]))))
        assert one["config"] == {name: again[name] for name in one["config"]}
        assert one["steps"] <= one["config"]["steps"] and one["config"]["seconds"]
