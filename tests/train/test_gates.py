"""The loss that holds gates to landmarks: what it is, what it leaves out, whom it teaches, and that it is learned."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from hierlandmark.cli import app
from hierlandmark.config import RecallConfig
from hierlandmark.errors import InvalidArgument
from hierlandmark.layout import Kind, Layout
from hierlandmark.model.gates import GateProbe, GateQueue
from hierlandmark.train.config import TrainConfig, run_config
from hierlandmark.train.episodes import TOLD, Shape, build_batch
from hierlandmark.train.loss import batch_loss
from hierlandmark.train.variants import without_landmarks
from tests.train.tale import LAYOUT

MEMORY = 5
CPU = torch.device("cpu")


def made(corpus, seed=1, **options):
    return build_batch(corpus, LAYOUT, Shape(2, MEMORY, 2), np.random.default_rng(seed), watched=24, **options)


def trained(base_folder, texts, out, *options):
    """Two steps of the command."""
    words = ["train", "--out", out, "--text", texts[0], "--model", base_folder, "--steps", 2, "--rank", 2]
    words += ["--tokens", 512, "--device", "cpu", "--length", 512, "--block-size", 16, "--blocks-per-segment", 4]
    done = CliRunner().invoke(app, [str(word) for word in (*words, *options)])
    assert done.exit_code == 0, done.output


def uneven():
    """Two texts of four segments, some short or empty; queries of the last one, and of the third that reads one."""
    lengths = [[60, 20, 33, 57], [60, 0, 14, 30]]
    lengths = [[min(n, LAYOUT.segment_capacity) for n in row] for row in lengths]
    reads = np.zeros((2, 4, 4), dtype=bool)
    reads[:, 3, :3] = True
    reads[0, 2, 1] = True
    layout = Layout.of(lengths, LAYOUT, reads=reads)
    watched = np.array([[0, 3 * 64 + 5], [1, 3 * 64 + 9], [0, 2 * 64 + 3], [0, 3 * 64 + 6]])
    evidence = np.zeros((4, 4), dtype=bool)
    evidence[0, 1] = evidence[1, 2] = evidence[3, 0] = True
    return layout, watched, evidence


def tensors(layout, seed=0, heads=4, groups=2):
    random = torch.Generator().manual_seed(seed)
    T = layout.kinds[0].size
    return (torch.randn(len(layout.kinds), n, T, 8, generator=random, requires_grad=True) for n in (heads, groups))


def by_hand(q, k, layout, watched, evidence, scale, older=None, queued=()):
    """The same one query, head and segment at a time: divergence, mass by gates, mass by landmarks.

    `queued` are further segments: gate and landmarks of each, (1 + N, H_kv, D).
    """
    older = q if older is None else older
    apart, masses = [], []
    for (b, place), wanted in zip(watched, evidence, strict=True):
        kinds = layout.kinds[b]
        there = [s for s in np.flatnonzero(layout.reads[b, place // 64]) if (kinds[s] == Kind.GATE).any()]
        for head in range(q.shape[1]):
            group = head * k.shape[1] // q.shape[1]
            logits = {s: k[b, group] @ (q if s == place // 64 - 1 else older)[b, head, place] * scale for s in there}
            further = [keys[:, group] @ q[b, head, place] * scale for keys in queued]
            by_gate = [logits[s][s * 64 + int((kinds[s] == Kind.GATE).argmax())] for s in there]
            by_gate = torch.stack([*by_gate, *(x[0] for x in further)])
            of = [logits[s][s * 64 + torch.from_numpy(np.flatnonzero(kinds[s] == Kind.LANDMARK))] for s in there]
            of += [x[1:] for x in further]
            weight = torch.cat(of).softmax(-1).split([len(one) for one in of])
            teacher, student = torch.stack([one.sum() for one in weight]), by_gate.softmax(-1)
            apart.append((teacher * (teacher.log() - student.log())).sum())
            if wanted.any():
                masses.append([sum(x[i] for i, s in enumerate(there) if wanted[s]) for x in (student, teacher)])
    return torch.stack([torch.stack(apart).mean(), *torch.tensor(masses).mean(0)])


@pytest.mark.parametrize("heads", [2, 4, 6])
def test_it_is_the_divergence_over_what_is_there_and_read(heads):
    layout, watched, evidence = uneven()
    q, k = (x.detach() for x in tensors(layout, heads=heads))
    probe = GateProbe.of(layout, watched, evidence, CPU)
    probe.look(0, q, k, 0.5)
    torch.testing.assert_close(probe.found[0], by_hand(q, k, layout, watched, evidence, 0.5), rtol=1e-5, atol=1e-6)
    # nothing else is looked at: padding, content, segments that are not read
    marked = torch.from_numpy((layout.kinds == Kind.LANDMARK) | (layout.kinds == Kind.GATE)).flatten(1)
    marked &= torch.arange(256) < 192
    other = torch.where(marked[:, None, :, None], k, torch.full_like(k, 100.0))
    probe.look(0, q, other, 0.5)
    torch.testing.assert_close(probe.found[1], probe.found[0])


def test_older_segments_are_looked_at_by_their_own_query():
    layout, watched, evidence = uneven()
    q, k = (x.detach() for x in tensors(layout))
    older = next(iter(tensors(layout, seed=1))).detach()
    probe = GateProbe.of(layout, watched, evidence, CPU)
    probe.look(0, torch.stack((q, older)), k, 0.5)
    right = by_hand(q, k, layout, watched, evidence, 0.5, older)
    torch.testing.assert_close(probe.found[0], right, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(right, by_hand(q, k, layout, watched, evidence, 0.5))


def test_full_segments_on_their_own_are_queued_and_read_later():
    layout, watched, evidence = uneven()
    queue = GateQueue(5)
    steps = [[x.detach() for x in tensors(layout, seed)] for seed in range(3)]
    marks = np.flatnonzero(layout.kinds[0, 0] == Kind.GATE).tolist()
    marks += np.flatnonzero(layout.kinds[0, 0] == Kind.LANDMARK).tolist()
    # of both texts the first is full; the third reads one, the fourth is read by nobody
    full = [k[b][:, marks].transpose(0, 1) for _, k in steps for b in (0, 1)]
    for at, ((q, k), among) in enumerate(zip(steps, (5, 0, 3), strict=True)):
        probe = GateProbe.of(layout, watched, evidence, CPU, queue, among)
        probe.look(7, q, k, 0.5)
        queued = full[: 2 * at][-among:] if among else []
        torch.testing.assert_close(
            probe.found[0], by_hand(q, k, layout, watched, evidence, 0.5, queued=queued), rtol=1e-5, atol=1e-6
        )
        queue.settle(keep=True)
    torch.testing.assert_close(queue.keys[7], torch.stack(full[-5:]))
    assert queue.newest(6, 5) is None and queue.newest(7, 0) is None


def test_a_queue_has_no_gradient():
    layout, watched, evidence = uneven()
    queue = GateQueue(8)
    first, second = (list(tensors(layout, seed)) for seed in range(2))
    for q, k in (first, second):
        probe = GateProbe.of(layout, watched, evidence, CPU, queue, 8)
        probe.look(0, q, k, 1.0)
        queue.settle(keep=True)
    probe.found[0][0].backward()
    assert not queue.keys[0].requires_grad and first[1].grad is None
    # where there is one segment to read, the queue's are others to choose from
    assert all(second[0].grad[b, :, place].abs().sum() > 0 for b, place in watched)


def test_a_step_without_full_segments_adds_none():
    layout, watched, evidence = uneven()
    q, k = (x.detach() for x in tensors(layout))
    # the full one of the second text is read by nobody
    reads = layout.reads.copy()
    reads[1, :, 0] = False
    fewer, queue = Layout(layout.config, layout.kinds, reads), GateQueue(8)
    for _ in range(2):
        probe = GateProbe.of(fewer, watched[1:2], evidence[1:2], CPU, queue, 8)
        probe.look(0, q, k, 1.0)
        queue.settle(keep=True)
        assert queue.newest(0, 8) is None and probe.found[0].isfinite().all()


def test_a_step_that_is_not_taken_leaves_the_queue_as_it_was():
    layout, watched, evidence = uneven()
    queue = GateQueue(8)
    for seed, keep in ((0, True), (1, False)):
        q, k = (x.detach() for x in tensors(layout, seed))
        GateProbe.of(layout, watched, evidence, CPU, queue, 8).look(0, q, k * (1 if keep else torch.nan), 1.0)
        queue.settle(keep=keep)
    assert queue.keys[0].shape[0] == 2 and queue.keys[0].isfinite().all() and not queue.fresh


def test_gates_that_agree_are_not_apart():
    layout = Layout.of([[LAYOUT.segment_capacity] * 3], LAYOUT)
    q, k = tensors(layout)
    with torch.no_grad():
        # in each segment the landmarks are alike, as many as in any other, and the gate is their equal
        for s in range(3):
            marks = s * 64 + np.flatnonzero(np.isin(layout.kinds[0, s], (Kind.LANDMARK, Kind.GATE)))
            k[0, :, marks] = k[0, :, marks[:1]]
    probe = GateProbe.of(layout, np.array([[0, 190], [0, 185]]), np.eye(3, dtype=bool)[:2], CPU)
    probe.look(0, q, k, 1.0)
    kl, by_gates, by_landmarks = probe.found[0]
    assert abs(float(kl.detach())) < 1e-6
    torch.testing.assert_close(by_gates, by_landmarks)
    kl.backward()
    assert q.grad.abs().max() < 1e-6 and k.grad.abs().max() < 1e-6


def test_gates_and_queries_are_taught_and_landmarks_are_not():
    layout, watched, evidence = uneven()
    q, k = tensors(layout)
    probe = GateProbe.of(layout, watched, evidence, CPU)
    probe.look(0, q, k, 1.0)
    probe.found[0][0].backward()
    kinds = torch.from_numpy(layout.kinds).flatten(1)
    taught = k.grad.abs().sum((1, 3)) > 0
    # those of segments that somebody reads
    assert torch.equal(taught, (kinds == Kind.GATE) & (torch.arange(256) < 192))
    asks = torch.zeros_like(taught)
    asks[tuple(torch.from_numpy(watched.T))] = True
    # the third reads one segment: nothing to choose between
    asks[tuple(watched[2])] = False
    assert torch.equal(q.grad.abs().sum((1, 3)) > 0, asks)


def test_watched_are_queries_of_readers_that_look_for_something_or_tell_it(corpus):
    batch = made(corpus, needles=0.5)
    plain = build_batch(corpus, LAYOUT, Shape(2, MEMORY, 2), np.random.default_rng(1), needles=0.5)
    assert np.array_equal(batch.ids, plain.ids) and plain.watched is None
    assert len(batch.watched) == len(batch.evidence) == 24
    segments = batch.watched[:, 1] // LAYOUT.segment_size
    assert (segments >= MEMORY).all()
    known = batch.evidence.any(1)
    assert 0 < known.sum() < 24
    asked = {(*map(int, place),): wanted for place, wanted in zip(batch.asked, batch.targets, strict=True)}
    for place, wanted in zip(batch.watched[known], batch.evidence[known], strict=True):
        blocks = asked[(*map(int, place),)].reshape(MEMORY, -1).any(-1)
        assert np.array_equal(wanted[:MEMORY], blocks) and not wanted[MEMORY:].any()
    weights = batch.weights.reshape(2, -1)
    others = [(*map(int, place),) for place in batch.watched[~known]]
    assert all(weights[place] >= TOLD for place in others if place not in asked)
    assert without_landmarks(batch).watched is None


def test_watched_in_text_read_in_order_is_who_can_choose(corpus):
    batch = build_batch(corpus, LAYOUT, Shape(2, 4, 0), np.random.default_rng(1), watched=24, queue=64)
    assert len(batch.watched) == 24 and not batch.evidence.any() and batch.queued == 0
    assert set((batch.watched[:, 1] // LAYOUT.segment_size).tolist()) == {2, 3}
    few = build_batch(corpus, LAYOUT, Shape(2, 2, 0), np.random.default_rng(1), watched=24)
    assert len(few.watched) == 0


def test_queries_of_readers_choose_among_none_some_or_all_of_a_queue(corpus):
    found = [made(corpus, seed, queue=64) for seed in range(30)]
    assert {batch.queued for batch in found} == {0, 4, 16, 64}
    plain = made(corpus, 1)
    assert plain.queued == 0 and np.array_equal(plain.watched, made(corpus, 1, queue=64).watched)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("select", [None, RecallConfig(segments=2, blocks=2, threshold=0.0)])
@pytest.mark.parametrize("mode", ["hierarchical", "flat"])
def test_it_is_added_in_every_kind_of_step(core, corpus, mode, select, cached):
    batch = made(corpus, cached=cached)
    plain, parts = batch_loss(core, batch, mode, None, 0.0, select=select)
    loss, more = batch_loss(core, batch, mode, None, 0.0, gates_weight=0.5, select=select)
    assert float(loss.detach()) == pytest.approx(float(plain.detach()) + 0.5 * more["gates"], rel=1e-5)
    assert more["gates"] > 0 and "gates" not in parts
    assert 0 < more["gate_mass"] < 1 and 0 < more["landmark_mass"] < 1
    core.zero_grad()
    loss.backward()
    if mode == "flat":
        # only this loss knows of gates there; a memory without gradient keeps its own
        assert (core.rows.grad[1].abs().sum() > 0) == (not cached)


def test_a_step_reads_the_queue_and_offers_to_it_in_every_layer(core, corpus):
    queue = GateQueue(64)
    batch = replace(made(corpus), queued=64)
    first, second = (
        batch_loss(core, batch, "hierarchical", None, 0.0, gates_weight=1.0, queue=queue)[1]["gates"]
        for _ in (queue.settle(keep=True), None)
    )
    assert first == second and not queue.keys and len(queue.fresh) == core.layers
    queue.settle(keep=True)
    among = batch_loss(core, batch, "hierarchical", None, 0.0, gates_weight=1.0, queue=queue)[1]["gates"]
    alone = batch_loss(core, replace(batch, queued=0), "hierarchical", None, 0.0, gates_weight=1.0, queue=queue)[1]
    assert among != pytest.approx(first, rel=1e-3) and alone["gates"] == first


def test_a_run_fills_its_queue_with_steps_that_are_taken(base_folder, texts, tmp_path, monkeypatch):
    settled = []
    settle = GateQueue.settle
    monkeypatch.setattr(GateQueue, "settle", lambda self, *, keep: (settled.append(keep), settle(self, keep=keep)))
    given = []
    loss = batch_loss
    monkeypatch.setattr(
        "hierlandmark.train.loop.batch_loss", lambda *a, **k: (given.append(k["queue"]), loss(*a, **k))[1]
    )
    trained(base_folder, texts, tmp_path / "run", "--gates", 1, "--gate-queue", 8, "--stream-share", 0)
    assert settled == [True, True] and given[0] is given[1]
    assert given[0].keys and all(len(keys) == 8 for keys in given[0].keys.values())


@pytest.mark.parametrize("recency", [0, 1, 2])
def test_a_text_read_in_order_asks_as_attention_does(core, corpus, recency, monkeypatch):
    asked = []
    monkeypatch.setattr(GateProbe, "look", lambda self, layer, q, k, scale: asked.append((layer, q)))
    batch = build_batch(corpus, LAYOUT, Shape(2, 5, 0), np.random.default_rng(1), watched=24, recency=recency)
    with pytest.raises(RuntimeError, match="non-empty"):
        # nothing was found
        batch_loss(core, batch, "hierarchical", None, 0.0, gates_weight=1.0)
    assert [layer for layer, _ in asked] == list(range(core.layers))
    assert all(q.shape[:-4] == ((recency + 1,) if recency else ()) for _, q in asked)


def test_it_is_the_same_in_one_pass_and_behind_a_cached_memory(core, corpus):
    batch = made(corpus, cached=True)
    with torch.no_grad():
        behind, whole = (
            batch_loss(core, one, "hierarchical", None, 0.0, gates_weight=1.0)[1]
            for one in (batch, replace(batch, cached=0))
        )
    for name in ("gates", "gate_mass", "landmark_mass"):
        assert behind[name] == pytest.approx(whole[name], rel=1e-3)


def test_it_is_learned(core, corpus):
    batches = [made(corpus, seed) for seed in range(4)]
    optimizer = torch.optim.Adam(core.parameters(), lr=3e-3)
    seen = []
    for step in range(24):
        loss, parts = batch_loss(core, batches[step % 4], "hierarchical", None, 0.0, gates_weight=1.0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen.append(parts["gates"])
    assert sum(seen[-4:]) < 0.6 * sum(seen[:4])


def test_a_run_takes_the_option_logs_it_and_records_it(base_folder, texts, tmp_path):
    out = tmp_path / "run"
    trained(base_folder, texts, out, "--gates", 0.25, "--gate-queue", 32, "--stream-share", 0)
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(row["gates"] > 0 and 0 < row["gate_mass"] < 1 for row in log)
    told = json.loads((out / "adapter" / "hierlandmark.json").read_text())["training"]
    assert told["config"]["gates"] == 0.25 and {"gates", "gate_mass", "landmark_mass"} < told["losses"].keys()
    assert run_config(out, {}, resume=True).gates == 0.25 and told["config"]["gate_queue"] == 32


def test_a_run_on_text_in_order_alone_takes_it(base_folder, texts, tmp_path):
    out = tmp_path / "run"
    trained(base_folder, texts, out, "--gates", 1, "--stream-share", 1, "--recency", 1, "--local-window", "segment")
    log = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert all(row["gates"] > 0 and "gate_mass" not in row for row in log)


@pytest.mark.parametrize(
    "given",
    [
        {"gates": -0.1},
        {"gates": float("nan")},
        {"gates": 0.5, "attention": "full"},
        {"gate_queue": 8},
        {"gates": 1.0, "gate_queue": 8, "jump": 64},
    ],
)
def test_weights_that_mean_nothing_are_refused(given):
    with pytest.raises(InvalidArgument, match="gates"):
        TrainConfig(**given)
