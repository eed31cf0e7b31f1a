"""Training texts: labels, weights and targets say what they should."""

import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hierlandmark.config import LayoutConfig
from hierlandmark.layout import Kind
from hierlandmark.testing import SMALL, ByteTokenizer
from hierlandmark.train.config import TrainConfig
from hierlandmark.train.corpus import Turn, build_corpus, cut_text, hide
from hierlandmark.train.episodes import NO_LABEL, Shape, build_batch, make_memory
from hierlandmark.train.loop import BatchSource, shape_of
from hierlandmark.train.readers import make_readers

LAYOUT = LayoutConfig(block_size=32, blocks_per_segment=4)


@pytest.fixture(scope="module")
def corpus():
    text = np.frombuffer(b"Some words of a long and winding tale about ships. " * 400, dtype=np.uint8)
    tokenizer = ByteTokenizer()
    return build_corpus({"tale": text}, tokenizer, lambda q: tokenizer(f"Q: {q} A:")["input_ids"])


def text_of(tokens):
    return bytes(i for i in tokens.tolist() if i < 256).decode(errors="replace")


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


def test_a_fact_stands_where_it_is_said_to_and_readers_look_there(corpus):
    facts = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        memory, placed, _ = make_memory(corpus, LAYOUT, 6, rng)
        text = np.concatenate(memory)
        known = {one.where for one in placed}
        for one in placed:
            first, last = one.where
            told = bytes(text[first:last].astype(np.uint8)).decode().strip()
            # on its own, or as a message
            assert re.fullmatch(r"(user( \([\d-]{10}\))?: )?" + re.escape(one.fact.statement), told)
        for tokens, weights, looks in make_readers(corpus, LAYOUT, 2, None, placed, rng):
            assert len(tokens) == len(weights) <= LAYOUT.segment_capacity
            for at, (where,) in looks:
                assert where in known
                if at + 1 < len(tokens):
                    # where a prompt ends or its answer goes on: what the question does not say weighs most
                    assert weights[at + 1] in (4.0, 1.0)
                    facts += weights[at] < 0.1
    assert facts > 20


def test_targets_are_the_blocks_of_the_fact(corpus):
    N, P, checked = LAYOUT.blocks_per_segment, LAYOUT.block_size, 0
    for seed in range(30):
        made = batch(corpus, Shape(1, 8, 1), seed)
        kinds, ids = made.layout.kinds[0].reshape(-1), made.ids[0].reshape(-1)
        for (_, at), wanted in zip(made.asked, made.targets, strict=True):
            assert (np.diff(np.flatnonzero(wanted)) == 1).all(), "a fact stands in one run of blocks"
            prompt = text_of(ids[: at + 1][kinds[: at + 1] == Kind.CONTENT])
            if prompt.endswith("What is the pass key? The pass key is"):
                where = np.flatnonzero(np.repeat(wanted, P) & (kinds[: 8 * N * P] == Kind.CONTENT))
                assert "is the pass key." in text_of(ids[where])
                others = np.flatnonzero(np.repeat(~wanted, P) & (kinds[: 8 * N * P] == Kind.CONTENT))
                assert "is the pass key." not in text_of(ids[others])
                checked += 1
    assert checked > 3


@pytest.mark.parametrize("layout", [LayoutConfig(block_size=4, blocks_per_segment=1), SMALL, LAYOUT], ids=str)
@pytest.mark.parametrize(("tokens", "longest"), [(1, 1), (64, 3), (500, 8), (4000, 64)])
def test_every_shape_fits_and_is_built(corpus, layout, tokens, longest):
    config = TrainConfig(steps=40, tokens=tokens, longest=longest)
    rng = np.random.default_rng(0)
    budget = max(2, tokens // layout.segment_size)
    for step in range(40):
        shape = shape_of(config, layout, step / 40, rng)
        segments = shape.memory + shape.readers
        assert shape.memory >= 1 and 2 <= segments <= max(2, longest)
        assert shape.batch * segments <= max(budget, segments) <= 2 * budget
        if step % 8 == 0:
            made = build_batch(corpus, layout, shape, rng)
            assert made.ids.shape == (shape.batch, segments, layout.segment_size)
            assert (made.labels != NO_LABEL).any() or layout.segment_capacity == 1


def test_a_budget_of_tokens_bounds_the_longest_text():
    config = TrainConfig()
    sizes = {shape_of(config, LayoutConfig(), 0.9, np.random.default_rng(i)).memory for i in range(60)}
    assert sizes == {4, 8, 6, 14, 29, 60}
    few = TrainConfig(tokens=4096)
    assert max(shape_of(few, LayoutConfig(), 0.9, np.random.default_rng(i)).memory for i in range(60)) == 14


def test_short_segments_are_whole(corpus):
    short = 0
    for seed in range(30):
        made = batch(corpus, Shape(1, 4, 1), seed)
        counts = (made.layout.kinds[0] == Kind.CONTENT).sum(-1)
        assert ((made.layout.kinds[0] == Kind.GATE).sum(-1) == 1).all()
        assert (counts >= 1).all() and (counts <= LAYOUT.segment_capacity).all()
        short += (counts[:4] < LAYOUT.segment_capacity).any()
    assert short > 5


def test_a_batch_depends_on_seed_and_step_only(corpus):
    config = TrainConfig(steps=10, tokens=1000, longest=8)

    def made(step, **changed):
        return BatchSource(corpus, replace(config, **changed), LAYOUT)[step]

    # another source, asked in another order
    source = BatchSource(corpus, config, LAYOUT)
    later, first = source[7], source[2]
    for (one, mode), (two, same) in ((first, made(2)), (later, made(7))):
        assert mode == same and np.array_equal(one.ids, two.ids) and np.array_equal(one.targets, two.targets)
    assert not np.array_equal(made(2)[0].ids, made(3)[0].ids)
    assert not np.array_equal(made(2)[0].ids, made(2, seed=1)[0].ids)
    with pytest.raises(IndexError):
        made(10)


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


def test_chats_are_filled_in_the_words_a_memory_keeps():
    tokenizer = ByteTokenizer()
    turns = [Turn("Ana", np.asarray(tokenizer(" Hello there.")["input_ids"])), Turn("Bo", np.asarray([33]))]
    corpus = build_corpus({}, tokenizer, lambda q: tokenizer(q)["input_ids"], [turns])
    seen = ""
    for seed in range(20):
        cut = cut_text(corpus, np.random.default_rng(seed), 300)
        assert len(cut) == 300
        seen += text_of(cut)
    assert re.search(r"user \(20\d\d-\d\d-\d\d\): Hello there\.\n\n", seen) and "Ana: Hello there.\n\n" in seen


def test_documents_are_cut_without_a_speaker():
    tokenizer = ByteTokenizer()
    page = Turn("document", np.asarray(tokenizer(" A page of a manual.")["input_ids"]))
    corpus = build_corpus({}, tokenizer, lambda q: tokenizer(q)["input_ids"], [[page] * 3])
    for seed in range(6):
        assert re.match(r"( A page of a manual\.\n\n)+", text_of(cut_text(corpus, np.random.default_rng(seed), 230)))


def test_text_in_bytes_of_characters_is_drawn_again():
    tokenizer = ByteTokenizer()
    plain, greek = b"Words of a tale about ships. " * 2000, "ΘΥΟΙΟΝΚΙΟΝΑ".encode() * 300
    text = np.frombuffer(plain + greek + plain, dtype=np.uint8)
    corpus = build_corpus({"tale": text}, tokenizer, lambda q: tokenizer(q)["input_ids"])
    again = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        cut = cut_text(corpus, np.random.default_rng(seed), 512)
        assert (cut > 127).reshape(2, 256).mean(1).max() < 0.31
        # any other text is what it would be without
        rng.integers(0, 1)
        start = int(rng.integers(0, len(text) - 512))
        first = text[start : start + 512]
        again += not np.array_equal(first, cut)
        assert np.array_equal(first, cut) or (first > 127).any()
    assert again > 2


def test_text_in_bytes_of_characters_is_taken_where_all_is_so():
    tokenizer = ByteTokenizer()
    greek = np.frombuffer("ΘΥΟΙΟΝΚΙΟΝΑ".encode() * 300, dtype=np.uint8)
    corpus = build_corpus({"tale": greek}, tokenizer, lambda q: tokenizer(q)["input_ids"])
    rng = np.random.default_rng(0)
    rng.integers(0, 1)
    start = int(rng.integers(0, len(greek) - 600))
    assert np.array_equal(cut_text(corpus, np.random.default_rng(0), 600), greek[start : start + 600])


def test_an_older_value_stands_before_the_newer(corpus):
    changed = 0
    for seed in range(60):
        memory, placed, _ = make_memory(corpus, LAYOUT, 8, np.random.default_rng(seed))
        text = text_of(np.concatenate(memory))
        for one in placed:
            if one.fact.older:
                assert text.index(one.fact.older) < text.rindex(one.fact.statement)
                changed += 1
    assert changed > 5


def test_items_together_stand_one_right_behind_the_other(corpus):
    items = [np.full(5, ord("a") + i) for i in range(7)]
    filler = np.tile(np.frombuffer(b"Some words. ", dtype=np.uint8), 60).astype(np.int64)
    for seed in range(20):
        text, spans = hide(corpus, [1, 2], filler, items, np.random.default_rng(seed), together=3)
        assert len(text) == 2 + len(filler) + 35
        for (start, end), item in zip(spans, items, strict=True):
            assert text[start:end].tolist() == item.tolist()
        for row in (spans[:3], spans[3:6]):
            assert all(first[1] == second[0] for first, second in pairwise(row))
