"""Options of a run: memory without gradient, jumping positions, one length, layouts, and what its log says."""

import json
import re
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hierlandmark.cli import app
from hierlandmark.config import LayoutConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.layout import Kind
from hierlandmark.model.adapter import Adapter
from hierlandmark.model.binding import decoder_of
from hierlandmark.model.dense import DenseAttention
from hierlandmark.train.config import TrainConfig, run_config
from hierlandmark.train.episodes import Shape, build_batch, jumped
from hierlandmark.train.loop import BatchSource, retrieval_heads, shape_of
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.norms import hidden_norms, layer_norms
from hierlandmark.train.run import train_adapter
from tests.train.tale import LAYOUT

HEADS = {0: [1, 2], 1: [0, 3]}


def made(corpus, seed=1, **options):
    return build_batch(corpus, LAYOUT, Shape(2, 5, 2), np.random.default_rng(seed), **options)


def gradients(core, loss):
    core.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in core.named_parameters() if p.grad is not None}


def test_only_its_time_ends_a_run_that_is_given_a_time(tmp_path):
    assert run_config(tmp_path, {"seconds": 60.0}, resume=False).steps > 1_000_000
    assert run_config(tmp_path, {"seconds": 60.0, "steps": 7}, resume=False).steps == 7
    assert run_config(tmp_path, {}, resume=False).steps == TrainConfig().steps


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
@pytest.mark.parametrize("jump", [0, 9])
def test_cached_memory_gives_the_same_hidden_states(core, corpus, mode, jump):
    batch = made(corpus, jump=jump)
    ids = torch.from_numpy(batch.ids)
    whole = core.hidden_dense(ids, batch.layout, mode, positions=batch.positions)[:, 5:]
    behind = core.hidden_dense(ids, batch.layout, mode, positions=batch.positions, cached=5)
    real = torch.from_numpy(batch.layout.kinds[:, 5:] != Kind.PAD)
    torch.testing.assert_close(behind[real], whole[real], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_no_gradient_goes_through_cached_memory(core, corpus, mode, monkeypatch):
    batch = made(corpus, cached=True)
    assert batch.cached == 5
    cached = gradients(core, batch_loss(core, batch, mode, HEADS, 0.3)[0])

    # the same in one pass: keys and values of the memory let no gradient by, and it has no loss of its own
    attend, size = DenseAttention.attend, 5 * LAYOUT.segment_size

    def fixed(self, layer, q, k, v, scale):
        k, v = (torch.cat((x[:, :, :size].detach(), x[:, :, size:]), 2) for x in (k, v))
        return attend(self, layer, q, k, v, scale)

    labels, weights = batch.labels.copy(), batch.weights.copy()
    labels[:, :5], weights[:, :5] = -100, 0.0
    alone = replace(batch, cached=0, labels=labels, weights=weights)
    through = gradients(core, batch_loss(core, alone, mode, HEADS, 0.3)[0])
    monkeypatch.setattr(DenseAttention, "attend", fixed)
    seen = []

    def watch(module, args, kwargs):
        (args or (kwargs["hidden_states"],))[0].register_hook(seen.append)

    handle = decoder_of(core.base).layers[0].register_forward_pre_hook(watch, with_kwargs=True)
    one_pass = gradients(core, batch_loss(core, alone, mode, HEADS, 0.3)[0])
    handle.remove()
    assert (seen[0][:, :size] == 0).all() and (seen[0][:, size:] != 0).any()
    assert cached.keys() == one_pass.keys()
    for name, wanted in one_pass.items():
        torch.testing.assert_close(cached[name], wanted, rtol=1e-3, atol=1e-5)
    # through memory they differ
    assert not torch.allclose(cached["rows"], through["rows"], rtol=1e-2, atol=1e-5)


def test_positions_jump_behind_landmarks_only(corpus):
    layout = made(corpus).layout
    positions = jumped(layout, 7, np.random.default_rng(0))
    steps = np.diff(positions, axis=-1)
    behind = layout.kinds[..., :-1] == Kind.LANDMARK
    assert (positions[..., 0] == 0).all() and (steps[~behind] == 1).all()
    assert set(np.unique(steps[behind])) == set(range(1, 9))


def test_no_jump_is_the_grid_and_a_far_key_stays_before_a_near_one(core, corpus):
    plain, far = made(corpus), made(corpus, jump=9)
    assert plain.positions is None and np.array_equal(plain.ids, far.ids)
    ids = torch.from_numpy(plain.ids)
    grid = np.broadcast_to(np.arange(LAYOUT.segment_size), plain.ids.shape).copy()
    wanted = core.hidden_dense(ids, plain.layout)
    torch.testing.assert_close(core.hidden_dense(ids, plain.layout, positions=grid), wanted)
    assert not torch.allclose(core.hidden_dense(ids, far.layout, positions=far.positions), wanted, atol=1e-3)
    # all positions moved by as much: a query's distance to what it reads grows with the furthest of them
    shifted = core.hidden_dense(ids, plain.layout, positions=grid + 5)
    real = torch.from_numpy(plain.layout.kinds != Kind.PAD)
    torch.testing.assert_close(shifted[:, :5][real[:, :5]], wanted[:, :5][real[:, :5]], rtol=1e-3, atol=1e-4)
    assert not torch.allclose(shifted[:, 5:][real[:, 5:]], wanted[:, 5:][real[:, 5:]], atol=1e-3)


def test_a_run_is_held_at_the_lengths_given():
    config = TrainConfig(tokens=8192, lengths=(4096,), stream_share=0.3)
    layout = LayoutConfig()
    shapes = {shape_of(config, layout, i / 200, np.random.default_rng(i)) for i in range(200)}
    assert shapes == {Shape(2, 6, 2), Shape(2, 8, 0)}
    several = replace(config, lengths=(16384, 4096, 8192))

    def sizes(progress):
        drawn = [shape_of(several, layout, progress, np.random.default_rng(i)) for i in range(300)]
        return [(one.memory + one.readers) * 512 for one in drawn]

    assert set(sizes(0.05)) == {4096} and set(sizes(0.15)) == {4096, 8192}
    late = sizes(0.5)
    assert all(70 < late.count(length) < 130 for length in (4096, 8192, 16384))
    for wrong in (512, 4000, 0):
        with pytest.raises(InvalidArgument, match="length"):
            shape_of(replace(config, lengths=(wrong,)), layout, 0.5, np.random.default_rng(0))


def test_a_share_of_steps_is_cached_and_streams_are_not(corpus):
    config = TrainConfig(steps=60, tokens=512, lengths=(256,), cached=0.5, stream_share=0.2, jump=3)
    batches = [BatchSource(corpus, config, LAYOUT)[step][0] for step in range(60)]
    assert {batch.cached for batch in batches} == {0, 2} and all(batch.positions is not None for batch in batches)
    assert 12 < sum(batch.cached > 0 for batch in batches) < 40
    streams = [batch for batch in batches if not len(batch.asked)]
    assert streams and all(batch.ids.shape == (2, 4, 64) for batch in batches)
    assert all(batch.cached == 0 for batch in streams if batch.layout.reads[0, 1, 0])


@pytest.mark.parametrize("given", [{"needles": 1.5}, {"cached": -0.1}, {"jump": -1}, {"lengths": (0,)}])
def test_values_outside_their_range_are_refused(given):
    with pytest.raises(InvalidArgument):
        TrainConfig(**given)


@pytest.mark.parametrize("given", [{"steps": "7"}, {"steps": True}, {"seconds": "60"}, {"votes": None}], ids=str)
def test_what_is_no_number_is_refused(given):
    ((name, value),) = given.items()
    with pytest.raises(InvalidArgument, match=f"expected {name} to be a number, .*, got {value!r}"):
        TrainConfig(**given)
    assert TrainConfig(steps=np.int64(7)).steps == 7


def test_a_kind_of_attention_that_there_is_not_is_refused():
    with pytest.raises(InvalidArgument, match=r"attention to be 'landmark', 'full' or 'window', got 'windows'"):
        TrainConfig(attention="windows")


@pytest.mark.parametrize("name", ["lengths", "search_layers", "retrieval_depth"])
@pytest.mark.parametrize("value", [("a",), "ab", 5, None, (True, True), (0.1, None), ({},)], ids=repr)
def test_what_is_no_sequence_of_numbers_is_refused(name, value):
    with pytest.raises(InvalidArgument, match=re.escape(f", got {value!r}")) as told:
        TrainConfig(**{name: value})
    assert str(told.value).startswith(f"expected {name} to be ")


def test_sequences_of_numbers_are_kept_as_plain_tuples():
    config = TrainConfig(
        lengths=np.array([256, 512]),
        search_layers=[np.int64(3), 1, 3],
        search_share=0.5,
        retrieval_depth=[0, np.float64(0.5)],
    )
    assert (config.lengths, config.search_layers, config.retrieval_depth) == ((256, 512), (1, 3), (0.0, 0.5))
    assert json.loads(json.dumps(asdict(config)))["search_layers"] == [1, 3]
    for wrong in (
        {"lengths": (256.0,)},
        {"search_layers": (1.5,), "search_share": 0.5},
        {"retrieval_depth": (0.9, 0.1)},
    ):
        with pytest.raises(InvalidArgument, match=f"expected {next(iter(wrong))} to be "):
            TrainConfig(**wrong)


def test_layer_norms_add_up_to_the_whole(core, corpus):
    batch_loss(core, made(corpus), "hierarchical", HEADS, 0.3)[0].backward()
    norms = layer_norms(core)
    assert norms.keys() == {"0", "1", "rows"}
    # what stands outside of layers is counted with the rows
    whole = torch.cat([p.grad.flatten() for p in core.parameters() if p.grad is not None]).norm()
    assert sum(norm**2 for norm in norms.values()) ** 0.5 == pytest.approx(float(whole), rel=1e-3)
    core.zero_grad()
    assert layer_norms(core) == {}


def test_hidden_norms_are_those_of_compiled_layers_without_compiling_again(core, corpus):
    core.tap.remove()
    batch, compiled = made(corpus), []

    def count(graph, inputs):
        compiled.append(1)
        return graph.forward

    eager = hidden_norms(core, batch, "flat")
    decoder_of(core.base).layers[1].compile(backend=count, dynamic=True)
    ids = torch.from_numpy(batch.ids)
    with torch.no_grad():
        before = core.hidden_dense(ids, batch.layout, "flat")
        graphs = len(compiled)
        assert graphs > 0 and hidden_norms(core, batch, "flat") == eager
        torch.testing.assert_close(core.hidden_dense(ids, batch.layout, "flat"), before)
    assert len(compiled) == graphs
    assert eager.keys() == {"0", "1"} and all(0 < rms < largest for rms, largest in eager.values())


def test_options_are_recorded_and_kept_when_resumed(base_folder, texts, tmp_path):
    out = tmp_path / "run"
    words = ["train", "--out", out, "--text", texts[0], "--model", base_folder, "--steps", 2, "--rank", 2]
    words += ["--tokens", 512, "--device", "cpu", "--length", "128,256", "--needles", 0.5, "--jump", 5]
    words += ["--cached", 1.0, "--block-size", 16, "--blocks-per-segment", 4]
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    meta = Adapter.load(out / "adapter").meta
    assert meta.layout == LAYOUT
    told = json.loads((out / "adapter" / "hierlandmark.json").read_text())["training"]["config"]
    wanted = {"lengths": [128, 256], "needles": 0.5, "jump": 5, "cached": 1.0}
    assert {name: told[name] for name in wanted} == wanted
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["shape"][1:] for row in log][:1] == [[2, 64]] and log[0]["hidden"].keys() == {"0", "1"}
    resumed = run_config(out, {"steps": 3}, resume=True)
    assert resumed.lengths == (128, 256) and resumed.jump == 5

    # the adapter's own layout is kept, another is refused
    def start(layout):
        return train_adapter(
            str(base_folder), texts=[texts[0]], chats=[], folder=tmp_path / "more", device="cpu", layout=layout,
            config=replace(resumed, steps=1), init=out / "adapter",
        )  # fmt: skip

    with pytest.raises(InvalidArgument, match="layout"):
        start(LayoutConfig(block_size=8))
    assert Adapter.load(start(None)).meta.layout == LAYOUT


def test_a_run_from_before_there_were_needles_goes_on_without(tmp_path):
    (tmp_path / "state.json").write_text(
        json.dumps({"checkpoint": "step-000001", "step": 1, "updates": 1, "config": {"steps": 5}})
    )
    assert run_config(tmp_path, {}, resume=True).needles == 0.0
    assert run_config(tmp_path, {"needles": 0.3}, resume=True).needles == 0.3


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--block-size", "2"], "--block-size to be 4 or more, got 2"),
        (["--length", "4k"], "--length to be integers"),
        (["--length", "1000"], "whole segments"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(base_folder, texts, tmp_path, words, said):
    line = ["train", "--out", str(tmp_path / "run"), "--text", str(texts[0]), "--model", str(base_folder)]
    done = CliRunner().invoke(app, [*line, "--device", "cpu", *words])
    assert done.exit_code == 2 and said in done.stderr


def test_heads_that_search_lie_where_they_are_told_to(core):
    core.layers, core.memory_layers = 30, tuple(range(30))
    assert list(retrieval_heads(core, 6)) == [10, 13, 15, 18, 21, 24]
    assert list(retrieval_heads(core, 3, (0.1, 0.5))) == [3, 9, 15]
    assert list(retrieval_heads(core, 3, (0.3, 0.3))) == [9]
    # and only where keys are kept
    core.memory_layers = (1, 14, 16, 29)
    assert list(retrieval_heads(core, 6)) == [14, 16, 29]
    assert TrainConfig(retrieval_depth=[0.2, 0.4]).retrieval_depth == (0.2, 0.4)
    for wrong in ((0.5, 0.2), (0.2, 1.0), (-0.1, 0.2), (0.2,), (0.2, float("nan"))):
        with pytest.raises(InvalidArgument, match="retrieval_depth"):
            TrainConfig(retrieval_depth=wrong)


def test_a_run_goes_on_with_the_depth_it_was_given(tmp_path):
    state = {
        "checkpoint": "0",
        "step": 1,
        "updates": 1,
        "config": json.loads(json.dumps(asdict(TrainConfig(retrieval_depth=(0.1, 0.4))))),
    }
    (tmp_path / "state.json").write_text(json.dumps(state))
    assert run_config(tmp_path, {}, resume=True).retrieval_depth == (0.1, 0.4)
