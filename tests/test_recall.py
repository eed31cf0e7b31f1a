"""`Recall.read` beside the same choice and the same three softmaxes written out, one head and one token at a time."""

import math
from dataclasses import replace

import pytest
import torch

from hierlandmark.config import RecallConfig
from hierlandmark.recall import Source
from hierlandmark.recall.held import Buffers
from hierlandmark.select import gate_mass
from hierlandmark.store import InMemoryStore, SQLiteStore
from hierlandmark.testing import tiny_model
from tests.recalled import (
    GRANULARITIES,
    LAYER,
    MODES,
    SCALE,
    TOLERANCE,
    H,
    Reference,
    T,
    questions,
    recalling,
    six_segments,
)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def store(model):
    return six_segments(model)


def assert_as_written_out(model, store, q, near, **options):
    recall = recalling(model, store, **options)
    reference = Reference(model, store, q, near, recall.config)
    wanted = [[reference.read(h, t) for t in range(q.shape[1])] for h in range(H)]
    lses = torch.tensor([[total for _, total in row] for row in wanted])
    found = recall.read(LAYER, q, near, SCALE)
    if found is None:
        assert (lses == -math.inf).all()
        return lses
    torch.testing.assert_close(found[0], torch.stack([torch.stack([o for o, _ in row]) for row in wanted]), **TOLERANCE)
    torch.testing.assert_close(found[1], lses, **TOLERANCE)
    return lses


# a token by itself, as answers are made, goes another way than many together
@pytest.mark.parametrize("tokens", [1, T])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("segments", "blocks"), [(1, 1), (2, 3), (4, 2), (99, 99)])
def test_the_best_segments_and_blocks_are_read(model, store, mode, granularity, segments, blocks, tokens):
    for seed in range(2):
        options = {"mode": mode, "granularity": granularity, "segments": segments, "blocks": blocks}
        assert_as_written_out(model, store, *questions(seed, tokens), **options)


@pytest.mark.parametrize(("tokens", "places"), [(1, (0, 1, 2)), (T, (3, 10, 16))])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("mode", MODES)
def test_under_the_threshold_a_head_and_token_reads_nothing(model, store, mode, granularity, tokens, places):
    q, near = questions(0, tokens)
    options = {"mode": mode, "granularity": granularity, "segments": 2, "blocks": 2}
    reference = Reference(model, store, q, near, RecallConfig(mode=mode))
    masses = sorted(sum(reference.mass(h, t).values()) for h in range(H) for t in range(tokens))
    for at in places:
        threshold = (masses[at] + masses[at + 1]) / 2
        lses = assert_as_written_out(model, store, q, near, threshold=threshold, **options)
        assert int((lses == -math.inf).sum()) == at + 1
    assert (assert_as_written_out(model, store, q, near + 50, threshold=0.5, **options) == -math.inf).all()


@pytest.mark.parametrize("tokens", [1, T])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_masses_too_small_to_be_multiplied_read_nothing(model, store, granularity, tokens):
    """Without a threshold: a gate's mass is the least number over 0, and a part of it is 0."""
    (_, gates), records = store.gate_keys("n"), store.segments("n")
    full = [s for s, record in enumerate(records) if len(record.block_content) == model.layout.blocks_per_segment]
    config = RecallConfig(threshold=0.0, granularity=granularity)
    recall = model.recall([Source(store, [records[s] for s in full], gates[full])], config)
    noted = recall.watch(H)
    q, near = questions(0, tokens)[0] / 100, torch.full((H, tokens), 103.0)
    mass = gate_mass(recall.gate_logits(LAYER, q, SCALE), near)
    assert (mass > 0).all() and (mass / 2 == 0).all()
    assert recall.read(LAYER, q, near, SCALE) is None
    assert recall.tally.blocks_read == 0
    assert not noted.gates.any() and not noted.blocks.any()


@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("seed", range(10))
def test_one_token_counts_and_notes_what_many_do(model, store, mode, granularity, seed):
    """A token twice is many: each notes as much as the token alone, and reads the same.

    In layer 1: in layer 0 landmarks of the same place are equal, and of equal blocks any may be chosen.
    """
    options = {"mode": mode, "granularity": granularity, "segments": 2, "blocks": 3, "threshold": 0.5}
    q, near = questions(seed, 1)
    one, two = recalling(model, store, **options), recalling(model, store, **options)
    noted = [recall.watch(H) for recall in (one, two)]
    for _ in range(2):
        alone = one.read(LAYER, q, near, SCALE)
        twice = two.read(LAYER, q.repeat(1, 2, 1), near.repeat(1, 2), SCALE)
        for found, wanted in zip(alone, twice, strict=True):
            torch.testing.assert_close(found[:, 0], wanted[:, 1], **TOLERANCE)
    torch.testing.assert_close(2 * noted[0].gates, noted[1].gates, **TOLERANCE)
    torch.testing.assert_close(2 * noted[0].blocks, noted[1].blocks, **TOLERANCE)
    assert noted[0].blocks.sum() > 0
    # many score together what any of them opened, one token's heads only what they opened themselves
    assert replace(one.tally, landmark_keys=0) == replace(two.tally, landmark_keys=0)
    config, kv_heads, group = one.config, model.kv_spec.kv_heads, H // model.kv_spec.kv_heads
    reference = Reference(model, store, q, near, config)
    heads = [[h for h in range(g * group, (g + 1) * group) if reference.active(h, 0)] for g in range(kv_heads)]
    best = {h: reference.best(h, 0, config.segments, reference.mass) for each in heads for h in each}
    opened = [{s for h in each for s in best[h]} for each in heads]
    if mode == "flat":
        opened = [set(range(reference.G))] * kv_heads
    blocks = [[s for s, _ in reference.places].count(s) for s in range(reference.G)]
    assert one.tally.landmark_keys == 2 * sum(blocks[s] for each in opened for s in each)
    assert two.tally.landmark_keys == 2 * kv_heads * sum(blocks[s] for s in set().union(*opened))


@pytest.mark.parametrize("tokens", [1, T])
@pytest.mark.parametrize("cached", [1, 2, 3, 99])
def test_what_is_held_is_what_is_in_the_store(model, store, cached, tokens):
    """Many questions, so that pieces of blocks come and go."""
    recall = recalling(model, store, segments=2, blocks=2, cached_blocks=cached)
    for seed in range(8):
        q, near = questions(seed, tokens)
        fresh = recalling(model, store, segments=2, blocks=2)
        for layer in range(2):
            for found, wanted in zip(*(one.read(layer, q, near, SCALE) for one in (recall, fresh)), strict=True):
                assert torch.equal(found, wanted)


def test_buffers_are_used_again_and_grow():
    buffers = Buffers(limit=4000)
    with torch.inference_mode():
        first = buffers.get("a", torch.float32, 2, 3).fill_(1)
    # what was made in inference mode is written to outside of it
    assert buffers.get("a", torch.float32, 2, 3).fill_(2).data_ptr() == first.data_ptr()
    assert buffers.get("a", torch.float32, 3, 2).data_ptr() == first.data_ptr()
    assert buffers.get("b", torch.float32, 2, 3).data_ptr() != first.data_ptr()
    assert buffers.get("a", torch.bfloat16, 2, 3).dtype == torch.bfloat16
    larger = buffers.get("a", torch.float32, 10, 10)
    assert buffers.get("a", torch.float32, 2, 3).data_ptr() == larger.data_ptr()
    # too large to be held
    assert buffers.get("a", torch.float32, 1001).data_ptr() != buffers.get("a", torch.float32, 2, 3).data_ptr()


def removed(store):
    """The last segment goes with its message."""
    last = store.segments("n")[-1]
    store.rewrite("n", [last.runs[0].message_id], [(last.id, None)])


def rewritten(model):
    """The first segment has another text under its id, in as many blocks."""

    def act(store):
        record = store.segments("n")[0]
        (other,) = model.encode((record.tokens + 1) % 256, record.runs)
        store.rewrite("n", [], [(record.id, other)])

    return act


def dropped(store):
    store.drop_kv("n", [record.id for record in store.segments("n")[1:3]])


@pytest.mark.parametrize("kind", ["in_memory", "sqlite"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("late", [False, True], ids=["before", "between-layers"])
@pytest.mark.parametrize("change", ["removed", "rewritten", "dropped"])
def test_segments_are_read_as_they_were_listed(model, store, tmp_path, kind, mode, late, change):
    q, near = questions()
    options = {"mode": mode, "segments": 99, "blocks": 99, "cached_blocks": 1}
    mine = InMemoryStore(model.kv_spec) if kind == "in_memory" else SQLiteStore(tmp_path / "m.db", model.kv_spec)
    for record in store.segments("n"):
        (copy,) = model.encode(record.tokens, record.runs)
        mine.append("n", store.messages("n", [record.runs[0].message_id]), [copy])
    wanted = [recalling(model, store, **options).read(layer, q, near, SCALE) for layer in range(2)]
    recall = recalling(model, mine, **options)
    if late:
        recall.read(0, q, near, SCALE)
    {"removed": removed, "rewritten": rewritten(model), "dropped": dropped}[change](mine)
    for layer, (out, total) in enumerate(wanted):
        found = recall.read(layer, q, near, SCALE)
        torch.testing.assert_close(found[0], out, **TOLERANCE)
        torch.testing.assert_close(found[1], total, **TOLERANCE)
    mine.close()


@pytest.mark.parametrize("limit", [0, 20_000, 2**30])
def test_segments_encoded_again_are_kept_up_to_a_bound(model, store, monkeypatch, limit):
    mine, made = InMemoryStore(model.kv_spec), []
    mine.append("n", store.messages("n"), [model._encode_again(record) for record in store.segments("n")])
    mine.drop_kv("n", [record.id for record in mine.segments("n")])
    plain = model._encode_again
    monkeypatch.setattr(model, "_encode_again", lambda record: made.append(record.id) or plain(record))
    q, near = questions()
    options = {"segments": 99, "blocks": 99, "cached_blocks": 1}
    recall, whole = recalling(model, mine, restored_bytes=limit, **options), recalling(model, store, **options)
    for layer in (0, 1, 0, 1):
        found, wanted = (one.read(layer, q, near, SCALE) for one in (recall, whole))
        torch.testing.assert_close(found[0], wanted[0], **TOLERANCE)
    # those that were kept were made once, the others once in each layer's read, and not once a block
    assert {made.count(i) for i in set(made)} == {0: {4}, 20_000: {1, 4}, 2**30: {1}}[limit]
    assert recall._restored._bytes <= limit
    recall.begin()
    recall.read(0, q, near, SCALE)
    assert {made.count(i) for i in set(made)} <= {0: {5}, 20_000: {1, 2, 5, 6}, 2**30: {1}}[limit]
