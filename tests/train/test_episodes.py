"""Training texts: labels, weights and targets say what they should."""

import numpy as np
import pytest

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind
from hierlandmark.testing import ByteTokenizer
from hierlandmark.train.episodes import NO_LABEL, Shape, build_batch, build_corpus

LAYOUT = LayoutConfig(block_size=32, blocks_per_segment=4)


@pytest.fixture(scope="module")
def corpus():
    text = np.frombuffer(b"Some words of a long and winding tale about ships. " * 400, dtype=np.uint8)
    tokenizer = ByteTokenizer()
    return build_corpus({"tale": text}, tokenizer, lambda q: tokenizer(f"Q: {q} A:")["input_ids"])


def batch(corpus, shape, seed=0):
    return build_batch(corpus, LAYOUT, shape, np.random.default_rng(seed))


@pytest.mark.parametrize("shape", [Shape(2, 3, 1), Shape(1, 6, 2), Shape(2, 4, 0)], ids=str)
@pytest.mark.parametrize("seed", range(4))
def test_each_label_is_the_next_content_token(corpus, shape, seed):
    made = batch(corpus, shape, seed)
    for b in range(shape.batch):
        content = made.layout.kinds[b] == Kind.CONTENT
        ids, labels = made.ids[b][content], made.labels[b][content]
        known = labels[:-1] != NO_LABEL
        assert (labels[:-1][known] == ids[1:][known]).all() and labels[-1] == NO_LABEL
        assert (made.labels[b][~content] == NO_LABEL).all()
        if shape.readers:
            # the last token of a segment predicts nothing: what follows was encoded apart
            ends = np.cumsum(content.sum(-1)) - 1
            assert (labels[ends[ends >= 0]] == NO_LABEL).all()
    assert (made.weights[made.labels == NO_LABEL] == 0).all() and (made.weights[made.labels != NO_LABEL] > 0).all()


def test_targets_hold_what_the_answer_repeats(corpus):
    N, P = LAYOUT.blocks_per_segment, LAYOUT.block_size
    repeated, asked = 0, 0
    for seed in range(12):
        made = batch(corpus, Shape(1, 6, 2), seed)
        flat, content = made.ids[0].reshape(-1), made.layout.kinds[0].reshape(-1) == Kind.CONTENT
        for (_, at), wanted in zip(made.asked, made.targets, strict=True):
            assert content[at] and wanted.any() and wanted.shape == (6 * N,)
            places = np.flatnonzero(np.repeat(wanted, P) & content[: 6 * N * P])
            held = bytes(flat[places].astype(np.uint8))
            after = np.flatnonzero(content[at + 1 :])[:6] + at + 1
            answer = bytes(i for i in flat[after] if i < 256).strip(b' "')
            asked += 1
            repeated += answer in held
    # answers in words of their own, and those cut by the reader's end, are the rest
    assert asked > 25 and repeated > 0.6 * asked


def test_a_step_depends_on_its_seed_only(corpus):
    one, two, other = (
        batch(corpus, Shape(2, 3, 1), 5),
        batch(corpus, Shape(2, 3, 1), 5),
        batch(corpus, Shape(2, 3, 1), 6),
    )
    assert (one.ids == two.ids).all() and (one.weights == two.weights).all()
    assert not (one.ids == other.ids).all()


def test_readers_look_into_memory_only(corpus):
    made = batch(corpus, Shape(1, 4, 2))
    assert made.layout.reads[0, 4:, :4].all() and not made.layout.reads[0, :4].any()
    assert not made.layout.reads[0, 4:, 4:].any()
