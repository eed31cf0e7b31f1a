"""Blocks that a token chose are read on by the next ones (`RecallConfig.stride`), beside the definition written out."""

from dataclasses import astuple

import pytest
import torch

from hierlandmark import LandmarkModel, Memory, MemoryConfig, RecallConfig
from hierlandmark.model.generate import push
from hierlandmark.recall import Recall, Source, Strides, Tally, view
from hierlandmark.store import InMemoryStore
from hierlandmark.testing import tiny_model
from tests.recalled import (
    GRANULARITIES,
    LAYER,
    MODES,
    SCALE,
    TOLERANCE,
    H,
    Reference,
    questions,
    recalling,
    six_segments,
)

FEW = {"segments": 2, "blocks": 3}
# in layer 1 of a text, token 0 chooses, and from then on every third: 2, 5, 8
EVERY = 3


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def store(model):
    return six_segments(model)


def fresh(token, layer=LAYER, every=EVERY):
    return token == 0 or (token + layer) % every == 0


def work_of(chosen, mode, groups):
    """What a token scores and reads that reads these blocks of each head, as (group, segment, block)."""
    pieces = {(h // (H // groups), s, b) for h, blocks in enumerate(chosen) for s, b in blocks}
    gates = 0 if mode == "flat" else len({(group, s) for group, s, _ in pieces})
    return Tally(gate_keys=gates, landmark_keys=len(pieces), blocks_read=len({(s, b) for _, s, b in pieces}))


def share(total, near):
    """Of the attention, what goes to the past."""
    return float((torch.tensor(total) - torch.logaddexp(torch.tensor(total), near)).exp())


@pytest.mark.parametrize("threshold", [0.0, 0.7])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("mode", MODES)
def test_a_token_reads_on_what_one_before_it_chose(model, store, mode, granularity, threshold):
    """Weights, output, what is noted and what is counted are those of a choice of these blocks by another query."""
    options = FEW | {"mode": mode, "granularity": granularity, "threshold": threshold}
    recall, strides = recalling(model, store, stride=EVERY, **options), Strides()
    noted, chosen, silent = recall.watch(H), [], 0
    for token in range(7):
        q, near = questions(token, 1)
        # so that some are not heard
        near = near + 3
        reference = Reference(model, store, q, near, recall.config)
        if fresh(token):
            chosen = [reference.chosen(h, 0) for h in range(H)]
        silent += sum(not blocks for blocks in chosen)
        before, gates, blocks = Tally(*astuple(recall.tally)), noted.gates.clone(), noted.blocks.clone()
        found = recall.read(LAYER, q, near, SCALE, strides)
        wanted = [reference.read(h, 0, chosen[h]) for h in range(H)]
        if found is None:
            assert not any(chosen)
            continue
        torch.testing.assert_close(found[0][:, 0], torch.stack([out for out, _ in wanted]), **TOLERANCE)
        torch.testing.assert_close(found[1][:, 0], torch.tensor([total for _, total in wanted]), **TOLERANCE)
        masses = torch.zeros_like(blocks)
        for h in range(H):
            weights, total = reference.weights(h, 0, chosen[h])
            for (s, b), weight in weights.items():
                masses[LAYER, h, s, b] = weight * share(total, near[h, 0])
        torch.testing.assert_close(noted.blocks - blocks, masses, **TOLERANCE)
        if not fresh(token):
            # no other gate was looked at
            torch.testing.assert_close(noted.gates - gates, masses.sum(-1), **TOLERANCE)
            before.add(work_of(chosen, mode, model.kv_spec.kv_heads))
            assert recall.tally == before
    assert (silent > 0) == (threshold > 0)


@pytest.mark.parametrize("threshold", [0.0, 0.7])
@pytest.mark.parametrize("stride", [2, 3, 99])
@pytest.mark.parametrize(("mode", "weigh_by"), [*((mode, "gates") for mode in MODES), ("hierarchical", "landmarks")])
def test_where_the_choice_stays_so_do_the_numbers(model, store, mode, weigh_by, stride, threshold):
    options = FEW | {"mode": mode, "weigh_by": weigh_by, "threshold": threshold}
    often, seldom = recalling(model, store, **options), recalling(model, store, stride=stride, **options)
    noted, strides = [recall.watch(H) for recall in (often, seldom)], Strides()
    q, near = questions(1, 1)
    for _ in range(5):
        wanted, found = often.read(LAYER, q, near, SCALE), seldom.read(LAYER, q, near, SCALE, strides)
        torch.testing.assert_close(found, wanted, **TOLERANCE)
    torch.testing.assert_close(noted[1].blocks, noted[0].blocks, **TOLERANCE)
    assert seldom.tally.blocks_read == often.tally.blocks_read > 0
    assert seldom.tally.landmark_keys < often.tally.landmark_keys


@pytest.mark.parametrize("mode", MODES)
def test_at_a_stride_of_1_nothing_is_kept(model, store, mode):
    recalls, strides = [recalling(model, store, mode=mode, **FEW) for _ in range(2)], Strides()
    for token in range(6):
        q, near = questions(token, 1)
        wanted, found = recalls[0].read(LAYER, q, near, SCALE), recalls[1].read(LAYER, q, near, SCALE, strides)
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
    assert recalls[0].tally == recalls[1].tally
    assert strides.next(LAYER, recalls[1]._query, recalls[1].config) is None


@pytest.mark.parametrize("mode", MODES)
def test_where_nobody_was_heard_nothing_is_read_until_the_next_choice(model, store, mode):
    recall, strides = recalling(model, store, mode=mode, stride=EVERY, threshold=0.01, **FEW), Strides()
    q, near = questions(0, 1)
    assert recall.read(LAYER, q, near + 50, SCALE, strides) is None
    scored = Tally(*astuple(recall.tally))
    assert recall.read(LAYER, q, near, SCALE, strides) is None
    assert recall.tally == scored
    assert recall.read(LAYER, q, near, SCALE, strides) is not None


def other_memory(model, store, recall):
    """The first three of its segments under the names of the last three, and the other way around."""
    mine, records = InMemoryStore(model.kv_spec), store.segments("n")
    for record in records[3:] + records[:3]:
        mine.append("n", store.messages("n", [record.runs[0].message_id]), [model._encode_again(record)])
    return model.recall([Source(mine, mine.segments("n"), mine.gate_keys("n")[1])], recall.config)


def many_tokens(model, store, recall, strides):
    recall.read(LAYER, *questions(5), SCALE, strides)


def another_query(model, store, recall, strides):
    recall.begin()


def another_rule(model, store, recall, strides):
    recall.config = recall.config.model_copy(update={"threshold": 0.7})


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("change", [many_tokens, another_query, another_rule, other_memory, None])
def test_nothing_of_before_is_read_after_a_change(model, store, mode, change):
    recall, strides = recalling(model, store, mode=mode, stride=99, **FEW), Strides()
    recall.read(LAYER, *questions(0, 1), SCALE, strides)
    if change is other_memory:
        recall = other_memory(model, store, recall)
    elif change is not None:
        change(model, store, recall, strides)
    q, near = questions(1, 1)
    found = recall.read(LAYER, q, near, SCALE, strides if change else Strides())
    wanted = model.recall(recall.sources, recall.config).read(LAYER, q, near, SCALE)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


def broken(*_):
    raise OSError("broken")


def test_a_choice_that_failed_leaves_nothing(model, store, monkeypatch):
    recall, strides = recalling(model, store, stride=2, **FEW), Strides()
    recall.read(LAYER, *questions(0, 1), SCALE, strides)
    q, near = questions(1, 1)
    with monkeypatch.context() as patch:
        patch.setattr(view, "keep", broken)
        with pytest.raises(OSError, match="broken"):
            recall.read(LAYER, q, near, SCALE, strides)
    found, wanted = (recall.read(LAYER, q, near, SCALE, one) for one in (strides, None))
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("cached", [1, 2, 3, 5, 99])
@pytest.mark.parametrize("mode", MODES)
def test_texts_beside_each_other_change_nothing(model, store, mode, cached):
    """Each pushes out of the cache what the other one reads on."""
    options = FEW | {"mode": mode, "stride": EVERY}
    recall = recalling(model, store, cached_blocks=cached, **options)
    texts = [(Strides(), recalling(model, store, **options), Strides(), 10 * i) for i in range(2)]
    for token in range(7):
        for strides, alone, own, seed in texts:
            q, near = questions(seed + token, 1)
            found, wanted = recall.read(LAYER, q, near, SCALE, strides), alone.read(LAYER, q, near, SCALE, own)
            assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_layers_take_turns(model, store, monkeypatch, stride):
    """A token that a landmark is put before is two positions; they choose, and so does what comes by itself behind."""
    chose, plain = [], Recall._choose_one
    monkeypatch.setattr(Recall, "_choose_one", lambda self, layer, *_: chose.append(layer) or plain(self, layer, *_))
    window = model.window(recalling(model, store, stride=stride, **FEW))
    push(model.core, window, [1, 2])
    token = 0
    for _ in range(13):
        chose.clear()
        step = push(model.core, window, [3])
        assert step.isfinite().all()
        if window._new > 1:
            assert not chose
            token = 0
        else:
            assert chose == [layer for layer in range(2) if fresh(token, layer, stride)]
            token += 1
    assert token < 11


@pytest.mark.parametrize("mode", MODES)
def test_answers_do_not_know_of_those_before(mode, monkeypatch):
    # a random model may end its answer at once
    monkeypatch.setattr(LandmarkModel, "stop_tokens", set())
    model = tiny_model()
    recall = RecallConfig(mode=mode, stride=3, segments=2, blocks=2)
    with Memory.open(":memory:", model=model, config=MemoryConfig(recall=recall)) as memory:
        memory.add([{"id": i, "content": f"message {i} of some that are longer than this"} for i in range(9)])
        # one that outgrows its window, one of a single token, and the first again
        first, other = (memory.ask(what, max_new_tokens=40, among=0) for what in ("which?", "what?"))
        short = memory.complete("a", max_new_tokens=5)
        for said, again in (
            (first, memory.ask("which?", max_new_tokens=40, among=0)),
            (other, memory.ask("what?", max_new_tokens=40, among=0)),
            (short, memory.complete("a", max_new_tokens=5)),
        ):
            assert said.tokens == again.tokens
            assert said.cost.landmark_keys == again.cost.landmark_keys
        memory.add([{"id": "new", "content": "one more, at the end"}])
        changed = memory.ask("which?", max_new_tokens=40, among=0)
    with Memory.open(":memory:", model=model, config=MemoryConfig(recall=recall)) as memory:
        memory.add([{"id": i, "content": f"message {i} of some that are longer than this"} for i in range(9)])
        memory.add([{"id": "new", "content": "one more, at the end"}])
        assert memory.ask("which?", max_new_tokens=40, among=0).tokens == changed.tokens
